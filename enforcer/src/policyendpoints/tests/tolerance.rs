// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is accepted, and what is wrong and allows nothing.

use super::super::kinds::{OwnerPolicies, PolicyEndpoints};
use super::super::slice::{Entry, EntryPeer, EntryPorts, Owner};
use super::*;
use crate::api::{Kind, Seen};
use podgate_policy::connection::Direction::Ingress;

fn entries(list: Value) -> (Vec<Entry>, Vec<String>) {
    let spec = json!({"policyRef": {"name": "p", "namespace": "ns"}, "egress": list});
    let converted = slice::convert(&metadata("ns", "p-1", None), &spec);
    let errors = converted.errors.iter().map(ToString::to_string).collect();
    (converted.value.slice.egress.into_iter().collect(), errors)
}

fn entry(cidr: &str, except: &[&str], ports: &[Port]) -> Entry {
    let net = |text: &str| -> ipnet::IpNet { text.parse().unwrap() };
    let cidr = net(cidr);
    Entry {
        peer: if cidr.prefix_len() == cidr.max_prefix_len() {
            EntryPeer::Address(cidr.addr())
        } else {
            EntryPeer::Block(cidr, except.iter().map(|text| net(text)).collect())
        },
        ports: if ports.is_empty() {
            EntryPorts::Everything
        } else {
            EntryPorts::These(ports.iter().cloned().collect())
        },
    }
}

fn tcp(first: u16, last: u16) -> Port {
    Port::Range {
        protocol: Protocol::Tcp,
        first,
        last,
    }
}

#[test]
fn everything_that_controllers_write_is_accepted() {
    for (written, read) in [
        (json!([]), vec![]),
        (json!(null), vec![]),
        (
            json!([{"cidr": "10.0.0.1"}]),
            vec![entry("10.0.0.1/32", &[], &[])],
        ),
        (
            json!([{"cidr": "10.0.0.1/32", "except": []}]),
            vec![entry("10.0.0.1/32", &[], &[])],
        ),
        (
            json!([{"cidr": "fd00::1", "ports": []}]),
            vec![entry("fd00::1/128", &[], &[])],
        ),
        (
            json!([{"cidr": "fd00::/8"}, {"cidr": "fd00::/8"}]),
            vec![entry("fd00::/8", &[], &[])],
        ),
        (
            json!([{"cidr": "10.1.2.3/8", "unknown": {"x": 1}}]),
            vec![entry("10.0.0.0/8", &[], &[])],
        ),
        (
            json!([{"cidr": "10.0.0.1", "ports": [{"port": 80}]}]),
            vec![entry("10.0.0.1/32", &[], &[tcp(80, 80)])],
        ),
        (
            json!([{"cidr": "10.0.0.1", "ports": [{"port": 80, "endPort": 90}, {"protocol": "TCP"}]}]),
            vec![entry(
                "10.0.0.1/32",
                &[],
                &[tcp(80, 90), Port::All(Protocol::Tcp)],
            )],
        ),
        (
            json!([{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "192.168.0.0/16", "fd00::/8"]}]),
            vec![entry("10.0.0.0/8", &["10.1.0.0/16"], &[])],
        ),
        (
            json!([{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}]),
            vec![],
        ),
    ] {
        assert_eq!(entries(written.clone()), (read, vec![]), "{written}");
    }
}

