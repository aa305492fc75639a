// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Services, EndpointSlices and host ports.

use std::net::IpAddr;

use podgate_policy::model::{
    EndpointSlice, EndpointState, HostPort, NamedPort, ObjectName, PodReference, PodUid, Protocol,
    Service, ServicePort, TrafficPolicy,
};
use serde_json::{Value, json};

use super::{pod, texts};
use crate::convert::{endpoint_slice, service};

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter()
        .map(|text| text.parse().expect("an address"))
        .collect()
}

fn service(labels: Value, spec: Value, status: Value) -> (Service, Vec<String>) {
    let object = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "s", "namespace": "n", "labels": labels}, "spec": spec, "status": status});
    let converted =
        service::convert(&serde_json::from_value(object).expect("the test's JSON is a Service"));
    (
        converted.value.service.as_ref().clone(),
        texts(&converted.errors),
    )
}

fn slice(labels: Value, rest: Value) -> (EndpointSlice, Vec<String>) {
    let mut object = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "s-1", "namespace": "n", "labels": labels}});
    for (key, value) in rest.as_object().expect("a map") {
        object[key] = value.clone();
    }
    let converted = endpoint_slice::convert(
        &serde_json::from_value(object).expect("the test's JSON is an EndpointSlice"),
    );
    (
        converted.value.slice.as_ref().clone(),
        texts(&converted.errors),
    )
}

#[test]
fn a_service_keeps_what_kube_proxy_acts_on() {
    let (service, errors) = service(
        json!({"app": "s"}),
        json!({"type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd96::1"],
        "externalIPs": ["203.0.113.1"], "internalTrafficPolicy": "Local",
        "ports": [
            {"name": "web", "port": 80, "targetPort": "http", "nodePort": 30080},
            {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 0},
        ]}),
        json!({"loadBalancer": {"ingress": [
            {"ip": "203.0.113.2", "ipMode": "VIP"},
            {"ip": "203.0.113.3", "ipMode": "Proxy"},
            {"ip": "203.0.113.4"},
            {"hostname": "lb.example.com"},
        ]}}),
    );
    assert_eq!(errors, [""; 0]);
    let port = |name: &str, protocol, number, node_port| ServicePort {
        name: name.into(),
        protocol,
        number,
        node_port,
    };
    assert_eq!(
        service,
        Service {
            cluster_addresses: ips(&["10.96.0.1", "fd96::1"]),
            external_addresses: ips(&["203.0.113.1"]),
            balancer_addresses: ips(&["203.0.113.2", "203.0.113.4"]),
            ports: vec![
                port("web", Protocol::Tcp, 80, Some(30080)),
                port("dns", Protocol::Udp, 53, None),
            ],
            internal_traffic: TrafficPolicy::Local,
        }
    );
}

#[test]
fn a_service_that_kube_proxy_leaves_alone_leads_nowhere() {
    let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]});
    let cases = [
        (
            json!({"service.kubernetes.io/service-proxy-name": "other"}),
            spec.clone(),
        ),
        (json!({"service.kubernetes.io/headless": ""}), spec),
        (
            json!({}),
            json!({"clusterIP": "None", "ports": [{"port": 80}]}),
        ),
        (
            json!({}),
            json!({"type": "ExternalName", "externalName": "example.com"}),
        ),
    ];
    for (labels, spec) in cases {
        let found = service(labels.clone(), spec.clone(), json!({}));
        assert_eq!(found, (Service::default(), vec![]), "{labels} {spec}");
    }
}

#[test]
fn what_cannot_be_read_of_a_service_leads_nowhere() {
    let (service, errors) = service(
        json!({}),
        json!({"clusterIP": "10.96.0.x", "internalTrafficPolicy": "local", "ports": [
            {"port": 0}, {"port": 80, "protocol": "QUIC"}, {"port": 81, "nodePort": 70000}]}),
        json!({}),
    );
    assert_eq!(
        errors,
        [
            "spec.clusterIP: \"10.96.0.x\" is not an IP address",
            "spec.ports[0].port: 0 is not a port: use 1 to 65535",
            "spec.ports[1].protocol: \"QUIC\" is not a protocol: use TCP, UDP or SCTP",
            "spec.ports[2].nodePort: 70000 is not a port: use 1 to 65535",
            "spec.internalTrafficPolicy: \"local\" is not a traffic policy: use Cluster or Local",
        ]
    );
    assert_eq!(service.cluster_addresses, ips(&[]));
    assert_eq!(service.ports.len(), 1);
}

