// SPDX-License-Identifier: Apache-2.0 OR MIT
//! EndpointSlices (discovery.k8s.io/v1), as kube-proxy reads them.

use std::sync::Arc;

use k8s_openapi::api::core;
use k8s_openapi::api::discovery::v1;
use podgate_policy::model::{
    Endpoint, EndpointSlice, EndpointState, NamedPort, ObjectName, PodReference,
};

use super::pod::{object_name, uid};
use super::service::is_left_alone;
use super::{Converted, FieldErrors, FieldPath, addresses, names};

/// The label that names the Service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An EndpointSlice and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSlice {
    /// Its namespace and name.
    pub name: ObjectName,
    /// What kube-proxy does about it.
    pub slice: Arc<EndpointSlice>,
}

/// Converts an EndpointSlice. What cannot be read of it leads nowhere: kube-proxy cannot read it either.
pub fn convert(object: &v1::EndpointSlice) -> Converted<NamedSlice> {
    let mut errors = FieldErrors::default();
    let name = object_name(&object.metadata, &mut errors);
    let has_addresses = match object.address_type.as_str() {
        "IPv4" | "IPv6" => true,
        "FQDN" => false,
        other => {
            errors.add(
                &FieldPath::of("addressType"),
                format!("{other:?} is not a type of address: use IPv4, IPv6 or FQDN"),
            );
            false
        }
    };
    let labels = object.metadata.labels.as_ref();
    let mut slice = EndpointSlice::default();
    if has_addresses && !is_left_alone(labels) {
        slice.service = labels
            .and_then(|labels| labels.get(SERVICE_NAME))
            .filter(|service| !service.is_empty())
            .cloned();
        slice.ports = ports(object.ports.as_deref(), &mut errors);
        slice.endpoints = endpoints(object, &name.namespace, &mut errors);
    }
    errors.beside(NamedSlice {
        name,
        slice: Arc::new(slice),
    })
}

/// A port without a number stands for whatever each endpoint may serve, which no Service port leads to.
fn ports(ports: Option<&[v1::EndpointPort]>, errors: &mut FieldErrors) -> Vec<NamedPort> {
    let list = FieldPath::of("ports");
    let mut found = Vec::new();
    for (i, port) in ports.unwrap_or_default().iter().enumerate() {
        let path = list.index(i);
        let Some(number) = port.port else { continue };
        let number = errors.keep(&path.key("port"), names::port_number(number));
        let protocol = errors.keep(
            &path.key("protocol"),
            names::protocol(port.protocol.as_deref()),
        );
        if let (Some(number), Some(protocol)) = (number, protocol) {
            found.push(NamedPort {
                name: port.name.clone().unwrap_or_default(),
                protocol,
                number,
            });
        }
    }
    found
}

fn endpoints(
    object: &v1::EndpointSlice,
    namespace: &str,
    errors: &mut FieldErrors,
) -> Vec<Endpoint> {
    let list = FieldPath::of("endpoints");
    let mut found = Vec::new();
    for (i, endpoint) in object.endpoints.iter().flatten().enumerate() {
        let path = list.index(i).key("addresses");
        let Some(text) = endpoint.addresses.first() else {
            errors.add(&path, "is empty: give the endpoint its address");
            continue;
        };
        if let Some(address) = errors.keep(&path.index(0), addresses::address(text)) {
            found.push(Endpoint {
                address,
                state: state(endpoint.conditions.as_ref()),
                pod: endpoint
                    .target_ref
                    .as_ref()
                    .and_then(|target| pod(target, namespace)),
                node: endpoint.node_name.clone(),
            });
        }
    }
    found
}

/// What is not said of readiness and of serving is taken for true.
fn state(conditions: Option<&v1::EndpointConditions>) -> EndpointState {
    let Some(conditions) = conditions else {
        return EndpointState::Ready;
    };
    let is_serving = conditions.serving.unwrap_or(true);
    let is_terminating = conditions.terminating.unwrap_or(false);
    if conditions.ready.unwrap_or(true) {
        EndpointState::Ready
    } else if is_serving && is_terminating {
        EndpointState::Terminating
    } else {
        EndpointState::Unusable
    }
}

fn pod(target: &core::v1::ObjectReference, namespace: &str) -> Option<PodReference> {
    if target.kind.as_deref() != Some("Pod") {
        return None;
    }
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    Some(PodReference {
        name: ObjectName::new(
            given(&target.namespace).unwrap_or_else(|| namespace.to_owned()),
            given(&target.name).unwrap_or_default(),
        ),
        uid: given(&target.uid).as_deref().map(uid),
    })
}
