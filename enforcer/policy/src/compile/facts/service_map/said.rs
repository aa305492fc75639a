// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a Service or a pod says: which of its addresses and ports lead to which endpoints.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::super::Facts;
use super::super::revision::shared;
use super::super::ways::{Lead, NOWHERE_KNOWN, Way, at_nodes};
use super::{Counting, Frontend, Ports, RedirectedPort, Said};
use crate::compile::canonical::Canonical;
use crate::compile::signature::{Meaning, Standing};
use crate::model::{
    Endpoint, EndpointSlice, EndpointState, ExternalAddresses, HostPort, ObjectName, Pod,
    PodReference, Protocol, Service, ServiceEgress, ServicePort, TrafficPolicy,
};

/// By what an address is one of a Service, all that tells apart where its ports lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    is_ipv4: bool,
    is_cluster: bool,
    is_external: bool,
    /// With the NodePorts.
    is_own_node: bool,
}

impl Kind {
    fn none(address: IpAddr) -> Self {
        Self {
            is_ipv4: address.is_ipv4(),
            is_cluster: false,
            is_external: false,
            is_own_node: false,
        }
    }
}

/// Who an endpoint is.
enum Known {
    /// A pod that is known, or an address that does not claim to be a pod's.
    Yes,
    /// A pod of which nothing is known.
    NotYet,
    /// Not who it says: another pod is known at its address.
    Contradicted,
}

impl Facts {
    /// Works out what a frontend says. The addresses of which something else is said than before.
    pub(in crate::compile::facts) fn recompute(&mut self, frontend: &Frontend) -> BTreeSet<IpAddr> {
        let said = match frontend {
            Frontend::Service(name) => match self.world.services.get(name) {
                Some(service) => self.said_by_service(name, service),
                None => Said::default(),
            },
            Frontend::Pod(name) => match self.world.pods.get(name) {
                Some(pod) => self.said_by_pod(pod),
                None => Said::default(),
            },
        };
        self.redirects.says(frontend, said)
    }

    /// Whether an address is the own node's. The cluster address of a Service is no node's, whatever interface has it.
    pub(in crate::compile::facts) fn is_own_node(&self, address: IpAddr) -> bool {
        self.world.node_addresses.contains(&address) && !self.redirects.is_cluster_address(address)
    }

    /// What the ports of an address mean that is claimed.
    pub(in crate::compile::facts) fn meaning_of(&self, address: IpAddr) -> Meaning {
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
    pub(in crate::compile::facts) fn is_other_node(&self, address: IpAddr) -> bool {
        self.world.cluster_nodes.contains(&address)
            && !self.world.node_addresses.contains(&address)
            && !self.redirects.is_cluster_address(address)
    }

    /// Whether a node may take what is sent to an address for itself, even if a pod is known to have it.
    fn may_be_taken_by_node(&self, address: IpAddr) -> bool {
        self.world.node_addresses.contains(&address)
            || self.world.cluster_nodes.contains(&address)
            || self.is_in_scope(address)
    }

    fn own_node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let all = self.world.node_addresses.iter().copied();
        all.filter(|address| self.is_own_node(*address))
    }

    fn said_by_service(&self, name: &ObjectName, service: &Service) -> Said {
        let mut said = Said::default();
        let endpoints = self.slices_of(name).flat_map(|slice| &slice.endpoints);
        said.endpoints = endpoints.map(|endpoint| endpoint.address).collect();
        said.ports = self.ports_of_service(name, service);
        said.candidates = Arc::new(self.leads_of(name, service, |address| {
            self.holder(address).is_none() || self.may_be_taken_by_node(address)
        }));
        said
    }

