// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A plan on its way into the kernel, one write after the other, each tried until it works.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::Result;
use podgate_abi::{Direction, RulesetId};
use podgate_datapath::record::{Record, Slot};

use super::dataplane::{Dataplane, Set};
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
    pub(super) fn advance<D: Dataplane>(
        &mut self,
        node: &D,
        set: &D::Set,
        lock: &D::Lock,
        until: Option<Instant>,
    ) -> Result<bool> {
        while let Some(next) = self.plan.writes().get(self.next) {
            if let Some(write) = self.overtaken.in_place_of(next) {
                set.write(&write, lock)?;
            }
            self.next += 1;
            let looks = self.next.is_multiple_of(WRITES_A_LOOK);
            if looks && until.is_some_and(|until| until <= node.now()) {
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
    /// What is written in the place of a planned write: nothing that is about a slot that a new attachment has, nothing that is
    /// said of an address that it has, as its class is not the plan's, and "deny" where it would open what is denied.
    fn in_place_of<'a>(&self, write: &'a Write) -> Option<Cow<'a, Write>> {
        let is_overtaken = match write {
            Write::Peer { address, .. } => {
                if self.addresses.contains(&IpAddr::from(*address)) {
                    return Some(Cow::Owned(Write::RemovePeer { address: *address }));
                }
                false
            }
            Write::Flip { slot, .. } | Write::Renew { slot, .. } => self.slots.contains(slot),
            Write::Chunk { .. }
            | Write::PortSet { .. }
            | Write::DefaultRow { .. }
            | Write::Row { .. }
            | Write::RemoveRow { .. }
            | Write::RemovePeer { .. }
            | Write::Prefix { .. }
            | Write::RemovePrefix { .. }
            | Write::Way { .. }
            | Write::RemoveWay { .. } => false,
        };
        if is_overtaken {
            return None;
        }
        if let Write::Flip {
            slot,
            direction,
            ruleset: RulesetId::ALLOW_ALL,
        } = write
            && self.denied.contains(&(*slot, *direction))
        {
            return Some(Cow::Owned(Write::Flip {
                slot: *slot,
                direction: *direction,
                ruleset: RulesetId::DENY_ALL,
            }));
        }
        Some(Cow::Borrowed(write))
    }
}

#[cfg(test)]
mod tests {
    use podgate_abi::{Address, PeerWord, RowKey};

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
        let renew = |slot| Write::Renew { slot, direction };
        let remove = |address| Write::RemovePeer { address };
        let word = PeerWord::TORN;
        let put = |address| Write::Peer { address, word };
        let opens = flip(Slot(8), Direction::Egress, RulesetId::ALLOW_ALL);
        let denies = flip(Slot(8), Direction::Egress, RulesetId::DENY_ALL);
        let as_planned = |write: Write| (write.clone(), Some(write));
        for (write, expected) in [
            (put(address(1)), Some(remove(address(1)))),
            as_planned(put(address(2))),
            as_planned(remove(address(1))),
            (flip(Slot(7), Direction::Ingress, RulesetId::FIRST), None),
            (opens, Some(denies)),
            as_planned(flip(Slot(8), Direction::Ingress, RulesetId::ALLOW_ALL)),
            as_planned(flip(Slot(8), Direction::Egress, RulesetId::FIRST)),
            (renew(Slot(7)), None),
            as_planned(renew(Slot(8))),
            as_planned(Write::RemoveRow { key: RowKey(7) }),
        ] {
            let written = overtaken.in_place_of(&write).map(Cow::into_owned);
            assert_eq!(written, expected, "{write:?}");
        }
    }
}
