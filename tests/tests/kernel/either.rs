// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Flows that either end may begin: they live for the end that is still allowed.

use podgate_abi::{Direction, Reason, RowKey, RowWords, RulesetId, WayKey, WayWord};
use podgate_tests::frame::flag::{ACK, PSH};
use podgate_tests::frame::{self, Payload, sctp, sctp_ack, tcp, udp};
use podgate_tests::kernel::PolicyOf;

use crate::setting::{ALL, End, FAMILIES, Family, NOTHING, RULESET, Scene};

/// Where both ends have one port, so that nothing tells a question from an answer.
fn symmetric() -> [Payload; 2] {
    [udp(7946, 7946), frame::other(50)]
}

/// The two talk in peace, `began` first; then what that end sends is isolated without a rule.
fn isolated(family: Family, began: End, payload: &Payload, is_answered: bool) -> Scene {
    let mut scene = Scene::new(family, PolicyOf::OPEN);
    let friend = scene.friend;
    let first = scene.end_sends(began, friend, payload.clone());
    assert_eq!(first, Reason::Allowed);
    if is_answered {
        let answer = scene.end_sends(began.other(), friend, payload.clone());
        assert_eq!(answer, Reason::Established);
    }
    scene.kernel.flip(began.direction(), RulesetId::DENY_ALL);
    scene
}

/// A datagram that nothing isolates passes, whichever end began the flow.
#[test]
fn an_unisolated_datagram_passes_whichever_end_began() {
    for (family, began) in FAMILIES
        .into_iter()
        .flat_map(|family| End::BOTH.map(|end| (family, end)))
    {
        for payload in symmetric() {
            for is_answered in [false, true] {
                let mut scene = isolated(family, began, &payload, is_answered);
                let friend = scene.friend;
                // Who is isolated begins nothing.
                let shut = scene.end_sends(began, friend, payload.clone());
                assert_eq!(shut, Reason::DenyAll);
                let other = scene.end_sends(began.other(), friend, payload.clone());
                assert_eq!(other, Reason::Allowed, "{began:?} began, {is_answered}");
                // From now on the flow is the other end's: it is answered, and goes with what let it in.
                let answer = scene.end_sends(began, friend, payload.clone());
                assert_eq!(answer, Reason::Established);
                scene
                    .kernel
                    .flip(began.other().direction(), RulesetId::DENY_ALL);
                for end in End::BOTH {
                    let cut = scene.end_sends(end, friend, payload.clone());
                    assert_eq!(cut, Reason::DenyAll);
                }
            }
        }
    }
}

/// What a rule does not allow the other end to begin ends with the flow.
#[test]
fn what_the_other_end_may_not_begin_ends_with_the_flow() {
    for family in FAMILIES {
        for began in End::BOTH {
            for payload in symmetric() {
                let mut scene = Scene::new(family, PolicyOf::OPEN);
                let stranger = scene.stranger;
                let first = scene.end_sends(began, stranger, payload.clone());
                assert_eq!(first, Reason::Allowed);
                scene.kernel.flip(began.direction(), RulesetId::DENY_ALL);
                scene.kernel.flip(began.other().direction(), RULESET);
                let other = scene.end_sends(began.other(), stranger, payload.clone());
                assert!(!other.passes(), "{other:?}");
            }
        }
    }
}

#[test]
fn a_connection_stays_that_of_the_end_which_began_it() {
    for family in FAMILIES {
        for began in End::BOTH {
            let mut scene = Scene::new(family, PolicyOf::OPEN);
            let friend = scene.friend;
            scene.handshake(friend, 999, 80, began);
            assert!(scene.end_sends(began, friend, sctp(7, 7)).passes());
            assert!(
                scene
                    .end_sends(began.other(), friend, sctp_ack(7, 7))
                    .passes()
            );
            scene.kernel.flip(began.direction(), RulesetId::DENY_ALL);
            for flags in [ACK, PSH | ACK] {
                let segment = scene.segment(began.other(), 999, flags);
                assert_eq!(segment, Reason::DenyAll);
            }
            let other = scene.end_sends(began.other(), friend, sctp_ack(7, 7));
            assert_eq!(other, Reason::DenyAll);
            let new = scene.end_sends(began.other(), friend, tcp(7, 7, ACK));
            assert_eq!(new, Reason::Allowed);
        }
    }
}

#[test]
fn an_answered_question_to_the_nodes_tunnel_port_stays_shut() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::OPEN);
        let node = scene.node;
        for payload in [udp(4789, 4789), udp(8472, 8472)] {
            for end in End::BOTH {
                let sent = scene.end_sends(end, node, payload.clone());
                assert_eq!(sent, Reason::Tunnel);
            }
        }
        scene.kernel.flip(Direction::Egress, RulesetId::DENY_ALL);
        let sent = scene.peer_sends(node, udp(4789, 4789));
        assert_eq!(sent, Reason::Tunnel);
    }
}

/// What a Service leads into a tunnel is closed to the answers of an isolated pod as well, unless a row of its own opens it.
#[test]
fn what_the_peer_began_is_not_answered_into_a_tunnel() {
    for family in FAMILIES {
        for began in End::BOTH {
            for is_open in [false, true] {
                let mut scene = Scene::new(family, PolicyOf::OPEN);
                let service = scene.stranger;
                let of = |end| match end {
                    End::Pod => udp(2000, 53),
                    End::Peer => udp(53, 2000),
                };
                assert_eq!(scene.end_sends(began, service, of(began)), Reason::Allowed);
                let answer = scene.end_sends(began.other(), service, of(began.other()));
                assert_eq!(answer, Reason::Established);
                let way = WayKey::new(service.into(), 53);
                scene.kernel.put_way(way, WayWord::TO_OPEN);
                let sets = if is_open { ALL } else { NOTHING };
                let row = RowWords::new(RowKey(0), sets);
                scene.kernel.put_default_row(RULESET, row);
                scene.kernel.flip(Direction::Egress, RULESET);
                scene.kernel.renew();
                // Nothing isolates what comes from there; that makes no flow, and revives none.
                assert!(scene.end_sends(End::Peer, service, of(End::Peer)).passes());
                let sent = scene.end_sends(End::Pod, service, of(End::Pod));
                assert_eq!(sent.passes(), is_open, "{began:?} began: {sent:?}");
                // What the row opens goes with it.
                scene.kernel.flip(Direction::Egress, RulesetId::DENY_ALL);
                for end in End::BOTH {
                    let sent = scene.end_sends(end, service, of(end));
                    assert_eq!(sent.passes(), end == End::Peer, "{sent:?}");
                }
            }
        }
    }
}
