// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which directions of a pod policies isolate or may isolate, before anything is compiled.
//!
//! This reads selectors and `policyTypes` only, so it answers at once for a pod whose policy cannot be compiled,
//! planned or written yet, and for one whose labels are not known.

pub use podgate_core::Isolation;

use crate::compile::applies;
use crate::connection::Subject;
use crate::model::NetworkPolicy;

/// The directions in which a policy isolates the pods that it applies to.
pub const fn of_policy(policy: &NetworkPolicy) -> Isolation {
    Isolation {
        ingress: policy.isolates_ingress,
        egress: policy.isolates_egress,
    }
}

/// The directions in which policies of its namespace isolate a pod whose labels are known.
pub fn of_subject<'a>(
    policies: impl IntoIterator<Item = &'a NetworkPolicy>,
    subject: &Subject,
) -> Isolation {
    of_policies(
        policies
            .into_iter()
            .filter(|policy| applies(policy, subject)),
    )
}

/// The directions in which any of these policies isolates. Of all policies of a namespace: those in which a pod of
/// which no more is known may be isolated.
pub fn of_policies<'a>(policies: impl IntoIterator<Item = &'a NetworkPolicy>) -> Isolation {
    let each = policies.into_iter().map(of_policy);
    each.fold(Isolation::NONE, Isolation::or)
}
