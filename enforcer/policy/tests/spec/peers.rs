// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Items 5, 14 to 19, 28 to 32: who a peer is.

use std::sync::Arc;

use podgate_policy::connection::Direction::{Egress, Ingress};
use podgate_policy::connection::Verdict::{Allow, Deny};
use podgate_policy::model::{
    ListName, NAMESPACE_NAME_LABEL, ObjectName, Operator, Peer, Pod, Rule, Selector, Started,
};

use crate::fixture::*;

/// The only policy: `x/web` is isolated for ingress, but for these peers.
#[track_caller]
fn assert_peers(peers: impl IntoIterator<Item = Peer>, allowed: &[&str]) {
    assert_ingress_from_exactly(&world_with([ingress([with_peers(peers)])]), allowed);
}

#[test]
fn a_pod_selector_alone_looks_into_the_policys_own_namespace() {
    assert_peers([own_pods(label("app", "web"))], &[X_WEB]);
    assert_peers(
        [own_pods(Selector::everything())],
        &[X_WEB, X_DB, X_DB_V6, X_BARE],
    );
}

#[test]
fn a_namespace_selector_alone_means_all_pods_of_the_namespaces() {
    assert_peers(
        [pods_of(label("team", "blue"), Selector::everything())],
        &[Y_WEB],
    );
}

#[test]
fn both_selectors_in_one_element_must_hold() {
    assert_peers(
        [pods_of(label("team", "red"), label("app", "web"))],
        &[X_WEB],
    );
}

#[test]
fn two_elements_are_alternatives() {
    let elements = [
        pods_of(label("team", "blue"), Selector::everything()),
        own_pods(label("app", "db")),
    ];
    assert_peers(elements, &[Y_WEB, X_DB, X_DB_V6]);
}

#[test]
fn a_namespace_is_matched_by_its_name_label() {
    assert_peers(
        [pods_of(
            label(NAMESPACE_NAME_LABEL, "y"),
            Selector::everything(),
        )],
        &[Y_WEB],
    );
}

#[test]
fn an_unknown_namespace_matches_no_namespace_selector() {
    let all_known = [X_WEB, X_DB, X_DB_V6, X_BARE, Y_WEB];
    assert_peers(
        [pods_of(Selector::everything(), Selector::everything())],
        &all_known,
    );
    assert_peers(
        [pods_of(
            requirement("team", Operator::DoesNotExist),
            Selector::everything(),
        )],
        &[],
    );
}

#[test]
fn not_in_and_does_not_exist_match_when_the_key_is_absent() {
    assert_peers(
        [own_pods(requirement(
            "app",
            Operator::NotIn(vec!["web".into()]),
        ))],
        &[X_DB, X_DB_V6, X_BARE],
    );
    assert_peers(
        [own_pods(requirement("app", Operator::DoesNotExist))],
        &[X_BARE],
    );
}

#[test]
fn in_and_exists_need_the_key() {
    assert_peers(
        [own_pods(requirement(
            "app",
            Operator::In(vec!["db".into(), String::new()]),
        ))],
        &[X_DB, X_DB_V6],
    );
    assert_peers(
        [own_pods(requirement("app", Operator::Exists))],
        &[X_WEB, X_DB, X_DB_V6],
    );
}

#[test]
fn a_block_covers_pods_nodes_and_finished_pods_alike() {
    assert_peers(
        [block("10.0.0.0/24", &[])],
        &[X_WEB, X_DB, X_BARE, Y_WEB, GHOST_WEB, X_DONE],
    );
    assert_peers([block("192.0.2.0/24", &[])], &[X_HOST, NODE]);
}

#[test]
fn a_block_says_nothing_of_the_other_family() {
    let ipv4 = [
        X_WEB, X_DB, X_BARE, Y_WEB, GHOST_WEB, X_DONE, X_HOST, NODE, STRANGER,
    ];
    assert_peers([block("0.0.0.0/0", &[])], &ipv4);
    assert_peers([block("::/0", &[])], &[X_DB_V6]);
}

#[test]
fn an_exception_takes_its_addresses_out_of_its_own_block() {
    assert_peers(
        [block("10.0.0.0/29", &["10.0.0.4/31", "10.0.0.6/32"])],
        &[X_WEB, X_DB, X_BARE],
    );
}

#[test]
fn an_excepted_address_may_be_allowed_by_another_element() {
    let holed = || block("10.0.0.0/29", &["10.0.0.0/30"]);
    let rest = [Y_WEB, GHOST_WEB, X_DONE];
    assert_peers([holed()], &rest);
    assert_peers(
        [holed(), block("10.0.0.2/32", &[])],
        &[rest.as_slice(), &[X_DB]].concat(),
    );
    assert_peers(
        [holed(), own_pods(label("app", "db"))],
        &[rest.as_slice(), &[X_DB, X_DB_V6]].concat(),
    );
    assert_peers(
        [holed(), block("10.0.0.0/24", &[])],
        &[rest.as_slice(), &[X_WEB, X_DB, X_BARE]].concat(),
    );
}

