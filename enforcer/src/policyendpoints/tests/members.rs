// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which pods a policy applies to, before and after the controller has listed them.

use podgate_policy::connection::Direction::{Egress, Ingress};
use podgate_policy::connection::Verdict::{Allow, Deny};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Policy `p` lets 10.0.0.7 in; its slices list `web`, which is running.
fn settled() -> Desk {
    let mut desk = Desk::new();
    desk.pod("web", Some(pod("web", "u", "web", Some("10.0.0.1"))));
    desk.policy("p", Some(policy("n", true, false)));
    desk.slice("p-1", slice_for(&["Ingress"]), owned_by("p", "n"));
    desk.pass(SECOND);
    desk
}

fn slice_for(isolation: &[&str]) -> Value {
    spec(
        isolation,
        &[listed("web", "10.0.0.1")],
        json!([from("10.0.0.7", 80)]),
    )
}

/// A new pod starts with the whole policy, before the controller lists it.
#[test]
fn a_new_pod_starts_with_the_whole_policy_before_it_is_listed() {
    let mut desk = settled();
    desk.pod("web-2", Some(pod("web-2", "u2", "web", None)));
    assert_eq!(desk.judge("web-2", Ingress, "10.0.0.7", 80), Allow);
    assert!(desk.is_isolated("web-2", Ingress));
    assert!(!desk.is_isolated("web-2", Egress));
    desk.pod("db", Some(pod("db", "u3", "db", None)));
    assert!(!desk.is_isolated("db", Ingress));
}

/// A new policy isolates new pods at once, and running ones with its slices.
#[test]
fn a_new_policy_isolates_running_pods_only_with_its_slices() {
    let mut desk = Desk::new();
    desk.pod("old", Some(pod("old", "u", "web", Some("10.0.0.1"))));
    desk.policy("p", Some(policy("n", true, true)));
    desk.pod("new", Some(pod("new", "u2", "web", None)));
    for direction in [Ingress, Egress] {
        assert!(!desk.is_isolated("old", direction));
        assert!(desk.is_isolated("new", direction));
    }
    desk.slice("p-1", slice_for(&["Ingress", "Egress"]), owned_by("p", "n"));
    assert!(!desk.is_isolated("old", Ingress));
    desk.pass(300 * MS);
    for pod in ["old", "new"] {
        assert!(desk.is_isolated(pod, Ingress) && desk.is_isolated(pod, Egress));
        assert_eq!(desk.judge(pod, Ingress, "10.0.0.7", 80), Allow);
    }
    assert_eq!(desk.warnings, [""; 0]);
}

/// A policy whose slices never come isolates after ten seconds, and says so.
#[test]
fn a_policy_without_slices_isolates_after_ten_seconds() {
    let mut desk = Desk::new();
    desk.pod("old", Some(pod("old", "u", "web", Some("10.0.0.1"))));
    desk.policy("p", Some(policy("n", true, false)));
    desk.pass(10 * SECOND - MS);
    assert!(!desk.is_isolated("old", Ingress));
    assert_eq!(desk.warnings, [""; 0]);
    desk.pass(MS);
    assert!(desk.is_isolated("old", Ingress));
    assert_eq!(desk.warnings.len(), 1);
    assert!(desk.warnings[0].contains("ns/p"), "{:?}", desk.warnings);
    desk.slice("p-1", slice_for(&["Ingress"]), owned_by("p", "n"));
    desk.pass(300 * MS);
    assert_eq!(desk.judge("old", Ingress, "10.0.0.7", 80), Allow);
    assert_eq!(desk.warnings, [""; 0]);
}

