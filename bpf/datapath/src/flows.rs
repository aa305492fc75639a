// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Upkeep of the tables of flows: what timed out goes, what belongs to nobody goes, and what is left is counted.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use podgate_abi::{FlowKey, FlowWord};

use crate::{
    Failed, Paths, sys,
    tables::{MapName, TableSet},
};

mod copy;
mod live_attachments;
mod room;

use live_attachments::LiveAttachments;
use room::{Limits, Now, Shared};

pub use copy::Copied;

/// A flow as it stands in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracked {
    /// Its key.
    pub key: FlowKey,
    /// Its word.
    pub word: FlowWord,
    /// When its last packet was seen, in jiffies.
    pub seen: u64,
}

impl Tracked {
    fn new(key: FlowKey, value: &[u8]) -> Self {
        let [word, seen] = bytemuck::pod_read_unaligned::<[u64; 2]>(value);
        Self {
            key,
            word: FlowWord(word),
            seen,
        }
    }
}

/// What one round of upkeep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Entries of `flows` that stand.
    pub kept: usize,
    /// Entries of `embryonic` that stand.
    pub waiting: usize,
    /// Entries that had timed out, or whose attachment is gone, and were deleted.
    pub deleted: usize,
}

/// Now, in jiffies, as the programs stamp flows and events; give or take a second.
///
/// # Errors
/// When the kernel's clocks cannot be read.
pub fn jiffies() -> Result<u64, Failed> {
    sys::jiffies().map_err(|e| Failed::new("ask", "the kernel's clock", e))
}

/// A second, in jiffies.
///
/// # Errors
/// When the kernel's clocks cannot be read.
pub fn second() -> Result<u64, Failed> {
    let ticks = sys::ticks_per_second().map_err(|e| Failed::new("ask", "the kernel's clock", e))?;
    Ok(u64::from(ticks))
}

/// The tables whose entries are counted by slot, in the order of the words of a [`podgate_abi::Quota`].
const COUNTED: [MapName; 2] = [MapName::Flows, MapName::Embryonic];

impl TableSet {
    /// [`TableSet::collect`] for the current set; none if there is none yet.
    ///
    /// # Errors
    /// As that.
    pub fn collect_current(paths: &Paths, now: u64) -> Result<Option<Collected>, Failed> {
        let set = once_more_if_gone(|| {
            let set = Self::open_current(paths)?;
            set.iter().try_for_each(Self::open_counted)?;
            Ok(set)
        })?;
        set.map(|set| set.collect(now)).transpose()
    }

    /// Opens all that a walk needs, so that it can end in a set that is unpinned meanwhile.
    fn open_counted(&self) -> Result<(), Failed> {
        self.array(MapName::Quotas)?;
        self.array(MapName::Attachments)?;
        self.array(MapName::Common)?;
        self.array(MapName::Limits)?;
        for table in COUNTED {
            self.map(table)?;
        }
        Ok(())
    }

    /// Deletes the flows that have timed out at `now`, in jiffies as `bpf_jiffies64` counts them, and those that belong
    /// to no attachment any more, and mends the counts of what every slot has.
    ///
    /// # Errors
    /// When a table cannot be read or written.
    pub fn collect(&self, now: u64) -> Result<Collected, Failed> {
        self.walk(Some(now))
    }