#[test]
fn an_except_in_a_narrower_block_leaves_the_wider_one_alone() {
    let narrow = block("10.0.0.0/30", &["10.0.0.2/32"]);
    let wide = block("10.0.0.0/29", &["10.0.0.1/32"]);
    assert_peers(
        [narrow, wide],
        &[X_WEB, X_DB, X_BARE, Y_WEB, GHOST_WEB, X_DONE],
    );
}

#[test]
fn a_block_that_is_excepted_as_a_whole_matches_nobody() {
    assert_peers([block("10.0.0.0/29", &["10.0.0.0/29"])], &[]);
    assert_peers([block("10.0.0.0/29", &["10.0.0.0/8"])], &[]);
    assert_peers([block("10.0.0.0/30", &["10.0.0.0/31", "10.0.0.2/31"])], &[]);
}

#[test]
fn a_blocks_first_and_last_addresses_belong_to_it() {
    let world = world_with([ingress([with_peers([block(
        "198.51.100.8/29",
        &["198.51.100.10/31"],
    )])])]);
    for (last_byte, expected) in [
        (7, Deny),
        (8, Allow),
        (9, Allow),
        (10, Deny),
        (11, Deny),
        (12, Allow),
        (15, Allow),
        (16, Deny),
    ] {
        assert_eq!(
            judge(&world, Ingress, &format!("198.51.100.{last_byte}"), tcp(1)),
            expected,
            ".{last_byte}"
        );
    }
}

#[test]
fn host_network_and_finished_pods_are_no_peers_of_selectors() {
    let everyone = [
        own_pods(Selector::everything()),
        pods_of(Selector::everything(), Selector::everything()),
    ];
    assert_peers(everyone, &[X_WEB, X_DB, X_DB_V6, X_BARE, Y_WEB]);
}

#[test]
fn the_address_of_a_finished_pod_is_its_next_owners() {
    let mut world = world_with([ingress([with_peers([own_pods(label("app", "web"))])])]);
    world.pods.insert(
        ObjectName::new("y", "next"),
        Arc::new(Pod {
            addresses: vec![X_DONE.parse().unwrap()],
            ..Pod::default()
        }),
    );
    assert_eq!(judge(&world, Ingress, X_DONE, tcp(80)), Deny);
}

/// An address that two pods claim belongs to the one that started last, whatever their names are. A pod that is gone
/// may be listed for a while with an address that is another's by now.
#[test]
fn an_address_belongs_to_the_pod_that_started_last() {
    let claims = |started: Option<i64>| {
        Arc::new(Pod {
            addresses: vec![STRANGER.parse().unwrap()],
            started: started.map(Started),
            ..Pod::default()
        })
    };
    for (x, y, holder) in [
        (Some(8), Some(9), "y"),
        (Some(8), Some(7), "x"),
        (Some(8), None, "x"),
        (None, Some(7), "y"),
        (Some(8), Some(8), "x"),
    ] {
        for (allowed, of) in [
            (own_pods(Selector::everything()), "x"),
            (pods_of(label("team", "blue"), Selector::everything()), "y"),
        ] {
            let mut world = world_with([ingress([with_peers([allowed])])]);
            for (namespace, started) in [("x", x), ("y", y)] {
                let name = ObjectName::new(namespace, "p");
                world.pods.insert(name, claims(started));
            }
            let expected = if holder == of { Allow } else { Deny };
            let found = judge(&world, Ingress, STRANGER, tcp(80));
            assert_eq!(found, expected, "{x:?} {y:?}, allowed: {of}");
        }
    }
}

#[test]
fn an_address_of_the_own_node_is_no_pods() {
    let mut world = world_with([ingress([with_peers([own_pods(Selector::everything())])])]);
    world.pods.insert(
        ObjectName::new("x", "claims"),
        Arc::new(Pod {
            addresses: vec![NODE.parse().unwrap()],
            ..Pod::default()
        }),
    );
    assert_eq!(judge(&world, Ingress, NODE, tcp(80)), Deny);
}

/// A pod without an address is no peer, and any peer includes strangers.
#[test]
fn any_peer_includes_strangers_and_no_pod_without_an_address() {
    let mut world = world_with([egress([Rule::default()])]);
    world
        .pods
        .insert(ObjectName::new("x", "starting"), Arc::new(Pod::default()));
    assert_eq!(judge(&world, Egress, STRANGER, tcp(80)), Allow);
    assert_eq!(judge(&world, Egress, "2001:db8::1", tcp(80)), Allow);
}

/// A list means its addresses, whatever has them, and an unknown list matches no peer.
#[test]
fn a_list_means_its_addresses_and_an_unknown_list_no_peer() {
    let list = |name: &str| ListName(name.into());
    let mut world = world_with([ingress([with_peers([Peer::Listed(list("friends"))])])]);
    assert_ingress_from_exactly(&world, &[]);
    for member in [X_DB, X_DONE, X_HOST, NODE, STRANGER] {
        let lists = [list("friends"), list("others")].into();
        world.listed.insert(address(member), Arc::new(lists));
    }
    let lists = [list("others")].into();
    world.listed.insert(address(Y_WEB), Arc::new(lists));
    assert_ingress_from_exactly(&world, &[X_DB, X_DONE, X_HOST, NODE, STRANGER]);
}