    fn ports_of_service(
        &self,
        name: &ObjectName,
        service: &Service,
    ) -> BTreeMap<IpAddr, Arc<Ports>> {
        let mut kinds: BTreeMap<IpAddr, Kind> = BTreeMap::new();
        let mut note = |address: IpAddr, note: fn(&mut Kind)| {
            note(kinds.entry(address).or_insert_with(|| Kind::none(address)));
        };
        for address in &service.cluster_addresses {
            note(*address, |kind| kind.is_cluster = true);
        }
        let of_balancers = &service.balancer_addresses;
        for address in service.external_addresses.iter().chain(of_balancers) {
            note(*address, |kind| kind.is_external = true);
        }
        if service.ports.iter().any(|port| port.node_port.is_some()) {
            let own = self.own_node_addresses();
            for address in own.filter(|own| has_family(service, own.is_ipv4())) {
                note(address, |kind| kind.is_own_node = true);
            }
        }
        let mut countings = BTreeMap::new();
        let mut known: BTreeMap<Kind, Arc<Ports>> = BTreeMap::new();
        let ports = kinds.into_iter().map(|(address, kind)| {
            let ports = known.entry(kind).or_insert_with(|| {
                let ports = self.ports_of_kind(name, service, kind, &mut countings);
                Arc::new(ports.into())
            });
            (address, Arc::clone(ports))
        });
        ports.filter(|(_, ports)| !ports.is_empty()).collect()
    }

    fn ports_of_kind(
        &self,
        name: &ObjectName,
        service: &Service,
        kind: Kind,
        countings: &mut BTreeMap<(usize, TrafficPolicy, bool), Arc<Canonical<Counting>>>,
    ) -> BTreeSet<RedirectedPort> {
        let mut ports = BTreeSet::new();
        for (place, port) in service.ports.iter().enumerate() {
            let of_cluster = kind.is_cluster.then_some(port.number);
            let external = kind.is_external.then_some(port.number);
            let of_node = port.node_port.filter(|_| kind.is_own_node);
            let numbers = [
                (of_cluster, service.internal_traffic),
                (external, TrafficPolicy::Cluster),
                (of_node, TrafficPolicy::Cluster),
            ];
            for (number, traffic) in numbers {
                let Some(number) = number else { continue };
                let counting = countings.entry((place, traffic, kind.is_ipv4));
                let counting = counting.or_insert_with(|| {
                    Arc::new(self.counting(name, port, traffic, kind.is_ipv4).into())
                });
                ports.insert(RedirectedPort {
                    protocol: port.protocol,
                    number,
                    counting: Arc::clone(counting),
                });
            }
        }
        ports
    }

    /// Where a Service leads datagrams: each address and port of its, and NodePort, to each endpoint for which `counts` holds. Those
    /// that go, or are on another node, count whatever its traffic policies say: another node may choose otherwise than
    /// this one.
    fn leads_of(
        &self,
        name: &ObjectName,
        service: &Service,
        counts: impl Fn(IpAddr) -> bool,
    ) -> Vec<Lead> {
        let mut leads = Vec::new();
        let addresses = addresses_by_traffic(service);
        let is_known = self.slices_of(name).all(|slice| !slice.is_closed);
        let of_udp = |port: &&ServicePort| port.protocol == Protocol::Udp;
        for port in service.ports.iter().filter(of_udp) {
            let mut ways: Vec<(TrafficPolicy, Arc<BTreeSet<IpAddr>>, u16)> = Vec::new();
            ways.extend(
                addresses.iter().map(|((traffic, _), addresses)| {
                    (*traffic, Arc::clone(addresses), port.number)
                }),
            );
            for family in [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()] {
                let number = port
                    .node_port
                    .filter(|_| has_family(service, IpAddr::is_ipv4(&family)));
                ways.extend(number.map(|number| {
                    let (nodes, number) = at_nodes(family, number);
                    (TrafficPolicy::Cluster, Arc::new([nodes].into()), number)
                }));
            }
            let [mut v4, mut v6] = [BTreeSet::new(), BTreeSet::new()];
            for (Endpoint { address, state, .. }, number) in self.endpoints_of(name, port) {
                if *state != EndpointState::Unusable && counts(*address) {
                    let targets = if address.is_ipv4() { &mut v4 } else { &mut v6 };
                    targets.insert((*address, number));
                }
            }
            let [v4, v6] = [Arc::new(v4), Arc::new(v6)];
            let mut chosen: BTreeMap<(TrafficPolicy, bool), Arc<BTreeSet<Way>>> = BTreeMap::new();
            for (traffic, addresses, number) in ways {
                let Some(first) = addresses.first().copied() else {
                    continue;
                };
                if !is_known {
                    let nowhere = Arc::new(BTreeSet::from([at_nodes(first, NOWHERE_KNOWN)]));
                    leads.push(Lead {
                        addresses: Arc::clone(&addresses),
                        number,
                        targets: Arc::clone(&nowhere),
                        chosen: nowhere,
                    });
                }
                let targets = if first.is_ipv4() { &v4 } else { &v6 };
                if targets.is_empty() {
                    continue;
                }
                let chosen = chosen.entry((traffic, first.is_ipv4()));
                let chosen = chosen.or_insert_with(|| {
                    let usable = self.usable(name, port, traffic, first.is_ipv4());
                    let usable = usable.into_iter();
                    let chosen = usable.map(|(endpoint, number)| (endpoint.address, number));
                    let chosen: BTreeSet<Way> = chosen.collect();
                    if chosen == **targets {
                        Arc::clone(targets)
                    } else {
                        Arc::new(chosen)
                    }
                });
                leads.push(Lead {
                    addresses,
                    number,
                    targets: Arc::clone(targets),
                    chosen: Arc::clone(chosen),
                });
            }
        }
        leads
    }

