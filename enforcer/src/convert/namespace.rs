// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Namespaces.

use k8s_openapi::api::core::v1;
use podgate_policy::model::Namespace;

use super::{Converted, FieldErrors, FieldPath, names, selector};

/// The annotation of a Namespace that says what becomes of foreign addresses at its pods, where the node obeys it.
pub const FOREIGN_ADDRESSES: &str = "podgate.io/foreign-addresses";

/// A namespace and its name (empty, with an error, if the object has none).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedNamespace {
    /// Its name.
    pub name: String,
    /// What policies see of it.
    pub namespace: Namespace,
}

/// Converts a Namespace; the label `kubernetes.io/metadata.name` is added, as the API server does.
pub fn convert(object: &v1::Namespace) -> Converted<NamedNamespace> {
    let mut errors = FieldErrors::default();
    let name = object.metadata.name.clone().unwrap_or_default();
    errors.keep(&FieldPath::of("metadata.name"), names::dns_label(&name));
    let labels = selector::labels(object.metadata.labels.as_ref(), &mut errors);
    let annotations = object.metadata.annotations.as_ref();
    let namespace = Namespace {
        foreign_addresses: annotations
            .and_then(|all| all.get(FOREIGN_ADDRESSES))
            .cloned(),
        ..Namespace::new(&name, labels)
    };
    errors.beside(NamedNamespace { name, namespace })
}
