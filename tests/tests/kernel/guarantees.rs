// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What each pod is sure to have of the tables of flows, and what no number of other pods takes from it.

use std::net::IpAddr;

use podgate_abi::{Direction, Reason, RulesetId};
use podgate_tests::frame::flag::{ACK, SYN};
use podgate_tests::frame::{self, Fragment, TCP, UDP, echo_reply, echo_request, packet, tcp, udp};
use podgate_tests::kernel::{Kernel, Origin, PolicyOf, SLOT, Sizes};

use crate::setting::{CROWD, EMBRYONIC, End, FAMILIES, Family, NOWHERE, RULESET, Scene, places};

/// Of 256 flows half is guaranteed, to eight pods; of the other half one may have 32.
const GUARANTEE: u16 = 16;
const COMMON: u64 = 128;
const OF_ONE: u64 = 48;
/// How many entries of `embryonic` a slot may have.
const SHARE: u16 = 8;

fn scene(family: Family, policies: PolicyOf) -> Scene {
    let kernel = Kernel::new(Sizes {
        flows: 256,
        embryonic: 64,
        crowd: 256,
        embryonic_per_attachment: SHARE.into(),
        flows_per_attachment: OF_ONE,
        guarantee: GUARANTEE.into(),
        common: COMMON,
    });
    Scene::with_kernel(kernel, family, policies)
}

/// The pod asks the node in all ways that are answered, and in one that is not.
fn asks_the_node(scene: &mut Scene) {
    let node = scene.node;
    for number in 1..=2 * GUARANTEE {
        let question = scene.pod_sends(node, echo_request(node, number));
        assert!(question.passes());
        assert_eq!(
            scene.node_sends(node, echo_reply(node, number)),
            Reason::Node
        );
        for (payload, answer) in [
            (udp(2000, number), udp(number, 2000)),
            (tcp(2000, number, SYN), tcp(number, 2000, SYN | ACK)),
            (tcp(2000, number, ACK), tcp(number, 2000, ACK)),
        ] {
            assert!(scene.pod_sends(node, payload).passes());
            assert_eq!(scene.node_sends(node, answer), Reason::Node);
        }
    }
    for number in 1..=2 * GUARANTEE {
        assert!(scene.pod_sends(node, udp(2001, number)).passes());
    }
}

/// Pods that reach only their node take nothing from others.
#[test]
fn attack_33_pods_that_reach_only_their_node_take_nothing() {
    for family in FAMILIES {
        let mut scene = scene(family, PolicyOf::from_pod(RULESET));
        // Whoever may reach nobody reaches the node (the compiler's rows say so).
        scene.kernel.flip(Direction::Egress, RulesetId::ALLOW_ALL);
        scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
        for slot in 2..8 {
            asks_the_node(&mut scene);
            assert_eq!(
                scene.kernel.own_budgets(),
                [u64::from(GUARANTEE), u64::from(SHARE)]
            );
            assert_eq!(scene.kernel.own_common(), 0, "beyond the guarantee");
            assert_eq!(scene.kernel.crowd.keys().count(), 0, "in the crowd");
            scene.kernel.give_away(slot);
        }
        // So there is room for whoever else has many connections.
        let friend = scene.friend;
        for port in 1..=OF_ONE as u16 {
            scene.handshake(friend, port, 3000, End::Pod);
            assert_eq!(places(&scene, friend, port, 3000, TCP), NOWHERE);
        }
        assert_eq!(scene.kernel.kernel_flows_of_slot(SLOT), OF_ONE as usize);
    }
}

/// What a pod is sure of is there when others have used the rest.
#[test]
fn attack_33_a_pods_guarantee_is_there_when_the_rest_is_used() {
    for family in FAMILIES {
        let mut scene = scene(family, PolicyOf::OPEN);
        let friend = scene.friend;
        // Far more than there is room for, if each may have 48.
        for slot in 2..8 {
            for port in 1..=2 * OF_ONE as u16 {
                assert!(scene.pod_sends(friend, udp(2000, port)).passes());
                assert!(scene.peer_sends(friend, udp(port, 2000)).passes());
            }
            scene.kernel.give_away(slot);
        }
        let common = scene.kernel.own_common();
        assert_eq!(common, COMMON);
        // What this one begins now stands, up to its guarantee and no further.
        scene.kernel.forget_crowd();
        for port in 1..=GUARANTEE + 1 {
            scene.handshake(friend, port, 3000, End::Pod);
            let expected = if port <= GUARANTEE { NOWHERE } else { CROWD };
            assert_eq!(places(&scene, friend, port, 3000, TCP), expected, "{port}");
        }
        assert_eq!(scene.kernel.own_common(), common);
    }
}

