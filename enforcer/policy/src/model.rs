// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The world as NetworkPolicy sees it: the input of the compiler and of the oracle, and all that they share.
//!
//! Whatever reads policy from somewhere (files, the API server) converts into these types at its edge and keeps
//! only what can change a verdict. An element that could not be read is present as invalid, never absent: it
//! matches nothing, and the isolation that its policy brings stays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

pub use service::{
    Endpoint, EndpointSlice, EndpointState, ExternalAddresses, PodReference, Service,
    ServiceEgress, ServiceOptions, ServicePort, TrafficPolicy,
};

pub use scope::SCOPES;

mod scope;
mod service;

/// Labels of an object, key to value.
pub type Labels = BTreeMap<String, String>;

/// The label that every namespace carries with its own name as value
/// (Kubernetes: "the control plane sets an immutable label `kubernetes.io/metadata.name` on all namespaces").
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Everything that a verdict may depend on. A copy costs next to nothing, and comparing it with what became of it
/// costs what differs: the maps share what they have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    /// Namespaces by name. A namespace that is not here matches no namespace selector.
    pub namespaces: OrdMap<String, Namespace>,
    /// Pods by (namespace, name), of all nodes.
    pub pods: OrdMap<ObjectName, Arc<Pod>>,
    /// Policies by (namespace, name).
    pub policies: OrdMap<ObjectName, Arc<NetworkPolicy>>,
    /// Services by (namespace, name).
    pub services: OrdMap<ObjectName, Arc<Service>>,
    /// EndpointSlices by (namespace, name).
    pub endpoint_slices: OrdMap<ObjectName, Arc<EndpointSlice>>,
    /// Addresses of this node, from netlink. The cluster address of a Service is none, whatever interface has it.
    pub node_addresses: Vec<IpAddr>,
    /// What else is a scope on this node, beside [`SCOPES`]: the broadcast addresses of its links, and the ranges that it
    /// takes for itself (local routes).
    pub node_scopes: BTreeSet<IpNet>,
    /// UDP ports at which devices of this node take tunnels, beside the usual ones
    /// ([`tunnel::UDP_PORTS`](podgate_core::tunnel::UDP_PORTS)). The other nodes are taken for like this one.
    pub tunnel_ports: BTreeSet<u16>,
    /// Addresses of the cluster's nodes, from their objects. Those that are this node's are in
    /// [`Self::node_addresses`] too; one that is here only is another node's, or leads to this one by a detour.
    pub cluster_nodes: OrdSet<IpAddr>,
    /// Which lists an address is in, whoever has it. An address that is not here is in none.
    pub listed: OrdMap<IpAddr, Arc<BTreeSet<ListName>>>,
    /// This node's name, as pods and endpoints have it; none if it is not known.
    pub node_name: Option<String>,
    /// What Services mean, where that can be chosen.
    pub service_options: ServiceOptions,
}

/// The name of a list of addresses. That a rule names it is policy; who is in it is a fact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListName(pub Arc<str>);

impl std::fmt::Display for ListName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The UID of a pod, which tells it from all that have had its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(pub Arc<str>);

impl std::fmt::Display for PodUid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a namespaced object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: String,
    /// Its name within the namespace.
    pub name: String,
}

impl ObjectName {
    /// The object `name` in `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The parts of a Namespace that a policy can see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its labels, [`NAMESPACE_NAME_LABEL`] included.
    pub labels: Labels,
    /// What it wants of foreign addresses at its pods, as it is written: no policy, but what policies cannot say.
    pub foreign_addresses: Option<String>,
}

impl Namespace {
    /// A namespace called `name` with `labels`, and the name label that Kubernetes adds.
    pub fn new(name: &str, mut labels: Labels) -> Self {
        labels.insert(NAMESPACE_NAME_LABEL.into(), name.into());
        Self {
            labels,
            foreign_addresses: None,
        }
    }
}

/// The parts of a Pod that a policy can see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, of both families; none while it has none yet.
    pub addresses: Vec<IpAddr>,
    /// The named ports of its containers and of its restartable init containers.
    pub ports: Vec<NamedPort>,
    /// Shares the node's network: neither subject nor peer of a selector.
    pub host_network: bool,
    /// Succeeded or Failed: its addresses may be another pod's by now.
    pub finished: bool,
    /// `metadata.uid`, by which endpoints name it; files seldom have one.
    pub uid: Option<PodUid>,
    /// The node that it is on; kept only beside `host_ports`.
    pub node: Option<String>,
    /// Ports of its node that lead to it (`hostPort`); none in the node's network, where they are the node's own.
    pub host_ports: Vec<HostPort>,
    /// When its node took it on (`status.startTime`); kept only beside `addresses`. Of all who claim an address, the one
    /// who started last has it.
    pub started: Option<Started>,
}

impl Pod {
    /// Whether selectors see this pod: it has a network of its own, and it has not finished.
    pub fn is_selectable(&self) -> bool {
        !self.host_network && !self.finished
    }
}

/// When a pod was taken on by its node, in seconds of Unix time. One that does not say is older than all that do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Started(pub i64);

/// A port that a container has given a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// The name.
    pub name: String,
    /// The protocol; the same name may stand for several.
    pub protocol: Protocol,
    /// The number.
    pub number: u16,
}

/// A port of a pod's node that leads to the pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The only address of the node that it is on (`hostIP`); none: all of them.
    pub address: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the node.
    pub number: u16,
    /// The port of the pod.
    pub target: u16,
}

