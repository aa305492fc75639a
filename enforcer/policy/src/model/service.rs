// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Services and their endpoints, as kube-proxy sees them: what an egress connection to a Service stands for.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{NamedPort, ObjectName, PodUid, Protocol};

/// The parts of a Service that kube-proxy acts on. One that it leaves alone (headless, of another proxy, a mere
/// name) has no addresses and no ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Addresses from the cluster's Service range, of either family (`clusterIPs`).
    pub cluster_addresses: Vec<IpAddr>,
    /// Addresses from elsewhere that nodes redirect, and that whoever wrote the Service chose: `externalIPs`.
    pub external_addresses: Vec<IpAddr>,
    /// Addresses from elsewhere that nodes redirect, and that a controller of the cluster gave the Service: those of load
    /// balancers unless their `ipMode` is Proxy.
    pub balancer_addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Which endpoints its cluster addresses stand for. All other ways to it stand for all of them, because traffic
    /// from pods is spared `externalTrafficPolicy`.
    pub internal_traffic: TrafficPolicy,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// Its name, by which EndpointSlices say its number on the endpoints; empty if it is the only one.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The number on the Service's addresses.
    pub number: u16,
    /// The number on every node's addresses.
    pub node_port: Option<u16>,
}

/// Which endpoints a Service stands for on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    /// Those of every node.
    #[default]
    Cluster,
    /// Those of the same node.
    Local,
}

/// Some endpoints of a Service. One that kube-proxy leaves alone has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The Service, of the same namespace; none if the slice says none.
    pub service: Option<String>,
    /// The numbers of the Service's ports on these endpoints, by name and protocol.
    pub ports: Vec<NamedPort>,
    /// The endpoints, of either family.
    pub endpoints: Vec<Endpoint>,
    /// Ports and endpoints exceed what is kept, so there are none here: the endpoints of the Service are unknown.
    pub is_closed: bool,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Its address: the first of `addresses`, as kube-proxy has it.
    pub address: IpAddr,
    /// Whether kube-proxy would choose it.
    pub state: EndpointState,
    /// The pod that it is said to be; none: an address, and no more is said of it.
    pub pod: Option<PodReference>,
    /// The node that it is on.
    pub node: Option<String>,
}

/// Whether kube-proxy would choose an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointState {
    /// Yes.
    Ready,
    /// It goes, and still serves: only where none is ready.
    Terminating,
    /// No.
    Unusable,
}

/// The pod that an endpoint says it is (`targetRef`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodReference {
    /// Its namespace and name.
    pub name: ObjectName,
    /// Its UID; none if the endpoint does not say.
    pub uid: Option<PodUid>,
}

/// What Services mean, where that can be chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceOptions {
    /// How many endpoints a policy must allow.
    pub egress: ServiceEgress,
    /// Whether policies must allow external addresses themselves.
    pub external: ExternalAddresses,
    /// The ranges that cluster addresses come from. An `ipBlock` inside one speaks of Services; any other of a
    /// Service's address only if it is that address alone.
    pub ranges: Vec<IpNet>,
}

/// How many of a Service's endpoints a policy must allow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceEgress {
    /// All, since nobody can tell which one a connection goes to.
    #[default]
    All,
    /// One is enough.
    Any,
}

/// Whether a policy must allow the external address (`externalIPs`) of a Service itself, beside its endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExternalAddresses {
    /// It must: anybody who may make a Service may name any address there.
    #[default]
    Literal,
    /// It need not: packets to it never leave a node untranslated.
    Translated,
}
