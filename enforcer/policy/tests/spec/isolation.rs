// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Items 2, 4, 8, 9, 13: who is isolated, and how policies combine.

use podgate_policy::connection::Direction::{Egress, Ingress};
use podgate_policy::connection::Verdict::{Allow, Deny};
use podgate_policy::connection::{Baseline, Transport};
use podgate_policy::model::{Members, NetworkPolicy, ObjectName, Peer, Rule, Selector};

use crate::fixture::*;

#[test]
fn a_pod_that_no_policy_selects_is_open() {
    let world = world_with([NetworkPolicy {
        members: label("app", "db").into(),
        ..ingress([])
    }]);
    assert_eq!(judge(&world, Ingress, STRANGER, tcp(80)), Allow);
    assert_eq!(judge(&world, Egress, STRANGER, Transport::Other(1)), Allow);
}

#[test]
fn in_strict_mode_a_pod_that_no_policy_selects_is_closed() {
    for (direction, peer) in [(Ingress, X_DB), (Egress, X_DB), (Egress, NODE)] {
        assert_eq!(
            judge_pod(&world(), "web", Baseline::Deny, direction, peer, tcp(80)),
            Deny,
            "{direction:?} {peer}"
        );
    }
}

#[test]
fn in_strict_mode_policies_decide_for_the_pods_that_they_select() {
    let world = world_with([ingress([with_peers([own_pods(Selector::everything())])])]);
    assert_eq!(
        judge_pod(&world, "web", Baseline::Deny, Ingress, X_DB, tcp(80)),
        Allow
    );
    assert_eq!(
        judge_pod(&world, "web", Baseline::Deny, Ingress, Y_WEB, tcp(80)),
        Deny
    );
    assert_eq!(
        judge_pod(&world, "web", Baseline::Deny, Egress, X_DB, tcp(80)),
        Deny
    );
}

#[test]
fn a_policy_without_rules_denies_all_in_its_direction_only() {
    let world = world_with([ingress([])]);
    assert_ingress_from_exactly(&world, &[]);
    assert_eq!(judge(&world, Egress, STRANGER, tcp(80)), Allow);
}

#[test]
fn rules_of_a_direction_that_is_not_isolated_are_ignored() {
    let policy = NetworkPolicy {
        ingress: vec![with_peers([own_pods(Selector::everything())])],
        ..egress([])
    };
    let world = world_with([policy]);
    assert_eq!(judge(&world, Ingress, STRANGER, tcp(80)), Allow);
    assert_eq!(judge(&world, Egress, X_DB, tcp(80)), Deny);
}

#[test]
fn an_empty_rule_allows_every_peer_port_and_protocol() {
    let world = world_with([ingress([Rule::default()]), egress([Rule::default()])]);
    for transport in [tcp(1), udp(65535), sctp(7), Transport::Other(1)] {
        assert_eq!(
            judge(&world, Ingress, STRANGER, transport),
            Allow,
            "{transport:?}"
        );
        assert_eq!(
            judge(&world, Egress, STRANGER, transport),
            Allow,
            "{transport:?}"
        );
    }
}

#[test]
fn policies_add_up() {
    let world = world_with([
        ingress([]),
        ingress([with_peers([own_pods(label("app", "db"))])]),
        ingress([with_peers([block(&format!("{STRANGER}/32"), &[])])]),
    ]);
    assert_ingress_from_exactly(&world, &[X_DB, X_DB_V6, STRANGER]);
}

#[test]
fn a_policy_selects_pods_of_its_own_namespace_only() {
    let mut world = world();
    world
        .policies
        .insert(ObjectName::new("y", "deny"), ingress([]).into());
    assert_eq!(judge(&world, Ingress, STRANGER, tcp(80)), Allow);
}

#[test]
fn an_unreadable_pod_selector_isolates_the_namespace() {
    let rules = [with_peers([own_pods(label("app", "db"))])];
    let world = world_with([NetworkPolicy {
        members: Selector::Invalid.into(),
        ..ingress(rules)
    }]);
    assert_ingress_from_exactly(&world, &[X_DB, X_DB_V6]);
}

#[test]
fn an_unreadable_element_matches_nothing_and_keeps_isolation() {
    let unreadable = [
        Peer::Invalid,
        own_pods(Selector::Invalid),
        pods_of(Selector::Invalid, Selector::everything()),
    ];
    assert_ingress_from_exactly(&world_with([ingress([with_peers(unreadable)])]), &[]);
    let port = podgate_policy::model::Port::Invalid;
    assert_ingress_from_exactly(&world_with([ingress([with_ports([port])])]), &[]);
}

#[test]
fn a_policy_may_list_its_pods_by_uid_beside_its_selector() {
    let everything = || Some(Selector::everything());
    for (matching, except, listed, expected) in [
        (None, None, None, Allow),
        (None, None, Some("web"), Deny),
        (None, None, Some("db"), Allow),
        (everything(), None, None, Deny),
        (everything(), Some("web"), None, Allow),
        (everything(), Some("db"), None, Deny),
        (everything(), Some("web"), Some("web"), Deny),
        (Some(Selector::Invalid), Some("web"), None, Allow),
    ] {
        let members = Members {
            matching,
            except: except.map(uid).into_iter().collect(),
            listed: listed.map(uid).into_iter().collect(),
        };
        let world = world_with([NetworkPolicy {
            members: members.clone(),
            ..ingress([])
        }]);
        assert_eq!(
            judge(&world, Ingress, STRANGER, tcp(80)),
            expected,
            "{members:?}"
        );
    }
}
