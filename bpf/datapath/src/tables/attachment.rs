// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Attachments, their words and generations.

use std::{
    io,
    net::Ipv4Addr,
    sync::atomic::{AtomicU64, Ordering},
};

use podgate_abi::{
    ATTACHMENT_HEAD, Address, Attachment, Birth, Broadcasts, Direction, Foreign, HardwareWord,
    Life, LinkWord, PolicyWord, RulesetId,
};

use super::{MapName, TableSet};
use crate::{
    Failed,
    isolated::{self, Isolation},
    netlink::Ifindex,
    record::{Generation, Record, Slot},
};

/// Places of words in an [`Attachment`], behind the policies of both directions.
const ORIGIN: usize = Direction::BOTH.len();
const HARDWARE: usize = ORIGIN + 1;
const BROADCASTS: usize = HARDWARE + 1;
const LINK: usize = BROADCASTS + 1;

/// Which rulesets a denial replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// The one that allows everything: any other is left in force.
    Open,
    /// Whatever it is.
    Anything,
}

/// What a compare-and-swap found instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed(pub PolicyWord);

impl TableSet {
    fn policy_word(&self, slot: Slot, direction: Direction) -> Result<&AtomicU64, Failed> {
        Ok(&self.words(MapName::Attachments, slot.0)?[direction as usize])
    }

    /// Stores an attachment's word of one direction: its policy flips.
    pub fn store_word(
        &self,
        slot: Slot,
        direction: Direction,
        word: PolicyWord,
    ) -> Result<(), Failed> {
        self.policy_word(slot, direction)?
            .store(word.0, Ordering::Release);
        Ok(())
    }

    /// An attachment's word of one direction.
    pub fn read_word(&self, slot: Slot, direction: Direction) -> Result<PolicyWord, Failed> {
        let word = self.policy_word(slot, direction)?;
        Ok(PolicyWord(word.load(Ordering::Acquire)))
    }

    /// Stores a word if the old one still stands; else tells what stands there.
    pub fn compare_and_swap_word(
        &self,
        slot: Slot,
        direction: Direction,
        old: PolicyWord,
        new: PolicyWord,
    ) -> Result<Result<(), Changed>, Failed> {
        let word = self.policy_word(slot, direction)?;
        Ok(word
            .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(|found| Changed(PolicyWord(found))))
    }

    /// Says what the host end of an attachment is a port of, and whether that is a bridge behind which the guard stands.
    /// Unknown, it is taken for a port of nothing.
    pub fn store_master(
        &self,
        slot: Slot,
        master: Option<Ifindex>,
        is_guarded: bool,
    ) -> Result<(), Failed> {
        self.change_link(slot, |word| {
            word.with_master(master.map(|ifindex| ifindex.0), is_guarded)
        })
    }

    /// Says what becomes of foreign addresses at an attachment; [`Foreign::Deny`] since its birth.
    pub fn store_foreign(&self, slot: Slot, mode: Foreign) -> Result<(), Failed> {
        self.change_link(slot, |word| word.with_foreign(mode))
    }

    /// Ends foreign addresses at every attachment.
    pub fn end_foreign(&self) -> Result<(), Failed> {
        for slot in self.born()? {
            self.store_foreign(slot, Foreign::Deny)?;
        }
        Ok(())
    }

