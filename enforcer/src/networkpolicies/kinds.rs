//! The kinds that policies see.

use std::sync::Arc;

use k8s_openapi::api::{core, discovery, networking};
use podgate_policy::model::{EndpointSlice, Namespace, NetworkPolicy, Selector, Service};

use crate::api::{Kind, Parts};
use crate::convert::pod::IdentifiedPod;
use crate::convert::{self, Converted};

/// Namespaces.
#[derive(Debug, Clone)]
pub struct Namespaces;

impl Kind for Namespaces {
    type Object = core::v1::Namespace;
    type Value = Namespace;

    const NAME: &'static str = "namespaces";

    fn convert(object: &Self::Object) -> Converted<Self::Value> {
        convert::namespace::convert(object).map(|named| named.namespace)
    }

    fn salvage(parts: &Parts) -> Self::Value {
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

    fn salvage(parts: &Parts) -> Self::Value {
        let object = core::v1::Pod {
            metadata: parts.metadata(),
            spec: parts.part("spec"),
            status: parts.part("status"),
        };
        Self::convert(&object).value
    }
}

/// NetworkPolicies.
#[derive(Debug, Clone)]
pub struct Policies;

impl Kind for Policies {
    type Object = networking::v1::NetworkPolicy;
    type Value = Arc<NetworkPolicy>;

    const NAME: &'static str = "networkpolicies";

    fn convert(object: &Self::Object) -> Converted<Self::Value> {
        convert::network_policy::convert(object).map(|named| named.policy)
    }

    /// Whom it selects and what it allows is not known: it isolates every pod of its namespace, and allows nothing.
    fn salvage(_: &Parts) -> Self::Value {
        Arc::new(NetworkPolicy {
            members: Selector::Invalid.into(),
            isolates_ingress: true,
            isolates_egress: true,
            ingress: Vec::new(),
            egress: Vec::new(),
        })
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

    fn salvage(parts: &Parts) -> Self::Value {
        let object = core::v1::Service {
            metadata: parts.metadata(),
            spec: parts.part("spec"),
            status: parts.part("status"),
        };
        Self::convert(&object).value
    }
}

/// EndpointSlices.
#[derive(Debug, Clone)]
pub struct EndpointSlices;

impl Kind for EndpointSlices {
    type Object = discovery::v1::EndpointSlice;
    type Value = Arc<EndpointSlice>;

    const NAME: &'static str = "endpointslices";

    fn convert(object: &Self::Object) -> Converted<Self::Value> {
        convert::endpoint_slice::convert(object).map(|named| named.slice)
    }

    fn salvage(parts: &Parts) -> Self::Value {
        let object = discovery::v1::EndpointSlice {
            address_type: parts.part("addressType").unwrap_or_default(),
            endpoints: parts.part("endpoints").unwrap_or_default(),
            metadata: parts.metadata(),
            ports: parts.part("ports"),
        };
        Self::convert(&object).value
    }
}
