//! Upkeep of the table of flows: what timed out goes, and what is left is counted.

use std::collections::BTreeMap;

use podgate_abi::{FlowKey, FlowWord};

use crate::{
    Failed, sys,
    tables::{MapName, TableSet},
};

mod copy;

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
    /// Entries that stand.
    pub kept: usize,
    /// Entries that had timed out, and were deleted.
    pub deleted: usize,
}

/// Now, in jiffies, as the programs stamp flows and events; give or take a second.
///
/// # Errors
/// When the kernel's clocks cannot be read.
pub fn jiffies() -> Result<u64, Failed> {
    sys::jiffies().map_err(|e| Failed::new("ask", "the kernel's clock", e))
}

impl TableSet {
    /// Deletes the flows that have timed out at `now`, in jiffies as `bpf_jiffies64` counts them, and stores for
    /// every slot how many it has left.
    ///
    /// A flow that a packet revives between look and deletion is lost, and found again by its next packets; one
    /// that comes while we count is counted by the next round.
    ///
    /// # Errors
    /// When the table cannot be read or written.
    pub fn collect(&self, now: u64) -> Result<Collected, Failed> {
        let second =
            sys::ticks_per_second().map_err(|e| Failed::new("ask", "the kernel's clock", e))?;
        let mut collected = Collected::default();
        let mut counts = BTreeMap::<u32, u64>::new();
        for Tracked { key, word, seen } in self.tracked(MapName::Flows)? {
            let timeout = u64::from(word.state().timeout(key.protocol)) * u64::from(second);
            if now.saturating_sub(seen) > timeout {
                self.remove_flow(&key)?;
                collected.deleted += 1;
            } else {
                *counts.entry(u32::from(key.slot)).or_default() += 1;
                collected.kept += 1;
            }
        }
        self.store_counts(&counts)?;
        Ok(collected)
    }

    /// Counts the entries of `flows` by slot, and stores the counts, against which budgets are held.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn recount(&self) -> Result<(), Failed> {
        let mut counts = BTreeMap::<u32, u64>::new();
        for flow in self.tracked(MapName::Flows)? {
            *counts.entry(u32::from(flow.key.slot)).or_default() += 1;
        }
        self.store_counts(&counts)
    }

    fn store_counts(&self, counts: &BTreeMap<u32, u64>) -> Result<(), Failed> {
        for slot in 0..self.map(MapName::Budgets)?.capacity {
            self.store_budget(slot, counts.get(&slot).copied().unwrap_or(0))?;
        }
        Ok(())
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

    fn remove_flow(&self, key: &FlowKey) -> Result<bool, Failed> {
        self.map(MapName::Flows)?
            .delete(bytemuck::bytes_of(key))
            .map_err(|e| Failed::new("delete from table", MapName::Flows.name(), e))
    }
}
