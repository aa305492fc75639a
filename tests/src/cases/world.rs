//! A state as Kubernetes objects.

use podgate_policy::model::{Labels, ObjectName};
use serde_json::{Value, json};

use super::case::{Kind, PodState};
use super::places::Addresses;

/// The image that pods' containers have; what answers in a pod is the judge's.
pub const IMAGE: &str = "podgate.test/pause:1";

/// A Namespace.
pub fn namespace(name: &str, labels: &Labels) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels},
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

/// A Pod, on the node of this name.
///
/// Every pod names its ports `serve-80-tcp` and so on. Beside that, `web` is 80/TCP of pods `a` and 81/TCP of
/// pods `b`; `dual` is 81/TCP of a container and 80/UDP of a sidecar; `setup` is 80/TCP of an init container that
/// ends before the others begin.
pub fn pod(name: &ObjectName, pod: &PodState, node: &str) -> Value {
    let mut ports = Vec::new();
    for protocol in ["TCP", "UDP", "SCTP"] {
        for number in [80, 81] {
            let name = format!("serve-{number}-{}", protocol.to_lowercase());
            ports.push(port(&name, number, protocol));
        }
    }
    match name.name.as_str() {
        "a" => ports.push(port("web", 80, "TCP")),
        "b" => ports.push(port("web", 81, "TCP")),
        _ => {}
    }
    ports.push(port("dual", 81, "TCP"));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": name.namespace, "name": name.name, "labels": pod.labels},
        "spec": {
            "nodeName": node,
            "hostNetwork": pod.kind == Kind::HostNetwork,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 0,
            "initContainers": [
                container("setup", &[port("setup", 80, "TCP")]),
                sidecar(&[port("dual", 80, "UDP")]),
            ],
            "containers": [container("server", &ports)],
        },
    })
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

fn container(name: &str, ports: &[Value]) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "ports": ports})
}

fn sidecar(ports: &[Value]) -> Value {
    let mut container = container("sidecar", ports);
    container["restartPolicy"] = "Always".into();
    container
}
