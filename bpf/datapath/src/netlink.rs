// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Blocking `NETLINK_ROUTE`: links, addresses, namespaces, and whatever else is asked with [`Socket::request`].
//!
//! A netlink socket stays bound to the network namespace in which it was opened, so a pod's namespace is entered
//! once, by [`Netns::enter`], to open a socket there; everything after that is asked from home.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enums of netlink are open and long: what nobody asked for is skipped"
)]

use std::fmt;

use serde::{Deserialize, Serialize};

mod address;
mod link;
mod netns;
mod route;
mod socket;
mod tunnel;

pub use address::InterfaceAddress;
pub use link::{Kind, Link, LinkError};
pub use netns::{Netns, NetnsError, NetnsId};
pub use route::LocalRoute;
pub use socket::{NetlinkError, Socket};
pub use tunnel::Tunnel;

/// The number of a network interface, in the namespace of whoever says it. Numbers are used again at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ifindex(pub u32);

impl fmt::Display for Ifindex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
