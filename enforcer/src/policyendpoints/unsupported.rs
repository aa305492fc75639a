// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ClusterPolicyEndpoints (`networking.k8s.aws/v1alpha1`): what a controller has worked out of ClusterNetworkPolicies.
//! Their tiers are not enforced, and whoever relies on them is told: each is an object with which something is wrong.

use std::borrow::Cow;

use k8s_openapi::ClusterResourceScope;
use kube::Resource;
use kube::core::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use crate::api::{Kind, Missing, Parts};
use crate::convert::{Converted, FieldError, FieldPath};
use crate::warning::Matter;

/// ClusterPolicyEndpoints. Nothing is kept of them.
#[derive(Debug, Clone)]
pub(super) struct ClusterPolicyEndpoints;

impl Kind for ClusterPolicyEndpoints {
    type Object = ClusterPolicyEndpoint;
    type Value = ();

    const NAME: &'static str = "clusterpolicyendpoints";
    /// Not every controller brings them.
    const MISSING: Missing = Missing::Empty;
    const WRONG: Option<Matter> = Some(Matter::PolicyNotEnforced);

    fn convert(object: &Self::Object) -> Converted<()> {
        let text = |pointer| object.spec.pointer(pointer).and_then(Value::as_str);
        let policy = text("/policyRef/name").unwrap_or("of an unknown name");
        let tier = text("/tier").unwrap_or("unknown");
        Converted {
            value: (),
            errors: vec![FieldError {
                path: FieldPath::of("spec.policyRef"),
                reason: format!(
                    "the ClusterNetworkPolicy {policy} (tier {tier}) is not enforced: podgate does not know tiers; say \
                     the same in NetworkPolicies"
                ),
            }],
        }
    }

    fn from_malformed(_: &Parts) {}
}

/// A ClusterPolicyEndpoint.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ClusterPolicyEndpoint {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Value,
}

impl Resource for ClusterPolicyEndpoint {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "ClusterPolicyEndpoint".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "networking.k8s.aws".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1alpha1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "clusterpolicyendpoints".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
