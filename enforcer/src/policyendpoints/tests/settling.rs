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
