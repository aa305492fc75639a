// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A plan on its way into the kernel, one write after the other, each tried until it works.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use podgate_abi::{Class, Direction, PeerWord, PolicyWord, PrefixKey, PrefixWord, RulesetId};
use podgate_datapath::Failed;
use podgate_datapath::lock::Lock;
use podgate_datapath::owed::Owed;
use podgate_datapath::record::{Record, Slot};
use podgate_datapath::tables::{TableSet, Unnamed};

use crate::plan::{Plan, Planner, Write};

/// After how many writes the clock is looked at.
const WRITES_A_LOOK: usize = 64;

/// A plan, and how far it has come.
#[derive(Debug)]
pub(super) struct Execution {
    plan: Plan,
    next: usize,
    overtaken: Overtaken,
}

/// What the plugin changed after the plan was made: the plan's word on it is out of date.
#[derive(Debug, Default)]
struct Overtaken {
    addresses: BTreeSet<IpAddr>,
    slots: BTreeSet<Slot>,
    /// Directions that were open, and are denied until there is another plan.
    denied: BTreeSet<(Slot, Direction)>,
}

impl Execution {
    /// The plan from its beginning.
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            plan,
            next: 0,
            overtaken: Overtaken::default(),
        }
    }

    /// Executes the plan, to its end or until then. Whether it is at its end.
    ///
    /// # Errors
    /// The write that failed; the next call begins with it again.
    pub(super) fn advance(
        &mut self,
        set: &TableSet,
        lock: &Lock,
        until: Option<Instant>,
    ) -> Result<bool, Failed> {
        while let Some(next) = self.plan.writes().get(self.next) {
            if !self.overtaken.concerns(next) {
                write(next, Target::InForce(set, lock))?;
            }
            self.next += 1;
            let looks = self.next.is_multiple_of(WRITES_A_LOOK);
            if looks && until.is_some_and(|until| until <= Instant::now()) {
                break;
            }
        }
        Ok(self.next >= self.plan.writes().len())
    }

    /// These attachments were made after the plan: what it says of their addresses and slots is not written.
    pub(super) fn overtake(&mut self, records: &[Record]) {
        for record in records {
            self.overtaken.slots.insert(record.slot);
            self.overtaken.addresses.extend(&record.addresses);
        }
    }

    /// This attachment is denied in a direction that was open: it stays so, also where the plan would open it.
    pub(super) fn deny(&mut self, slot: Slot, direction: Direction) {
        self.overtaken.denied.insert((slot, direction));
    }

    /// The slots that a new attachment has.
    pub(super) fn overtaken_slots(&self) -> impl Iterator<Item = Slot> {
        self.overtaken.slots.iter().copied()
    }

    /// Hands the plan back, executed.
    pub(super) fn commit(self, planner: &mut Planner) {
        planner.commit(self.plan);
    }
}

impl Overtaken {
    /// Whether a write is about an address or a slot that a new attachment has.
    fn concerns(&self, write: &Write) -> bool {
        match write {
            Write::Peer { address, .. } | Write::RemovePeer { address } => {
                self.addresses.contains(&IpAddr::from(*address))
            }
            Write::Flip {
                slot,
                direction,
                ruleset,
            } => {
                let opens = *ruleset == RulesetId::ALLOW_ALL;
                self.slots.contains(slot) || opens && self.denied.contains(&(*slot, *direction))
            }
            Write::Renew { slot, .. } => self.slots.contains(slot),
            Write::Chunk { .. }
            | Write::PortSet { .. }
            | Write::DefaultRow { .. }
            | Write::Row { .. }
            | Write::RemoveRow { .. }
            | Write::Prefix { .. }
            | Write::RemovePrefix { .. }
            | Write::Way { .. }
            | Write::RemoveWay { .. } => false,
        }
    }
}

/// The set that is written to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    /// One that plugins attach to.
    InForce(&'a TableSet, &'a Lock),
    /// One that is being made.
    Unnamed(&'a Unnamed),
}

impl Target<'_> {
    fn set(&self) -> &TableSet {
        match self {
            Self::InForce(set, _) => set,
            Self::Unnamed(set) => set,
        }
    }

    fn put_peer(&self, address: IpAddr, word: PeerWord) -> Result<(), Failed> {
        match self {
            Self::InForce(set, lock) => set.put_peer(address, word, lock),
            Self::Unnamed(set) => set.put_peer(address, word),
        }
    }

    fn remove_peer(&self, address: IpAddr) -> Result<(), Failed> {
        match self {
            Self::InForce(set, lock) => {
                let removed = set.remove_peer(address, Owed::ByEnforcer, lock);
                removed.map(drop)
            }
            Self::Unnamed(set) => set.remove_peer(address),
        }
    }
}

