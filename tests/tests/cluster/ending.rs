// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods and namespaces that are being deleted.

use std::time::Duration;

use podgate_tests::cluster::{Cluster, Namespace, Pod, PodSpec, wait_for};

/// How long what must come may take on a busy machine.
const FOUND: Duration = Duration::from_secs(15);

/// How long what must not come is waited for.
const LOST: Duration = Duration::from_millis(400);

/// How long pods go on when they are told to end: longer than a test looks at them.
const LINGERS: u32 = 60;

/// Only these peers come in to the pods of a namespace.
fn policy(name: &str, pods: &str, peer: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}}}, spec: {{\
         podSelector: {{{pods}}}, ingress: [{{from: [{{{peer}}}]}}]}}}}"
    )
}

/// Whether it reaches port 80 of the other one, in both families.
fn reaches(from: &Pod<'_>, to: &Pod<'_>) -> bool {
    to.addresses.iter().all(|at| from.connects(*at, 80, LOST))
}

/// Whether it reaches port 80 of the other one in neither family.
fn misses(from: &Pod<'_>, to: &Pod<'_>) -> bool {
    to.addresses.iter().all(|at| !from.connects(*at, 80, LOST))
}

/// Ends a pod that lingers; nobody waits for it.
fn end(namespace: &Namespace<'_>, pod: &Pod<'_>) {
    namespace.kubectl(&["delete", "pod", &pod.name, "--force", "--grace-period=0"]);
}

fn is_ending(namespace: &Namespace<'_>, pod: &Pod<'_>) -> bool {
    let object = namespace.try_kubectl(&["get", "pod", &pod.name, "-o", "json"]);
    object.is_ok_and(|object| object.contains("\"deletionTimestamp\""))
}

#[test]
fn a_pod_that_is_ending_is_subject_and_peer_until_it_has_ended() {
    let cluster = Cluster::enforced();
    let namespace = cluster.namespace("ending-pod");
    let friends = "podSelector: {matchLabels: {friend: 'yes'}}";
    namespace.apply(&policy("for-all", "", friends));
    let [ending, friend, stranger, other] = namespace.start([
        PodSpec::new("ending")
            .on("node1")
            .label("friend", "'yes'")
            .lingers(LINGERS),
        PodSpec::new("friend").on("node2").label("friend", "'yes'"),
        PodSpec::new("stranger").on("node1"),
        PodSpec::new("other").on("node2"),
    ]);
    wait_for("the policy is in force", FOUND, || {
        reaches(&ending, &other) && reaches(&friend, &ending) && misses(&stranger, &ending)
    });
    namespace.kubectl(&["delete", "pod", &ending.name, "--wait=false"]);
    for _ in 0..3 {
        assert!(reaches(&ending, &other), "it is a peer");
        assert!(reaches(&friend, &ending), "it lets its friends in");
        assert!(misses(&stranger, &ending), "it is a subject");
    }
    // What was asked for while it ended takes effect on it as on any other.
    namespace.kubectl(&["label", "pod", &stranger.name, "friend=yes"]);
    wait_for("one more friend", FOUND, || reaches(&stranger, &ending));
    assert!(is_ending(&namespace, &ending), "it lasted long enough");
    end(&namespace, &ending);
}

/// Pods of a namespace that is ending are its pods until they have ended.
#[test]
fn pods_of_an_ending_namespace_are_its_pods_until_they_end() {
    let cluster = Cluster::enforced();
    let ending = cluster.namespace("ending");
    let staying = cluster.namespace("staying");
    let of_ending = "namespaceSelector: {matchLabels: {name: ending}}";
    staying.apply(&policy("from-ending", "", of_ending));
    ending.apply(&policy("from-ending", "", of_ending));
    let [peer] = ending.start([PodSpec::new("peer").on("node1").lingers(LINGERS)]);
    let [server, stranger] = staying.start([
        PodSpec::new("server").on("node2"),
        PodSpec::new("stranger").on("node1"),
    ]);
    wait_for("both policies are in force", FOUND, || {
        reaches(&peer, &server) && misses(&stranger, &peer) && misses(&stranger, &server)
    });
    cluster.kubectl(&["delete", "namespace", ending.name(), "--wait=false"]);
    wait_for("it is ending", FOUND, || is_ending(&ending, &peer));
    // Kubernetes takes its policies away when its pods have ended.
    for _ in 0..3 {
        assert!(reaches(&peer, &server), "it is a peer");
        assert!(misses(&stranger, &peer), "it is a subject");
        assert!(misses(&stranger, &server), "nobody else is a peer");
    }
    assert!(is_ending(&ending, &peer), "it lasted long enough");
    end(&ending, &peer);
}
