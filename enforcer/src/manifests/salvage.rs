// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a file that is wrong says all the same: whom its policies isolate.
//!
//! A new policy must not leave a pod open because somebody mistyped one of its rules. So of a NetworkPolicy in a file that
//! is wrong anywhere, the pods and the directions count, and none of its rules. What cannot be read is taken for as much as
//! it may have been: every pod of the namespace, both directions.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use podgate_policy::model::{NetworkPolicy, ObjectName, Selector};

use super::node::{Node, Value};
use super::typed;
use crate::convert::{FieldErrors, FieldPath, selector};

/// How much there is of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    Whole,
    /// Its first lines: what follows is no YAML.
    Beginning,
}

/// The fields of a policy's `spec`.
const FIELDS: [&str; 4] = ["podSelector", "policyTypes", "ingress", "egress"];

/// The policy that `node` is, without rules; nothing if it is none, or if it cannot be read of which namespace it is.
pub(crate) fn isolating(node: &Node, extent: Extent) -> Option<(ObjectName, Arc<NetworkPolicy>)> {
    let kind = node.get("kind")?.text()?;
    if !kind.eq_ignore_ascii_case("NetworkPolicy") {
        return None;
    }
    let metadata = |field: &str| node.get("metadata").and_then(|of| of.get(field));
    let namespace = match metadata("namespace").map(|node| &node.value) {
        None | Some(Value::Null) => "default".to_owned(),
        Some(Value::Text(text)) => text.clone(),
        Some(Value::Bool(v)) => v.to_string(),
        Some(Value::Signed(v)) => v.to_string(),
        Some(Value::Unsigned(v)) => v.to_string(),
        Some(Value::Float(_) | Value::List(_) | Value::Map(_)) => return None,
    };
    let name = metadata("name").and_then(Node::text).unwrap_or("?");
    let (ingress, egress) = directions(node.get("spec"), extent);
    let policy = NetworkPolicy {
        members: subjects(node.get("spec"), extent).into(),
        isolates_ingress: ingress,
        isolates_egress: egress,
        ingress: Vec::new(),
        egress: Vec::new(),
    };
    Some((ObjectName::new(namespace, name), Arc::new(policy)))
}

/// Whom it selects; [`Selector::Invalid`] means everybody.
fn subjects(spec: Option<&Node>, extent: Extent) -> Selector {
    let Some(selector) = spec.and_then(|spec| spec.get("podSelector")) else {
        return Selector::Invalid;
    };
    // A list of values that was cut would select fewer pods.
    if extent == Extent::Beginning && selector.get("matchExpressions").is_some() {
        return Selector::Invalid;
    }
    let Ok(read) = typed::read::<LabelSelector>(selector) else {
        return Selector::Invalid;
    };
    let mut errors = FieldErrors::default();
    let converted = selector::convert(&read, &FieldPath::default(), &mut errors);
    let is_whole = errors.beside(()).errors.is_empty();
    if is_whole {
        converted
    } else {
        Selector::Invalid
    }
}

/// Whether it isolates ingress and egress.
fn directions(spec: Option<&Node>, extent: Extent) -> (bool, bool) {
    const BOTH: (bool, bool) = (true, true);
    let Some(Node {
        value: Value::Map(entries),
        ..
    }) = spec
    else {
        return BOTH;
    };
    let is_known = |key: &str| FIELDS.contains(&key);
    if extent == Extent::Beginning || !entries.iter().all(|entry| is_known(&entry.key)) {
        return BOTH;
    }
    let of = |key: &str| entries.iter().find(|entry| entry.key == key);
    let types = match of("policyTypes").map(|entry| &entry.value.value) {
        None | Some(Value::Null) => &[][..],
        Some(Value::List(types)) => types,
        Some(
            Value::Bool(_)
            | Value::Signed(_)
            | Value::Unsigned(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::Map(_),
        ) => return BOTH,
    };
    if types.is_empty() {
        let has_rules = |value: &Value| match value {
            Value::Null => false,
            Value::List(rules) => !rules.is_empty(),
            Value::Bool(_)
            | Value::Signed(_)
            | Value::Unsigned(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::Map(_) => true,
        };
        return (
            true,
            of("egress").is_some_and(|entry| has_rules(&entry.value.value)),
        );
    }
    let mut isolates = (false, false);
    for name in types {
        match name.text() {
            Some("Ingress") => isolates.0 = true,
            Some("Egress") => isolates.1 = true,
            Some(_) | None => return BOTH,
        }
    }
    isolates
}