/// Each way to write a slice, at each level of it, and without error.
#[test]
fn one_slice_is_written_in_many_ways() {
    let web = listed("web", "10.0.0.1");
    let plain = spec(&["Ingress"], &[web], json!([from("fd00::1", 80)]));
    let plain_slice = slice_of("ns", "p-1", plain.clone(), owned_by("p", "n"));
    assert_eq!((plain_slice.pods.len(), plain_slice.ingress.len()), (1, 1));
    for (pointer, written) in [
        ("/podSelector", json!({"matchLabels": {"app": "old"}})),
        ("/unknown", json!([{"x": 1}])),
        ("/policyRef/unknown", json!(1)),
        ("/podSelectorEndpoints/0/unknown", json!({})),
        ("/podSelectorEndpoints/0/hostIP", json!("not read")),
        ("/podSelectorEndpoints/0/podIP", json!("::ffff:10.0.0.1")),
        ("/podSelectorEndpoints/1", listed("web", "10.0.0.1")),
        ("/podIsolation/1", json!("Ingress")),
        ("/ingress/0/unknown", json!([])),
        ("/ingress/0/cidr", json!("fd00::1/128")),
        ("/ingress/0/cidr", json!("FD00:0::0001")),
        ("/ingress/0/except", json!(["10.0.0.0/8"])),
        ("/ingress/0/domainName", json!("a.example")),
        ("/ingress/0/ports/0/unknown", json!(true)),
        ("/ingress/0/ports/0/protocol", json!(null)),
        ("/ingress/0/ports/0/protocol", json!("")),
        ("/ingress/0/ports/0/endPort", json!(80)),
        ("/ingress/0/ports/1", json!({"port": 80})),
        ("/ingress/1", from("fd00::1", 80)),
        ("/egress", json!(null)),
        ("/egress", json!([])),
    ] {
        let mut other = plain.clone();
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        let parent = other.pointer_mut(parent).unwrap();
        match parent.as_array_mut() {
            Some(list) => list.push(written),
            None => parent[last] = written,
        }
        let slice = slice_of("ns", "p-1", other, owned_by("p", "n"));
        assert_eq!(slice, plain_slice, "{pointer}");
    }
}

#[test]
fn an_empty_slice_is_a_slice_and_changes_nothing_of_the_others() {
    let empty = json!({"policyRef": {"name": "p", "namespace": "ns"}});
    let mut desk = Desk::new();
    desk.pod("web", Some(pod("web", "u", "web", Some("10.0.0.1"))));
    desk.policy("p", Some(policy("n", true, false)));
    let pods = [listed("web", "10.0.0.1")];
    let whole = spec(&["Ingress"], &pods, json!([from("10.0.0.7", 80)]));
    desk.slice("p-1", whole.clone(), owned_by("p", "n"));
    desk.pass(300 * MS);
    let before = desk.objects.clone();
    // Twice the same, and one with nothing.
    desk.slice("p-2", whole, owned_by("p", "n"));
    desk.slice("p-3", empty, owned_by("p", "n"));
    desk.pass(300 * MS);
    assert_eq!(desk.objects, before);
}

#[test]
fn slices_of_an_absent_owner_do_nothing_until_it_comes() {
    let mut desk = Desk::new();
    desk.pod("web", Some(pod("web", "u", "web", Some("10.0.0.1"))));
    let pods = [listed("web", "10.0.0.1")];
    let slice = spec(&["Ingress"], &pods, json!([from("10.0.0.7", 80)]));
    desk.slice("p-1", slice, owned_by("p", "n"));
    desk.pass(Duration::from_secs(20));
    assert!(!desk.is_isolated("web", Ingress));
    assert!(desk.objects.policies.is_empty() && desk.objects.listed.is_empty());
    assert_eq!(desk.warnings, [""; 0]);
    desk.policy("p", Some(policy("n", true, false)));
    assert!(desk.is_isolated("web", Ingress));
    assert_eq!(desk.judge("web", Ingress, "10.0.0.7", 80), Verdict::Allow);
}

#[test]
fn what_cannot_be_read_allows_nothing_and_is_named() {
    for (written, read, error) in [
        (json!([{"cidr": "ten"}]), vec![], "spec.egress[0].cidr"),
        (json!([{"cidr": 10}]), vec![], "spec.egress[0]"),
        (json!([{}]), vec![], "spec.egress[0]"),
        (json!(["10.0.0.1"]), vec![], "spec.egress[0]"),
        (json!({}), vec![], "spec.egress"),
        (
            json!([{"domainName": "a.example"}]),
            vec![],
            "spec.egress[0]: domain names",
        ),
        (
            json!([{"cidr": "10.0.0.0/8", "except": ["all"]}]),
            vec![],
            "spec.egress[0].except[0]",
        ),
        (
            json!([{"cidr": "10.0.0.1", "ports": [{"port": 0}]}]),
            vec![entry("10.0.0.1/32", &[], &[Port::Invalid])],
            "spec.egress[0].ports[0].port",
        ),
        (
            json!([{"cidr": "10.0.0.1", "ports": [{"protocol": "ICMP"}, {"port": 80}]}]),
            vec![entry("10.0.0.1/32", &[], &[Port::Invalid, tcp(80, 80)])],
            "spec.egress[0].ports[0].protocol",
        ),
        (
            json!([{"cidr": "10.0.0.1", "ports": [{"endPort": 80}]}]),
            vec![entry("10.0.0.1/32", &[], &[Port::Invalid])],
            "spec.egress[0].ports[0].endPort",
        ),
        (
            json!([{"cidr": "10.0.0.1", "ports": [{"port": 80, "endPort": 79}]}]),
            vec![entry("10.0.0.1/32", &[], &[Port::Invalid])],
            "spec.egress[0].ports[0].endPort",
        ),
    ] {
        let (found, errors) = entries(written.clone());
        assert_eq!(found, read, "{written}");
        assert_eq!(errors.len(), 1, "{written}: {errors:?}");
        assert!(errors[0].starts_with(error), "{written}: {errors:?}");
    }
}

