//! Where Services lead datagrams into a tunnel that ends at a node.
//!
//! What a pod sends to a Service, its node translates; and what goes on to the tunnel of a node comes out of it as a packet of
//! another source, past the policies of whoever it is for. An endpoint may be such a way itself, as the NodePort of another
//! Service at another node, which translates once more.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use imbl::{OrdMap, OrdSet};

use super::Facts;
use super::redirects::Claimant;
use crate::connection::Transport;
use crate::model::Protocol;

/// An address and a UDP port that nodes translate. With the unspecified address of a family: that port at the addresses that
/// nodes have of it.
pub type Way = (IpAddr, u16);

/// An address and a UDP port that a way leads to, as one claimant says.
pub(super) type Candidate = (Way, (IpAddr, u16), Claimant);

/// Whom a way into a tunnel is closed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Closed {
    /// Pods without a policy for egress, and those that may send everything. A ruleset in between says itself what it allows
    /// with the endpoints.
    ToOpen,
    /// All pods: nothing that a rule could name says where it ends.
    ToAll,
}

/// The NodePort of this number at all nodes, in the family of `address`.
pub(super) fn at_nodes(address: IpAddr, number: u16) -> Way {
    let unspecified: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    (unspecified, number)
}

impl Facts {
    /// The ways into tunnels that end at nodes.
    pub fn ways(&self) -> &OrdMap<Way, Closed> {
        &self.ways
    }

    /// Whom a peer's UDP port is closed to, because it leads into a tunnel that ends at a node.
    pub fn closed(&self, peer: IpAddr, port: u16) -> Option<Closed> {
        let itself = self.ways.get(&(peer, port)).copied();
        let as_node = if self.is_other_node(peer) {
            self.ways.get(&at_nodes(peer, port)).map(|_| Closed::ToAll)
        } else if self.is_own_node(peer) {
            self.ways.get(&at_nodes(peer, port)).copied()
        } else {
            None
        };
        itself.max(as_node)
    }

    /// Works out the ways from those that may be.
    pub(super) fn find_ways(&mut self) {
        let mut known: OrdSet<Way> = OrdSet::new();
        loop {
            let more: Vec<Way> = self
                .redirects
                .candidates()
                .filter(|(way, target, _)| {
                    !known.contains(way)
                        && (self.is_tunnel_at_node(*target) || self.is_way(&known, *target))
                })
                .map(|(way, ..)| *way)
                .collect();
            if more.is_empty() {
                break;
            }
            known.extend(more);
        }
        let mut ways = OrdMap::new();
        for (way, target, _) in self.redirects.candidates() {
            if !known.contains(way) {
                continue;
            }
            let closed = if self.is_way(&known, *target) {
                Closed::ToAll
            } else {
                Closed::ToOpen
            };
            let entry = ways.entry(*way).or_insert(closed);
            *entry = closed.max(*entry);
        }
        self.ways = ways;
    }

    fn is_tunnel_at_node(&self, (address, port): (IpAddr, u16)) -> bool {
        let transport = Transport::Port(Protocol::Udp, port);
        transport.is_tunnel(&self.world.tunnel_ports) && self.is_node(address)
    }

    fn is_way(&self, known: &OrdSet<Way>, (address, port): (IpAddr, u16)) -> bool {
        known.contains(&(address, port))
            || (self.is_node(address) && known.contains(&at_nodes(address, port)))
    }

    fn is_node(&self, address: IpAddr) -> bool {
        self.is_own_node(address) || self.is_other_node(address)
    }
}
