// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What becomes of single fields. Objects are written as JSON, as the API server sends them.

use podgate_policy::model::{
    Namespaces, Operator, Peer, PodUid, Port, Protocol, Selector, Started,
};
use serde_json::{Value, json};

mod services;

use super::network_policy::NamedPolicy;
use super::pod::IdentifiedPod;
use super::{Converted, addresses, names};

fn policy(spec: Value) -> Converted<NamedPolicy> {
    let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "n"}, "spec": spec});
    super::network_policy::convert(
        &serde_json::from_value(object).expect("the test's JSON is a NetworkPolicy"),
    )
}

fn pod(spec: Value, status: Value) -> Converted<IdentifiedPod> {
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": "u"},
        "spec": spec, "status": status});
    super::pod::convert(&serde_json::from_value(object).expect("the test's JSON is a Pod"))
}

/// The only peer of an ingress rule, and what was wrong with it.
fn peer(element: Value) -> (Peer, Vec<String>) {
    let converted = policy(json!({"ingress": [{"from": [element]}]}));
    (
        converted.value.policy.ingress[0].peers[0].clone(),
        texts(&converted.errors),
    )
}

fn port(element: Value) -> (Port, Vec<String>) {
    let converted = policy(json!({"ingress": [{"ports": [element]}]}));
    (
        converted.value.policy.ingress[0].ports[0].clone(),
        texts(&converted.errors),
    )
}

fn subject(selector: Value) -> (Selector, Vec<String>) {
    let converted = policy(json!({"podSelector": selector}));
    (
        converted
            .value
            .policy
            .members
            .matching
            .clone()
            .expect("a policy from Kubernetes goes by labels"),
        texts(&converted.errors),
    )
}

fn texts(errors: &[super::FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// Policy types default to ingress, and to egress if there are egress rules.
#[test]
fn policy_types_default_to_ingress_plus_egress_if_it_has_rules() {
    let cases = [
        (json!({}), (true, false)),
        (json!({"policyTypes": []}), (true, false)),
        (json!({"egress": []}), (true, false)),
        (json!({"egress": [{}]}), (true, true)),
        (
            json!({"policyTypes": ["Egress"], "ingress": [{}]}),
            (false, true),
        ),
        (
            json!({"policyTypes": ["Ingress"], "egress": [{}]}),
            (true, false),
        ),
        (json!({"policyTypes": ["Egress", "Ingress"]}), (true, true)),
    ];
    for (spec, expected) in cases {
        let converted = policy(spec.clone());
        let policy = &converted.value.policy;
        assert_eq!(
            (policy.isolates_ingress, policy.isolates_egress),
            expected,
            "{spec}"
        );
        assert!(converted.errors.is_empty(), "{spec}");
    }
}

#[test]
fn an_unknown_policy_type_isolates_both_directions() {
    let converted = policy(json!({"policyTypes": ["ingress"]}));
    assert!(converted.value.policy.isolates_ingress && converted.value.policy.isolates_egress);
    assert_eq!(
        texts(&converted.errors),
        ["spec.policyTypes[0]: \"ingress\" is not a policy type: use Ingress or Egress"]
    );
}

#[test]
fn ports_get_their_protocol_and_range() {
    let (tcp, udp, sctp) = (Protocol::Tcp, Protocol::Udp, Protocol::Sctp);
    let range = |protocol, first, last| Port::Range {
        protocol,
        first,
        last,
    };
    let cases = [
        (json!({}), Port::All(tcp)),
        (json!({"protocol": "UDP"}), Port::All(udp)),
        (json!({"port": 80}), range(tcp, 80, 80)),
        (
            json!({"port": 1, "endPort": 65535, "protocol": "SCTP"}),
            range(sctp, 1, 65535),
        ),
        (json!({"port": 80, "endPort": 80}), range(tcp, 80, 80)),
        (
            json!({"port": "http", "protocol": "UDP"}),
            Port::Named {
                protocol: udp,
                name: "http".into(),
            },
        ),
    ];
    for (element, expected) in cases {
        assert_eq!(port(element.clone()), (expected, vec![]), "{element}");
    }
}

#[test]
fn ports_the_api_server_refuses_are_invalid_and_name_the_field() {
    let cases = [
        (json!({"port": 0}), "port"),
        (json!({"port": 65536}), "port"),
        (json!({"port": -1}), "port"),
        (json!({"port": "80"}), "port"),
        (json!({"port": "HTTP"}), "port"),
        (json!({"port": "a--b"}), "port"),
        (json!({"port": "sixteen-letters-"}), "port"),
        (json!({"endPort": 80}), "endPort"),
        (json!({"port": "http", "endPort": 80}), "endPort"),
        (json!({"port": 80, "endPort": 79}), "endPort"),
        (json!({"port": 80, "endPort": 70000}), "endPort"),
        (json!({"port": 80, "protocol": "tcp"}), "protocol"),
        (json!({"protocol": "ICMP"}), "protocol"),
    ];
    for (element, field) in cases {
        let (port, errors) = port(element.clone());
        assert_eq!(port, Port::Invalid, "{element}");
        assert_eq!(errors.len(), 1, "{element}: {errors:?}");
        assert!(
            errors[0].starts_with(&format!("spec.ingress[0].ports[0].{field}: ")),
            "{element}: {errors:?}"
        );
    }
}

#[test]
fn peers_tell_an_absent_selector_from_an_empty_one() {
    let all = Selector::everything;
    let cases = [
        (
            json!({"podSelector": {}}),
            Peer::Pods {
                namespaces: Namespaces::Own,
                pods: all(),
            },
        ),
        (
            json!({"namespaceSelector": {}}),
            Peer::Pods {
                namespaces: Namespaces::Matching(all()),
                pods: all(),
            },
        ),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}),
            Peer::Block {
                cidr: "10.0.0.0/8".parse().expect("a block"),
                except: vec!["10.1.0.0/16".parse().expect("a block")],
            },
        ),
    ];
    for (element, expected) in cases {
        assert_eq!(peer(element.clone()), (expected, vec![]), "{element}");
    }
}

