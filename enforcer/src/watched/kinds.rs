// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kinds that policies see.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::{core, discovery, networking};
use podgate_policy::model::{EndpointSlice, Namespace, NetworkPolicy, Pod, Selector, Service};

use crate::api::{Kind, Parts};
use crate::convert::pod::IdentifiedPod;
use crate::convert::{self, Converted};
use crate::stored;
use crate::warning::Matter;

/// Namespaces.
#[derive(Debug, Clone)]
pub struct Namespaces;

impl Kind for Namespaces {
    type Object = core::v1::Namespace;
    /// None: its labels are not known, and it matches no selector.
    type Value = Option<Namespace>;

    const NAME: &'static str = "namespaces";

    fn convert(object: &Self::Object) -> Converted<Self::Value> {
        convert::namespace::convert(object).map(|named| Some(named.namespace))
    }

    fn from_malformed(parts: &Parts) -> Self::Value {
        if !parts.has_readable_labels() {
            return None;
        }
        let object = core::v1::Namespace {
            metadata: parts.metadata(),
            ..core::v1::Namespace::default()
        };
        Self::convert(&object).value
    }
}

/// Pods of all nodes. One that has finished is nobody's peer and judged by nobody, so it counts as gone.
#[derive(Debug, Clone)]
pub struct Pods;

impl Kind for Pods {
    type Object = core::v1::Pod;
    type Value = Arc<IdentifiedPod>;

    const NAME: &'static str = "pods";
    const FIELDS: Option<&'static str> = Some("status.phase!=Succeeded,status.phase!=Failed");

    fn convert(object: &Self::Object) -> Converted<Self::Value> {
        convert::pod::convert(object).map(Arc::new)
    }

    /// In doubt it counts as in the node's network: no selector finds it as a peer. What judges it goes by its labels,
    /// as far as they can be read.
    fn from_malformed(parts: &Parts) -> Self::Value {
        let object = core::v1::Pod {
            metadata: parts.metadata(),
            spec: parts.part("spec"),
            status: parts.part("status"),
        };
        let salvaged = Self::convert(&object).value;
        let is_in_doubt = !parts.has_readable_labels() || may_be_in_the_nodes_network(parts);
        if !is_in_doubt {
            return salvaged;
        }
        Arc::new(IdentifiedPod {
            pod: Arc::new(Pod {
                host_network: true,
                host_ports: Vec::new(),
                ..salvaged.pod.as_ref().clone()
            }),
            ..salvaged.as_ref().clone()
        })
    }
}

/// Whether a pod is in the node's network, or does not say in a way that can be read.
fn may_be_in_the_nodes_network(parts: &Parts) -> bool {
    parts
        .part::<Parts>("spec")
        .is_none_or(|spec| spec.has("hostNetwork") && spec.part("hostNetwork") != Some(false))
}

/// NetworkPolicies.
#[derive(Debug, Clone)]
pub struct Policies;

impl Kind for Policies {
    type Object = networking::v1::NetworkPolicy;
    type Value = Arc<NetworkPolicy>;

    const NAME: &'static str = "networkpolicies";
    const WRONG: Option<Matter> = Some(Matter::PolicyInvalid);
    const CLOSED: &'static str = stored::CLOSED_POLICIES;

    fn convert(object: &Self::Object) -> Converted<Self::Value> {
        convert::network_policy::convert(object).map(|named| named.policy)
    }

    fn bytes(policy: &Self::Value) -> usize {
        stored::of_policy(policy)
    }

    fn closed(policy: &Self::Value) -> Self::Value {
        stored::closed_policy(policy)
    }

    /// Whom it selects and what it allows is not known: it isolates every pod of its namespace, and allows nothing.
    fn from_malformed(_: &Parts) -> Self::Value {
        Arc::new(NetworkPolicy {
            members: Selector::Invalid.into(),
            isolates_ingress: true,
            isolates_egress: true,
            ingress: Vec::new(),
            egress: Vec::new(),
        })
    }
}

