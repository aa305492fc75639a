// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A state as Kubernetes objects.

use podgate_policy::model::{Labels, ObjectName};
use serde_json::{Value, json};

use super::case::Kind;
use super::places::Addresses;
use super::state::PodState;

/// The image of all containers: it can wait, and it can end. What answers in a pod is the judge's.
const IMAGE: &str = "podgate.test/agnhost:1";

/// A Namespace.
pub fn namespace(name: &str, labels: &Labels) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels},
    })
}

/// A Node at these addresses.
pub fn node(name: &str, addresses: &Addresses) -> Value {
    let at = addresses.both();
    let at = at.map(|address| json!({"type": "InternalIP", "address": address.to_string()}));
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {"addresses": at},
    })
}

/// A NetworkPolicy, with no place left in its `spec`.
pub fn policy(name: &ObjectName, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": name.namespace, "name": name.name},
        "spec": spec,
    })
}

/// A Pod on the node of this name; without one it is on paper, and nobody will run it.
///
/// Every pod names its ports `serve-80-tcp` and so on. Beside that, `web` is 80/TCP of pods `a` and 81/TCP of
/// pods `b`; `dual` is 81/TCP of a container and 80/UDP of a sidecar; `setup` is 80/TCP of an init container that
/// ends before the others begin. A pod of the host's network names none: they would be taken for its node's.
pub fn pod(name: &ObjectName, pod: &PodState, node: Option<&str>) -> Value {
    let mut ports = Vec::new();
    for protocol in ["TCP", "UDP", "SCTP"] {
        for number in [80, 81] {
            let name = format!("serve-{number}-{}", protocol.to_lowercase());
            ports.push(port(&name, number, protocol));
        }
    }
    // No container may have one number twice.
    let mut of_sidecar = vec![port("dual", 80, "UDP")];
    match name.name.as_str() {
        "a" => of_sidecar.push(port("web", 80, "TCP")),
        "b" => of_sidecar.push(port("web", 81, "TCP")),
        _ => {}
    }
    let host_network = pod.kind == Kind::HostNetwork;
    let of_network = |ports: Vec<Value>| if host_network { Vec::new() } else { ports };
    let mut sidecar = container("sidecar", "pause", of_network(of_sidecar));
    sidecar["restartPolicy"] = "Always".into();
    let setup = container(
        "setup",
        "--help",
        of_network(vec![port("setup", 80, "TCP")]),
    );
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": name.namespace, "name": name.name, "labels": pod.labels},
        "spec": {
            "hostNetwork": host_network,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 0,
            "initContainers": [setup, sidecar],
            "containers": [
                container("server", "pause", of_network(ports)),
                container("second", "pause", of_network(vec![port("dual", 81, "TCP")])),
            ],
        },
    });
    match node {
        Some(node) => object["spec"]["nodeName"] = node.into(),
        None => object["spec"]["schedulerName"] = "nobody".into(),
    }
    object
}

/// `status` of a Pod.
pub fn status(phase: &str, addresses: Option<&Addresses>) -> Value {
    match addresses {
        None => json!({"phase": phase}),
        Some(addresses) => json!({
            "phase": phase,
            "podIP": addresses.v4,
            "podIPs": [{"ip": addresses.v4}, {"ip": addresses.v6}],
        }),
    }
}

fn port(name: &str, number: u16, protocol: &str) -> Value {
    json!({"name": name, "containerPort": number, "protocol": protocol})
}

fn container(name: &str, does: &str, ports: Vec<Value>) -> Value {
    json!({"name": name, "image": IMAGE, "args": [does], "ports": ports})
}