    /// Where a frontend leads, to what pods have as well.
    pub(in crate::compile::facts) fn leads_to_held(&self, frontend: &Frontend) -> Vec<Lead> {
        match frontend {
            Frontend::Service(name) => match self.world.services.get(name) {
                Some(service) => self.leads_of(name, service, |_| true),
                None => Vec::new(),
            },
            Frontend::Pod(name) => match self.world.pods.get(name) {
                Some(pod) => self.leads_of_pod(pod, |_| true),
                None => Vec::new(),
            },
        }
    }

    /// Where the host ports of a pod lead datagrams, of those of its addresses for which `counts` holds.
    fn leads_of_pod(&self, pod: &Pod, counts: impl Fn(IpAddr) -> bool) -> Vec<Lead> {
        let of_udp = |port: &&HostPort| port.protocol == Protocol::Udp;
        let mut leads = Vec::new();
        for port in self.host_ports_here(pod).iter().filter(of_udp) {
            for is_ipv4 in [true, false] {
                let of_family = |address: &IpAddr| address.is_ipv4() == is_ipv4;
                let own = self.own_node_addresses().filter(of_family);
                let addresses: BTreeSet<_> = own.filter(|host| is_on(port, *host)).collect();
                let of_pod = pod.addresses.iter().copied().filter(of_family);
                let targets = of_pod.filter(|address| counts(*address));
                let targets: BTreeSet<Way> = targets.map(|it| (it, port.target)).collect();
                if !addresses.is_empty() && !targets.is_empty() {
                    let targets = Arc::new(targets);
                    leads.push(Lead {
                        addresses: Arc::new(addresses),
                        number: port.number,
                        targets: Arc::clone(&targets),
                        chosen: targets,
                    });
                }
            }
        }
        leads
    }