/// The protocols that NetworkPolicy knows ports of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, protocol number 6.
    Tcp,
    /// UDP, protocol number 17.
    Udp,
    /// SCTP, protocol number 132.
    Sctp,
}

/// A NetworkPolicy, with the defaults of the API server applied.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NetworkPolicy {
    /// The pods of its namespace that it applies to.
    pub members: Members,
    /// `policyTypes` has Ingress: the selected pods accept only what some rule allows.
    pub isolates_ingress: bool,
    /// `policyTypes` has Egress: the selected pods may send only what some rule allows.
    pub isolates_egress: bool,
    /// Ingress rules; without effect unless `isolates_ingress`.
    pub ingress: Vec<Rule>,
    /// Egress rules; without effect unless `isolates_egress`.
    pub egress: Vec<Rule>,
}

/// The pods of its namespace that a policy applies to: by label, as whoever wrote it says, or by UID, as a controller
/// has worked out already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Members {
    /// Those that match; none if it does not go by labels. [`Selector::Invalid`] means every pod of the namespace.
    pub matching: Option<Selector>,
    /// None of these, although they match.
    pub except: BTreeSet<PodUid>,
    /// These, whether or not they match.
    pub listed: BTreeSet<PodUid>,
}

impl From<Selector> for Members {
    fn from(matching: Selector) -> Self {
        Self {
            matching: Some(matching),
            ..Self::default()
        }
    }
}

/// One ingress or egress rule: allows what matches its peers and its ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Who; empty means everybody, inside and outside the cluster.
    pub peers: Vec<Peer>,
    /// Which ports; empty means every port of every protocol.
    pub ports: Vec<Port>,
}

/// One element of `from` or `to`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods by label.
    Pods {
        /// In which namespaces.
        namespaces: Namespaces,
        /// Which pods of those; the empty selector means all.
        pods: Selector,
    },
    /// Addresses in `cidr` that are in none of `except`, and in no scope ([`SCOPES`]) that the block does not lie inside;
    /// all of a family without exceptions is all of it. IPv4 blocks hold IPv4 addresses only, IPv6 blocks
    /// IPv6 addresses only.
    Block {
        /// The block, host bits zero.
        cidr: IpNet,
        /// What is taken out of this block, and of this block only.
        except: Vec<IpNet>,
    },
    /// The addresses of a list ([`World::listed`]), whoever has them.
    Listed(ListName),
    /// Could not be read: matches nobody.
    Invalid,
}

/// Where a pod selector looks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespaces {
    /// In the policy's own namespace (`namespaceSelector` absent).
    Own,
    /// In the namespaces that match (`namespaceSelector` given; the empty selector means all that are known).
    Matching(Selector),
}

/// One element of `ports`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// Every port of the protocol (`port` absent).
    All(Protocol),
    /// Ports `first` to `last`, both included.
    Range {
        /// The protocol.
        protocol: Protocol,
        /// The lowest.
        first: u16,
        /// The highest; equals `first` without `endPort`.
        last: u16,
    },
    /// The ports that the destination pod has given this name, under this protocol.
    Named {
        /// The protocol.
        protocol: Protocol,
        /// The name.
        name: String,
    },
    /// Of the ports that the judged pod has given this name, under this protocol, those from `first` to `last`.
    /// On ingress only: on egress it matches no port.
    NamedWithin {
        /// The protocol.
        protocol: Protocol,
        /// The name.
        name: String,
        /// The lowest.
        first: u16,
        /// The highest.
        last: u16,
    },
    /// Could not be read: matches no port.
    Invalid,
}

/// A label selector: all requirements must hold; none means everything matches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// Readable: the requirements, of `matchLabels` and `matchExpressions` alike.
    Requirements(Vec<Requirement>),
    /// Could not be read: as a peer it matches nothing, as a policy's subject it matches every pod.
    Invalid,
}

impl Selector {
    /// The empty selector, which matches everything.
    pub const fn everything() -> Self {
        Self::Requirements(Vec::new())
    }

    /// Whether `labels` match. [`Selector::Invalid`] matches nothing.
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::Requirements(requirements) => requirements.iter().all(|r| r.holds(labels)),
            Self::Invalid => false,
        }
    }

    /// The same, where the values of each requirement are sorted, as they are in a predicate.
    pub fn matches_sorted(&self, labels: &Labels) -> bool {
        match self {
            Self::Requirements(requirements) => requirements.iter().all(|r| r.holds_sorted(labels)),
            Self::Invalid => false,
        }
    }
}

/// One requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What must be true of it.
    pub operator: Operator,
}

/// The operators of a label selector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// Present, with one of these values. `matchLabels` is `In` with one value.
    In(Vec<String>),
    /// Absent, or present with none of these values.
    NotIn(Vec<String>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
}

impl Requirement {
    /// Whether `labels` satisfy it.
    pub fn holds(&self, labels: &Labels) -> bool {
        self.holds_by(labels, |values, value| values.contains(value))
    }

    /// The same, where values are sorted.
    fn holds_sorted(&self, labels: &Labels) -> bool {
        self.holds_by(labels, |values, value| values.binary_search(value).is_ok())
    }

    fn holds_by(&self, labels: &Labels, contains: fn(&[String], &String) -> bool) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| contains(values, v)),
            Operator::NotIn(values) => value.is_none_or(|v| !contains(values, v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}
