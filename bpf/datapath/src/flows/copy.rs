// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tables of flows of another size: what the sets before know goes over into the new set's.

use std::cmp::Reverse;

use podgate_abi::FlowState;

use super::Tracked;
use crate::{
    Failed,
    bpffs::{self, SetName},
    record::Slot,
    tables::{MapName, TableSet},
};

/// The tables whose content goes over. Fragments do not: they follow each other within milliseconds.
const COPIED: [MapName; 3] = [MapName::Flows, MapName::Embryonic, MapName::Crowd];

/// What a copy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Flows that this set did not know, or not as they were seen last.
    pub copied: usize,
    /// Flows for which there was no room.
    pub left: usize,
}

impl TableSet {
    /// Copies the flows of all other sets whose tables are not this set's own: those that this set lacks, and those
    /// that were seen there last. Quotas are counted again from zero: their table may be new where that of the flows is not.
    ///
    /// Once before the attachments come over, so that they find their flows; and once more after that, for what
    /// changed meanwhile. A flow whose next packet comes in between is judged again.
    ///
    /// # Errors
    /// When a table cannot be read or written.
    pub fn copy_flows(&self) -> Result<Copied, Failed> {
        self.copy_flows_if(|_| true)
    }

    /// The same for an attachment that came over later than the others, whose flows may have ended here meanwhile.
    ///
    /// # Errors
    /// As that.
    pub fn copy_flows_of(&self, slot: Slot) -> Result<Copied, Failed> {
        self.copy_flows_if(|flow| u32::from(flow.key.slot) == slot.0)
    }

    fn copy_flows_if(&self, concerned: impl Fn(&Tracked) -> bool) -> Result<Copied, Failed> {
        let mut done = Copied::default();
        for other in self.others()? {
            if !other.has_shared_tables() {
                continue;
            }
            for table in COPIED {
                self.copy_table(&other, table, &concerned, &mut done)?;
            }
        }
        self.recount()?;
        Ok(done)
    }

    /// The current set, if its flows have another version's layout: a set that is made now begins without any.
    ///
    /// # Errors
    /// When the link that names it cannot be read.
    pub fn with_foreign_flows(paths: &crate::Paths) -> Result<Option<SetName>, Failed> {
        let current = bpffs::current(paths)?;
        Ok(current.filter(|name| !Self::at(paths, *name).has_shared_tables()))
    }

    fn copy_table(
        &self,
        other: &Self,
        name: MapName,
        concerned: impl Fn(&Tracked) -> bool,
        done: &mut Copied,
    ) -> Result<(), Failed> {
        let (from, to) = (other.map(name)?, self.map(name)?);
        if from.id == to.id {
            return Ok(());
        }
        let mut flows = other.tracked(name)?;
        flows.retain(concerned);
        // What has ended stays behind first, then what is longest silent; the others arrive in this order, as a table
        // that forgets the least recently used one wants it.
        flows.sort_unstable_by_key(|flow| {
            let has_ended = flow.word.state() == FlowState::CLOSING;
            (has_ended, Reverse(flow.seen))
        });
        let room = flows.len().min(to.capacity as usize);
        done.left += flows.len() - room;
        for flow in flows[..room].iter().rev() {
            let known = self.flow(name, &flow.key)?;
            if known.is_some_and(|known| known.seen >= flow.seen) {
                continue;
            }
            let value = [flow.word.0, flow.seen];
            match to.update(bytemuck::bytes_of(&flow.key), bytemuck::bytes_of(&value)) {
                Ok(()) => done.copied += 1,
                Err(error) if error.raw_os_error() == Some(libc::E2BIG) => done.left += 1,
                Err(error) => return Err(Failed::new("write table", name.name(), error)),
            }
        }
        Ok(())
    }
}