    /// The host ports of a pod that are on this node; one whose node is not known may be.
    fn host_ports_here<'a>(&self, pod: &'a Pod) -> &'a [HostPort] {
        let is_elsewhere = match (&pod.node, &self.world.node_name) {
            (Some(of_pod), Some(own)) => of_pod != own,
            (Some(_) | None, None) | (None, Some(_)) => false,
        };
        if is_elsewhere || !pod.is_selectable() {
            return &[];
        }
        &pod.host_ports
    }

    fn said_by_pod(&self, pod: &Pod) -> Said {
        let mut said = Said::default();
        let host_ports = self.host_ports_here(pod);
        if host_ports.is_empty() {
            return said;
        }
        let leads = self.leads_of_pod(pod, |address| self.may_be_taken_by_node(address));
        said.candidates = Arc::new(leads);
        let mut distinct: HashSet<Arc<Ports>> = HashSet::new();
        for host in self.own_node_addresses() {
            let mut ports = BTreeSet::new();
            for port in host_ports.iter().filter(|port| is_on(port, host)) {
                let of_pod = pod.addresses.iter();
                let of_family = of_pod.filter(|address| address.is_ipv4() == host.is_ipv4());
                let endpoints: BTreeSet<_> =
                    of_family.map(|address| (*address, port.target)).collect();
                if !endpoints.is_empty() {
                    said.endpoints
                        .extend(endpoints.iter().map(|(address, _)| *address));
                    let counting = Counting {
                        standing: Standing::Known,
                        known: endpoints,
                        doubtful: BTreeSet::new(),
                    };
                    ports.insert(RedirectedPort {
                        protocol: port.protocol,
                        number: port.number,
                        counting: Arc::new(counting.into()),
                    });
                }
            }
            if !ports.is_empty() {
                said.ports.insert(host, shared(&mut distinct, ports.into()));
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

    /// All endpoints of a Service port, with their target ports.
    fn endpoints_of<'a>(
        &'a self,
        service: &ObjectName,
        port: &ServicePort,
    ) -> impl Iterator<Item = (&'a Endpoint, u16)> {
        self.slices_of(service).flat_map(move |slice| {
            let numbers = numbers_of(slice, port);
            numbers.flat_map(|number| slice.endpoints.iter().map(move |it| (it, number)))
        })
    }

    /// The endpoints of a Service port that count, of one family: all that kube-proxy could choose. A
    /// contradiction counts as known, and denies all where all must be allowed.
    fn counting(
        &self,
        service: &ObjectName,
        port: &ServicePort,
        traffic: TrafficPolicy,
        is_ipv4: bool,
    ) -> Counting {
        let (mut known, mut doubtful) = (BTreeSet::new(), BTreeSet::new());
        let mut is_contradicted = false;
        for (endpoint, target) in self.usable(service, port, traffic, is_ipv4) {
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
        is_ipv4: bool,
    ) -> Vec<(&Endpoint, u16)> {
        let own = self.world.node_name.as_ref();
        let (mut ready, mut terminating) = (Vec::new(), Vec::new());
        for (endpoint, number) in self.endpoints_of(service, port) {
            let is_near = match traffic {
                TrafficPolicy::Cluster => true,
                TrafficPolicy::Local => own.is_none() || endpoint.node.as_ref() == own,
            };
            if !is_near || endpoint.address.is_ipv4() != is_ipv4 {
                continue;
            }
            match endpoint.state {
                EndpointState::Ready => ready.push((endpoint, number)),
                EndpointState::Terminating => terminating.push((endpoint, number)),
                EndpointState::Unusable => {}
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

/// Whether a host port is on this address of its node.
fn is_on(port: &HostPort, host: IpAddr) -> bool {
    port.address.is_none_or(|wanted| wanted == host)
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
fn has_family(service: &Service, is_ipv4: bool) -> bool {
    let of_cluster = &service.cluster_addresses;
    let same = |of_service: &IpAddr| of_service.is_ipv4() == is_ipv4;
    of_cluster.is_empty() || of_cluster.iter().any(same)
}

/// The addresses of a Service, by which endpoints they lead to, and by family.
fn addresses_by_traffic(
    service: &Service,
) -> BTreeMap<(TrafficPolicy, bool), Arc<BTreeSet<IpAddr>>> {
    let mut sorted: BTreeMap<_, BTreeSet<IpAddr>> = BTreeMap::new();
    let of_cluster: BTreeSet<IpAddr> = service.cluster_addresses.iter().copied().collect();
    let elsewhere = service.external_addresses.iter();
    let elsewhere = elsewhere.chain(&service.balancer_addresses).copied();
    for address in elsewhere.chain(of_cluster.iter().copied()) {
        let traffic = if of_cluster.contains(&address) {
            service.internal_traffic
        } else {
            TrafficPolicy::Cluster
        };
        let alike = sorted.entry((traffic, address.is_ipv4())).or_default();
        alike.insert(address);
    }
    let sorted = sorted.into_iter();
    sorted.map(|(by, alike)| (by, Arc::new(alike))).collect()
}

/// Whether the pod of this name is the one that the endpoint says it is. Where both know its UID, a namesake is
/// distinguished by it.
fn is(said: &PodReference, name: &ObjectName, pod: &Pod) -> bool {
    let namesakes = match (&said.uid, &pod.uid) {
        (Some(said), Some(uid)) => said != uid,
        (Some(_) | None, None) | (None, Some(_)) => false,
    };
    said.name == *name && !namesakes
}
