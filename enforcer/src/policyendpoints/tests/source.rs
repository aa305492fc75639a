// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The source as a whole: what it hears of every kind, and when and what the engine is told.

use podgate_policy::connection::Direction::Egress;
use podgate_policy::connection::Verdict::{Allow, Deny};

use super::super::*;
use super::*;
use crate::api::Seen;

fn source() -> Source {
    Source {
        node: "here".into(),
        ..Source::default()
    }
}

fn object<K: Kind>(object: Value) -> Said<K> {
    let seen: Seen<K> = serde_json::from_value(object).unwrap();
    assert_eq!(seen.errors, [""; 0]);
    Said::Object(Box::new(seen))
}

/// An object of namespace `ns` whose UID is its name.
fn metadata_of(name: &str) -> Value {
    json!({"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1"})
}

fn a_slice(name: &str) -> Message {
    let mut metadata = metadata_of(name);
    metadata["ownerReferences"] = json!([owned_by("p", "n")]);
    let pods = [listed("web", "10.0.0.1")];
    let mut spec = spec(&["Egress"], &pods, json!([]));
    spec["egress"] = json!([from("10.0.0.5", 80), from("10.0.1.6", 80)]);
    Message::Slices(object(json!({"metadata": metadata, "spec": spec})))
}

/// Takes messages, and gives time enough for slices to settle. What the engine is told goes to `objects`.
fn hear(source: &mut Source, objects: &mut Objects, messages: Vec<Message>, now: &mut Instant) {
    for message in messages {
        source.take(message, *now);
    }
    *now += Duration::from_secs(1);
    match source.news(None, *now) {
        Some(News::Update(update)) => {
            for change in update.changes {
                objects.apply(change);
            }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_endpoint_on_another_node_is_judged_as_an_address_in_lists() {
    let pod = |name: &str, address: &str| {
        Message::Pods(object(json!({
            "metadata": metadata_of(name),
            "spec": {"containers": [], "nodeName": "here"},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
        })))
    };
    let endpoint = |name: &str, address: &str, node: Value| {
        json!({
            "addresses": [address],
            "conditions": {"ready": true},
            "nodeName": node,
            "targetRef": {"kind": "Pod", "namespace": "ns", "name": name, "uid": name},
        })
    };
    let policy = Message::Policies(object(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "n"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"]},
    })));
    let service = Message::Services(object(json!({
        "metadata": metadata_of("svc"),
        "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}]},
    })));
    let endpoints = |second: Value| {
        let mut metadata = metadata_of("svc-1");
        metadata["labels"] = json!({"kubernetes.io/service-name": "svc"});
        Message::Endpoints(object(json!({
            "metadata": metadata,
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
            "endpoints": [endpoint("near", "10.0.0.5", json!("here")), second],
        })))
    };
    let (mut source, mut objects) = (source(), Objects::default());
    let mut now = Instant::now();
    let mut first = vec![
        a_slice("p-1"),
        policy,
        pod("web", "10.0.0.1"),
        pod("near", "10.0.0.5"),
        service,
    ];
    first.extend(Message::listed_all());
    hear(&mut source, &mut objects, first, &mut now);
    for (second, expected) in [
        (endpoint("far", "10.0.1.6", json!("there")), Allow),
        (endpoint("far", "10.0.1.7", json!("there")), Deny),
        (endpoint("far", "10.0.1.7", json!(null)), Deny),
        // A pod of this node that is not known yet is the address that it has.
        (endpoint("soon", "10.0.0.6", json!("here")), Deny),
        (endpoint("soon", "10.0.1.6", json!("here")), Allow),
        (endpoint("other", "10.0.0.5", json!("here")), Deny),
    ] {
        let said = vec![endpoints(second.clone())];
        hear(&mut source, &mut objects, said, &mut now);
        let mut world = world_of(&objects);
        world.pods = objects
            .pods
            .iter()
            .map(|(name, pod)| (name.clone(), Arc::clone(&pod.pod)))
            .collect();
        world.services = objects.services.clone();
        world.endpoint_slices = objects.endpoint_slices.clone();
        let name = ObjectName::new("ns", "web");
        let subject = Subject::new(name.clone(), &world.pods[&name], Baseline::Allow);
        let connection = Connection {
            direction: Egress,
            peer: "10.96.0.9".parse().unwrap(),
            transport: Transport::Port(Protocol::Tcp, 80),
        };
        assert_eq!(verdict(&world, &subject, &connection), expected, "{second}");
    }
}

/// A cluster-wide policy is reported, and nothing waits for the list of such policies.
#[test]
fn a_cluster_wide_policy_is_reported_and_not_waited_for() {
    let (mut source, now) = (source(), Instant::now());
    for message in Message::listed_all() {
        source.take(message, now);
    }
    assert!(matches!(source.news(None, now), Some(News::Update(_))));
    let seen = serde_json::from_value(json!({
        "metadata": {"name": "isolate-x7k2p", "uid": "u", "resourceVersion": "1"},
        "spec": {"policyRef": {"name": "isolate"}, "tier": "Admin"},
    }));
    let said = Said::Object(Box::new(seen.unwrap()));
    source.take(Message::Unsupported(said), now);
    let Some(News::Update(update)) = source.news(None, now) else {
        panic!("nothing is told")
    };
    assert!(update.changes.is_empty() && update.wrong.errors.is_empty());
    let [warning] = update.wrong.warnings.as_slice() else {
        panic!("{:?}", update.wrong)
    };
    let says = "ClusterNetworkPolicy isolate (tier Admin) is not enforced";
    assert!(warning.text.contains(says), "{warning}");
}

#[test]
fn nothing_is_due_before_every_kind_is_listed() {
    let (mut source, now) = (source(), Instant::now());
    source.take(a_slice("p-1"), now);
    assert_eq!(source.due(), None);
    let later = now + Duration::from_millis(200);
    let mut other = a_slice("q-1");
    if let Message::Slices(Said::Object(seen)) = &mut other {
        Arc::make_mut(&mut seen.value).policy.name = ObjectName::new("ns", "q");
    }
    source.take(other, later);
    for message in Message::listed_all() {
        assert_eq!(source.due(), None);
        source.take(message, later);
    }
    let quiet = later + 300 * MS;
    assert_eq!(source.due(), Some(quiet), "the last of them, not the first");
    assert!(matches!(
        source.news(None, quiet - MS),
        None | Some(News::NotSynced(_))
    ));
    assert!(matches!(source.news(None, quiet), Some(News::Update(_))));
    assert_eq!(source.due(), None);
}

/// Whoever may write NetworkPolicies would keep every enforcer from starting.
#[test]
fn policies_that_come_all_the_time_hold_up_no_start() {
    let (mut source, begin) = (source(), Instant::now());
    for message in Message::listed_all() {
        source.take(message, begin);
    }
    let mut now = begin;
    for number in 0.. {
        let mut another = a_slice(&format!("{number}-1"));
        if let Message::Slices(Said::Object(seen)) = &mut another {
            Arc::make_mut(&mut seen.value).policy.name = ObjectName::new("ns", number.to_string());
        }
        source.take(another, now);
        if let Some(News::Update(_)) = source.news(None, now) {
            break;
        }
        assert!(now < begin + 5 * Duration::from_secs(1), "{number}");
        now = (now + 200 * MS).min(source.due().unwrap());
    }
    assert_eq!(now, begin + settle::PATIENCE);
}

/// The engine learns that everything was listed, though there is nothing.
#[test]
fn the_engine_learns_that_all_is_listed_though_it_is_empty() {
    let (mut source, now) = (source(), Instant::now());
    assert!(matches!(source.news(None, now), Some(News::NotSynced(_))));
    assert!(source.news(None, now).is_none());
    for message in Message::listed_all() {
        source.take(message, now);
    }
    assert!(matches!(source.news(None, now), Some(News::Update(_))));
    assert!(source.news(None, now).is_none());
}
