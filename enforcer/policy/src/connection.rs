// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a verdict is asked about: a pod, and a connection that begins at it or reaches it.
//!
//! Like [`crate::model`], these are input types that the oracle and the compiler share.

use std::collections::BTreeSet;
use std::net::IpAddr;

pub use podgate_core::{Baseline, Direction, tunnel};

use crate::model::{Labels, NamedPort, ObjectName, Pod, PodUid, Protocol};

/// Where a connection goes at its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A destination port.
    Port(Protocol, u16),
    /// An IP protocol without ports, by its number; never 6, 17 or 132.
    Other(u8),
}

impl Transport {
    /// Whether this is a tunnel that would come out at the node as another source (`docs/adr/0039`).
    /// `devices`: see [`World::tunnel_ports`](crate::model::World::tunnel_ports).
    pub fn is_tunnel(self, devices: &BTreeSet<u16>) -> bool {
        match self {
            Self::Port(Protocol::Udp, port) => {
                tunnel::UDP_PORTS.contains(&port) || devices.contains(&port)
            }
            Self::Port(Protocol::Tcp | Protocol::Sctp, _) => false,
            Self::Other(number) => tunnel::PROTOCOLS.contains(&number),
        }
    }
}

/// One attempt to connect, at the interface of the pod that is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// Who opens it.
    pub direction: Direction,
    /// The address of the other end.
    pub peer: IpAddr,
    /// The destination port, or the protocol.
    pub transport: Transport,
}

/// The pod that is judged: a pod of this node with a network of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its namespace and name.
    pub name: ObjectName,
    /// Its UID, if the source knows it. Without it, no policy applies to it by UID.
    pub uid: Option<PodUid>,
    /// Its labels.
    pub labels: Labels,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
    /// What holds for it where no policy isolates it.
    pub baseline: Baseline,
}

impl Subject {
    /// The pod called `name` that the world knows as `pod`, without a UID.
    pub fn new(name: ObjectName, pod: &Pod, baseline: Baseline) -> Self {
        Self {
            name,
            uid: pod.uid.clone(),
            labels: pod.labels.clone(),
            ports: pod.ports.clone(),
            baseline,
        }
    }
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The connection may be opened.
    Allow,
    /// It may not.
    Deny,
}

impl Verdict {
    /// [`Verdict::Allow`] exactly when `allowed`.
    pub fn when(allowed: bool) -> Self {
        if allowed { Self::Allow } else { Self::Deny }
    }
}
