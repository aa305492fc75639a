// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The pod under test: what its attachment says.

use std::net::IpAddr;

use podgate_abi::{
    ATTACHMENT_HEAD, Address, Attachment, Birth, Broadcasts, Direction, Foreign, HardwareWord,
    LinkWord, MAX_ADDRESSES, PolicyWord, RulesetId, Word,
};

use super::{ATTACHMENT_WORDS, Kernel, SLOT};
use crate::frame::SENDER;

/// The directed broadcast address of the network of the pod under test.
pub(crate) const BROADCAST: [u8; 4] = [10, 1, 0, 255];

/// The ruleset of each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyOf {
    /// Ingress.
    pub to_pod: RulesetId,
    /// Egress.
    pub from_pod: RulesetId,
}

impl PolicyOf {
    /// No policy.
    pub const OPEN: Self = Self::both(RulesetId::ALLOW_ALL);
    /// Isolated both ways, without a rule.
    pub const SHUT: Self = Self::both(RulesetId::DENY_ALL);

    /// The same in both directions.
    pub const fn both(ruleset: RulesetId) -> Self {
        Self {
            to_pod: ruleset,
            from_pod: ruleset,
        }
    }

    /// Isolated for ingress only.
    pub const fn to_pod(ruleset: RulesetId) -> Self {
        Self {
            to_pod: ruleset,
            from_pod: RulesetId::ALLOW_ALL,
        }
    }

    /// Isolated for egress only.
    pub const fn from_pod(ruleset: RulesetId) -> Self {
        Self {
            to_pod: RulesetId::ALLOW_ALL,
            from_pod: ruleset,
        }
    }
}

/// An attachment to be.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Its policy.
    pub policy: PolicyOf,
}

impl Kernel {
    /// Puts a pod into the slot of test runs, born now.
    ///
    /// # Panics
    /// When it has more addresses than an attachment can hold.
    pub fn attach(&mut self, pod: &Pod) {
        let birth = self.draw_generation();
        let mut addresses = [Address::UNSPECIFIED; MAX_ADDRESSES];
        assert!(pod.addresses.len() <= MAX_ADDRESSES);
        for (place, address) in addresses.iter_mut().zip(&pod.addresses) {
            *place = Address::from(*address);
        }
        let words = [
            PolicyWord::new(pod.policy.to_pod, birth),
            PolicyWord::new(pod.policy.from_pod, birth),
        ];
        let attachment = Attachment {
            words: words.map(|word| Word::new(word.0)),
            origin: Word::new(Birth::new(birth).0),
            hardware: Word::new(HardwareWord::bound(SENDER).0),
            broadcasts: Word::new(Broadcasts::new(BROADCAST, [0; 4]).0),
            addresses,
            ..Attachment::default()
        };
        self.put_attachment(attachment);
    }

    /// Empties the slot.
    pub fn detach(&mut self) {
        self.put_attachment(Attachment::default());
    }

    /// Lets what the programs noted in the attachment be so much older.
    pub(super) fn age_attachment(&mut self, age: u64) {
        let mut words = self.attachments.get(&SLOT.0, 0).expect("the attachment");
        for word in &mut words[ATTACHMENT_HEAD - 2..ATTACHMENT_HEAD] {
            if *word != 0 {
                *word = word.wrapping_sub(age);
            }
        }
        let written = self.attachments.set(SLOT.0, words, 0);
        written.expect("the attachment is written");
    }

    /// Puts a ruleset in force, with a new generation.
    pub fn flip(&mut self, direction: Direction, ruleset: RulesetId) {
        let word = PolicyWord::new(ruleset, self.draw_generation());
        let attachment = &self.host.attachments[&SLOT];
        attachment.words[direction as usize].store(word.0);
        self.store_attachment();
    }

    /// Gives both directions new generations: every flow is judged again.
    pub fn renew(&mut self) {
        for direction in Direction::BOTH {
            let ruleset = self.host.attachments[&SLOT].word(direction).ruleset();
            self.flip(direction, ruleset);
        }
    }

    /// Says what becomes of foreign addresses.
    pub fn set_foreign(&mut self, mode: Foreign) {
        let link = &self.host.attachments[&SLOT].link;
        link.store(LinkWord(link.load()).with_foreign(mode).0);
        self.store_attachment();
    }

    /// A generation that nobody has had.
    pub fn draw_generation(&mut self) -> u32 {
        self.last_generation = self.last_generation.wrapping_add(1).max(1);
        self.last_generation
    }

    /// Others draw so many generations.
    pub fn skip_generations(&mut self, by: u32) {
        self.last_generation = self.last_generation.wrapping_add(by);
    }

    fn put_attachment(&mut self, attachment: Attachment) {
        self.host.attachments.insert(SLOT, attachment);
        self.store_attachment();
    }

    fn store_attachment(&mut self) {
        let attachment = &self.host.attachments[&SLOT];
        let mut words = [0; ATTACHMENT_WORDS];
        // The last two of the head are the programs', in a time of their own.
        let standing = self.attachments.get(&SLOT.0, 0);
        words.copy_from_slice(&standing.expect("the attachment is read"));
        let is_another = words[2] != attachment.origin.load();
        let head = [
            &attachment.words[0],
            &attachment.words[1],
            &attachment.origin,
            &attachment.hardware,
            &attachment.broadcasts,
            &attachment.link,
        ];
        for (word, of) in words.iter_mut().zip(head) {
            *word = of.load();
        }
        if is_another {
            words[head.len()..ATTACHMENT_HEAD].fill(0);
        }
        let own = words[ATTACHMENT_HEAD..].chunks_exact_mut(2);
        for (pair, address) in own.zip(&attachment.addresses) {
            let halves: [u64; 2] = bytemuck::cast(*address);
            pair.copy_from_slice(&halves);
        }
        self.attachments
            .set(SLOT.0, words, 0)
            .expect("the attachment is written");
    }
}
