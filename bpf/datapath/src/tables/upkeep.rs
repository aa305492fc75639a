// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Quotas, counters, sizes, and the grace period.

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

/// Attachments among which `embryonic` and the guaranteed part of `flows` are shared out, or more where there are more.
///
/// A kubelet has 110 pods by default. Nothing is ever evicted from either table, so an attachment within its share is
/// sure of its entries, whatever all the others do.
const SHARES: u32 = 128;

/// How many entries of a table of flows of this size are guaranteed to attachments, all together.
const fn guaranteed(flows: u32) -> u32 {
    flows / 2
}

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

/// How many entries of `flows` attachments have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FlowUse {
    /// What one may have.
    pub limit: u64,
    /// What all have beyond their guarantees, and what they may.
    pub common: [u64; 2],
    /// Those that have any, and how many.
    pub slots: Vec<(Slot, u64)>,
}

impl TableSet {
    /// Sets what each attachment may have.
    pub(super) fn set_limits(&self, sizes: &Sizes) -> Result<(), Failed> {
        let common = sizes.flows - guaranteed(sizes.flows);
        for (limit, value) in [
            (Limit::Flows, sizes.flows_per_attachment),
            (Limit::Common, common),
        ] {
            self.set_limit(limit, value)?;
        }
        self.set_shares(0)
    }

    /// Sets what each attachment may have whatever the others have, where there are so many of them.
    pub(crate) fn set_shares(&self, attachments: usize) -> Result<(), Failed> {
        let shares = u32::try_from(attachments.next_power_of_two()).unwrap_or(u32::MAX);
        let shares = shares.max(SHARES);
        let flows = guaranteed(self.map(MapName::Flows)?.capacity);
        let embryonic = self.map(MapName::Embryonic)?.capacity;
        self.set_limit(Limit::Guarantee, (flows / shares).max(1))?;
        self.set_limit(Limit::Embryonic, (embryonic / shares).max(2))
    }

    fn set_limit(&self, limit: Limit, value: u32) -> Result<(), Failed> {
        self.store(MapName::Limits, limit as u32, &[u64::from(value)])
    }

    /// What a limit is set to.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn limit(&self, limit: Limit) -> Result<u64, Failed> {
        Ok(self.load(MapName::Limits, limit as u32)?[0])
    }

    /// How many entries of `flows` the attachments have, as they are counted.
    ///
    /// # Errors
    /// When the tables cannot be read.
    pub fn flow_use(&self) -> Result<FlowUse, Failed> {
        let quotas = self.array(MapName::Quotas)?;
        // One that strayed below zero has none.
        let count = |word: u64| word.cast_signed().max(0).cast_unsigned();
        let flows = |slot| {
            Some((
                Slot(slot),
                count(quotas.element(slot)?[0].load(Ordering::Acquire)),
            ))
        };
        let slots = (0..).map_while(flows);
        Ok(FlowUse {
            limit: self.limit(Limit::Flows)?,
            common: [
                count(self.load(MapName::Common, 0)?[0]),
                self.limit(Limit::Common)?,
            ],
            slots: slots.filter(|(_, flows)| *flows > 0).collect(),
        })
    }

    /// How many entries of `flows` and of `embryonic` a slot is said to have.
    pub fn read_budget(&self, slot: Slot) -> Result<[u64; 2], Failed> {
        let words = self.words(MapName::Quotas, slot.0)?;
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
            | MapName::Taken
            | MapName::Ways
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
            | MapName::Quotas
            | MapName::Limits
            | MapName::Common
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
