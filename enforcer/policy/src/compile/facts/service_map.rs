// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which address and port lead to which endpoints: what Services, EndpointSlices and host ports say, before anybody
//! asks about classes.
//!
//! ```text
//! Service, its EndpointSlices ─┐
//! host ports of a pod ─────────┼─► claims: address, port ─► addresses of endpoints ─► (their signatures)
//! who has which address ───────┘
//! ```
//! A claim is worked out anew when its Service, one of its slices, or who is known at one of its endpoints changes. A Service
//! may have many addresses, many ports and many endpoints, and their product is never made: its addresses are of few kinds,
//! which share what their ports lead to.

mod said;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

use super::ways::Lead;
use crate::compile::canonical::Canonical;
use crate::compile::signature::Standing;
use crate::model::{ObjectName, Protocol};

/// Who says that an address leads to endpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Frontend {
    /// A pod, by its host ports.
    Pod(ObjectName),
    /// A Service.
    Service(ObjectName),
}

/// A port that leads to endpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RedirectedPort {
    pub(super) protocol: Protocol,
    pub(super) number: u16,
    /// One allocation for all addresses of a Service for which they are the same.
    pub(super) counting: Arc<Canonical<Counting>>,
}

/// The ports of an address that lead to endpoints, of one frontend: one allocation for all addresses of a kind.
pub(super) type Ports = Canonical<BTreeSet<RedirectedPort>>;

/// The endpoints that count, each with its target port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Counting {
    pub(super) standing: Standing,
    /// Those that are known.
    pub(super) known: BTreeSet<(IpAddr, u16)>,
    /// Those that say that they are pods, of whom nobody is known.
    pub(super) doubtful: BTreeSet<(IpAddr, u16)>,
}

/// What one frontend says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Said {
    /// Of each address that it claims. None is empty.
    ports: BTreeMap<IpAddr, Arc<Ports>>,
    /// Every address that an endpoint has, usable or not: who is known there matters.
    endpoints: BTreeSet<IpAddr>,
    /// What may be ways into a tunnel, with where they lead: of UDP, to endpoints that no pod is known to have, or that a node
    /// takes for itself even if a pod has them.
    candidates: Arc<Vec<Lead>>,
}

impl Said {
    /// Shares with `old` what is the same there. What is one allocation here is compared once.
    fn share(&mut self, old: &Self) {
        let known: HashSet<&Arc<Ports>> = old.ports.values().collect();
        let mut kept: HashMap<*const Ports, Arc<Ports>> = HashMap::new();
        let all: Vec<Arc<Ports>> = self.ports.values().cloned().collect();
        for (ports, new) in self.ports.values_mut().zip(&all) {
            let kept = kept.entry(Arc::as_ptr(new));
            *ports = Arc::clone(kept.or_insert_with(|| {
                let same = known.get(new).copied();
                Arc::clone(same.unwrap_or(new))
            }));
        }
        if self.candidates == old.candidates {
            self.candidates = Arc::clone(&old.candidates);
        }
    }
}

/// All that is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ServiceMap {
    said: OrdMap<Frontend, Arc<Said>>,
    by_address: OrdSet<(IpAddr, Frontend)>,
    by_endpoint: OrdSet<(IpAddr, Frontend)>,
    /// The EndpointSlices of a Service.
    slices: OrdSet<(ObjectName, ObjectName)>,
    /// The Services that have a cluster address.
    cluster: OrdSet<(IpAddr, ObjectName)>,
    /// The Services that name an external address themselves.
    external: OrdSet<(IpAddr, ObjectName)>,
    /// What may be ways into tunnels, of those who say any.
    candidates: OrdMap<Frontend, Arc<Vec<Lead>>>,
}

impl ServiceMap {
    /// A Service has this slice, or has it no more.
    pub(super) fn slice(&mut self, service: ObjectName, slice: &ObjectName, is_there: bool) {
        let entry = (service, slice.clone());
        if is_there {
            self.slices.insert(entry);
        } else {
            self.slices.remove(&entry);
        }
    }

    /// A Service has this cluster address, or has it no more.
    pub(super) fn cluster_address(
        &mut self,
        address: IpAddr,
        service: &ObjectName,
        is_there: bool,
    ) {
        note(&mut self.cluster, address, service, is_there);
    }

    /// A Service names this external address itself, or does so no more.
    pub(super) fn external_address(
        &mut self,
        address: IpAddr,
        service: &ObjectName,
        is_there: bool,
    ) {
        note(&mut self.external, address, service, is_there);
    }

    /// Whether an address is the cluster address of a Service.
    pub(super) fn is_cluster_address(&self, address: IpAddr) -> bool {
        is_noted(&self.cluster, address)
    }

    /// Whether a Service names this external address itself.
    fn is_external_address(&self, address: IpAddr) -> bool {
        is_noted(&self.external, address)
    }

