// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kinds of which policy is made where a controller has worked it out.

use std::sync::Arc;

use k8s_openapi::api::networking::v1;
use podgate_policy::model::{NetworkPolicy, Selector};
use serde_json::Value;

use super::object::PolicyEndpoint;
use super::slice::{self, Slice};
use super::state::OwnerPolicy;
use crate::api::{Kind, Missing, Parts};
use crate::convert::{self, Converted};
use crate::warning::Matter;

/// PolicyEndpoints.
#[derive(Debug, Clone)]
pub(super) struct PolicyEndpoints;

impl Kind for PolicyEndpoints {
    type Object = PolicyEndpoint;
    type Value = Arc<Slice>;

    const NAME: &'static str = "policyendpoints";
    const MISSING: Missing = Missing::Awaited(
        "; apply install/crds if the cluster's network policy controller does not",
    );
    const WRONG: Option<Matter> = Some(Matter::PolicyInvalid);

    fn convert(object: &Self::Object) -> Converted<Self::Value> {
        slice::convert(&object.metadata, &object.spec).map(|named| Arc::new(named.slice))
    }

    fn from_malformed(parts: &Parts) -> Self::Value {
        let object = PolicyEndpoint {
            metadata: parts.metadata(),
            spec: parts.part("spec").unwrap_or(Value::Null),
        };
        Self::convert(&object).value
    }
}

/// NetworkPolicies, as the owners of PolicyEndpoints.
#[derive(Debug, Clone)]
pub(super) struct OwnerPolicies;

impl Kind for OwnerPolicies {
    type Object = v1::NetworkPolicy;
    type Value = OwnerPolicy;

    const NAME: &'static str = "networkpolicies";
    const WRONG: Option<Matter> = Some(Matter::PolicyInvalid);

    fn convert(object: &Self::Object) -> Converted<Self::Value> {
        convert::network_policy::convert(object).map(|named| OwnerPolicy {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            deleting: object.metadata.deletion_timestamp.is_some(),
            policy: named.policy,
        })
    }

    /// Whom it selects is not known: it isolates every pod of its namespace, and its slices say what it allows.
    fn from_malformed(parts: &Parts) -> Self::Value {
        let metadata = parts.metadata();
        OwnerPolicy {
            deleting: metadata.deletion_timestamp.is_some(),
            uid: metadata.uid.unwrap_or_default(),
            policy: Arc::new(NetworkPolicy {
                members: Selector::Invalid.into(),
                isolates_ingress: true,
                isolates_egress: true,
                ingress: Vec::new(),
                egress: Vec::new(),
            }),
        }
    }
}
