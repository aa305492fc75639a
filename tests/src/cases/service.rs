// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Services of a case: their objects, and who stands behind them.

use podgate_policy::model::{Labels, ObjectName, Protocol};
use serde_json::{Value, json};

use super::case::Kind;
use super::expect::{Family, What};
use super::places::Addresses;
use super::state::{PodState, State};
use super::world;

/// A Service of both families; with these cluster addresses, or with those that the API server gives it.
pub fn object(name: &ObjectName, spec: &Value, addresses: Option<&Addresses>) -> Value {
    let mut spec = spec.clone();
    spec["ipFamilyPolicy"] = "RequireDualStack".into();
    if let Some(addresses) = addresses {
        spec["clusterIP"] = json!(addresses.v4);
        spec["clusterIPs"] = json!(addresses.both());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": name.namespace, "name": name.name},
        "spec": spec,
    })
}

/// What the controller of Kubernetes would write of one pod behind a Service: an EndpointSlice of one endpoint.
pub fn slice(
    service: &ObjectName,
    spec: &Value,
    (pod, state): (&ObjectName, &PodState),
    node: &str,
    address: &Addresses,
    family: Family,
) -> Value {
    let ports: Vec<Value> = ports(spec)
        .filter_map(|port| {
            let number = target(port, pod, state)?;
            let protocol = port.get("protocol").cloned().unwrap_or("TCP".into());
            let name = port.get("name").cloned().unwrap_or("".into());
            Some(json!({"name": name, "port": number, "protocol": protocol}))
        })
        .collect();
    let kind = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": service.namespace,
            "name": format!("{}-{}-{family}", service.name, pod.name),
            "labels": {"kubernetes.io/service-name": service.name},
        },
        "addressType": kind,
        "ports": ports,
        "endpoints": [{
            "addresses": [address.of(family)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": node,
            "targetRef": {"kind": "Pod", "namespace": pod.namespace, "name": pod.name},
        }],
    })
}

/// The pods that a Service selects.
pub fn members<'a>(
    state: &'a State,
    service: &'a ObjectName,
) -> impl Iterator<Item = (&'a ObjectName, &'a PodState)> {
    let selector: Option<Labels> = state
        .services
        .get(service)
        .and_then(|spec| serde_json::from_value(spec["selector"].clone()).ok());
    state.pods.iter().filter(move |(name, pod)| {
        name.namespace == service.namespace
            && pod.kind == Kind::Runs
            && selector.as_ref().is_some_and(|selector| {
                let mut wanted = selector.iter();
                wanted.all(|(key, value)| pod.labels.get(key) == Some(value))
            })
    })
}

/// Who answers at this port of a Service, and at which port of its own.
pub fn backends(state: &State, service: &ObjectName, what: What) -> Vec<(ObjectName, What)> {
    let What::Port(protocol, number) = what else {
        return Vec::new();
    };
    let Some(spec) = state.services.get(service) else {
        return Vec::new();
    };
    let is_meant = |port: &&Value| port["port"] == number && protocol_of(port) == protocol;
    let Some(port) = ports(spec).find(is_meant) else {
        return Vec::new();
    };
    members(state, service)
        .filter_map(|(name, pod)| {
            let number = target(port, name, pod)?;
            Some((name.clone(), What::Port(protocol, number)))
        })
        .collect()
}

fn ports(spec: &Value) -> impl Iterator<Item = &Value> {
    spec["ports"].as_array().into_iter().flatten()
}

fn protocol_of(port: &Value) -> Protocol {
    match port["protocol"].as_str() {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) | None => Protocol::Tcp,
    }
}

/// The number of a Service's port on a pod: `targetPort`, or what the pod calls so.
fn target(port: &Value, name: &ObjectName, pod: &PodState) -> Option<u16> {
    let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok());
    match &port["targetPort"] {
        Value::Null => number(&port["port"]),
        Value::String(wanted) => {
            let object = world::pod(name, pod, None);
            let spec = &object["spec"];
            let sidecars = spec["initContainers"].as_array().into_iter().flatten();
            let sidecars = sidecars.filter(|container| container["restartPolicy"] == "Always");
            let containers = spec["containers"].as_array().into_iter().flatten();
            let mut ports = containers.chain(sidecars).flat_map(ports);
            let found = ports
                .find(|found| found["name"] == *wanted && protocol_of(found) == protocol_of(port));
            found.and_then(|found| number(&found["containerPort"]))
        }
        found @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            number(found)
        }
    }
}