    /// Every frontend that is known.
    pub(super) fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.said.keys()
    }

    /// Every address that is claimed, or is a cluster address.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        let claimed = self.by_address.iter().map(|(address, _)| *address);
        let cluster = self.cluster.iter().map(|(address, _)| *address);
        claimed.chain(cluster).collect()
    }

    /// What may be ways into tunnels.
    pub(super) fn candidates(&self) -> impl Iterator<Item = &Lead> {
        self.candidates.values().flat_map(|leads| leads.iter())
    }

    /// Whether what may be ways is the same as there.
    pub(super) fn has_same_candidates(&self, other: &Self) -> bool {
        self.candidates == other.candidates
    }

    /// The frontends of which an endpoint has this address.
    pub(super) fn with_endpoint(&self, address: IpAddr) -> impl Iterator<Item = &Frontend> {
        of_address(&self.by_endpoint, address)
    }

    /// The frontends of which an endpoint has an address of this block.
    pub(super) fn with_endpoint_in(&self, block: &IpNet) -> impl Iterator<Item = &Frontend> {
        let inside = self
            .by_endpoint
            .range((block.network(), first_frontend())..);
        let inside = inside.take_while(|(endpoint, _)| block.contains(endpoint));
        inside.map(|(_, frontend)| frontend)
    }

    /// The addresses of which some port may lead to one of these.
    pub(super) fn leading_to(&self, targets: &[IpAddr]) -> BTreeSet<IpAddr> {
        let frontends = targets
            .iter()
            .flat_map(|target| self.with_endpoint(*target));
        self.claimed_by(frontends.collect())
    }

    /// The addresses of which some port may lead into a block.
    pub(super) fn leading_into(&self, block: &IpNet) -> BTreeSet<IpAddr> {
        self.claimed_by(self.with_endpoint_in(block).collect())
    }

    fn claimed_by(&self, frontends: BTreeSet<&Frontend>) -> BTreeSet<IpAddr> {
        let frontends = frontends.into_iter();
        frontends.flat_map(|it| self.addresses_of(it)).collect()
    }

    /// The addresses that a frontend claims.
    pub(super) fn addresses_of(&self, frontend: &Frontend) -> impl Iterator<Item = IpAddr> {
        let said = self.said.get(frontend).into_iter();
        said.flat_map(|said| said.ports.keys().copied())
    }

    /// The ports of an address that lead to endpoints, by who claims them.
    pub(super) fn ports_of(&self, address: IpAddr) -> Vec<(&Frontend, &Arc<Ports>)> {
        let frontends = of_address(&self.by_address, address);
        let ports = |frontend| self.said.get(frontend)?.ports.get(&address);
        frontends
            .filter_map(|frontend| Some((frontend, ports(frontend)?)))
            .collect()
    }

    /// What the frontend says is now this. The addresses of which something else is said than before.
    fn says(&mut self, frontend: &Frontend, mut new: Said) -> BTreeSet<IpAddr> {
        let old = self.said.get(frontend).cloned().unwrap_or_default();
        new.share(&old);
        if *old == new {
            return BTreeSet::new();
        }
        let claimed = old.ports.keys().chain(new.ports.keys());
        let touched: BTreeSet<IpAddr> = claimed
            .filter(|address| old.ports.get(address) != new.ports.get(address))
            .copied()
            .collect();
        for address in &touched {
            let entry = (*address, frontend.clone());
            if new.ports.contains_key(address) {
                self.by_address.insert(entry);
            } else {
                self.by_address.remove(&entry);
            }
        }
        for endpoint in old.endpoints.difference(&new.endpoints) {
            self.by_endpoint.remove(&(*endpoint, frontend.clone()));
        }
        for endpoint in new.endpoints.difference(&old.endpoints) {
            self.by_endpoint.insert((*endpoint, frontend.clone()));
        }
        if new.candidates.is_empty() {
            self.candidates.remove(frontend);
        } else {
            let candidates = Arc::clone(&new.candidates);
            self.candidates.insert(frontend.clone(), candidates);
        }
        if new == Said::default() {
            self.said.remove(frontend);
        } else {
            self.said.insert(frontend.clone(), Arc::new(new));
        }
        touched
    }
}

/// Before all others.
fn first_frontend() -> Frontend {
    Frontend::Pod(ObjectName::new("", ""))
}

fn of_address(
    index: &OrdSet<(IpAddr, Frontend)>,
    address: IpAddr,
) -> impl Iterator<Item = &Frontend> {
    index
        .range((address, first_frontend())..)
        .take_while(move |(of, _)| *of == address)
        .map(|(_, frontend)| frontend)
}

fn note(
    noted: &mut OrdSet<(IpAddr, ObjectName)>,
    address: IpAddr,
    service: &ObjectName,
    is_there: bool,
) {
    let entry = (address, service.clone());
    if is_there {
        noted.insert(entry);
    } else {
        noted.remove(&entry);
    }
}

fn is_noted(noted: &OrdSet<(IpAddr, ObjectName)>, address: IpAddr) -> bool {
    let first = (address, ObjectName::new("", ""));
    let next = noted.range(first..).next();
    next.is_some_and(|(of_service, _)| *of_service == address)
}