/// An enforcer that starts exempts no pod from the policies that it finds.
#[test]
fn a_starting_enforcer_exempts_no_pod_from_known_policies() {
    let mut desk = Desk::new();
    let web = Arc::new(pod("web", "u", "web", Some("10.0.0.1")));
    for heard in [
        Heard::Pod(ObjectName::new("ns", "web"), Some(web)),
        Heard::Policy(ObjectName::new("ns", "p"), Some(policy("n", true, false))),
    ] {
        desk.state.take(heard, desk.now);
    }
    desk.tell();
    assert!(desk.is_isolated("web", Ingress));
    desk.pass(10 * SECOND - MS);
    assert_eq!(desk.warnings, [""; 0], "a controller may be late");
    desk.pass(MS);
    assert!(desk.is_isolated("web", Ingress));
    assert_eq!(desk.warnings.len(), 1);
    desk.slice("p-1", slice_for(&["Ingress"]), owned_by("p", "n"));
    desk.pass(300 * MS);
    assert_eq!(desk.judge("web", Ingress, "10.0.0.7", 80), Allow);
    assert_eq!(desk.warnings, [""; 0]);
    desk.policy("q", Some(policy("m", false, true)));
    assert!(!desk.is_isolated("web", Egress), "a policy made since");
}

#[test]
fn a_running_pod_takes_its_directions_from_the_slices() {
    let mut desk = settled();
    desk.policy("p", Some(policy("n", true, true)));
    desk.pod("new", Some(pod("new", "u2", "web", None)));
    assert!(!desk.is_isolated("web", Egress));
    assert!(desk.is_isolated("new", Egress));
    desk.slice("p-1", slice_for(&["Ingress", "Egress"]), owned_by("p", "n"));
    desk.pass(300 * MS);
    assert!(desk.is_isolated("web", Egress));
    desk.policy("p", Some(policy("n", true, false)));
    assert!(
        desk.is_isolated("web", Egress),
        "until the slices say so too"
    );
    desk.slice("p-1", slice_for(&["Ingress"]), owned_by("p", "n"));
    desk.pass(300 * MS);
    assert!(!desk.is_isolated("web", Egress));
}

#[test]
fn slices_that_vanish_under_a_living_policy_open_no_pod() {
    let mut desk = settled();
    desk.no_slice("p-1");
    desk.pass(300 * MS);
    assert!(desk.is_isolated("web", Ingress));
    assert_eq!(desk.judge("web", Ingress, "10.0.0.7", 80), Deny);
    assert_eq!(desk.warnings, [""; 0], "a controller may write them anew");
    desk.pass(10 * SECOND);
    assert!(desk.is_isolated("web", Ingress));
    assert_eq!(desk.warnings.len(), 1);
}

/// A policy that is gone or being deleted counts no more, whatever slices remain.
#[test]
fn a_policy_that_is_gone_counts_no_more_whatever_remains() {
    let deleting = OwnerPolicy {
        deleting: true,
        ..policy("n", true, false)
    };
    for after in [None, Some(deleting), Some(policy("another", false, false))] {
        let mut desk = settled();
        desk.policy("p", after);
        assert!(!desk.is_isolated("web", Ingress));
        desk.no_slice("p-1");
        desk.pass(SECOND);
        assert!(desk.objects.listed.is_empty());
        assert!(!desk.is_isolated("web", Ingress));
    }
}

#[test]
fn slices_of_a_policy_that_was_made_anew_wait_for_their_own() {
    let mut desk = settled();
    desk.policy("p", Some(policy("n2", true, false)));
    desk.pass(SECOND);
    assert!(!desk.is_isolated("web", Ingress));
    let other = spec(
        &["Ingress"],
        &[listed("web", "10.0.0.1")],
        json!([from("10.0.0.8", 80)]),
    );
    desk.slice("p-2", other, owned_by("p", "n2"));
    desk.pass(300 * MS);
    assert_eq!(desk.judge("web", Ingress, "10.0.0.7", 80), Deny);
    assert_eq!(desk.judge("web", Ingress, "10.0.0.8", 80), Allow);
}

/// A pod that the controller lists is a member, whatever its labels are now.
#[test]
fn a_listed_pod_is_a_member_whatever_its_labels_are_now() {
    let mut desk = settled();
    desk.pod("web", Some(pod("web", "u", "other", Some("10.0.0.1"))));
    assert!(desk.is_isolated("web", Ingress));
    desk.slice(
        "p-1",
        spec(&["Ingress"], &[], json!([])),
        owned_by("p", "n"),
    );
    desk.pass(300 * MS);
    assert!(!desk.is_isolated("web", Ingress));
}

