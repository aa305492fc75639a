// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Through which source a case is judged.

use std::fmt;

use crate::cases::expect::Family;

/// Where the enforcers have policy from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// They read NetworkPolicies.
    NetworkPolicies,
    /// They read PolicyEndpoints, which a stand-in for EKS's controller writes. A cluster of EKS has one family, this one.
    PolicyEndpoints(Family),
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::NetworkPolicies,
        Self::PolicyEndpoints(Family::V4),
        Self::PolicyEndpoints(Family::V6),
    ];

    /// Whether it can say something of connections of this family.
    pub(super) fn knows(self, family: Family) -> bool {
        match self {
            Self::NetworkPolicies => true,
            Self::PolicyEndpoints(only) => only == family,
        }
    }

    /// Its name, as the enforcer's flag has it.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::NetworkPolicies => "networkpolicies",
            Self::PolicyEndpoints(_) => "policyendpoints",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkPolicies => f.write_str(self.flag()),
            Self::PolicyEndpoints(family) => write!(f, "{} of {family}", self.flag()),
        }
    }
}
