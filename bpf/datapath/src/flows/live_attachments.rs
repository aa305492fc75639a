// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whose a flow is: an attachment's that is there, in any table set that is pinned.

use std::{collections::BTreeSet, io};

use super::Tracked;
use crate::{
    Failed,
    tables::{MapName, TableSet, life},
};

/// The attachments of a table set, and of all others, whose filters may use the same tables of flows.
pub(super) struct LiveAttachments<'a> {
    set: &'a TableSet,
    /// None: they cannot all be read, so any flow may be somebody's.
    others: Option<Vec<TableSet>>,
}

impl<'a> LiveAttachments<'a> {
    /// Opens them all.
    pub(super) fn of(set: &'a TableSet) -> Result<Self, Failed> {
        let others = set.others()?;
        let mut are_known = true;
        for other in &others {
            are_known &= other.name().abi == podgate_abi::ABI;
            if are_known && let Err(error) = other.array(MapName::Attachments) {
                // It was unpinned meanwhile. Where its attachments went to, the next walk sees.
                if error.source.kind() != io::ErrorKind::NotFound {
                    return Err(error);
                }
                are_known = false;
            }
        }
        Ok(Self {
            set,
            others: are_known.then_some(others),
        })
    }

    /// Whether the flow can be that of an attachment that is there.
    pub(super) fn have(&self, flow: &Tracked) -> bool {
        let Some(others) = &self.others else {
            return true;
        };
        let slot = u32::from(flow.key.slot);
        std::iter::once(self.set).chain(others).any(|set| {
            set.array(MapName::Attachments).map_or(true, |records| {
                let life = records.element(slot).and_then(life);
                life.is_some_and(|life| !flow.word.is_older_than(life))
            })
        })
    }

    /// How many attachments there are.
    pub(super) fn count(&self) -> usize {
        let others = self.others.iter().flatten();
        let born = std::iter::once(self.set).chain(others).map(TableSet::born);
        let slots: BTreeSet<_> = born.flatten().flatten().collect();
        slots.len()
    }
}
