// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is kept of objects that do not fit their types.

use serde_json::{Value, json};

use super::super::{Namespaces, Pods, Services};
use crate::api::{Kind, Seen};

fn read<K: Kind>(spec: Value, labels: Value, status: Value) -> Seen<K> {
    let object = json!({
        "metadata": {
            "name": "it", "namespace": "ns", "uid": "u", "resourceVersion": "1", "labels": labels,
        },
        "spec": spec, "status": status,
    });
    let seen: Seen<K> = serde_json::from_value(object).unwrap();
    assert!(seen.errors[0].contains("cannot be read"), "{seen:?}");
    seen
}

fn pod(spec: Value, labels: Value) -> Seen<Pods> {
    let status = json!({"phase": "Running", "podIP": "192.0.2.2"});
    read(spec, labels, status)
}

#[test]
fn the_addresses_of_a_service_stay_those_of_a_service() {
    let spec = json!({
        "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "2001:db8::9"],
        "externalIPs": ["198.51.100.1", 7], "ports": [{"port": 80}], "sessionAffinity": ["new"],
    });
    let status = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.2", "ipMode": 1}]}});
    let service = read::<Services>(spec, json!({}), status).value;
    let texts = |addresses: &[std::net::IpAddr]| -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        texts(&service.cluster_addresses),
        ["10.96.0.9", "2001:db8::9"]
    );
    assert_eq!(texts(&service.external_addresses), ["198.51.100.1"]);
    assert_eq!(texts(&service.balancer_addresses), ["198.51.100.2"]);
    assert_eq!(service.ports, []);
}

#[test]
fn a_service_that_kube_proxy_leaves_alone_has_no_addresses() {
    for (spec, labels) in [
        (
            json!({"clusterIP": "None", "externalIPs": ["198.51.100.1"], "ports": 7}),
            json!({}),
        ),
        (
            json!({"type": "ExternalName", "externalIPs": ["198.51.100.1"], "ports": 7}),
            json!({}),
        ),
        (
            json!({"clusterIP": "10.96.0.9", "ports": 7}),
            json!({"service.kubernetes.io/service-proxy-name": "other"}),
        ),
    ] {
        let service = read::<Services>(spec, labels, json!({})).value;
        assert_eq!(*service, podgate_policy::model::Service::default());
    }
}

/// A pod that may be in the node's network is no peer, and keeps its labels.
#[test]
fn a_pod_that_may_be_in_the_host_network_is_no_peer() {
    for spec in [
        json!({"hostNetwork": true, "containers": "new"}),
        json!({"hostNetwork": "new"}),
        json!("new"),
    ] {
        let pod = pod(spec.clone(), json!({"app": "web"})).value;
        assert!(!pod.pod.is_selectable(), "{spec}");
        assert_eq!(pod.pod.labels["app"], "web");
    }
    let own = pod(json!({"containers": "new"}), json!({"app": "web"})).value;
    assert!(own.pod.is_selectable());
    assert_eq!(own.pod.addresses.len(), 1);
}

#[test]
fn a_pod_whose_labels_cannot_be_read_is_no_peer() {
    for labels in [json!({"app": "web", "new": 1}), json!("new")] {
        let pod = pod(json!({"containers": []}), labels.clone()).value;
        assert!(!pod.pod.is_selectable(), "{labels}");
    }
}

#[test]
fn a_namespace_whose_labels_cannot_be_read_matches_no_selector() {
    let labels = json!({"team": "a", "new": 1});
    assert_eq!(read::<Namespaces>(json!({}), labels, json!({})).value, None);
}