#[test]
fn peers_the_api_server_refuses_are_invalid_and_name_the_field() {
    let cases = [
        (json!({}), ": "),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}),
            ": ",
        ),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "namespaceSelector": {}}),
            ": ",
        ),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/33"}}),
            ".ipBlock.cidr: ",
        ),
        (json!({"ipBlock": {"cidr": "10.0.0.0"}}), ".ipBlock.cidr: "),
        (json!({"ipBlock": {}}), ".ipBlock.cidr: "),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "x"]}}),
            ".ipBlock.except[1]: ",
        ),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}),
            ".ipBlock.except[0]: ",
        ),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}),
            ".ipBlock.except[0]: ",
        ),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["2001:db8::/64"]}}),
            ".ipBlock.except[0]: ",
        ),
        (
            json!({"podSelector": {"matchLabels": {"a": "no spaces"}}}),
            ".podSelector.matchLabels.a: ",
        ),
        (
            json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}),
            ".namespaceSelector.matchExpressions[0].operator: ",
        ),
    ];
    for (element, field) in cases {
        let (peer, errors) = peer(element.clone());
        assert_eq!(peer, Peer::Invalid, "{element}");
        assert_eq!(errors.len(), 1, "{element}: {errors:?}");
        assert!(
            errors[0].starts_with(&format!("spec.ingress[0].from[0]{field}")),
            "{element}: {errors:?}"
        );
    }
}

#[test]
fn blocks_are_read_in_every_spelling_that_was_ever_stored() {
    let cases = [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("010.000.00.0/08", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("::ffff:010.1.2.3/128", "10.1.2.3/32"),
        ("2001:DB8::1/64", "2001:db8::/64"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ];
    for (text, expected) in cases {
        assert_eq!(
            addresses::block(text).map(|b| b.to_string()),
            Ok(expected.to_owned()),
            "{text}"
        );
    }
    for text in [
        "",
        "/",
        "10.0.0.0/",
        "10.0.0/8",
        "10.0.0.256/32",
        "10.0.0.0/+8",
        "10..0.0/8",
        "fe80::1%eth0/64",
        "::/129",
    ] {
        assert!(addresses::block(text).is_err(), "{text}");
    }
}

#[test]
fn selectors_have_every_operator() {
    let (selector, errors) = subject(
        json!({"matchLabels": {"app": "", "k8s.io/x": "y"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["1", "2"]},
            {"key": "b", "operator": "NotIn", "values": [""]},
            {"key": "c", "operator": "Exists"},
            {"key": "d", "operator": "DoesNotExist", "values": []},
        ]}),
    );
    assert!(errors.is_empty(), "{errors:?}");
    let Selector::Requirements(requirements) = selector else {
        panic!("the selector is valid")
    };
    let operators: Vec<_> = requirements
        .into_iter()
        .map(|r| (r.key, r.operator))
        .collect();
    let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        operators,
        [
            ("app".into(), Operator::In(strings(&[""]))),
            ("k8s.io/x".into(), Operator::In(strings(&["y"]))),
            ("a".into(), Operator::In(strings(&["1", "2"]))),
            ("b".into(), Operator::NotIn(strings(&[""]))),
            ("c".into(), Operator::Exists),
            ("d".into(), Operator::DoesNotExist),
        ]
    );
}

