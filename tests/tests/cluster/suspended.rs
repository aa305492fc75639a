// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A namespace whose policies do not fit.

use std::time::Duration;

use podgate_tests::cluster::{Cluster, Enforcer, NODES, Pod, PodSpec, Readiness, wait_for};
use podgate_tests::metrics::value_of;

/// How long what must come may take on a busy machine.
const COMES: Duration = Duration::from_secs(60);

/// How long what must not come is waited for.
const LOST: Duration = Duration::from_millis(400);

/// A policy in which peers and ports multiply to more than a node has for all namespaces.
fn too_heavy() -> String {
    const NUMBER: usize = 1_900;
    let peer = |n: usize| format!("{{ipBlock: {{cidr: 198.51.{}.{}/32}}}}", n >> 8, n & 255);
    let peers: Vec<_> = (0..NUMBER).map(peer).collect();
    let ports: Vec<_> = (1..=NUMBER)
        .map(|n| format!("{{port: {}}}", 2 * n))
        .collect();
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: heavy}}, spec: {{podSelector: {{}}, \
         policyTypes: [Egress], egress: [{{to: [{}], ports: [{}]}}]}}}}",
        peers.join(", "),
        ports.join(", ")
    )
}

/// Whether it says so, and is ready all the same: no tenant's object holds up a rollout.
fn is_suspended(enforcer: &Enforcer, namespace: &str) -> bool {
    match enforcer.readiness() {
        Readiness::Ready(said) => {
            said.contains(&format!("warning: namespace {namespace} is suspended"))
        }
        Readiness::Not(said) => panic!("the enforcer is not ready: {said}"),
    }
}

/// How many Events it knows to be at the API server: those that it has written, and those that it has found there.
fn events(enforcer: &Enforcer) -> [u64; 2] {
    let metrics = enforcer.metrics();
    ["created", "found"].map(|outcome| {
        let events = format!("podgate_events_total{{outcome=\"{outcome}\"}}");
        value_of(&metrics, &events).unwrap_or(0)
    })
}

/// A namespace that does not fit is denied on both nodes, and has one Event until it fits.
#[test]
fn a_namespace_that_does_not_fit_is_denied_until_it_fits() {
    let cluster = Cluster::enforced();
    let namespace = cluster.namespace("large");
    let name = namespace.name();
    let [one, two] = namespace.start(NODES.map(|node| PodSpec::new(node).on(node)));
    let reaches = |from: &Pod<'_>, to: &Pod<'_>, limit| from.connects(to.addresses[0], 80, limit);
    assert!(reaches(&one, &two, COMES) && reaches(&two, &one, COMES));
    let enforcers = NODES.map(|node| cluster.enforcer_of(node));
    let before = enforcers.map(events);

    namespace.apply(&too_heavy());
    for enforcer in enforcers {
        wait_for("the namespace is suspended", COMES, || {
            is_suspended(enforcer, name)
        });
    }
    assert!(!reaches(&one, &two, LOST) && !reaches(&two, &one, LOST));
    wait_for("each node has seen to the Event", COMES, || {
        let now = enforcers.map(events);
        now.iter().zip(before).all(|(now, before)| {
            let [now, before]: [u64; 2] = [now.iter().sum(), before.iter().sum()];
            now > before
        })
    });
    let created = |of: [[u64; 2]; 2]| of[0][0] + of[1][0];
    assert_eq!(created(enforcers.map(events)), created(before) + 1);

    let chosen = "--field-selector=reason=PoliciesSuspended";
    let found = cluster.get(&["-n", name, "events", chosen]);
    let [event] = found["items"].as_array().expect("a list").as_slice() else {
        panic!("one Event: {found:#}")
    };
    let regarding = &event["involvedObject"];
    assert_eq!(
        [&regarding["kind"], &regarding["name"]],
        ["Namespace", name]
    );
    let message = event["message"].as_str().expect("a text");
    for part in [&format!("namespace {name} is suspended"), " (node node"] {
        assert!(message.contains(part), "{message}");
    }
    let object = format!("namespace/{name}");
    let told = namespace.kubectl(&["events", "--for", &object]);
    assert!(told.contains("PoliciesSuspended"), "{told}");

    namespace.kubectl(&["delete", "networkpolicy", "heavy"]);
    wait_for("the pods are open again", COMES, || {
        reaches(&one, &two, LOST) && reaches(&two, &one, LOST)
    });
}
