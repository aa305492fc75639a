// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The facts of the Stars demo: four pods, the policies that come one after another, and who may reach whom.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A pod of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Star {
    /// Asks the frontend, from a namespace of its own.
    Client,
    /// Between the client and the backend.
    Frontend,
    /// Answers the frontend.
    Backend,
    /// Looks at everybody; no policy selects it.
    ManagementUi,
}

impl Star {
    pub(crate) const ALL: [Self; 4] = [
        Self::Client,
        Self::Frontend,
        Self::Backend,
        Self::ManagementUi,
    ];

    /// The name of the pod, which is its `role` too.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Frontend => "frontend",
            Self::Backend => "backend",
            Self::ManagementUi => "management-ui",
        }
    }

    pub(crate) fn namespace(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Frontend | Self::Backend => "stars",
            Self::ManagementUi => "management-ui",
        }
    }

    /// The TCP port of its HTTP server.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Client => 9000,
            Self::Frontend => 80,
            Self::Backend => 6379,
            Self::ManagementUi => 9001,
        }
    }

    /// How it is called where there is little room.
    pub(crate) fn letter(self) -> &'static str {
        match self {
            Self::Client => "C",
            Self::Frontend => "F",
            Self::Backend => "B",
            Self::ManagementUi => "UI",
        }
    }
}

/// Connections from one pod to the server of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Edge {
    pub(crate) from: Star,
    pub(crate) to: Star,
}

impl Edge {
    /// Every pod to every other one.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Star::ALL
            .into_iter()
            .flat_map(|from| Star::ALL.into_iter().map(move |to| Self { from, to }))
            .filter(|edge| edge.from != edge.to)
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// What is applied in one go: one file of `demo/manifests/policies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Policy {
    /// `default-deny`, in `stars` and in `client`.
    DefaultDeny,
    /// `allow-ui` in `stars` and `allow-ui-client` in `client`.
    AllowUi,
    /// `backend-policy`, in `stars`.
    Backend,
    /// `frontend-policy`, in `stars`.
    Frontend,
}

impl Policy {
    /// In the order of the demo.
    pub(crate) const ALL: [Self; 4] = [
        Self::DefaultDeny,
        Self::AllowUi,
        Self::Backend,
        Self::Frontend,
    ];

    /// The name of its file, without `.yaml`.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::DefaultDeny => "default-deny",
            Self::AllowUi => "allow-ui",
            Self::Backend => "backend-policy",
            Self::Frontend => "frontend-policy",
        }
    }

    /// What it means, for people.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::DefaultDeny => "pods of stars and client accept nothing",
            Self::AllowUi => "management-ui reaches all of stars and client",
            Self::Backend => "frontend reaches backend on TCP 6379",
            Self::Frontend => "client reaches frontend on TCP 80",
        }
    }

    /// Whether it selects `pod`, which from then on accepts only what some policy allows.
    fn selects(self, pod: Star) -> bool {
        match self {
            Self::DefaultDeny | Self::AllowUi => pod != Star::ManagementUi,
            Self::Backend => pod == Star::Backend,
            Self::Frontend => pod == Star::Frontend,
        }
    }

    /// Whether it lets `from` in where it selects.
    fn lets_in(self, from: Star) -> bool {
        match self {
            Self::DefaultDeny => false,
            Self::AllowUi => from == Star::ManagementUi,
            Self::Backend => from == Star::Frontend,
            Self::Frontend => from == Star::Client,
        }
    }
}

/// Whether connections of `edge` must work while exactly the `applied` policies hold.
pub(crate) fn works(edge: Edge, applied: &BTreeSet<Policy>) -> bool {
    let mut selecting = applied
        .iter()
        .filter(|policy| policy.selects(edge.to))
        .peekable();
    selecting.peek().is_none() || selecting.any(|policy| policy.lets_in(edge.from))
}

#[cfg(test)]
mod tests;