    /// Changes the link word of an attachment in one atomic step, as plugin and enforcer both do.
    fn change_link(&self, slot: Slot, to: impl Fn(LinkWord) -> LinkWord) -> Result<(), Failed> {
        let word = &self.words(MapName::Attachments, slot.0)?[LINK];
        let change = |word| Some(to(LinkWord(word)).0);
        match word.fetch_update(Ordering::AcqRel, Ordering::Acquire, change) {
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Has an attachment drop what passes in a direction: one stored word, without any plan, and without the lock. Says
    /// whether something could pass by the ruleset that it had, if that is one of those to be replaced.
    ///
    /// Nothing else is touched: a slot that went to another attachment meanwhile has another generation.
    ///
    /// # Errors
    /// When the tables cannot be opened, or the slot is another attachment's by now.
    pub fn deny(&self, record: &Record, direction: Direction, over: Over) -> Result<bool, Failed> {
        let mut old = self.read_word(record.slot, direction)?;
        loop {
            let stands = self.read_attachment(record.slot)?;
            if stands.origin().birth() != record.birth.0 {
                let why = io::Error::other("its slot is another attachment's");
                return Err(Failed::new("isolate attachment", &record.identity, why));
            }
            let stays = match over {
                Over::Open => old.ruleset() != RulesetId::ALLOW_ALL,
                Over::Anything => old.ruleset() == RulesetId::DENY_ALL,
            };
            if stays {
                return Ok(false);
            }
            let new = PolicyWord::new(RulesetId::DENY_ALL, self.draw_generation()?.0);
            match self.compare_and_swap_word(record.slot, direction, old, new)? {
                Ok(()) => return Ok(true),
                Err(Changed(found)) => old = found,
            }
        }
    }

    /// Writes an attachment as it is at birth: its addresses, its baseline, and last that it exists.
    ///
    /// No filter may name the slot in this set.
    pub fn write_attachment(&self, record: &Record) -> Result<(), Failed> {
        self.write_waiting_attachment(record, Isolation::default())
    }

    /// The same, of a pod that waits closed for its policy in some directions.
    ///
    /// # Errors
    /// When the tables cannot be opened, or have no room for it.
    pub fn write_waiting_attachment(
        &self,
        record: &Record,
        isolated: Isolation,
    ) -> Result<(), Failed> {
        let words = self.words(MapName::Attachments, record.slot.0)?;
        let (head, addresses) = words.split_at(ATTACHMENT_HEAD);
        head[ORIGIN].store(Birth::NONE.0, Ordering::Release);
        let own: Vec<Address> = record
            .addresses
            .iter()
            .map(|ip| Address::from(*ip))
            .collect();
        if own.len() * 2 > addresses.len() {
            return Err(Failed::new(
                "write attachment",
                &record.identity,
                io::Error::other(format!(
                    "it has {} addresses, and there is room for {}",
                    own.len(),
                    podgate_abi::MAX_ADDRESSES
                )),
            ));
        }
        let content: &[u64] = &own
            .iter()
            .flat_map(|address| {
                let halves: [u64; 2] = bytemuck::cast(address.octets());
                halves
            })
            .collect::<Vec<_>>();
        for (place, word) in addresses.iter().enumerate() {
            word.store(content.get(place).copied().unwrap_or(0), Ordering::Release);
        }
        for direction in Direction::BOTH {
            let ruleset = isolated::until_in_force(isolated, direction, record.baseline);
            let policy = PolicyWord::new(ruleset, record.birth.0);
            head[direction as usize].store(policy.0, Ordering::Release);
        }
        let hardware = record
            .pod_mac
            .map_or(HardwareWord::UNBOUND, HardwareWord::bound);
        head[HARDWARE].store(hardware.0, Ordering::Release);
        let mut broadcasts = record.broadcasts.iter().map(Ipv4Addr::octets);
        let mut next = || broadcasts.next().unwrap_or_default();
        head[BROADCASTS].store(Broadcasts::new(next(), next()).0, Ordering::Release);
        for word in &head[LINK..] {
            word.store(0, Ordering::Release);
        }
        let born = Birth::new(record.birth.0);
        head[ORIGIN].store(born.0, Ordering::Release);
        Ok(())
    }

    /// Empties a slot: whatever filter still names it drops everything.
    pub fn clear_attachment(&self, slot: Slot) -> Result<(), Failed> {
        // A smaller set than the one that gave the slot out has nothing to empty.
        let Some(words) = self.array(MapName::Attachments)?.element(slot.0) else {
            return Ok(());
        };
        let first = words.iter().skip(Direction::BOTH.len());
        for word in first.chain(words.iter().take(Direction::BOTH.len())) {
            word.store(0, Ordering::Release);
        }
        Ok(())
    }

    /// An attachment as the programs see it.
    pub fn read_attachment(&self, slot: Slot) -> Result<Attachment, Failed> {
        let words = self.load(MapName::Attachments, slot.0)?;
        let attachment = Attachment::default();
        attachment.words[0].store(words[0]);
        attachment.words[1].store(words[1]);
        attachment.origin.store(words[ORIGIN]);
        attachment.hardware.store(words[HARDWARE]);
        attachment.broadcasts.store(words[BROADCASTS]);
        attachment.link.store(words[LINK]);
        attachment.told.store(words[LINK + 1]);
        attachment.asked.store(words[LINK + 2]);
        let mut addresses = attachment.addresses;
        let own = words[ATTACHMENT_HEAD..].chunks_exact(2);
        for (address, halves) in addresses.iter_mut().zip(own) {
            let octets: [u8; 16] = bytemuck::cast([halves[0], halves[1]]);
            *address = Address::new(octets);
        }
        Ok(Attachment {
            addresses,
            ..attachment
        })
    }

    /// Draws a generation that nobody has had.
    pub fn draw_generation(&self) -> Result<Generation, Failed> {
        let word = &self.words(MapName::Generation, 0)?[0];
        loop {
            let drawn = word.fetch_add(1, Ordering::AcqRel).wrapping_add(1) as u32;
            if drawn != 0 {
                return Ok(Generation(drawn));
            }
        }
    }

    /// Where the last slot that was given out is kept; only under the lock.
    pub(crate) fn last_slot(&self) -> Result<&AtomicU64, Failed> {
        Ok(&self.words(MapName::Generation, 1)?[0])
    }

    /// How many slots there are, slot 0 included.
    pub(crate) fn slots(&self) -> Result<u32, Failed> {
        let (records, quotas) = (MapName::Attachments, MapName::Quotas);
        Ok(self.map(records)?.capacity.min(self.map(quotas)?.capacity))
    }

    /// Gives every attachment a fresh generation in both directions: all flows are judged again.
    ///
    /// # Errors
    /// When the tables cannot be opened.
    pub fn renew_generations(&self) -> Result<(), Failed> {
        for slot in self.born()? {
            self.renew_generation(slot)?;
        }
        Ok(())
    }

    /// The slots that hold an attachment.
    ///
    /// # Errors
    /// When the table cannot be opened.
    pub fn born(&self) -> Result<Vec<Slot>, Failed> {
        let records = self.array(MapName::Attachments)?;
        let is_born = |slot: &u32| {
            records
                .element(*slot)
                .is_some_and(|words| origin(words) != Birth::NONE)
        };
        let slots = self.map(MapName::Attachments)?.capacity;
        Ok((1..slots).filter(is_born).map(Slot).collect())
    }

    /// Gives one attachment a fresh generation in both directions.
    ///
    /// # Errors
    /// When the tables cannot be opened.
    pub fn renew_generation(&self, slot: Slot) -> Result<(), Failed> {
        for direction in Direction::BOTH {
            self.renew_word(slot, direction)?;
        }
        Ok(())
    }

    /// Gives one word a fresh generation under the ruleset that stands, whoever else writes the word.
    ///
    /// # Errors
    /// When the tables cannot be opened.
    pub fn renew_word(&self, slot: Slot, direction: Direction) -> Result<(), Failed> {
        let mut old = self.read_word(slot, direction)?;
        loop {
            let new = PolicyWord::new(old.ruleset(), self.draw_generation()?.0);
            match self.compare_and_swap_word(slot, direction, old, new)? {
                Ok(()) => return Ok(()),
                Err(Changed(found)) => old = found,
            }
        }
    }
}

/// The life of the attachment with these words; none if there is none.
pub(crate) fn life(words: &[AtomicU64]) -> Option<Life> {
    let [to_pod, from_pod] =
        [0, 1].map(|word: usize| PolicyWord(words[word].load(Ordering::Acquire)));
    let origin = origin(words);
    (origin != Birth::NONE).then(|| Life::new(origin.birth(), to_pod, from_pod))
}

/// Where the attachment with these words comes from.
pub(crate) fn origin(words: &[AtomicU64]) -> Birth {
    Birth(words[Direction::BOTH.len()].load(Ordering::Acquire))
}
