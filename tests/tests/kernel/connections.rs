// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Connections: the first packet is judged, and what belongs to it passes.

use podgate_abi::{Direction, FlowState, Reason, RulesetId};
use podgate_tests::frame::flag::{ACK, FIN, RST, SYN};
use podgate_tests::frame::{self, echo_reply, echo_request, sctp, sctp_ack, tcp, udp};
use podgate_tests::kernel::PolicyOf;

use crate::setting::{End, FAMILIES, Family, RULESET, Scene};

/// Both families, and in each of them both ends.
fn ways() -> impl Iterator<Item = (Family, End)> {
    FAMILIES
        .into_iter()
        .flat_map(|family| End::BOTH.map(|end| (family, end)))
}

#[test]
fn friends_may_connect_either_way_and_strangers_may_not() {
    for (family, begins) in ways() {
        let mut scene = Scene::new(family, begins.policy());
        let (friend, stranger) = (scene.friend, scene.stranger);
        for payload in [
            tcp(999, 80, SYN),
            udp(999, 53),
            sctp(999, 80),
            echo_request(friend, 7),
        ] {
            let allowed = scene.end_sends(begins, friend, payload.clone());
            assert_eq!(allowed, Reason::Allowed);
            assert_eq!(scene.end_sends(begins, stranger, payload), Reason::Policy);
        }
    }
}

#[test]
fn answers_pass_whatever_the_other_direction_says() {
    for (family, asks) in ways() {
        let mut scene = Scene::new(family, asks.policy());
        let answers = asks.other();
        scene.kernel.flip(answers.direction(), RulesetId::DENY_ALL);
        let friend = scene.friend;
        scene.handshake(friend, 999, 80, asks);
        for (question, answer) in [
            (udp(2000, 53), udp(53, 2000)),
            (sctp(2000, 80), sctp_ack(80, 2000)),
            (echo_request(friend, 7), echo_reply(friend, 7)),
            (frame::other(50), frame::other(50)),
        ] {
            for (end, payload, expected) in [
                (asks, question.clone(), Reason::Allowed),
                (answers, answer, Reason::Established),
                (asks, question, Reason::Established),
            ] {
                assert_eq!(scene.end_sends(end, friend, payload), expected, "{end:?}");
            }
        }
    }
}

#[test]
fn what_looks_like_an_answer_to_nothing_is_judged() {
    for (family, end) in ways() {
        let mut scene = Scene::new(family, end.policy());
        let stranger = scene.stranger;
        for payload in [
            tcp(80, 2000, SYN | ACK),
            tcp(80, 2000, ACK),
            tcp(80, 2000, RST),
            udp(53, 2000),
            sctp_ack(80, 2000),
            echo_reply(stranger, 7),
        ] {
            assert_eq!(scene.end_sends(end, stranger, payload), Reason::Policy);
        }
    }
}

#[test]
fn an_answer_with_other_ports_or_from_another_peer_is_none() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(RULESET));
        scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
        let (friend, stranger) = (scene.friend, scene.stranger);
        assert_eq!(scene.pod_sends(friend, udp(2000, 53)), Reason::Allowed);
        for payload in [udp(53, 2001), udp(54, 2000), tcp(53, 2000, ACK)] {
            assert_eq!(scene.peer_sends(friend, payload), Reason::DenyAll);
        }
        assert_eq!(scene.peer_sends(stranger, udp(53, 2000)), Reason::DenyAll);
        assert_eq!(
            scene.pod_sends(friend, echo_request(friend, 7)),
            Reason::Allowed
        );
        assert_eq!(
            scene.peer_sends(friend, echo_reply(friend, 8)),
            Reason::DenyAll
        );
        assert_eq!(
            scene.peer_sends(friend, echo_request(friend, 7)),
            Reason::DenyAll
        );
        assert_eq!(scene.peer_sends(friend, udp(53, 2000)), Reason::Established);
    }
}