#[test]
fn an_endpoint_slice_keeps_what_kube_proxy_acts_on() {
    let (slice, errors) = slice(
        json!({"kubernetes.io/service-name": "s"}),
        json!({"addressType": "IPv6",
        "ports": [{"name": "web", "port": 8080}, {"port": 53, "protocol": "UDP"}, {"name": "any"}],
        "endpoints": [
            {"addresses": ["fd00::1", "fd00::2"], "nodeName": "a",
                "targetRef": {"kind": "Pod", "namespace": "n", "name": "p", "uid": "u"}},
            {"addresses": ["fd00::3"], "targetRef": {"kind": "Node", "name": "a"}},
        ]}),
    );
    assert_eq!(errors, [""; 0]);
    assert_eq!(slice.service.as_deref(), Some("s"));
    let port = |name: &str, protocol, number| NamedPort {
        name: name.into(),
        protocol,
        number,
    };
    assert_eq!(
        slice.ports,
        [
            port("web", Protocol::Tcp, 8080),
            port("", Protocol::Udp, 53)
        ]
    );
    let [first, second] = slice.endpoints.as_slice() else {
        panic!("two endpoints: {slice:?}");
    };
    assert_eq!(
        vec![first.address, second.address],
        ips(&["fd00::1", "fd00::3"])
    );
    assert_eq!(
        first.pod,
        Some(PodReference {
            name: ObjectName::new("n", "p"),
            uid: Some(PodUid("u".into()))
        })
    );
    assert_eq!(first.node.as_deref(), Some("a"));
    assert_eq!((&second.pod, &second.node), (&None, &None));
}

/// Conditions that are not given are true, and a terminating endpoint may still serve.
#[test]
fn missing_conditions_are_true_and_terminating_may_serve() {
    let cases = [
        (json!(null), EndpointState::Ready),
        (json!({}), EndpointState::Ready),
        (
            json!({"ready": true, "terminating": true}),
            EndpointState::Ready,
        ),
        (
            json!({"ready": false, "terminating": true}),
            EndpointState::Terminating,
        ),
        (
            json!({"ready": false, "serving": true, "terminating": true}),
            EndpointState::Terminating,
        ),
        (
            json!({"ready": false, "serving": false, "terminating": true}),
            EndpointState::Unusable,
        ),
        (
            json!({"ready": false, "serving": true}),
            EndpointState::Unusable,
        ),
    ];
    for (conditions, expected) in cases {
        let endpoint = json!({"addresses": ["10.0.0.1"], "conditions": conditions});
        let (slice, _) = slice(
            json!({}),
            json!({"addressType": "IPv4", "ports": [], "endpoints": [endpoint]}),
        );
        assert_eq!(slice.endpoints[0].state, expected, "{conditions}");
    }
}

#[test]
fn a_slice_that_kube_proxy_ignores_has_no_endpoints() {
    let rest = |kind: &str| json!({"addressType": kind, "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
    let of = |label: &str| json!({"kubernetes.io/service-name": "s", label: ""});
    for (labels, rest) in [
        (of("service.kubernetes.io/headless"), rest("IPv4")),
        (of("service.kubernetes.io/service-proxy-name"), rest("IPv4")),
        (of("x"), rest("FQDN")),
    ] {
        assert_eq!(slice(labels, rest), (EndpointSlice::default(), vec![]));
    }
    let (_, errors) = slice(json!({}), rest("ipv4"));
    assert_eq!(
        errors,
        ["addressType: \"ipv4\" is not a type of address: use IPv4, IPv6 or FQDN"]
    );
}

#[test]
fn host_ports_are_those_of_pods_with_a_network_of_their_own() {
    let spec = |host_network: bool| {
        json!({"nodeName": "here", "hostNetwork": host_network, "containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 8080},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"},
            {"containerPort": 81, "hostPort": 81, "hostIP": "::"},
            {"containerPort": 82},
        ]}]})
    };
    let found = pod(spec(false), json!({})).value.pod;
    let port = |address: Option<&str>, protocol, number, target| HostPort {
        address: address.map(|text| text.parse().expect("an address")),
        protocol,
        number,
        target,
    };
    assert_eq!(
        found.host_ports,
        [
            port(None, Protocol::Tcp, 8080, 80),
            port(Some("192.0.2.1"), Protocol::Udp, 53, 53),
            port(None, Protocol::Tcp, 81, 81),
        ]
    );
    assert_eq!(found.node.as_deref(), Some("here"));
    let of_the_node = pod(spec(true), json!({})).value.pod;
    assert_eq!(
        (of_the_node.host_ports.len(), &of_the_node.node),
        (0, &None)
    );
}