#[test]
fn a_direction_that_cannot_be_read_isolates_both() {
    for (written, isolates, is_wrong) in [
        (json!(null), (false, false), false),
        (json!([]), (false, false), false),
        (json!(["Ingress"]), (true, false), false),
        (json!(["Egress", "Egress"]), (false, true), false),
        (json!(["egress"]), (true, true), true),
        (json!([1]), (true, true), true),
        (json!("Ingress"), (true, true), true),
    ] {
        let spec = json!({"policyRef": {"name": "p", "namespace": "ns"}, "podIsolation": written});
        let converted = slice::convert(&metadata("ns", "p-1", None), &spec);
        let slice = converted.value.slice;
        assert_eq!(
            (slice.isolates_ingress, slice.isolates_egress),
            isolates,
            "{spec}"
        );
        assert_eq!(!converted.errors.is_empty(), is_wrong, "{spec}");
    }
}

#[test]
fn an_unreadable_object_is_its_owners_slice_allowing_nothing() {
    for spec in [
        json!(null),
        json!(7),
        json!({}),
        json!({"policyRef": {"name": "p"}}),
    ] {
        let converted = slice::convert(&metadata("ns", "p-1", owned_by("p", "n")), &spec);
        let slice = converted.value.slice;
        assert_eq!(slice.policy.name, ObjectName::new("ns", "p"), "{spec}");
        assert_eq!(
            slice.policy.owner,
            Owner::NetworkPolicy("n".into()),
            "{spec}"
        );
        assert!(slice.ingress.is_empty() && slice.egress.is_empty());
        assert!(!converted.errors.is_empty(), "{spec}");
    }
}

/// An object that does not fit its type keeps its owner and its end.
#[test]
fn an_object_of_the_wrong_form_keeps_its_owner_and_its_end() {
    fn salvaged<K: Kind>(metadata: Value) -> K::Value {
        let mut object =
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "n"}, "spec": {}});
        // A type that no version of Kubernetes has.
        object["metadata"]["generation"] = json!("new form");
        let metadata = metadata.as_object().unwrap().clone();
        object["metadata"].as_object_mut().unwrap().extend(metadata);
        let seen: Seen<K> = serde_json::from_value(object).unwrap();
        assert!(seen.errors[0].contains("cannot be read"), "{seen:?}");
        seen.value
    }
    let owners = json!({"ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "c"},
        owned_by("p", "n"),
    ]});
    let slice = salvaged::<PolicyEndpoints>(owners);
    assert_eq!(slice.policy.name, ObjectName::new("ns", "p"));
    assert_eq!(slice.policy.owner, Owner::NetworkPolicy("n".into()));
    let going = json!({"deletionTimestamp": "2026-11-21T10:00:00Z"});
    assert!(salvaged::<OwnerPolicies>(going).deleting);
    assert!(!salvaged::<OwnerPolicies>(json!({})).deleting);
}

#[test]
fn nobody_changes_policy_in_another_namespace() {
    let spec = json!({
        "policyRef": {"name": "p", "namespace": "other"},
        "podSelectorEndpoints": [{"name": "a", "namespace": "other", "podIP": "10.0.0.1", "hostIP": "192.0.2.1"}],
        "podIsolation": ["Ingress"],
    });
    let converted = slice::convert(&metadata("ns", "p-1", None), &spec);
    let slice = converted.value.slice;
    assert_eq!(slice.policy.name.namespace, "ns");
    assert!(slice.pods.is_empty());
    assert_eq!(converted.errors.len(), 2, "{:?}", converted.errors);
}
