// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which address and port lead to which endpoints: what Services, EndpointSlices and host ports say, before anybody
//! asks about classes.
//!
//! ```text
//! Service, its EndpointSlices ─┐
//! host ports of a pod ─────────┼─► claims: address, port ─► addresses of endpoints ─► (their signatures)
//! who has which address ───────┘
//! ```
//! A claim is worked out anew when its Service, one of its slices, or who is known at one of its endpoints changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

use super::Facts;
use super::ways::{Candidate, Link, Links, NOWHERE_KNOWN, Way, at_nodes};
use crate::compile::translation::{Meaning, Standing};
use crate::model::{
    Endpoint, EndpointSlice, EndpointState, ExternalAddresses, HostPort, ObjectName, Pod,
    PodReference, Protocol, Service, ServiceEgress, ServicePort, TrafficPolicy,
};

/// Before all others.
const FIRST_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Who says that an address leads to endpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claimant {
    /// A pod, by its host ports.
    Pod(ObjectName),
    /// A Service.
    Service(ObjectName),
}

/// A port that leads to endpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RedirectedPort {
    pub(super) protocol: Protocol,
    pub(super) number: u16,
    pub(super) counting: Counting,
}

/// The endpoints that count, each with its target port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Counting {
    pub(super) standing: Standing,
    /// Those that are known.
    pub(super) known: BTreeSet<(IpAddr, u16)>,
    /// Those that say that they are pods, of whom nobody is known.
    pub(super) doubtful: BTreeSet<(IpAddr, u16)>,
}

/// What one claimant says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Said {
    ports: BTreeSet<(IpAddr, RedirectedPort)>,
    /// Every address that an endpoint has, usable or not: who is known there matters.
    endpoints: BTreeSet<IpAddr>,
    /// What may be a way into a tunnel, with where it leads: of UDP, to an endpoint that no pod is known to have.
    candidates: BTreeSet<Link>,
}

/// All that is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Redirects {
    said: OrdMap<Claimant, Arc<Said>>,
    by_address: OrdSet<(IpAddr, Claimant)>,
    by_endpoint: OrdSet<(IpAddr, Claimant)>,
    /// The EndpointSlices of a Service.
    slices: OrdSet<(ObjectName, ObjectName)>,
    /// The Services that have a cluster address.
    cluster: OrdSet<(IpAddr, ObjectName)>,
    /// The Services that name an external address themselves.
    external: OrdSet<(IpAddr, ObjectName)>,
    /// The addresses that lead to an endpoint, which comes first.
    by_target: OrdSet<(IpAddr, IpAddr)>,
    /// What may be ways into tunnels.
    candidates: OrdSet<Candidate>,
}

impl Redirects {
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

    /// Every claimant that is known.
    pub(super) fn claimants(&self) -> impl Iterator<Item = &Claimant> {
        self.said.keys()
    }

    /// Every address that is claimed, or is a cluster address.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        let claimed = self.by_address.iter().map(|(address, _)| *address);
        let cluster = self.cluster.iter().map(|(address, _)| *address);
        claimed.chain(cluster).collect()
    }

    /// What may be ways into tunnels.
    pub(super) fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter()
    }

    /// Whether what may be ways is the same as there.
    pub(super) fn has_same_candidates(&self, other: &Self) -> bool {
        self.candidates == other.candidates
    }

    /// The claimants of which an endpoint has this address.
    pub(super) fn with_endpoint(&self, address: IpAddr) -> impl Iterator<Item = &Claimant> {
        of_address(&self.by_endpoint, address)
    }

    /// The addresses that lead to this one.
    pub(super) fn leading_to(&self, target: IpAddr) -> impl Iterator<Item = IpAddr> {
        self.by_target
            .range((target, FIRST_ADDRESS)..)
            .take_while(move |(of, _)| *of == target)
            .map(|(_, address)| *address)
    }

    /// The addresses that lead into a block.
    pub(super) fn leading_into(&self, block: &IpNet) -> impl Iterator<Item = IpAddr> {
        let block = *block;
        self.by_target
            .range((block.network(), FIRST_ADDRESS)..)
            .take_while(move |(target, _)| block.contains(target))
            .map(|(_, address)| *address)
    }

    /// The ports of an address that lead to endpoints, of whoever claims them.
    pub(super) fn ports_of(&self, address: IpAddr) -> BTreeSet<&RedirectedPort> {
        of_address(&self.by_address, address)
            .filter_map(|claimant| self.said.get(claimant))
            .flat_map(|said| said.ports.iter())
            .filter(|(claimed, _)| *claimed == address)
            .map(|(_, port)| port)
            .collect()
    }

    /// What the claimant says is now this. The addresses of which something else is said than before.
    fn says(&mut self, claimant: &Claimant, new: Said) -> BTreeSet<IpAddr> {
        let old = self.said.get(claimant).cloned().unwrap_or_default();
        if *old == new {
            return BTreeSet::new();
        }
        let differing = old.ports.symmetric_difference(&new.ports);
        let touched: BTreeSet<IpAddr> = differing.map(|(address, _)| *address).collect();
        for address in &touched {
            for target in self.targets_of(*address) {
                self.by_target.remove(&(target, *address));
            }
        }
        for (address, _) in &old.ports {
            self.by_address.remove(&(*address, claimant.clone()));
        }
        for endpoint in &old.endpoints {
            self.by_endpoint.remove(&(*endpoint, claimant.clone()));
        }
        for link in &old.candidates {
            self.candidates.remove(&(*link, claimant.clone()));
        }
        for (address, _) in &new.ports {
            self.by_address.insert((*address, claimant.clone()));
        }
        for endpoint in &new.endpoints {
            self.by_endpoint.insert((*endpoint, claimant.clone()));
        }
        for link in &new.candidates {
            self.candidates.insert((*link, claimant.clone()));
        }
        if new == Said::default() {
            self.said.remove(claimant);
        } else {
            self.said.insert(claimant.clone(), Arc::new(new));
        }
        for address in &touched {
            for target in self.targets_of(*address) {
                self.by_target.insert((target, *address));
            }
        }
        touched
    }

    fn targets_of(&self, address: IpAddr) -> BTreeSet<IpAddr> {
        let ports = self.ports_of(address).into_iter();
        ports
            .flat_map(|port| port.counting.known.iter().chain(&port.counting.doubtful))
            .map(|(target, _)| *target)
            .collect()
    }
}