/// Nodes: of them the addresses, to which no tunnel leads without a rule.
#[derive(Debug, Clone)]
pub struct Nodes;

impl Kind for Nodes {
    type Object = core::v1::Node;
    type Value = Arc<BTreeSet<IpAddr>>;

    const NAME: &'static str = "nodes";

    fn convert(object: &Self::Object) -> Converted<Self::Value> {
        convert::node::convert(object).map(|named| Arc::new(named.addresses))
    }

    fn from_malformed(parts: &Parts) -> Self::Value {
        let object = core::v1::Node {
            metadata: parts.metadata(),
            spec: parts.part("spec"),
            status: parts.part("status"),
        };
        Self::convert(&object).value
    }
}

/// Services.
#[derive(Debug, Clone)]
pub struct Services;

impl Kind for Services {
    type Object = core::v1::Service;
    type Value = Arc<Service>;

    const NAME: &'static str = "services";

    fn convert(object: &Self::Object) -> Converted<Self::Value> {
        convert::service::convert(object).map(|named| named.service)
    }

    /// Its addresses stay those of a Service. Without ports they lead nowhere: only what names a cluster address allows
    /// it, and an external one is judged as any address.
    fn from_malformed(parts: &Parts) -> Self::Value {
        let object = core::v1::Service {
            metadata: parts.metadata(),
            spec: parts
                .part("spec")
                .or_else(|| Some(addresses_in_spec(parts))),
            status: parts
                .part("status")
                .or_else(|| Some(addresses_in_status(parts))),
        };
        Self::convert(&object).value
    }
}

/// What the spec of a Service says of addresses, and whether they are kube-proxy's.
fn addresses_in_spec(parts: &Parts) -> core::v1::ServiceSpec {
    let spec: Parts = parts.part("spec").unwrap_or_default();
    core::v1::ServiceSpec {
        type_: spec.text("type"),
        cluster_ip: spec.text("clusterIP"),
        cluster_ips: Some(spec.elements("clusterIPs")),
        external_ips: Some(spec.elements("externalIPs")),
        ..core::v1::ServiceSpec::default()
    }
}

/// What the status of a Service says of the addresses of load balancers.
fn addresses_in_status(parts: &Parts) -> core::v1::ServiceStatus {
    let status: Parts = parts.part("status").unwrap_or_default();
    let all: Parts = status.part("loadBalancer").unwrap_or_default();
    let balancers = all.elements::<Parts>("ingress").into_iter();
    let ingress = balancers.map(|balancer| core::v1::LoadBalancerIngress {
        ip: balancer.text("ip"),
        ip_mode: balancer.text("ipMode"),
        ..core::v1::LoadBalancerIngress::default()
    });
    core::v1::ServiceStatus {
        load_balancer: Some(core::v1::LoadBalancerStatus {
            ingress: Some(ingress.collect()),
        }),
        ..core::v1::ServiceStatus::default()
    }
}

/// EndpointSlices.
#[derive(Debug, Clone)]
pub struct EndpointSlices;

impl Kind for EndpointSlices {
    type Object = discovery::v1::EndpointSlice;
    type Value = Arc<EndpointSlice>;

    const NAME: &'static str = "endpointslices";
    const CLOSED: &'static str = stored::CLOSED_ENDPOINT_SLICES;

    fn convert(object: &Self::Object) -> Converted<Self::Value> {
        convert::endpoint_slice::convert(object).map(|named| named.slice)
    }

    fn bytes(slice: &Self::Value) -> usize {
        stored::of_slice(slice)
    }

    fn closed(slice: &Self::Value) -> Self::Value {
        stored::closed_slice(slice)
    }

    fn from_malformed(parts: &Parts) -> Self::Value {
        let object = discovery::v1::EndpointSlice {
            address_type: parts.part("addressType").unwrap_or_default(),
            endpoints: parts.part("endpoints").unwrap_or_default(),
            metadata: parts.metadata(),
            ports: parts.part("ports"),
        };
        Self::convert(&object).value
    }
}