#[test]
fn what_is_forgotten_of_flows_with_the_node_loses_nothing() {
    for family in FAMILIES {
        // Isolated both ways; the node's rows allow what the pod sends there.
        let mut scene = scene(family, PolicyOf::OPEN);
        scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
        let node = scene.node;
        for port in 1..=4 * GUARANTEE {
            for (end, from, to, flags) in [
                (End::Pod, 3000, port, SYN),
                (End::Peer, port, 3000, SYN | ACK),
                (End::Pod, 3000, port, ACK),
                (End::Peer, port, 3000, ACK),
                (End::Pod, 3000, port, ACK),
            ] {
                let reason = match end {
                    End::Pod => scene.pod_sends(node, tcp(from, to, flags)),
                    End::Peer => scene.node_sends(node, tcp(from, to, flags)),
                };
                assert!(reason.passes(), "{port} {end:?} {reason:?}");
            }
        }
        assert_eq!(scene.kernel.crowd.keys().count(), 0);
        // Another's answer under the node's address (a NodePort) needs the flow, and has it for longer than the others.
        scene.kernel.forget_flows();
        for port in 1..=GUARANTEE {
            scene.handshake(node, port, 3000, End::Pod);
        }
        scene.handshake(node, 999, 3000, End::Pod);
        assert_eq!(places(&scene, node, 999, 3000, TCP), EMBRYONIC);
        let more = scene.peer_sends(node, tcp(999, 3000, ACK));
        assert_eq!(more, Reason::Established);
    }
}

/// Where nothing leaves a pod, flows that the node begins are kept in the crowd.
#[test]
fn flows_that_the_node_begins_to_a_shut_pod_are_in_the_crowd() {
    for family in FAMILIES {
        let mut scene = scene(family, PolicyOf::SHUT);
        let node = scene.node;
        for port in 1..=2 * SHARE {
            assert_eq!(scene.node_sends(node, udp(port, 53)), Reason::Node);
            let expected = if port <= SHARE / 2 { EMBRYONIC } else { CROWD };
            assert_eq!(places(&scene, node, port, 53, UDP), expected);
        }
        for port in 1..=2 * SHARE {
            assert_eq!(scene.pod_sends(node, udp(53, port)), Reason::Established);
        }
        assert_eq!(scene.pod_sends(node, udp(53, 999)), Reason::DenyAll);
    }
}

#[test]
fn first_fragments_that_are_dropped_take_no_place() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::from_pod(RULESET));
        let (pod, friend, stranger) = (scene.pod, scene.friend, scene.stranger);
        let first = |to: IpAddr, identification| {
            let fragment = Fragment {
                identification,
                offset: 0,
                more: true,
            };
            packet(pod, to, udp(2000, 53)).fragment(fragment).frame()
        };
        for identification in 0..64 {
            let dropped = scene.sends(&first(stranger, identification));
            assert_eq!(dropped, Reason::Policy);
        }
        assert_eq!(scene.kernel.fragments.keys().count(), 0);
        assert_eq!(scene.sends(&first(friend, 7)), Reason::Allowed);
        assert_eq!(scene.kernel.fragments.keys().count(), 1);
    }
}

/// Fragments before their first one are dropped and counted where a policy is. This is a limit that the document names:
/// in reversed order the parts of a datagram are lost.
#[test]
fn fragments_before_their_first_are_dropped_under_a_policy() {
    for family in FAMILIES {
        for direction in Direction::BOTH {
            let part = |offset, more| Fragment {
                identification: 7,
                offset,
                more,
            };
            for (policy, expected) in [
                (PolicyOf::both(RULESET), Reason::FragmentWithoutFirst),
                (PolicyOf::OPEN, Reason::Unpoliced),
            ] {
                let mut scene = Scene::new(family, policy);
                let (from, to) = match direction {
                    Direction::Egress => (scene.pod, scene.friend),
                    Direction::Ingress => (scene.friend, scene.pod),
                };
                let last = packet(from, to, frame::other(UDP)).fragment(part(4, false));
                let first = packet(from, to, udp(999, 53)).fragment(part(0, true));
                for (frame, expected) in [
                    (last.frame(), expected),
                    (first.frame(), Reason::Allowed),
                    // Sent again it comes in order.
                    (last.frame(), Reason::Fragment),
                ] {
                    let reason = scene.kernel.run(direction, Origin::Elsewhere, &frame);
                    assert_eq!(reason, expected);
                }
            }
        }
    }
}