#[test]
fn a_closed_connection_does_not_open_a_new_one() {
    for family in FAMILIES {
        for end in [FIN | ACK, RST, RST | ACK] {
            let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
            let friend = scene.friend;
            scene.handshake(friend, 999, 80, End::Peer);
            let last = tcp(80, 999, end);
            assert_eq!(scene.pod_sends(friend, last), Reason::Established);
            // What is still on its way passes, but a SYN is judged.
            let late = tcp(999, 80, ACK);
            assert_eq!(scene.peer_sends(friend, late), Reason::Established);
            assert_eq!(scene.peer_sends(friend, tcp(999, 80, SYN)), Reason::Allowed);
        }
    }
}

#[test]
fn a_syn_in_an_open_connection_is_its_own_first_packet_again() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
        let friend = scene.friend;
        assert_eq!(scene.peer_sends(friend, tcp(999, 80, SYN)), Reason::Allowed);
        assert_eq!(
            scene.peer_sends(friend, tcp(999, 80, SYN)),
            Reason::Established
        );
    }
}

#[test]
fn a_syn_from_the_other_side_is_another_connection() {
    for (family, began) in ways() {
        let mut scene = Scene::new(family, began.policy());
        let other = began.other();
        scene.kernel.flip(other.direction(), RulesetId::DENY_ALL);
        scene.handshake(scene.friend, 999, 80, began);
        assert_eq!(scene.segment(other, 999, SYN), Reason::DenyAll);
        assert_eq!(scene.segment(other, 999, ACK), Reason::Established);
    }
}

/// A new generation has established flows judged again, by their first direction.
#[test]
fn a_new_generation_has_flows_judged_by_their_first_direction() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(RULESET));
        let friend = scene.friend;
        scene.handshake(friend, 999, 80, End::Peer);
        scene.handshake(friend, 443, 2000, End::Pod);
        assert_eq!(scene.peer_sends(friend, udp(999, 53)), Reason::Allowed);
        // Still allowed: judged once, then established again.
        scene.kernel.renew();
        assert_eq!(scene.pod_sends(friend, tcp(80, 999, ACK)), Reason::Allowed);
        assert_eq!(
            scene.peer_sends(friend, tcp(999, 80, ACK)),
            Reason::Established
        );
        assert_eq!(
            scene.peer_sends(friend, tcp(443, 2000, ACK)),
            Reason::Allowed
        );
        assert_eq!(scene.pod_sends(friend, udp(53, 999)), Reason::Allowed);
        // Ingress revoked: what the peer began ends, in both directions; what the pod began goes on.
        scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
        assert_eq!(scene.peer_sends(friend, tcp(999, 80, ACK)), Reason::DenyAll);
        assert_eq!(scene.pod_sends(friend, tcp(80, 999, ACK)), Reason::DenyAll);
        assert_eq!(scene.peer_sends(friend, udp(999, 53)), Reason::DenyAll);
        // But for a datagram that the pod may send to whomever it likes: see `either`.
        assert_eq!(scene.pod_sends(friend, udp(53, 999)), Reason::Allowed);
        assert_eq!(
            scene.peer_sends(friend, tcp(443, 2000, ACK)),
            Reason::Established
        );
        // Egress revoked too.
        scene.kernel.flip(Direction::Egress, RulesetId::DENY_ALL);
        assert_eq!(
            scene.peer_sends(friend, tcp(443, 2000, ACK)),
            Reason::DenyAll
        );
        assert_eq!(
            scene.pod_sends(friend, tcp(2000, 443, ACK)),
            Reason::DenyAll
        );
    }
}

/// Replies to what went out under the baseline are not orphaned by the policy.
#[test]
fn replies_under_the_baseline_are_not_orphaned_by_a_policy() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::OPEN);
        let (friend, stranger) = (scene.friend, scene.stranger);
        assert_eq!(scene.pod_sends(friend, udp(2000, 53)), Reason::Allowed);
        assert_eq!(scene.pod_sends(stranger, udp(2000, 53)), Reason::Allowed);
        scene.kernel.flip(Direction::Egress, RULESET);
        scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
        assert_eq!(scene.peer_sends(friend, udp(53, 2000)), Reason::Allowed);
        assert_eq!(scene.peer_sends(stranger, udp(53, 2000)), Reason::Policy);
    }
}

