// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A connection that is tried: from which namespace, and to whom.

use std::net::{IpAddr, SocketAddr};

use podgate_policy::model::ObjectName;

use crate::cases::case::Node;
use crate::cases::expect::What;

/// Whose namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A pod's.
    Pod(ObjectName),
    /// A node's.
    Node(Node),
    /// The machine's outside.
    Outside,
}

/// A connection to be tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trial {
    /// From where.
    pub from: Place,
    /// To where.
    pub to: Target,
    /// To which address.
    pub address: IpAddr,
    /// What.
    pub what: What,
}

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// To who has the address.
    Place(Place),
    /// Where the address is translated: to one of these.
    Translated(Vec<(Place, SocketAddr)>),
}
