// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A set of slices acts as a whole: neither half written nor half replaced.

use podgate_policy::connection::Direction::Ingress;
use podgate_policy::connection::Verdict::{Allow, Deny};

use super::*;

/// Policy `p` for `web`, whose two slices let `a` and `b` in, settled.
fn settled() -> Desk {
    let mut desk = Desk::new();
    desk.pod("web", Some(pod("web", "u", "web", Some("10.0.0.1"))));
    desk.policy("p", Some(policy("n", true, false)));
    desk.slice("p-1", two(0, "10.0.0.7"), owned_by("p", "n"));
    desk.slice("p-2", two(1, "10.0.0.8"), owned_by("p", "n"));
    desk.pass(300 * MS);
    desk
}

/// The first or the second slice; the first has the pods, as the lists are cut each by itself.
fn two(index: usize, address: &str) -> Value {
    let pods = if index == 0 {
        vec![listed("web", "10.0.0.1")]
    } else {
        vec![]
    };
    spec(&["Ingress"], &pods, json!([from(address, 80)]))
}

#[test]
fn rules_are_the_union_of_all_slices() {
    let desk = settled();
    for (peer, port, expected) in [
        ("10.0.0.7", 80, Allow),
        ("10.0.0.8", 80, Allow),
        ("10.0.0.8", 81, Deny),
        ("10.0.0.9", 80, Deny),
    ] {
        assert_eq!(
            desk.judge("web", Ingress, peer, port),
            expected,
            "{peer} {port}"
        );
    }
    assert_eq!(desk.warnings, [""; 0]);
}

#[test]
fn nothing_of_a_set_acts_before_all_of_it_is_quiet() {
    let mut desk = settled();
    desk.slice("p-1", two(0, "10.0.0.8"), owned_by("p", "n"));
    desk.pass(299 * MS);
    desk.slice("p-2", two(1, "10.0.0.9"), owned_by("p", "n"));
    desk.pass(299 * MS);
    assert_eq!(desk.judge("web", Ingress, "10.0.0.7", 80), Allow);
    assert_eq!(desk.judge("web", Ingress, "10.0.0.9", 80), Deny);
    desk.pass(MS);
    assert_eq!(desk.judge("web", Ingress, "10.0.0.7", 80), Deny);
    assert_eq!(desk.judge("web", Ingress, "10.0.0.8", 80), Allow);
    assert_eq!(desk.judge("web", Ingress, "10.0.0.9", 80), Allow);
}

#[test]
fn a_set_that_never_becomes_quiet_acts_after_three_seconds() {
    let mut desk = settled();
    for turn in 0..14_u8 {
        desk.slice("p-1", two(0, &format!("10.0.1.{turn}")), owned_by("p", "n"));
        desk.pass(200 * MS);
        assert_eq!(desk.judge("web", Ingress, "10.0.0.7", 80), Allow, "{turn}");
    }
    desk.slice("p-1", two(0, "10.0.1.99"), owned_by("p", "n"));
    desk.pass(200 * MS);
    assert_eq!(desk.judge("web", Ingress, "10.0.0.7", 80), Deny);
    assert_eq!(desk.judge("web", Ingress, "10.0.1.99", 80), Allow);
}

#[test]
fn an_entry_that_moves_from_slice_to_slice_is_never_missing() {
    let mut desk = settled();
    desk.slice("p-1", two(0, "10.0.0.9"), owned_by("p", "n"));
    let both = json!([from("10.0.0.8", 80), from("10.0.0.7", 80)]);
    assert_eq!(desk.judge("web", Ingress, "10.0.0.7", 80), Allow);
    desk.slice("p-2", spec(&["Ingress"], &[], both), owned_by("p", "n"));
    assert_eq!(desk.judge("web", Ingress, "10.0.0.7", 80), Allow);
    desk.pass(300 * MS);
    assert_eq!(desk.judge("web", Ingress, "10.0.0.7", 80), Allow);
}

#[test]
fn what_is_said_again_changes_nothing_and_waits_for_nothing() {
    let mut desk = settled();
    desk.slice("p-1", two(0, "10.0.0.7"), owned_by("p", "n"));
    assert_eq!(desk.state.due(), None);
    assert_eq!(desk.state.update(desk.now), []);
}

#[test]
fn an_address_that_comes_or_goes_changes_no_policy() {
    let mut desk = settled();
    let before = desk.objects.policies.clone();
    let more = json!([from("10.0.0.7", 80), from("10.0.0.6", 80)]);
    let pods = [listed("web", "10.0.0.1")];
    desk.slice("p-1", spec(&["Ingress"], &pods, more), owned_by("p", "n"));
    desk.pass(300 * MS);
    assert_eq!(desk.judge("web", Ingress, "10.0.0.6", 80), Allow);
    assert_eq!(desk.objects.policies, before);
}

/// Between facts and policy, nothing is denied that is allowed before and after. Facts are written before policy, so a
/// list of a policy that is being replaced must not be empty before the policy is.
#[test]
fn nothing_allowed_before_and_after_is_denied_in_between() {
    let with = |entry: Value| {
        let pods = [listed("web", "10.0.0.1")];
        Some(spec(&["Ingress"], &pods, json!([entry])))
    };
    let a = "10.0.0.7";
    for (what, edited) in [
        (
            "a port more",
            with(json!({"cidr": a, "ports": [{"port": 80}, {"port": 81}]})),
        ),
        ("all ports", with(json!({"cidr": a}))),
        ("a block", with(from("10.0.0.0/24", 80))),
        ("the policy goes", None),
    ] {
        let mut desk = settled();
        desk.no_slice("p-2");
        desk.pass(300 * MS);
        match edited {
            Some(spec) => desk.slice("p-1", spec, owned_by("p", "n")),
            None => desk.policy("p", None),
        }
        desk.pass(300 * MS);
        assert_eq!(desk.judge("web", Ingress, a, 80), Allow, "{what}");
        let between = judge(&desk.between, "web", Ingress, a, 80);
        assert_eq!(between, Allow, "{what}");
    }
}

#[test]
fn a_list_that_comes_back_has_who_is_in_it_now() {
    let mut desk = settled();
    let both = |port| json!([from("10.0.0.7", port), from("10.0.0.6", port)]);
    for ingress in [both(90), both(91), json!([from("10.0.0.7", 90)])] {
        desk.slice("p-1", spec(&["Ingress"], &[], ingress), owned_by("p", "n"));
        desk.pass(300 * MS);
    }
    assert_eq!(desk.judge("web", Ingress, "10.0.0.7", 90), Allow);
    assert_eq!(desk.judge("web", Ingress, "10.0.0.6", 90), Deny);
    desk.pass(10_000 * MS);
    assert_eq!(desk.judge("web", Ingress, "10.0.0.7", 90), Allow);
    assert_eq!(desk.state.due(), None);
    // Of p-1 and of p-2.
    assert_eq!(desk.objects.listed.len(), 2);
}
