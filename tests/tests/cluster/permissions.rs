// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ClusterRole of `install/rbac.yaml`: the enforcer needs each permission, and says which one it lacks.

use std::time::Duration;

use podgate_tests::cluster::{Alone, Cluster, Enforcer, PodSpec, Readiness, Role, wait_for};

const LIMIT: Duration = Duration::from_secs(30);

/// How long what must not come is waited for.
const LOST: Duration = Duration::from_millis(400);

const SOURCE: [&str; 2] = ["--source", "networkpolicies"];

/// The source that needs what a controller has worked out.
const WORKED_OUT: [&str; 2] = ["--source", "policyendpoints"];

/// A cluster with what [`WORKED_OUT`] reads.
fn with_definitions() -> Alone {
    let cluster = Cluster::alone();
    for plural in ["policyendpoints", "clusterpolicyendpoints"] {
        cluster.define(plural);
    }
    cluster
}

/// Without one permission the enforcer is not ready and says which, and with it the enforcer is ready again.
#[test]
fn a_missing_permission_is_named_and_ends_readiness() {
    let cluster = with_definitions();
    let role = Role::shipped(&cluster);
    for permission in role.permissions() {
        let [group, resource, verb] = &permission;
        // A single pod is asked for by an ADD only, and Events keep no node from being ready.
        if verb == "get" || verb == "create" {
            continue;
        }
        let source = if group == "networking.k8s.aws" {
            &WORKED_OUT
        } else {
            &SOURCE
        };
        role.without(std::slice::from_ref(&permission));
        let enforcer = Enforcer::begin(&cluster, "node1", source);
        let what = format!("{verb} {resource} is missed");
        wait_for(&what, LIMIT, || match enforcer.readiness() {
            Readiness::Ready(_) => false,
            Readiness::Not(said) => said.contains("forbidden") && said.contains(resource.as_str()),
        });
        assert!(enforcer.log().contains("forbidden"), "{}", enforcer.log());
        role.whole(std::slice::from_ref(&permission));
        enforcer.wait_until_ready(LIMIT);
    }
}

/// Without the permission for Events the enforcer is ready and says that they are refused, and with it the enforcer
/// writes one. What is the matter with an object without a namespace is reported in the namespace `default`.
#[test]
fn without_events_the_enforcer_is_ready_and_reports_it() {
    let cluster = with_definitions();
    let role = Role::shipped(&cluster);
    cluster.apply(
        "{apiVersion: networking.k8s.aws/v1alpha1, kind: ClusterPolicyEndpoint, metadata: {name: told}, spec: {\
         policyRef: {name: told}, tier: Admin, priority: 1, subject: {namespaces: {}}, \
         ingress: [{cidr: 0.0.0.0/0, action: Deny}]}}",
    );
    let taken = [["events.k8s.io", "events", "create"].map(str::to_owned)];
    role.without(&taken);
    let enforcer = Enforcer::start(&cluster, "node1", &WORKED_OUT);
    let refused = "podgate_events_total{outcome=\"refused\"} 1\n";
    wait_for("the Event is refused", LIMIT, || {
        enforcer.metrics().contains(refused)
    });
    let log = enforcer.log();
    let says = |line: &&str| line.contains("refuses an Event") && line.contains("forbidden");
    assert_eq!(log.lines().filter(says).count(), 1, "{log}");
    assert!(matches!(enforcer.readiness(), Readiness::Ready(_)));
    enforcer.stop();

    role.whole(&taken);
    let _enforcer = Enforcer::start(&cluster, "node1", &WORKED_OUT);
    let chosen = "--field-selector=reason=PolicyNotEnforced,involvedObject.name=told";
    wait_for("the Event is written", LIMIT, || {
        let found = cluster.get(&["-n", "default", "events", chosen]);
        found["items"].as_array().expect("a list").len() == 1
    });
    let kind = "clusterpolicyendpoints.networking.k8s.aws";
    let told = cluster.kubectl(&["describe", kind, "told"]);
    assert!(told.contains("PolicyNotEnforced"), "{told}");
    cluster.kubectl(&["delete", kind, "told"]);
}

/// A pod that starts before everything is known is isolated, and what is allowed follows. Without the Services the
/// enforcer never knows everything, so an ADD asks the API server for the one pod.
#[test]
fn a_pod_started_before_all_is_known_is_isolated_first() {
    let cluster = Cluster::alone();
    let role = Role::shipped(&cluster);
    let far = cluster.namespace("known");
    let [server] = far.start([PodSpec::new("server").on("node2")]);
    let namespace = cluster.namespace("early");
    namespace.apply(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: out}, spec: {podSelector: {}, \
         policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {name: known}}}]}]}}",
    );
    let taken = [["", "services", "list"].map(str::to_owned)];
    role.without(&taken);
    let enforcer = Enforcer::begin(&cluster, "node1", &SOURCE);
    wait_for(
        "the enforcer knows only a part",
        LIMIT,
        || matches!(enforcer.readiness(), Readiness::Not(said) if said.contains("services")),
    );
    let [early] = namespace.start([PodSpec::new("early").on("node1")]);
    for address in &server.addresses {
        assert!(!early.connects(*address, 80, LOST), "{address}");
    }

    role.whole(&taken);
    enforcer.wait_until_ready(LIMIT);
    for address in &server.addresses {
        assert!(early.connects(*address, 80, LIMIT), "{address}");
    }
}