/// Writes once.
pub(super) fn write(write: &Write, to: Target<'_>) -> Result<(), Failed> {
    let set = to.set();
    match write {
        Write::Chunk { number, chunk } => set.put_chunk(*number, chunk),
        Write::PortSet { number, chunks } => set.put_port_set(*number, *chunks),
        Write::DefaultRow { ruleset, row } => set.put_default_row(*ruleset, *row),
        Write::Row { key, row } => set.put_row(*key, *row),
        Write::RemoveRow { key } => set.remove_row(*key).map(drop),
        Write::Peer { address, word } => to.put_peer(IpAddr::from(*address), *word),
        Write::RemovePeer { address } => to.remove_peer(IpAddr::from(*address)),
        Write::Prefix { key, word } => {
            let (prefix, length) = in_own_family(*key);
            set.put_prefix(prefix, length, *word)
        }
        Write::RemovePrefix { key } => match in_own_family(*key) {
            // Always there, or `::/0` would hold IPv4.
            (all @ IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0) => {
                set.put_prefix(all, 0, PrefixWord(u64::from(Class::NONE.0)))
            }
            (prefix, length) => set.remove_prefix(prefix, length).map(drop),
        },
        Write::Way { key, word } => set.put_way(*key, *word),
        Write::RemoveWay { key } => set.remove_way(*key).map(drop),
        Write::Flip {
            slot,
            direction,
            ruleset,
        } => {
            let generation = set.draw_generation()?.0;
            let word = PolicyWord::new(*ruleset, generation);
            set.store_word(*slot, *direction, word)
        }
        Write::Renew { slot, direction } => set.renew_word(*slot, *direction),
    }
}

/// A prefix of 128 bits as it is written: IPv4 where it lies in the IPv4-mapped block.
fn in_own_family(key: PrefixKey) -> (IpAddr, u8) {
    let narrow = |length: u32| u8::try_from(length).unwrap_or(u8::MAX);
    match IpAddr::from(key.address) {
        v4 @ IpAddr::V4(_) if key.length >= 96 => (v4, narrow(key.length - 96)),
        IpAddr::V4(v4) => (v4.to_ipv6_mapped().into(), narrow(key.length)),
        v6 @ IpAddr::V6(_) => (v6, narrow(key.length)),
    }
}

#[cfg(test)]
mod tests {
    use podgate_abi::{Address, RowKey};

    use super::*;

    #[test]
    fn what_a_new_attachment_has_is_not_written_by_an_older_plan() {
        let overtaken = Overtaken {
            addresses: [IpAddr::from([10, 0, 0, 1])].into(),
            slots: [Slot(7)].into(),
            denied: [(Slot(8), Direction::Egress)].into(),
        };
        let flip = |slot, direction, ruleset| Write::Flip {
            slot,
            direction,
            ruleset,
        };
        let address = |last| Address::from(IpAddr::from([10, 0, 0, last]));
        let direction = Direction::Ingress;
        for (write, concerned) in [
            (
                Write::RemovePeer {
                    address: address(1),
                },
                true,
            ),
            (
                Write::RemovePeer {
                    address: address(2),
                },
                false,
            ),
            (flip(Slot(7), Direction::Ingress, RulesetId::FIRST), true),
            (flip(Slot(8), Direction::Egress, RulesetId::ALLOW_ALL), true),
            (
                flip(Slot(8), Direction::Ingress, RulesetId::ALLOW_ALL),
                false,
            ),
            (flip(Slot(8), Direction::Egress, RulesetId::FIRST), false),
            (
                Write::Renew {
                    slot: Slot(7),
                    direction,
                },
                true,
            ),
            (
                Write::Renew {
                    slot: Slot(8),
                    direction,
                },
                false,
            ),
            (Write::RemoveRow { key: RowKey(7) }, false),
        ] {
            assert_eq!(overtaken.concerns(&write), concerned, "{write:?}");
        }
    }

    #[test]
    fn a_prefix_keeps_its_family_and_length() {
        for (prefix, length, bits) in [
            ("10.0.0.0", 8, 104),
            ("0.0.0.0", 0, 96),
            ("::", 0, 0),
            ("fd00::", 8, 8),
            ("2001:db8::1", 128, 128),
        ] {
            let prefix: IpAddr = prefix.parse().unwrap();
            let key = PrefixKey {
                length: bits,
                address: prefix.into(),
            };
            assert_eq!(in_own_family(key), (prefix, length));
        }
    }
}