#[test]
fn the_deny_all_baseline_drops_and_the_allow_all_one_passes() {
    for family in FAMILIES {
        for (policy, expected) in [
            (PolicyOf::SHUT, Reason::DenyAll),
            (PolicyOf::OPEN, Reason::Allowed),
        ] {
            let mut scene = Scene::new(family, policy);
            let (friend, stranger) = (scene.friend, scene.stranger);
            for peer in [friend, stranger] {
                for payload in [
                    tcp(999, 80, SYN),
                    udp(999, 53),
                    sctp(999, 80),
                    echo_request(peer, 7),
                    frame::other(50),
                ] {
                    assert_eq!(scene.peer_sends(peer, payload.clone()), expected);
                }
                for payload in [
                    tcp(2000, 80, SYN),
                    udp(2000, 53),
                    sctp(2000, 80),
                    echo_request(peer, 8),
                    frame::other(89),
                ] {
                    assert_eq!(scene.pod_sends(peer, payload), expected);
                }
            }
        }
    }
}

#[test]
fn a_slot_without_a_record_drops_everything() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::OPEN);
        let friend = scene.friend;
        scene.handshake(friend, 999, 80, End::Peer);
        scene.kernel.detach();
        assert_eq!(
            scene.peer_sends(friend, tcp(999, 80, ACK)),
            Reason::NoRecord
        );
        assert_eq!(scene.pod_sends(friend, tcp(80, 999, ACK)), Reason::NoRecord);
        let node = scene.node;
        assert_eq!(scene.node_sends(node, tcp(999, 80, SYN)), Reason::NoRecord);
        let asks = frame::arp(1, [10, 1, 0, 10], [10, 1, 0, 1]);
        assert_eq!(scene.sends(&asks), Reason::NoRecord);
        assert_eq!(scene.receives(&asks), Reason::NoRecord);
        let odd = frame::ethernet(0x88cc, &[0; 46]);
        assert_eq!(scene.receives(&odd), Reason::NoRecord);
    }
}

/// Both ends may use one pair of ports: an INIT of the other end begins an association of its own, as a SYN does.
#[test]
fn an_init_of_the_other_end_begins_another_association() {
    for (family, begins) in ways() {
        let mut scene = Scene::new(family, begins.policy());
        let (friend, other) = (scene.friend, begins.other());
        scene.kernel.flip(other.direction(), RulesetId::DENY_ALL);
        let (init, ack) = (sctp(2905, 2905), sctp_ack(2905, 2905));
        for (end, payload, expected) in [
            (other, init.clone(), Reason::DenyAll),
            (begins, init.clone(), Reason::Allowed),
            (other, ack.clone(), Reason::Established),
            (begins, ack.clone(), Reason::Established),
            (other, init.clone(), Reason::DenyAll),
            (begins, init.clone(), Reason::Established),
            (other, ack.clone(), Reason::Established),
        ] {
            assert_eq!(scene.end_sends(end, friend, payload), expected, "{end:?}");
        }
        // Its first twelve bytes alone do not say what chunk comes: a receiver may put it together from two fragments.
        let mut half = init.clone();
        half.bytes.truncate(12);
        assert_eq!(
            scene.end_sends(other, friend, half),
            Reason::BadTransportHeader
        );
        // A policy that turns round lets the other end begin on the same ports.
        scene.kernel.flip(other.direction(), RULESET);
        scene.kernel.flip(begins.direction(), RulesetId::DENY_ALL);
        for (end, payload, expected) in [
            (begins, ack.clone(), Reason::DenyAll),
            (other, init, Reason::Allowed),
            (begins, ack, Reason::Established),
        ] {
            assert_eq!(scene.end_sends(end, friend, payload), expected, "{end:?}");
        }
        // It lives as any other, and is not taken for one that has ended.
        let flows = &scene.kernel.host.flows;
        let (_, flow) = flows.iter().next().expect("the flow");
        assert_eq!(flow.word().state(), FlowState::ESTABLISHED);
    }
}
