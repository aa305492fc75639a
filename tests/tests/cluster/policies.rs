// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Policies from the API server, on pods of both nodes.

use std::time::Duration;

use podgate_tests::cluster::{Cluster, NODES, Namespace, Pod, PodSpec, wait_for};

/// How long what must come may take on a busy machine.
const FOUND: Duration = Duration::from_secs(10);

/// How long what must not come is waited for.
const LOST: Duration = Duration::from_millis(400);

const DENY_ALL: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny-all}, \
    spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}";

const WEB_FROM_FRIENDS: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web}, \
    spec: {podSelector: {matchLabels: {role: web}}, policyTypes: [Ingress], \
    ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: 80}]}]}}";

const FRIENDS_TO_WEB: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: friends}, \
    spec: {podSelector: {matchLabels: {role: friend}}, policyTypes: [Egress], \
    egress: [{to: [{podSelector: {matchLabels: {role: web}}}]}]}}";

/// Whether every one of `from` reaches port 80 of every one of `to`, or none does; panics with who differs.
fn reach(from: &[Pod<'_>], to: &[Pod<'_>]) -> bool {
    let limit = LOST;
    let mut reached = Vec::new();
    for (client, server) in from.iter().flat_map(|c| to.iter().map(move |s| (c, s))) {
        for address in &server.addresses {
            let pair = format!("{} to {} at {address}", client.name, server.name);
            reached.push((client.connects(*address, 80, limit), pair));
        }
    }
    let all = reached.iter().all(|(reached, _)| *reached);
    let none = reached.iter().all(|(reached, _)| !reached);
    assert!(
        all || none,
        "some are reached and some are not: {reached:#?}"
    );
    all
}

/// A web server, a friend and a stranger on each node.
fn scene<'a>(namespace: &Namespace<'a>) -> [[Pod<'a>; 2]; 3] {
    ["web", "friend", "stranger"].map(|role| {
        let specs = NODES.map(|node| {
            PodSpec::new(&format!("{role}-{node}"))
                .on(node)
                .label("role", role)
        });
        namespace.start(specs)
    })
}

/// Waits until a change that the test has made has come to both nodes: until then pairs differ.
fn settles(what: &str, from: &[Pod<'_>; 2], to: &[Pod<'_>; 2], reached: bool) {
    wait_for(what, FOUND, || {
        from.iter().zip(to).all(|(client, server)| {
            let mut addresses = server.addresses.iter();
            addresses.all(|address| client.connects(*address, 80, LOST) == reached)
        })
    });
}

#[test]
fn deny_all_and_then_an_allowance_take_effect_on_both_nodes() {
    let cluster = Cluster::enforced();
    let namespace = cluster.namespace("policies");
    let [web, friend, stranger] = scene(&namespace);
    assert!(reach(&friend, &web));
    assert!(reach(&stranger, &web));

    namespace.apply(DENY_ALL);
    settles("deny-all is in force", &friend, &web, false);
    assert!(!reach(&friend, &web));
    assert!(!reach(&stranger, &web));
    for server in &web {
        let place = format!("{}:80", server.addresses[0]);
        let node_to_pod = ["agnhost", "connect", "--timeout=5s", &place];
        cluster.in_node(&server.node, &node_to_pod);
    }

    namespace.apply(WEB_FROM_FRIENDS);
    namespace.apply(FRIENDS_TO_WEB);
    settles("friends are let in", &friend, &web, true);
    assert!(reach(&friend, &web));
    assert!(!reach(&stranger, &web));

    for pod in &friend {
        namespace.kubectl(&["label", "pod", &pod.name, "role=stranger", "--overwrite"]);
    }
    settles("friends that are strangers now", &friend, &web, false);
    namespace.kubectl(&["delete", "networkpolicies", "--all"]);
    settles("no policy is left", &stranger, &web, true);
    assert!(reach(&friend, &web));
}
