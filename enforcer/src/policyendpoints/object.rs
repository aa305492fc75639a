// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The fields of a PolicyEndpoint (`networking.k8s.aws/v1alpha1`), as its controller writes them.
//!
//! Lists are read element by element, so that one element that cannot be read takes no other with it. Fields that are
//! not known here are passed over.

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::core::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

/// A PolicyEndpoint.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PolicyEndpoint {
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: Value,
}

impl Resource for PolicyEndpoint {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "PolicyEndpoint".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "networking.k8s.aws".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1alpha1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "policyendpoints".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// `spec`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) policy_ref: Value,
    pub(super) pod_isolation: Value,
    pub(super) pod_selector_endpoints: Value,
    pub(super) ingress: Value,
    pub(super) egress: Value,
}

/// `spec.policyRef`.
#[derive(Debug, Deserialize)]
pub(super) struct PolicyRef {
    pub(super) name: String,
    pub(super) namespace: String,
}

/// An element of `spec.podSelectorEndpoints`. Its `hostIP` is not needed: a pod is this node's if the node's own pods
/// say so.
#[derive(Debug, Deserialize)]
pub(super) struct PodEndpoint {
    pub(super) name: String,
    pub(super) namespace: String,
    #[serde(rename = "podIP")]
    pub(super) pod_ip: String,
}

/// An element of `spec.ingress` or `spec.egress`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointInfo {
    pub(super) cidr: Option<String>,
    pub(super) domain_name: Option<String>,
    pub(super) except: Option<Vec<String>>,
    pub(super) ports: Option<Vec<Value>>,
}

/// An element of `ports`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Port {
    pub(super) protocol: Option<String>,
    pub(super) port: Option<i32>,
    pub(super) end_port: Option<i32>,
}
