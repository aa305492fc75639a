// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A single connection: from whom, to whom, what, and by which addresses.

use std::fmt;

use podgate_policy::model::{ObjectName, Protocol};

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        })
    }
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A pod with a network of its own.
    Pod(ObjectName),
    /// The node of the pod at the other end.
    OwnNode,
    /// The node that the pod at the other end is not on.
    OtherNode,
    /// A machine outside of the cluster.
    Outside,
    /// A Service, at its cluster address. Nobody is opened to by one.
    Service(ObjectName),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => name.fmt(f),
            Self::OwnNode => f.write_str("own-node"),
            Self::OtherNode => f.write_str("other-node"),
            Self::Outside => f.write_str("outside"),
            Self::Service(name) => write!(f, "service {name}"),
        }
    }
}

/// What is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A connection to a port.
    Port(Protocol, u16),
    /// An ICMP echo, of the family's ICMP.
    Echo,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(Protocol::Tcp, port) => write!(f, "{port}/TCP"),
            Self::Port(Protocol::Udp, port) => write!(f, "{port}/UDP"),
            Self::Port(Protocol::Sctp, port) => write!(f, "{port}/SCTP"),
            Self::Echo => f.write_str("ICMP"),
        }
    }
}

/// What a line without ports speaks of.
pub const EVERYTHING: [What; 7] = [
    What::Port(Protocol::Tcp, 80),
    What::Port(Protocol::Tcp, 81),
    What::Port(Protocol::Udp, 80),
    What::Port(Protocol::Udp, 81),
    What::Port(Protocol::Sctp, 80),
    What::Port(Protocol::Sctp, 81),
    What::Echo,
];

/// One connection to be tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// Who opens it.
    pub from: Party,
    /// To whom.
    pub to: Party,
    /// What is opened.
    pub what: What,
    /// By which addresses.
    pub family: Family,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            from,
            to,
            what,
            family,
        } = self;
        write!(f, "{from} → {to} : {what} over {family}")
    }
}
