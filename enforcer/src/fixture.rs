//! What tests of several modules begin with.

use std::sync::Arc;

use podgate_policy::model::{NetworkPolicy, Selector};

/// A policy that lets nobody in to any pod of its namespace.
pub(crate) fn deny() -> Arc<NetworkPolicy> {
    Arc::new(NetworkPolicy {
        members: Selector::everything().into(),
        isolates_ingress: true,
        isolates_egress: false,
        ingress: Vec::new(),
        egress: Vec::new(),
    })
}
