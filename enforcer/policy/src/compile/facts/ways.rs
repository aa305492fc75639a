// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where Services and host ports lead datagrams into a tunnel that ends at a node.
//!
//! What a pod sends to one, its node translates; and what goes on to the tunnel of a node comes out of it as a packet of
//! another source, past the receiver's policies. An endpoint may be such a way itself, as the NodePort of another
//! Service at another node, which translates once more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use imbl::OrdMap;

use super::Facts;
use super::service_map::Frontend;
use crate::connection::Transport;
use crate::model::{Protocol, SCOPES};

/// An address and a UDP port that nodes translate. With the unspecified address of a family: that port at the addresses that
/// nodes have of it.
pub type Way = (IpAddr, u16);

/// Some ways, each of which leads to each of some endpoints: what a Service says of one port, where family and traffic policy
/// are the same. Their pairs are many, and are not written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lead {
    /// The addresses of the ways: of one family, and not empty.
    pub(super) addresses: Arc<BTreeSet<IpAddr>>,
    /// Their port.
    pub(super) number: u16,
    /// Where they lead.
    pub(super) targets: Arc<BTreeSet<Way>>,
    /// What this node may choose. Another may choose other targets: traffic policies name what is near, and what goes is
    /// chosen where nothing else is there.
    pub(super) chosen: Arc<BTreeSet<Way>>,
}

/// Whom a way into a tunnel is closed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Closed {
    /// Of a NodePort: no pods here. Another node may lead it there, so at others it is closed to all, as each such is.
    Elsewhere,
    /// Pods without a policy for egress, and those that may send everything. A ruleset in between says itself what it allows
    /// with the endpoints.
    ToOpen,
    /// All pods: nothing that a rule could name says where it ends.
    ToAll,
}

/// Not a port of any endpoint: the endpoints are unknown, and the way counts as one into a tunnel.
pub(super) const NOWHERE_KNOWN: u16 = 0;

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
            let here = self.ways.get(&at_nodes(peer, port)).copied();
            here.filter(|closed| *closed != Closed::Elsewhere)
        } else {
            None
        };
        itself.max(as_node)
    }

    /// Whether what was heard anew can have changed the ways: what may be one did, or there are some, which an endpoint that a
    /// pod has may lead to.
    pub(super) fn may_differ_in_ways(&self, before: &Self, heard: &BTreeSet<Frontend>) -> bool {
        let is_some = !before.ways.is_empty() && !heard.is_empty();
        is_some || !self.redirects.has_same_candidates(&before.redirects)
    }

    /// Works out the ways: those that lead to a tunnel, those that lead to these, and so on. Each is gone on from once.
    pub(super) fn find_ways(&mut self) {
        let mut search = Search::default();
        for lead in self.redirects.candidates() {
            let place = search.take(lead);
            for target @ (address, port) in lead.targets.iter().copied() {
                let here = lead.chosen.contains(&target);
                let link = Link { lead: place, here };
                if self.is_node(address) {
                    search.add(at_nodes(address, port), link);
                }
                if let Some(closed) = self.tunnel_at(target) {
                    search.find(link, closed);
                }
            }
        }
        let (mut asked, mut heard) = (BTreeSet::new(), BTreeSet::new());
        while let Some(found) = search.next.pop() {
            // What a pod has may be a way as well, as the external address of another Service.
            if asked.insert(found.0) {
                for frontend in self.redirects.with_endpoint(found.0) {
                    if heard.insert(frontend) {
                        for lead in &self.leads_to_held(frontend) {
                            search.take(lead);
                        }
                    }
                }
            }
            for link in search.links.get(&found).cloned().unwrap_or_default() {
                search.find(link, Closed::ToAll);
            }
        }
        self.ways = search.closed.into_iter().collect();
    }

    /// Whom a tunnel at an address is closed to, if it may end at a node. What a node takes for itself without having it as an
    /// address (broadcasts, anycast, local routes) no rule names.
    fn tunnel_at(&self, (address, port): (IpAddr, u16)) -> Option<Closed> {
        if port == NOWHERE_KNOWN {
            return Some(Closed::ToAll);
        }
        let transport = Transport::Port(Protocol::Udp, port);
        if !transport.is_tunnel(&self.world.tunnel_ports) {
            return None;
        }
        if self.is_node(address) {
            Some(Closed::ToOpen)
        } else if self.is_in_scope(address) {
            Some(Closed::ToAll)
        } else {
            None
        }
    }

    /// Whether a node takes an address for itself without having it, or may.
    pub(super) fn is_in_scope(&self, address: IpAddr) -> bool {
        let mut scopes = SCOPES.iter().chain(&self.world.node_scopes);
        scopes.any(|scope| scope.contains(&address))
    }

    fn is_node(&self, address: IpAddr) -> bool {
        self.is_own_node(address) || self.is_other_node(address)
    }
}

/// That a lead has this target.
#[derive(Debug, Clone, Copy)]
struct Link {
    /// The place of the lead among those of the search.
    lead: usize,
    /// Whether this node may choose the target.
    here: bool,
}

/// A lead that is known to end in a tunnel, or not.
struct Followed {
    lead: Lead,
    /// Whether its ways are found.
    is_found: bool,
    /// Whom they are closed to, by targets that this node may choose and by others.
    closed: [Option<Closed>; 2],
}

/// How far the search for ways has come.
#[derive(Default)]
struct Search {
    leads: Vec<Followed>,
    /// By where they lead to.
    links: HashMap<Way, Vec<Link>>,
    /// What leads into a tunnel, at some node.
    found: BTreeSet<Way>,
    /// What does so here, and every NodePort that does so at some node.
    closed: BTreeMap<Way, Closed>,
    /// Found, and not gone on from.
    next: Vec<Way>,
}

impl Search {
    /// A lead takes part. Its place.
    fn take(&mut self, lead: &Lead) -> usize {
        let place = self.leads.len();
        self.leads.push(Followed {
            lead: lead.clone(),
            is_found: false,
            closed: [None; 2],
        });
        for target in lead.targets.iter() {
            let here = lead.chosen.contains(target);
            self.add(*target, Link { lead: place, here });
        }
        place
    }

    fn add(&mut self, target: Way, link: Link) {
        self.links.entry(target).or_default().push(link);
    }

    /// Each way of a lead is written down a few times at most, however many of its targets are found.
    fn find(&mut self, link: Link, closed: Closed) {
        let Followed {
            lead,
            is_found,
            closed: known,
        } = &mut self.leads[link.lead];
        let ways = lead.addresses.iter().map(|address| (*address, lead.number));
        if !*is_found {
            *is_found = true;
            for way in ways.clone() {
                if self.found.insert(way) {
                    self.next.push(way);
                }
            }
        }
        let known = &mut known[usize::from(link.here)];
        if *known >= Some(closed) {
            return;
        }
        *known = Some(closed);
        for way in ways.filter(|way| link.here || way.0.is_unspecified()) {
            let closed = if link.here { closed } else { Closed::Elsewhere };
            let known = self.closed.entry(way).or_insert(closed);
            *known = closed.max(*known);
        }
    }
}