    /// Counts the entries of the flow tables by slot, and mends the counts that are kept.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn recount(&self) -> Result<(), Failed> {
        self.walk(None).map(|_| ())
    }

    fn walk(&self, now: Option<u64>) -> Result<Collected, Failed> {
        self.open_counted()?;
        let quotas = self.array(MapName::Quotas)?;
        let second =
            sys::ticks_per_second().map_err(|e| Failed::new("ask", "the kernel's clock", e))?;
        let now = now.map(|now| Now { now, second });
        let mut collected = Collected::default();
        let mut deleted = 0;
        let common = Shared::new(self.array(MapName::Common)?, Limits::of(self)?);
        let standing = [&mut collected.kept, &mut collected.waiting];
        for ((word, table), stand) in COUNTED.into_iter().enumerate().zip(standing) {
            let count = |slot| quotas.element(slot).and_then(|words| words.get(word));
            let mut slots: Vec<Counted> = (0..).map_while(count).map(Counted::new).collect();
            let flows = self.tracked(table)?;
            // In this order: whoever has one of these flows was there before it, and is seen.
            let live_attachments = LiveAttachments::of(self)?;
            let mut lingering = Vec::new();
            for flow in flows {
                let slot = slots.get_mut(usize::from(flow.key.slot));
                let is_over =
                    now.is_some_and(|now| now.is_after(&flow) || !live_attachments.have(&flow));
                if !is_over || self.has_changed(table, &flow)? {
                    slot.into_iter().for_each(|slot| slot.kept += 1);
                    *stand += 1;
                    if now.is_some_and(|now| now.lets_go(&flow)) {
                        lingering.push(flow);
                    }
                } else if self.remove_flow(table, &flow.key)? {
                    slot.into_iter().for_each(Counted::delete);
                    deleted += 1;
                }
            }
            if table == MapName::Flows {
                let limits = common.limits;
                for flow in limits.in_excess(&slots, lingering) {
                    if self.has_changed(table, &flow)? {
                        continue;
                    }
                    let is_deleted = self.remove_flow(table, &flow.key)?;
                    if let Some(slot) = slots.get_mut(usize::from(flow.key.slot)) {
                        slot.kept -= 1;
                        if is_deleted {
                            slot.delete();
                        }
                    }
                    *stand -= 1;
                    deleted += usize::from(is_deleted);
                }
                common.mend(slots.iter().map(|slot| slot.kept));
            }
            slots.iter().for_each(Counted::mend);
            if now.is_some() && table == MapName::Embryonic {
                self.set_shares(live_attachments.count())?;
            }
        }
        collected.deleted = deleted;
        Ok(collected)
    }

    /// Whether a flow was begun anew, or was seen, since it was read a whole table ago. (Who comes between this look and a
    /// deletion is judged afresh.)
    fn has_changed(&self, table: MapName, flow: &Tracked) -> Result<bool, Failed> {
        let now = self.flow(table, &flow.key)?;
        Ok(now.is_some_and(|now| now != *flow))
    }

    /// Every flow of `flows`, `embryonic` or `crowd`.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn tracked(&self, name: MapName) -> Result<Vec<Tracked>, Failed> {
        let map = self.map(name)?;
        let failed = |e| Failed::new("read table", name.name(), e);
        let mut flows = Vec::new();
        for key in map.keys().map_err(failed)? {
            let Some(value) = map.lookup(&key).map_err(failed)? else {
                continue;
            };
            let flow = Tracked::new(bytemuck::pod_read_unaligned(&key), &value);
            if flow.word.belongs_to(&flow.key) {
                flows.push(flow);
            }
        }
        Ok(flows)
    }

    /// A flow as it stands now, if the table has it.
    fn flow(&self, name: MapName, key: &FlowKey) -> Result<Option<Tracked>, Failed> {
        let value = self
            .map(name)?
            .lookup(bytemuck::bytes_of(key))
            .map_err(|e| Failed::new("read table", name.name(), e))?;
        Ok(value
            .map(|value| Tracked::new(*key, &value))
            .filter(|flow| flow.word.belongs_to(key)))
    }

    fn remove_flow(&self, table: MapName, key: &FlowKey) -> Result<bool, Failed> {
        self.map(table)?
            .delete(bytemuck::bytes_of(key))
            .map_err(|e| Failed::new("delete from table", table.name(), e))
    }
}

/// The current set may be replaced, and unpinned, while it is being opened: what is asked for is then in the next one.
fn once_more_if_gone<T>(mut open: impl FnMut() -> Result<T, Failed>) -> Result<T, Failed> {
    match open() {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => open(),
        result => result,
    }
}

/// The count that is kept of a slot's entries in one table, beside what a walk through the table finds.
struct Counted<'a> {
    count: &'a AtomicU64,
    /// What the count must be if nobody else has changed it since the walk began.
    expected: u64,
    /// Entries that were found, and stand.
    kept: u64,
}

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        let expected = count.load(Ordering::Acquire);
        Self {
            count,
            expected,
            kept: 0,
        }
    }

    /// One entry was deleted, by us.
    fn delete(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.expected = self.expected.wrapping_sub(1);
    }

    /// Sets the count right if nobody moved it meanwhile. Under the hands of the programs, which count by themselves,
    /// it is raised to what was seen, and never lowered: so nobody gets more than it may have by moving it.
    fn mend(&self) {
        let count = self.count.load(Ordering::Acquire);
        if count == self.expected || count.cast_signed() < self.kept.cast_signed() {
            // Who comes in between is seen by the next walk.
            let _ =
                self.count
                    .compare_exchange(count, self.kept, Ordering::AcqRel, Ordering::Acquire);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_looked_for_once_more_and_other_errors_stand() {
        let failed = |kind: io::ErrorKind| Failed::new("open", "a table", kind.into());
        let mut answers = [Err(failed(io::ErrorKind::NotFound)), Ok(7)].into_iter();
        let found = once_more_if_gone(|| answers.next().expect("asked twice at most"));
        assert_eq!(found.unwrap(), 7);
        for kinds in [
            [io::ErrorKind::NotFound, io::ErrorKind::NotFound].as_slice(),
            &[io::ErrorKind::PermissionDenied],
        ] {
            let mut answers = kinds.iter().map(|kind| Err::<u8, _>(failed(*kind)));
            let found = once_more_if_gone(|| answers.next().expect("asked too often"));
            assert!(found.is_err() && answers.next().is_none());
        }
    }

    /// A count that did not move meanwhile is set, and one that moves is only raised.
    #[test]
    fn an_idle_count_is_set_and_one_that_moves_is_only_raised() {
        for (began_at, is_now, found, expected) in [
            (7, 7, 3, 3),
            (7, 7, 9, 9),
            (6, 7, 3, 7),
            (6, 7, 9, 9),
            (6, u64::MAX, 3, 3),
        ] {
            let count = AtomicU64::new(began_at);
            let mut slot = Counted::new(&count);
            slot.kept = found;
            count.store(is_now, Ordering::Relaxed);
            slot.mend();
            let case = (began_at, is_now, found);
            assert_eq!(count.load(Ordering::Relaxed), expected, "{case:?}");
        }
    }

    #[test]
    fn what_is_deleted_is_subtracted_and_moves_nothing() {
        let count = AtomicU64::new(7);
        let mut slot = Counted::new(&count);
        slot.kept = 5;
        slot.delete();
        assert_eq!(count.load(Ordering::Relaxed), 6);
        slot.mend();
        assert_eq!(count.load(Ordering::Relaxed), 5);
    }
}