#[test]
fn selectors_that_the_api_server_would_refuse_are_invalid() {
    let cases = [
        (
            json!({"matchLabels": {"-a": "b"}}),
            "spec.podSelector.matchLabels.-a: ",
        ),
        (
            json!({"matchLabels": {"x/y/z": "b"}}),
            "spec.podSelector.matchLabels[\"x/y/z\"]: ",
        ),
        (
            json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
            "spec.podSelector.matchExpressions[0].values: ",
        ),
        (
            json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": []}]}),
            "spec.podSelector.matchExpressions[0].values: ",
        ),
        (
            json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}),
            "spec.podSelector.matchExpressions[0].values: ",
        ),
        (
            json!({"matchExpressions": [{"key": "", "operator": "Exists"}]}),
            "spec.podSelector.matchExpressions[0].key: ",
        ),
        (
            json!({"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}),
            "spec.podSelector.matchExpressions[0].operator: ",
        ),
        (
            json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["a b"]}]}),
            "spec.podSelector.matchExpressions[0].values[0]: ",
        ),
    ];
    for (selector, start) in cases {
        let (converted, errors) = subject(selector.clone());
        assert_eq!(converted, Selector::Invalid, "{selector}");
        assert!(
            errors.len() == 1 && errors[0].starts_with(start),
            "{selector}: {errors:?}"
        );
    }
}

#[test]
fn an_absent_pod_selector_means_every_pod() {
    assert_eq!(
        policy(json!({})).value.policy.members,
        Selector::everything().into()
    );
}

/// Named ports are those of containers and of restartable init containers.
#[test]
fn named_ports_are_of_containers_and_restartable_inits() {
    let ports = |name: &str, number: u16| json!([{"name": name, "containerPort": number}, {"containerPort": 9}]);
    let converted = pod(
        json!({"containers": [{"name": "c", "ports": ports("web", 80)}], "initContainers": [
            {"name": "sidecar", "restartPolicy": "Always", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
            {"name": "once", "ports": ports("gone", 1)},
        ]}),
        json!({}),
    );
    assert!(converted.errors.is_empty());
    let found: Vec<_> = converted
        .value
        .pod
        .ports
        .iter()
        .map(|p| (p.name.as_str(), p.protocol, p.number))
        .collect();
    assert_eq!(
        found,
        [("dns", Protocol::Udp, 53), ("web", Protocol::Tcp, 80)]
    );
}

#[test]
fn addresses_are_those_of_both_families_once() {
    let status = json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "::ffff:10.0.0.2"}]});
    let converted = pod(json!({"containers": []}), status);
    let found: Vec<_> = converted
        .value
        .pod
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(found, ["10.0.0.1", "fd00::1", "10.0.0.2"]);
    let converted = pod(
        json!({"containers": []}),
        json!({"podIPs": [{"ip": "10.0.0.x"}]}),
    );
    assert_eq!(
        texts(&converted.errors),
        ["status.podIPs[0].ip: \"10.0.0.x\" is not an IP address"]
    );
}

#[test]
fn a_pod_has_its_start_as_soon_as_it_has_an_address() {
    let start = "2026-11-21T10:00:01Z";
    for (addresses, started) in [
        (json!([{"ip": "10.0.0.1"}]), Some(Started(1_795_255_201))),
        (json!([]), None),
    ] {
        let status = json!({"startTime": start, "podIPs": addresses});
        let converted = pod(json!({"containers": []}), status);
        assert_eq!(converted.value.pod.started, started);
    }
}

