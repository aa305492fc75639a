// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When the slices of a policy belong together. Their controller writes them one by one, without a mark at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podgate_policy::model::ObjectName;

use super::rules::Union;
use super::slice::{PolicyKey, Slice};

/// Slices that nobody has changed for so long are complete. The controller writes those of one policy one after
/// another, at up to 20 requests a second.
const QUIET: Duration = Duration::from_millis(300);
/// After so long they are taken as they are: they are changed all the time.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// The slices of one policy: those that were heard last, and what they meant when they were last complete.
#[derive(Debug, Default)]
pub(super) struct SliceSet {
    slices: BTreeMap<ObjectName, Arc<Slice>>,
    unsettled: Option<Unsettled>,
    union: Option<Arc<Union>>,
}

/// Slices that are being written.
#[derive(Debug, Clone, Copy)]
struct Unsettled {
    first: Instant,
    last: Instant,
}

impl SliceSet {
    /// A slice is now so; `None`: it is gone.
    pub(super) fn put(&mut self, name: ObjectName, slice: Option<Arc<Slice>>, now: Instant) {
        let before = match &slice {
            Some(slice) => self.slices.insert(name, Arc::clone(slice)),
            None => self.slices.remove(&name),
        };
        if before != slice {
            let first = self.unsettled.map_or(now, |unsettled| unsettled.first);
            self.unsettled = Some(Unsettled { first, last: now });
        }
    }

    /// When the slices are complete, if nothing more is heard; nothing if they are.
    pub(super) fn due(&self) -> Option<Instant> {
        let Unsettled { first, last } = self.unsettled?;
        Some((last + QUIET).min(first + PATIENCE))
    }

    /// Takes the slices for complete if it is time. Says whether they mean something else now.
    pub(super) fn settle(&mut self, policy: &PolicyKey, now: Instant) -> bool {
        if self.due().is_none_or(|due| due > now) {
            return false;
        }
        self.unsettled = None;
        let slices = || self.slices.values().map(AsRef::as_ref);
        let union = (!self.slices.is_empty()).then(|| Arc::new(Union::of(policy, slices())));
        let changed = union != self.union;
        self.union = union;
        changed
    }

    /// What the slices mean; nothing if there were none.
    pub(super) fn union(&self) -> Option<&Arc<Union>> {
        self.union.as_ref()
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_empty(&self) -> bool {
        self.slices.is_empty() && self.unsettled.is_none() && self.union.is_none()
    }
}
