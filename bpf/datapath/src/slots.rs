// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which slot a new attachment gets.
//!
//! Slots are given out in a circle. The last one stands beside the counter of generations, so the never-used ones
//! come first, and a freed one rests while all others are given out; when the circle has closed, a grace period is
//! waited for as well. A slot is free when its record is empty in the current set, no file names it, no filter and no mark.

use std::{collections::BTreeSet, io, sync::atomic::Ordering};

use podgate_abi::Birth;

use crate::{
    Failed, Paths, filter, mark,
    netlink::Socket,
    record::{self, Slot},
    tables::{MapName, TableSet, origin},
};

/// In the word of the last slot: the circle has closed once.
const CLOSED: u64 = 1 << 32;

/// In the word of the last slot: it was set by somebody who looked at files and filters.
const KNOWN: u64 = 1 << 33;

/// Where in the circle the next search begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Circle {
    last: u32,
    closed: bool,
}

impl Circle {
    /// The free slot that comes next among `slots` slots, slot 0 never.
    fn next(self, slots: u32, is_free: impl Fn(u32) -> bool) -> Option<Self> {
        let ahead = (self.last + 1..slots).map(|slot| (slot, self.closed));
        let around = (1..slots.min(self.last + 1)).map(|slot| (slot, true));
        ahead
            .chain(around)
            .find(|(slot, _)| is_free(*slot))
            .map(|(last, closed)| Self { last, closed })
    }
}

/// Takes the next free slot. Under the lock.
pub(crate) fn allocate(paths: &Paths, set: &TableSet, socket: &mut Socket) -> Result<Slot, Failed> {
    let slots = set.slots()?;
    let word = set.last_slot()?;
    let last = word.load(Ordering::Acquire);
    let mut circle = Circle {
        last: last as u32,
        closed: last & CLOSED != 0,
    };
    let mut named = BTreeSet::new();
    if last & KNOWN == 0 {
        // The counter is new, what stands on the node may not be.
        named = names(paths, socket)?;
        circle.last = named.last().copied().unwrap_or(0).min(slots - 1);
    } else if circle.closed || circle.last + 1 >= slots {
        named = names(paths, socket)?;
    }
    let records = set.array(MapName::Attachments)?;
    let is_empty = |slot| {
        records
            .element(slot)
            .is_some_and(|words| origin(words) == Birth::NONE)
    };
    let next = circle
        .next(slots, |slot| is_empty(slot) && !named.contains(&slot))
        .ok_or_else(|| {
            let why = "every slot is taken; let the enforcer's flags make the tables larger";
            Failed::new("find a slot among", slots, io::Error::other(why))
        })?;
    if next.closed {
        TableSet::grace()?;
    }
    let closed = if next.closed { CLOSED } else { 0 };
    word.store(u64::from(next.last) | closed | KNOWN, Ordering::Release);
    Ok(Slot(next.last))
}

/// The slots that files, filters or marks name.
pub(crate) fn names(paths: &Paths, socket: &mut Socket) -> Result<BTreeSet<u32>, Failed> {
    let mut named = BTreeSet::new();
    // A file that cannot be read names nothing that we could know; its filters do.
    for record in record::list(paths)?.into_iter().flatten() {
        named.insert(record.slot.0);
    }
    let filters = filter::all_bpf(socket)
        .map_err(|e| Failed::new("list", "the filters of all interfaces", io::Error::other(e)))?;
    named.extend(
        filters
            .iter()
            .filter_map(|(_, filter)| filter.slot())
            .map(|slot| slot.0),
    );
    let links = socket
        .links()
        .map_err(|e| Failed::new("list", "all interfaces", io::Error::other(e)))?;
    named.extend(links.iter().filter_map(mark::slot).map(|slot| slot.0));
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(last: u32, closed: bool, slots: u32, taken: &[u32]) -> Option<(u32, bool)> {
        Circle { last, closed }
            .next(slots, |slot| !taken.contains(&slot))
            .map(|circle| (circle.last, circle.closed))
    }

    #[test]
    fn never_used_slots_come_first() {
        assert_eq!(next(0, false, 8, &[]), Some((1, false)));
        assert_eq!(next(3, false, 8, &[2]), Some((4, false)));
        assert_eq!(next(3, false, 8, &[4, 5]), Some((6, false)));
    }

    #[test]
    fn the_circle_closes_over_slot_0() {
        assert_eq!(next(7, false, 8, &[1]), Some((2, true)));
        assert_eq!(next(2, true, 8, &[]), Some((3, true)));
    }

    #[test]
    fn the_last_one_is_used_again_when_it_alone_is_free() {
        assert_eq!(next(3, true, 5, &[1, 2, 4]), Some((3, true)));
        assert_eq!(next(3, true, 5, &[1, 2, 3, 4]), None);
    }
}