#[test]
fn finished_and_host_network_pods_are_marked() {
    for (phase, finished) in [
        ("Pending", false),
        ("Running", false),
        ("Unknown", false),
        ("Succeeded", true),
        ("Failed", true),
    ] {
        assert_eq!(
            pod(json!({"containers": []}), json!({"phase": phase}))
                .value
                .pod
                .finished,
            finished,
            "{phase}"
        );
    }
    assert!(
        pod(json!({"containers": [], "hostNetwork": true}), json!({}))
            .value
            .pod
            .host_network
    );
}

#[test]
fn an_object_without_a_namespace_is_in_default() {
    let pod = pod(json!({"containers": []}), json!({}));
    assert_eq!(pod.value.name.to_string(), "default/p");
    assert_eq!(pod.value.pod.uid, Some(PodUid("u".into())));
}

#[test]
fn only_the_mirror_of_a_static_pod_has_the_hash_of_its_file() {
    let hash = |annotations: Value| {
        let object = json!({"metadata": {"name": "p", "annotations": annotations}});
        let pod = super::pod::convert(&serde_json::from_value(object).unwrap());
        pod.value.config_hash
    };
    let (mirror, hash_of) = ("kubernetes.io/config.mirror", "kubernetes.io/config.hash");
    assert_eq!(
        hash(json!({mirror: "h", hash_of: "h"})).as_deref(),
        Some("h")
    );
    assert_eq!(hash(json!({hash_of: "h"})), None);
    assert_eq!(hash(json!({})), None);
}

#[test]
fn a_namespace_gets_its_name_label() {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "stars"}});
    let converted =
        super::namespace::convert(&serde_json::from_value(object).expect("a Namespace"));
    assert_eq!(
        converted.value.namespace.labels["kubernetes.io/metadata.name"],
        "stars"
    );
    assert!(converted.errors.is_empty());
}

/// A namespace says what it wants of foreign addresses, and that is kept as it is written.
#[test]
fn a_namespaces_foreign_addresses_are_kept_as_written() {
    for (annotations, says) in [
        (json!({"podgate.io/foreign-addresses": "Any"}), Some("Any")),
        (json!({"podgate.io/other": "allow"}), None),
    ] {
        let object = json!({"metadata": {"name": "stars", "annotations": annotations}});
        let converted =
            super::namespace::convert(&serde_json::from_value(object).expect("a Namespace"));
        let namespace = converted.value.namespace;
        assert_eq!(namespace.foreign_addresses.as_deref(), says);
        assert!(converted.errors.is_empty());
    }
}

#[test]
fn names_are_checked_as_the_api_server_checks_them() {
    assert!(names::dns_subdomain("a.b-c.1").is_ok());
    for wrong in ["", "A", "a_b", "-a", "a..b", "a."] {
        assert!(names::dns_subdomain(wrong).is_err(), "{wrong}");
    }
    assert!(names::dns_label("a.b").is_err());
    assert!(names::label_key("example.com/Name_1").is_ok());
    assert!(names::label_key("Example.com/name").is_err());
    assert!(names::label_value(&"x".repeat(64)).is_err());
}

#[test]
fn what_is_written_twice_is_kept_once() {
    let rule = json!({"from": [{"podSelector": {}}, {"podSelector": {}}],
        "ports": [{"port": 80}, {"port": 80, "protocol": "TCP"}, {"port": 81}]});
    let once = json!({"from": [{"podSelector": {}}], "ports": [{"port": 80}, {"port": 81}]});
    let everybody = json!({"from": [], "ports": []});
    let selector = |values: Value| json!({"matchExpressions": [{"key": "a", "operator": "In", "values": values}]});
    let twice = policy(json!({"podSelector": selector(json!(["x", "y", "x"])),
        "ingress": [rule, everybody, once, rule, everybody]}));
    let expected = policy(json!({"podSelector": selector(json!(["x", "y"])),
        "ingress": [once, everybody]}));
    assert_eq!(twice, expected);
    let policy = &twice.value.policy;
    assert!(policy.ingress[1].peers.is_empty(), "still everybody");
    assert_eq!(policy.ingress.capacity(), 2);
}
