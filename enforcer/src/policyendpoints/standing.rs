// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How far the controller has come with a NetworkPolicy, and whom its own selector may isolate meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use podgate_policy::model::{NetworkPolicy, PodUid};

use super::rules::Union;

/// How long the slices of a policy may be missing until somebody should know. So long pods that were running before the
/// policy are not isolated by it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A choice of directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Directions {
    pub(super) ingress: bool,
    pub(super) egress: bool,
}

impl Directions {
    /// In which a policy isolates.
    pub(super) fn of_policy(policy: &NetworkPolicy) -> Self {
        Self {
            ingress: policy.isolates_ingress,
            egress: policy.isolates_egress,
        }
    }

    /// In which slices isolate.
    pub(super) fn of_union(union: &Union) -> Self {
        Self {
            ingress: union.isolates_ingress,
            egress: union.isolates_egress,
        }
    }

    /// Those that are not in `other`.
    pub(super) fn without(self, other: Self) -> Self {
        Self {
            ingress: self.ingress && !other.ingress,
            egress: self.egress && !other.egress,
        }
    }

    /// Whether it is any.
    pub(super) fn any(self) -> bool {
        self.ingress || self.egress
    }

    fn and(self, other: Self) -> Self {
        Self {
            ingress: self.ingress && other.ingress,
            egress: self.egress && other.egress,
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            ingress: self.ingress || other.ingress,
            egress: self.egress || other.egress,
        }
    }
}

/// How far the controller has come with one NetworkPolicy.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    /// Directions that its slices have said, and that it still has.
    confirmed: Directions,
    progress: Progress,
}

/// Whether its slices say every direction that it has.
#[derive(Debug, Clone, Default)]
enum Progress {
    /// They do.
    #[default]
    Complete,
    /// Not yet, or not any more, as while a controller is late: what is missing isolates the pods of the policy.
    Waiting {
        /// Until then.
        until: Instant,
        /// Save these, which were running before the policy had what is missing.
        excused: BTreeSet<PodUid>,
    },
    /// They should: what is missing isolates every pod of the policy, and somebody should see why.
    Overdue,
}

impl Progress {
    /// What is missing is waited for from now on.
    fn waiting(now: Instant, excused: BTreeSet<PodUid>) -> Self {
        Self::Waiting {
            until: now + PATIENCE,
            excused,
        }
    }
}

impl Standing {
    /// The standing of a policy that is there when an enforcer starts. It may have isolated its pods for long, so it
    /// excuses none.
    pub(super) fn found(now: Instant) -> Self {
        Self {
            confirmed: Directions::default(),
            progress: Progress::waiting(now, BTreeSet::new()),
        }
    }

    /// The standing when the policy has the directions `wanted` and its slices have `said` some.
    pub(super) fn after(
        self,
        wanted: Directions,
        said: Directions,
        now: Instant,
        running: impl FnOnce() -> BTreeSet<PodUid>,
    ) -> Self {
        let lost = self.confirmed.and(wanted).without(said);
        let confirmed = self.confirmed.or(said).and(wanted);
        let progress = match self.progress {
            _ if !wanted.without(said).any() => Progress::Complete,
            Progress::Overdue => Progress::Overdue,
            Progress::Waiting { until, .. } if until <= now => Progress::Overdue,
            Progress::Waiting { until, excused } => Progress::Waiting {
                until,
                // The pods of the policy were isolated in what is lost.
                excused: if lost.any() { BTreeSet::new() } else { excused },
            },
            Progress::Complete if lost.any() => Progress::waiting(now, BTreeSet::new()),
            Progress::Complete => Progress::waiting(now, running()),
        };
        Self {
            confirmed,
            progress,
        }
    }

    /// When waiting ends.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.progress {
            Progress::Waiting { until, .. } => Some(*until),
            Progress::Complete | Progress::Overdue => None,
        }
    }

    /// Pods that what is missing does not isolate.
    pub(super) fn excused(&self) -> BTreeSet<PodUid> {
        match &self.progress {
            Progress::Waiting { excused, .. } => excused.clone(),
            Progress::Complete | Progress::Overdue => BTreeSet::new(),
        }
    }

    /// Whether its slices are missing for so long that somebody should know.
    pub(super) fn is_overdue(&self) -> bool {
        match &self.progress {
            Progress::Overdue => true,
            Progress::Complete | Progress::Waiting { .. } => false,
        }
    }
}