fn of_address(
    index: &OrdSet<(IpAddr, Claimant)>,
    address: IpAddr,
) -> impl Iterator<Item = &Claimant> {
    let first = (address, Claimant::Pod(ObjectName::new("", "")));
    index
        .range(first..)
        .take_while(move |(of, _)| *of == address)
        .map(|(_, claimant)| claimant)
}

/// Who an endpoint is.
enum Known {
    /// Somebody who is known, or an address that does not say that it is a pod.
    Yes,
    /// A pod of which nothing is known.
    NotYet,
    /// Not who it says: another pod is known at its address.
    Contradicted,
}

impl Facts {
    /// Works out what a claimant says. The addresses of which something else is said than before.
    pub(super) fn hear(&mut self, claimant: &Claimant) -> BTreeSet<IpAddr> {
        let said = match claimant {
            Claimant::Service(name) => match self.world.services.get(name) {
                Some(service) => self.said_by_service(name, service),
                None => Said::default(),
            },
            Claimant::Pod(name) => match self.world.pods.get(name) {
                Some(pod) => self.said_by_pod(pod),
                None => Said::default(),
            },
        };
        self.redirects.says(claimant, said)
    }

    /// Whether an address is the own node's. The cluster address of a Service is nobody's, whatever interface has it.
    pub(super) fn is_own_node(&self, address: IpAddr) -> bool {
        self.world.node_addresses.contains(&address) && !self.redirects.is_cluster_address(address)
    }

    /// What the ports of an address mean that is claimed.
    pub(super) fn meaning_of(&self, address: IpAddr) -> Meaning {
        if self.redirects.is_cluster_address(address) {
            return Meaning::Cluster;
        }
        if self.is_own_node(address) {
            return Meaning::OwnNode;
        }
        match self.world.service_options.external {
            ExternalAddresses::Literal if self.redirects.is_external_address(address) => {
                Meaning::External
            }
            // A load balancer's: nodes translate it for as long as the Service has it.
            ExternalAddresses::Literal | ExternalAddresses::Translated => Meaning::Translated,
        }
    }

    /// Whether an address is one of another node's.
    pub(super) fn is_other_node(&self, address: IpAddr) -> bool {
        self.world.cluster_nodes.contains(&address)
            && !self.world.node_addresses.contains(&address)
            && !self.redirects.is_cluster_address(address)
    }

