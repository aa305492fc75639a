//! Budgets, counters, sizes, and the grace period.

use std::{
    os::fd::{AsFd, AsRawFd},
    sync::atomic::Ordering,
};

use podgate_abi::{Direction, Limit, Reason};

use super::{MapName, TableSet};
use crate::{
    Failed, Sizes,
    record::Slot,
    sys::{self, Map},
};

/// How full a table is, and what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Which table.
    pub map: MapName,
    /// Elements that fit.
    pub capacity: u32,
    /// Bytes of kernel memory.
    pub bytes: u64,
}

impl TableSet {
    /// Sets what each attachment may have.
    pub(super) fn set_limits(&self, sizes: &Sizes) -> Result<(), Failed> {
        for (limit, value) in [
            (Limit::Flows, sizes.flows_per_attachment),
            (Limit::Embryonic, sizes.share_of_embryonic()),
        ] {
            self.store(MapName::Limits, limit as u32, &[u64::from(value)])?;
        }
        Ok(())
    }

    /// How many entries of `flows` and of `embryonic` a slot is said to have.
    pub fn read_budget(&self, slot: Slot) -> Result<[u64; 2], Failed> {
        let words = self.words(MapName::Budgets, slot.0)?;
        Ok([0, 1].map(|word: usize| words[word].load(Ordering::Acquire)))
    }

    /// Packets of a direction that ended with a reason, by the reason's number; over all CPUs.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn counters(&self, direction: Direction) -> Result<Vec<u64>, Failed> {
        let first = direction as u32 * Reason::COUNT;
        (first..first + Reason::COUNT)
            .map(|index| {
                let value = self.lookup(MapName::Counters, bytemuck::bytes_of(&index))?;
                Ok(value
                    .unwrap_or_default()
                    .chunks_exact(8)
                    .map(bytemuck::pod_read_unaligned::<u64>)
                    .sum())
            })
            .collect()
    }

    /// How many elements of a hash table are in use; none for the others. Goes through all of its keys.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn entries(&self, name: MapName) -> Result<Option<usize>, Failed> {
        match name {
            MapName::Peers
            | MapName::Prefixes
            | MapName::Rows
            | MapName::Flows
            | MapName::Embryonic
            | MapName::Crowd
            | MapName::Fragments => {
                let keys = self.map(name)?.keys();
                let keys = keys.map_err(|e| Failed::new("list table", name.name(), e))?;
                Ok(Some(keys.len()))
            }
            MapName::Attachments
            | MapName::Rulesets
            | MapName::PortSets
            | MapName::Chunks
            | MapName::Counters
            | MapName::Events
            | MapName::Budgets
            | MapName::Limits
            | MapName::Generation => Ok(None),
        }
    }

    /// Capacity and memory of every table, the shared ones too.
    ///
    /// # Errors
    /// When a table cannot be opened.
    pub fn usage(&self) -> Result<Vec<Usage>, Failed> {
        MapName::ALL
            .into_iter()
            .map(|name| {
                let map = self.map(name)?;
                let bytes = map
                    .memory()
                    .map_err(|e| Failed::new("ask for the memory of table", name.name(), e))?;
                Ok(Usage {
                    map: name,
                    capacity: map.capacity,
                    bytes,
                })
            })
            .collect()
    }

    /// Waits until no program runs that began before: an update of a table of tables waits for that.
    ///
    /// # Errors
    /// When the kernel refuses the tables made for it.
    pub fn grace() -> Result<(), Failed> {
        let wait = || {
            let inner = sys::map_create(sys::ARRAY, 8, 1, 0, None)?;
            let outer = sys::map_create(sys::ARRAY_OF_MAPS, 4, 1, 0, Some(inner.as_fd()))?;
            let fd = inner.as_raw_fd();
            Map::new(outer, false)?.update(&0_u32.to_ne_bytes(), &fd.to_ne_bytes())
        };
        wait().map_err(|e| Failed::new("wait for", "a grace period", e))
    }
}
