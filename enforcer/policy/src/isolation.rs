// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which directions of a pod policies isolate or may isolate, before anything is compiled.
//!
//! This reads selectors and `policyTypes` only, so it answers at once for a pod whose policy cannot be compiled,
//! planned or written yet, and for one whose labels are not known.

use crate::compile::applies;
use crate::connection::{Direction, Subject};
use crate::model::NetworkPolicy;

/// The directions in which a pod is isolated, or may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isolation {
    /// Towards the pod.
    pub ingress: bool,
    /// From the pod.
    pub egress: bool,
}

impl Isolation {
    /// Neither direction.
    pub const NONE: Self = Self {
        ingress: false,
        egress: false,
    };

    /// Both directions.
    pub const BOTH: Self = Self {
        ingress: true,
        egress: true,
    };

    /// The directions in which a policy isolates the pods that it applies to.
    pub const fn of_policy(policy: &NetworkPolicy) -> Self {
        Self {
            ingress: policy.isolates_ingress,
            egress: policy.isolates_egress,
        }
    }

    /// The directions in which policies of its namespace isolate a pod whose labels are known.
    pub fn of_subject<'a>(
        policies: impl IntoIterator<Item = &'a NetworkPolicy>,
        subject: &Subject,
    ) -> Self {
        Self::of_policies(
            policies
                .into_iter()
                .filter(|policy| applies(policy, subject)),
        )
    }

    /// The directions in which any of these policies isolates. Of all policies of a namespace: those in which a pod of
    /// which no more is known may be isolated.
    pub fn of_policies<'a>(policies: impl IntoIterator<Item = &'a NetworkPolicy>) -> Self {
        let each = policies.into_iter().map(Self::of_policy);
        each.fold(Self::NONE, Self::or)
    }

    /// Whether `direction` is among them.
    pub const fn of(self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }

    /// The directions that are in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            ingress: self.ingress || other.ingress,
            egress: self.egress || other.egress,
        }
    }

    /// Whether it is any direction.
    pub const fn any(self) -> bool {
        self.ingress || self.egress
    }
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.ingress, self.egress) {
            (false, false) => "no direction",
            (true, false) => "ingress",
            (false, true) => "egress",
            (true, true) => "ingress and egress",
        })
    }
}