    fn own_node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let all = self.world.node_addresses.iter().copied();
        all.filter(|address| self.is_own_node(*address))
    }

    fn said_by_service(&self, name: &ObjectName, service: &Service) -> Said {
        let mut said = Said::default();
        let endpoints = self.slices_of(name).flat_map(|slice| &slice.endpoints);
        said.endpoints = endpoints.map(|endpoint| endpoint.address).collect();
        for port in &service.ports {
            let mut claim = |address: IpAddr, number, traffic| {
                let port = RedirectedPort {
                    protocol: port.protocol,
                    number,
                    counting: self.counting(name, port, traffic, address),
                };
                said.ports.insert((address, port));
            };
            for address in &service.cluster_addresses {
                claim(*address, port.number, service.internal_traffic);
            }
            let of_balancers = &service.balancer_addresses;
            for address in service.external_addresses.iter().chain(of_balancers) {
                claim(*address, port.number, TrafficPolicy::Cluster);
            }
            if let Some(number) = port.node_port {
                for address in self.own_node_addresses() {
                    if has_family(service, address) {
                        claim(address, number, TrafficPolicy::Cluster);
                    }
                }
            }
        }
        said.candidates = self.links_of(name, service, |address| {
            self.holder(address).is_none()
                || self.world.node_addresses.contains(&address)
                || self.world.cluster_nodes.contains(&address)
        });
        said
    }

    /// Where a Service leads datagrams: each address and port of its, and NodePort, to each endpoint for which `counts` holds. Those
    /// that go, or are on another node, count whatever its traffic policies say: another node may choose otherwise than
    /// this one.
    fn links_of(
        &self,
        name: &ObjectName,
        service: &Service,
        counts: impl Fn(IpAddr) -> bool,
    ) -> BTreeSet<Link> {
        let mut links = BTreeSet::new();
        let of_udp = |port: &&ServicePort| port.protocol == Protocol::Udp;
        for port in service.ports.iter().filter(of_udp) {
            let of_cluster = service.cluster_addresses.iter();
            let elsewhere = service.external_addresses.iter();
            let addresses = of_cluster
                .chain(elsewhere)
                .chain(&service.balancer_addresses);
            let mut ways: Vec<Way> = addresses.map(|address| (*address, port.number)).collect();
            for family in [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()] {
                let number = port.node_port.filter(|_| has_family(service, family));
                ways.extend(number.map(|number| at_nodes(family, number)));
            }
            let mut targets: BTreeSet<Way> = BTreeSet::new();
            let mut is_known = true;
            for slice in self.slices_of(name) {
                is_known &= !slice.is_closed;
                for number in numbers_of(slice, port) {
                    let usable = slice.endpoints.iter().filter(|endpoint| {
                        endpoint.state != EndpointState::Unusable && counts(endpoint.address)
                    });
                    targets.extend(usable.map(|endpoint| (endpoint.address, number)));
                }
            }
            if !is_known {
                links.extend(ways.iter().map(|way| Link {
                    way: *way,
                    target: at_nodes(way.0, NOWHERE_KNOWN),
                    here: true,
                }));
            }
            if targets.is_empty() {
                continue;
            }
            let mut chosen: BTreeMap<(TrafficPolicy, bool), BTreeSet<Way>> = BTreeMap::new();
            for way in ways {
                let traffic = if service.cluster_addresses.contains(&way.0) {
                    service.internal_traffic
                } else {
                    TrafficPolicy::Cluster
                };
                let chosen = chosen.entry((traffic, way.0.is_ipv4())).or_insert_with(|| {
                    let usable = self.usable(name, port, traffic, way.0).into_iter();
                    usable
                        .map(|(endpoint, number)| (endpoint.address, number))
                        .collect()
                });
                let of_family = targets
                    .iter()
                    .filter(|(it, _)| it.is_ipv4() == way.0.is_ipv4());
                links.extend(of_family.map(|target| Link {
                    way,
                    target: *target,
                    here: chosen.contains(target),
                }));
            }
        }
        links
    }

    /// The links of a claimant to what pods have, by where they lead to.
    pub(super) fn links_of_held(&self, claimant: &Claimant) -> Links {
        let mut links = Links::new();
        if let Claimant::Service(name) = claimant
            && let Some(service) = self.world.services.get(name)
        {
            for link in self.links_of(name, service, |_| true) {
                links.entry(link.target).or_default().push(link);
            }
        }
        links
    }

    /// A pod whose node is not known may be on this one.
    fn said_by_pod(&self, pod: &Pod) -> Said {
        let mut said = Said::default();
        let is_elsewhere = match (&pod.node, &self.world.node_name) {
            (Some(of_pod), Some(own)) => of_pod != own,
            (Some(_) | None, None) | (None, Some(_)) => false,
        };
        if is_elsewhere || !pod.is_selectable() {
            return said;
        }
        let is_on = |port: &HostPort, host| port.address.is_none_or(|wanted| wanted == host);
        for host in self.own_node_addresses() {
            for port in pod.host_ports.iter().filter(|port| is_on(port, host)) {
                let of_pod = pod.addresses.iter();
                let of_family = of_pod.filter(|address| address.is_ipv4() == host.is_ipv4());
                let endpoints: BTreeSet<_> =
                    of_family.map(|address| (*address, port.target)).collect();
                if !endpoints.is_empty() {
                    let port = RedirectedPort {
                        protocol: port.protocol,
                        number: port.number,
                        counting: Counting {
                            standing: Standing::Known,
                            known: endpoints,
                            doubtful: BTreeSet::new(),
                        },
                    };
                    said.ports.insert((host, port));
                }
            }
        }
        said
    }

    fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        let first = (service.clone(), ObjectName::new("", ""));
        let of_service = service.clone();
        self.redirects
            .slices
            .range(first..)
            .take_while(move |(of, _)| *of == of_service)
            .filter_map(|(_, slice)| self.world.endpoint_slices.get(slice))
    }

    /// The endpoints of a Service port that count, of the family of `address`: all that kube-proxy could choose. A
    /// contradiction counts as known, and denies all where all must be allowed.
    fn counting(
        &self,
        service: &ObjectName,
        port: &ServicePort,
        traffic: TrafficPolicy,
        address: IpAddr,
    ) -> Counting {
        let (mut known, mut doubtful) = (BTreeSet::new(), BTreeSet::new());
        let mut is_contradicted = false;
        for (endpoint, target) in self.usable(service, port, traffic, address) {
            match self.known(endpoint) {
                Known::Yes => drop(known.insert((endpoint.address, target))),
                Known::NotYet => drop(doubtful.insert((endpoint.address, target))),
                Known::Contradicted => is_contradicted = true,
            }
        }
        let standing = if known.is_empty() && !is_contradicted {
            Standing::NotKnown
        } else {
            Standing::Known
        };
        if is_contradicted && self.world.service_options.egress == ServiceEgress::All {
            known.clear();
            doubtful.clear();
        }
        Counting {
            standing,
            known,
            doubtful,
        }
    }

    /// The endpoints that kube-proxy could choose, with their target ports: those that are ready, else those that go
    /// but still serve; of this node only, if so wanted and its name is known.
    fn usable(
        &self,
        service: &ObjectName,
        port: &ServicePort,
        traffic: TrafficPolicy,
        address: IpAddr,
    ) -> Vec<(&Endpoint, u16)> {
        let own = self.world.node_name.as_ref();
        let (mut ready, mut terminating) = (Vec::new(), Vec::new());
        for slice in self.slices_of(service) {
            for number in numbers_of(slice, port) {
                for endpoint in &slice.endpoints {
                    let is_near = match traffic {
                        TrafficPolicy::Cluster => true,
                        TrafficPolicy::Local => own.is_none() || endpoint.node.as_ref() == own,
                    };
                    if !is_near || endpoint.address.is_ipv4() != address.is_ipv4() {
                        continue;
                    }
                    match endpoint.state {
                        EndpointState::Ready => ready.push((endpoint, number)),
                        EndpointState::Terminating => terminating.push((endpoint, number)),
                        EndpointState::Unusable => {}
                    }
                }
            }
        }
        if ready.is_empty() { terminating } else { ready }
    }

    fn known(&self, endpoint: &Endpoint) -> Known {
        let Some(said) = &endpoint.pod else {
            return Known::Yes;
        };
        let address = endpoint.address;
        let holder = self.holder(address).filter(|_| !self.is_own_node(address));
        if let Some(name) = holder {
            let pod = self.world.pods.get(name);
            return if pod.is_some_and(|pod| is(said, name, pod)) {
                Known::Yes
            } else {
                Known::Contradicted
            };
        }
        let of_a_node = |pod: &Arc<Pod>| pod.host_network && pod.addresses.contains(&address);
        match self.world.pods.get(&said.name) {
            Some(pod) if of_a_node(pod) && is(said, &said.name, pod) => Known::Yes,
            Some(_) | None => Known::NotYet,
        }
    }
}

/// The numbers that a slice has for a port of its Service.
fn numbers_of(slice: &EndpointSlice, port: &ServicePort) -> impl Iterator<Item = u16> {
    let of_port = slice
        .ports
        .iter()
        .filter(|of_slice| of_slice.name == port.name && of_slice.protocol == port.protocol);
    of_port.map(|of_slice| of_slice.number)
}

/// A Service has NodePorts in the families of its cluster addresses. One without any may have them in either.
fn has_family(service: &Service, address: IpAddr) -> bool {
    let of_cluster = &service.cluster_addresses;
    let same = |of_service: &IpAddr| of_service.is_ipv4() == address.is_ipv4();
    of_cluster.is_empty() || of_cluster.iter().any(same)
}

/// Whether the pod of this name is the one that the endpoint says it is. Where both know its UID, a namesake is told
/// by it.
fn is(said: &PodReference, name: &ObjectName, pod: &Pod) -> bool {
    let namesakes = match (&said.uid, &pod.uid) {
        (Some(said), Some(uid)) => said != uid,
        (Some(_) | None, None) | (None, Some(_)) => false,
    };
    said.name == *name && !namesakes
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