#[test]
fn the_next_pod_of_a_listed_name_is_no_member_for_that() {
    let mut desk = settled();
    desk.pod("web", Some(pod("web", "next", "other", None)));
    assert!(!desk.is_isolated("web", Ingress));
    desk.pod("web", Some(pod("web", "next", "other", Some("10.0.0.2"))));
    assert!(!desk.is_isolated("web", Ingress));
}

#[test]
fn slices_of_other_owners_apply_to_the_pods_that_they_list() {
    let anp = OwnerReference {
        api_version: "networking.k8s.aws/v1alpha1".into(),
        kind: "ApplicationNetworkPolicy".into(),
        ..owned_by("p", "a").unwrap()
    };
    for owner in [Some(anp), None] {
        let mut desk = settled();
        desk.pod("db", Some(pod("db", "u2", "db", Some("10.0.0.2"))));
        let of_other = spec(
            &["Ingress"],
            &[listed("db", "10.0.0.2")],
            json!([from("10.0.0.8", 80)]),
        );
        desk.slice("p-x", of_other, owner);
        desk.pass(300 * MS);
        assert_eq!(desk.judge("db", Ingress, "10.0.0.8", 80), Allow);
        assert_eq!(desk.judge("db", Ingress, "10.0.0.7", 80), Deny);
        assert_eq!(desk.judge("web", Ingress, "10.0.0.7", 80), Allow);
        assert_eq!(desk.judge("web", Ingress, "10.0.0.8", 80), Deny);
        desk.no_slice("p-x");
        desk.pass(300 * MS);
        assert!(!desk.is_isolated("db", Ingress));
    }
}

#[test]
fn a_named_ingress_port_means_what_each_pod_calls_so() {
    let with_port = |name: &str, uid: &str, address: &str, number| {
        let mut pod = pod(name, uid, "web", Some(address));
        Arc::make_mut(&mut pod.pod).ports = vec![NamedPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            number,
        }];
        pod
    };
    let named = Port::Named {
        protocol: Protocol::Tcp,
        name: "http".into(),
    };
    let fixed = Port::Range {
        protocol: Protocol::Tcp,
        first: 9000,
        last: 9000,
    };
    let mut owner = policy("n", true, false);
    Arc::make_mut(&mut owner.policy).ingress = vec![
        Rule {
            peers: vec![],
            ports: vec![named],
        },
        Rule {
            peers: vec![],
            ports: vec![fixed],
        },
    ];
    let mut desk = Desk::new();
    desk.pod("a", Some(with_port("a", "ua", "10.0.0.1", 80)));
    desk.pod("b", Some(with_port("b", "ub", "10.0.0.2", 8080)));
    desk.policy("p", Some(owner));
    // The union over both pods for the one peer, the fixed port only for the other.
    let ingress = json!([
        {"cidr": "10.0.0.7", "ports": [{"port": 80}, {"port": 8080}]},
        {"cidr": "10.0.0.8", "ports": [{"port": 9000}]},
    ]);
    let pods = [listed("a", "10.0.0.1"), listed("b", "10.0.0.2")];
    desk.slice(
        "p-1",
        spec(&["Ingress"], &pods, ingress),
        owned_by("p", "n"),
    );
    desk.pass(300 * MS);
    desk.pod("c", Some(with_port("c", "uc", "10.0.0.3", 8080)));
    for (pod, peer, port, expected) in [
        ("a", "10.0.0.7", 80, Allow),
        ("a", "10.0.0.7", 8080, Deny),
        ("b", "10.0.0.7", 80, Deny),
        ("b", "10.0.0.7", 8080, Allow),
        ("c", "10.0.0.7", 8080, Allow),
        ("a", "10.0.0.8", 80, Deny),
        ("a", "10.0.0.8", 9000, Allow),
        ("a", "10.0.0.7", 9000, Deny),
    ] {
        assert_eq!(
            desk.judge(pod, Ingress, peer, port),
            expected,
            "{pod} {peer} {port}"
        );
    }
}
