// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The source `policyendpoints`, with a controller that the test plays: it acts when the test says so.

use std::net::IpAddr;
use std::time::Duration;

use podgate_tests::cluster::{
    Alone, Cluster, Enforcer, NODES, Namespace, Pod, PodSpec, Readiness, wait_for,
};
use podgate_tests::controller::{Controller, Written};

const FLAGS: [&str; 2] = ["--source", "policyendpoints"];

/// How long a connection that is denied is waited for.
const DENIED: Duration = Duration::from_millis(700);
/// How long what must come may take on a busy machine. A kind that is missing is asked for every half minute at least.
const COMES: Duration = Duration::from_secs(60);

/// Clients may reach the servers' TCP port 80, and nobody else may.
const POLICY: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {\
    podSelector: {matchLabels: {role: server}}, policyTypes: [Ingress], ingress: [{\
    from: [{podSelector: {matchLabels: {role: client}}}], ports: [{port: 80}]}]}}";

fn with_crd() -> Alone {
    let cluster = Cluster::alone();
    cluster.define("policyendpoints");
    cluster
}

fn enforcers(cluster: &Cluster) -> [Enforcer; 2] {
    NODES.map(|node| Enforcer::start(cluster, node, &FLAGS))
}

fn pod(name: &str, role: &str, node: &'static str) -> PodSpec {
    PodSpec::new(name).label("role", role).on(node)
}

/// The primary address, the only one that the controller knows of.
fn address(pod: &Pod<'_>) -> IpAddr {
    pod.addresses[0]
}

/// Has the controller write until it has nothing to write.
fn reconcile(controller: &Controller) {
    wait_for(
        "the controller has written everything",
        COMES,
        || match controller.reconcile() {
            Ok(written) => written == Written::default(),
            Err(error) => {
                eprintln!("{error:#}");
                false
            }
        },
    );
}

fn slices(namespace: &Namespace<'_>) -> usize {
    let names = namespace.kubectl(&["get", "policyendpoints", "-o", "name"]);
    names.lines().count()
}

#[test]
fn a_definition_that_is_missing_is_waited_for_and_said() {
    let cluster = Cluster::alone();
    cluster.kubectl(&[
        "delete",
        "crd",
        "policyendpoints.networking.k8s.aws",
        "--ignore-not-found",
    ]);
    let enforcer = Enforcer::begin(&cluster, "node1", &FLAGS);
    wait_for(
        "the enforcer says what is missing",
        COMES,
        || match enforcer.readiness() {
            Readiness::Ready(_) => panic!("the enforcer is ready without PolicyEndpoints"),
            Readiness::Not(said) => {
                said.contains("policyendpoints") && said.contains("install/crds")
            }
        },
    );
    cluster.define("policyendpoints");
    enforcer.wait_until_ready(COMES);
}

/// A cluster-wide policy is said to be unsupported as long as it is there.
#[test]
fn a_cluster_wide_policy_is_reported_as_unsupported() {
    let cluster = with_crd();
    cluster.define("clusterpolicyendpoints");
    let enforcer = Enforcer::start(&cluster, "node1", &FLAGS);
    let says = || match enforcer.readiness() {
        Readiness::Ready(said) => said.contains("ClusterNetworkPolicy isolate"),
        Readiness::Not(said) => panic!("the enforcer is not ready: {said}"),
    };
    assert!(!says());
    cluster.apply(
        "{apiVersion: networking.k8s.aws/v1alpha1, kind: ClusterPolicyEndpoint, metadata: {name: isolate-x7k2p}, spec: {\
         policyRef: {name: isolate}, tier: Admin, priority: 1, subject: {namespaces: {}}, \
         ingress: [{cidr: 0.0.0.0/0, action: Deny}]}}",
    );
    wait_for("it is said", COMES, says);
    assert!(enforcer.log().contains("ClusterNetworkPolicy isolate"));
    let kind = "clusterpolicyendpoints.networking.k8s.aws";
    cluster.kubectl(&["delete", "crd", kind]);
    wait_for("it is not said any more", COMES, || !says());
}

#[test]
fn pods_of_both_nodes_are_policed_by_what_the_controller_writes() {
    let cluster = with_crd();
    let _enforcers = enforcers(&cluster);
    let namespace = cluster.namespace("slices");
    let [server, one, two, stranger] = namespace.start([
        pod("server", "server", "node1"),
        pod("one", "client", "node1"),
        pod("two", "client", "node2"),
        pod("stranger", "none", "node2"),
    ]);
    let controller = cluster.policy_controller(1);
    assert!(stranger.connects(address(&server), 80, COMES));

    namespace.apply(POLICY);
    reconcile(&controller);
    assert_eq!(slices(&namespace), 2, "two clients in chunks of one");
    wait_for("the stranger is denied", COMES, || {
        !stranger.connects(address(&server), 80, DENIED)
    });
    for client in [&one, &two] {
        assert!(
            client.connects(address(&server), 80, COMES),
            "{}",
            client.name
        );
        assert!(
            !client.connects(server.addresses[1], 80, DENIED),
            "the controller knows no second family"
        );
    }

    // A peer comes, and another one goes.
    let [three] = namespace.start([pod("three", "client", "node2")]);
    assert!(!three.connects(address(&server), 80, DENIED));
    namespace.kubectl(&["label", "pod", "two", "role=none", "--overwrite"]);
    reconcile(&controller);
    wait_for("the new client is let in", COMES, || {
        three.connects(address(&server), 80, DENIED)
    });
    wait_for("the former client is denied", COMES, || {
        !two.connects(address(&server), 80, DENIED)
    });
    assert!(one.connects(address(&server), 80, COMES));
}

#[test]
fn a_pod_starts_with_its_policy_before_the_controller_lists_it() {
    let cluster = with_crd();
    let _enforcers = enforcers(&cluster);
    let namespace = cluster.namespace("starts");
    let [first, client, stranger] = namespace.start([
        pod("first", "server", "node1"),
        pod("client", "client", "node2"),
        pod("stranger", "none", "node2"),
    ]);
    namespace.apply(POLICY);
    reconcile(&cluster.policy_controller(200));
    wait_for("the policy is in force", COMES, || {
        !stranger.connects(address(&first), 80, DENIED)
    });

    // The controller does nothing from here on.
    let [second] = namespace.start([pod("second", "server", "node1")]);
    assert!(!stranger.connects(address(&second), 80, DENIED));
    assert!(client.connects(address(&second), 80, COMES));
    let listed = namespace.kubectl(&["get", "policyendpoints", "-o", "yaml"]);
    assert!(!listed.contains("second"), "{listed}");
}

/// A policy without slices isolates new pods at once and running ones in the end, and says so.
#[test]
fn a_policy_without_slices_isolates_running_pods_in_the_end() {
    let cluster = with_crd();
    let [enforcer, _other] = enforcers(&cluster);
    let namespace = cluster.namespace("missing");
    let [running, client] = namespace.start([
        pod("running", "server", "node1"),
        pod("client", "client", "node2"),
    ]);
    namespace.apply(POLICY);
    let [new] = namespace.start([pod("new", "server", "node1")]);
    assert!(!client.connects(address(&new), 80, DENIED));
    wait_for("the running pod is isolated too", COMES, || {
        !client.connects(address(&running), 80, DENIED)
    });
    wait_for("the enforcer says so", COMES, || is_overdue(&enforcer));
    reconcile(&cluster.policy_controller(200));
    wait_for("the client is let in", COMES, || {
        client.connects(address(&running), 80, DENIED)
    });
    wait_for("the enforcer says so no more", COMES, || {
        !is_overdue(&enforcer)
    });
}

/// Whether an enforcer misses the slices of a policy. It must be ready all the same: no tenant's object holds up a rollout.
fn is_overdue(enforcer: &Enforcer) -> bool {
    match enforcer.readiness() {
        Readiness::Ready(said) => said.contains("no PolicyEndpoint"),
        Readiness::Not(said) => panic!("the enforcer is not ready: {said}"),
    }
}

/// An enforcer that starts isolates by policies without slices, and is ready.
#[test]
fn a_starting_enforcer_isolates_by_policies_without_slices() {
    let cluster = with_crd();
    let namespace = cluster.namespace("left");
    let [server, client] = {
        let _enforcers = enforcers(&cluster);
        let pods = namespace.start([
            pod("server", "server", "node1"),
            pod("client", "client", "node2"),
        ]);
        assert!(pods[1].connects(address(&pods[0]), 80, COMES));
        pods
    };
    namespace.apply(POLICY);
    let [enforcer, _other] = enforcers(&cluster);
    assert!(!client.connects(address(&server), 80, DENIED));
    wait_for("the enforcer says so", COMES, || is_overdue(&enforcer));
}

#[test]
fn a_policy_that_is_being_deleted_counts_as_gone() {
    let cluster = with_crd();
    let _enforcers = enforcers(&cluster);
    let namespace = cluster.namespace("going");
    let [server, stranger] = namespace.start([
        pod("server", "server", "node1"),
        pod("stranger", "none", "node2"),
    ]);
    namespace.apply(POLICY);
    reconcile(&cluster.policy_controller(200));
    wait_for("the policy is in force", COMES, || {
        !stranger.connects(address(&server), 80, DENIED)
    });
    let finalizers = |list: &str| {
        let patch = format!("{{\"metadata\":{{\"finalizers\":{list}}}}}");
        namespace.kubectl(&["patch", "networkpolicy", "p", "--type=merge", "-p", &patch]);
    };
    // What the controller of EKS puts on every policy.
    finalizers("[\"networking.k8s.aws/resources\"]");
    namespace.kubectl(&["delete", "networkpolicy", "p", "--wait=false"]);
    wait_for("the stranger is let in", COMES, || {
        stranger.connects(address(&server), 80, DENIED)
    });
    assert_eq!(slices(&namespace), 1, "the slices are still there");
    finalizers("[]");
}
