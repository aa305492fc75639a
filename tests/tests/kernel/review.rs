// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an adversarial reading of the datapath found.

use std::net::IpAddr;

use podgate_abi::{Reason, RulesetId};
use podgate_tests::frame::{self, DESTINATION_OPTIONS, Fragment, flag, udp};
use podgate_tests::kernel::{Origin, PolicyOf};

use crate::setting::{End, FAMILIES, Family, RULESET, Scene, on_a_router};

/// Headers that the stack reads to their end and the programs do not.
fn hidden(packet: frame::Packet, family: Family) -> frame::Packet {
    match family {
        Family::V4 => packet.options(&[1; 40]),
        Family::V6 => packet.padding_options(DESTINATION_OPTIONS, 7),
    }
}

#[test]
fn a_tunnel_to_the_node_cannot_hide_behind_unread_headers() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(RulesetId::ALLOW_ALL));
        let everybody: IpAddr = match family {
            Family::V4 => "224.0.0.1".parse().expect("an address"),
            Family::V6 => "ff02::1".parse().expect("an address"),
        };
        for to in [scene.node, everybody] {
            let packet = hidden(frame::packet(scene.pod, to, udp(999, 8472)), family);
            let reason = scene.sends(&packet.frame());
            assert!(!reason.passes(), "{family:?} to {to}: {reason:?}");
        }
    }
}

/// Two pods agree on it: the one sends from a tunnel's port by way of a NodePort, and the other answers later, when
/// the node has forgotten the first packet.
#[test]
fn a_tunnel_to_the_node_is_no_answer_either() {
    on_a_router(|| FAMILIES.into_iter().for_each(answer_into_a_tunnel));
    // What is not forwarded may be the node's.
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(RulesetId::ALLOW_ALL));
        let friend = scene.friend;
        for tunnel in [udp(8472, 5000), frame::other(47)] {
            assert_eq!(scene.peer_sends(friend, tunnel), Reason::Tunnel);
        }
    }
}

fn answer_into_a_tunnel(family: Family) {
    let mut scene = Scene::new(family, PolicyOf::both(RulesetId::ALLOW_ALL));
    scene.kernel.host.forwards = true;
    let node = scene.node;
    assert_eq!(scene.peer_sends(node, udp(8472, 5000)), Reason::Tunnel);
    assert_eq!(scene.pod_sends(node, udp(5000, 8472)), Reason::Tunnel);
    assert_eq!(scene.node_sends(node, udp(8472, 5001)), Reason::Node);
    let friend = scene.friend;
    assert_eq!(scene.peer_sends(friend, udp(8472, 5000)), Reason::Allowed);
    // IPIP, 6in4, GRE. Nothing stops an outside host from sending with an IPv6 address of the node's.
    for protocol in [4, 41, 47] {
        let tunnel = || frame::other(protocol);
        assert_eq!(scene.peer_sends(node, tunnel()), Reason::Tunnel);
        assert_eq!(scene.pod_sends(node, tunnel()), Reason::Tunnel);
        assert_eq!(scene.peer_sends(friend, tunnel()), Reason::Allowed);
    }
}

#[test]
fn attack_18_a_pod_redirects_others_over_ipv4() {
    let mut scene = Scene::new(Family::V4, PolicyOf::both(RulesetId::ALLOW_ALL));
    let stranger = scene.stranger;
    let redirect = frame::Payload {
        protocol: 1,
        bytes: vec![5, 1, 0, 0, 10, 0, 0, 1, 0, 0, 0, 0],
    };
    assert_eq!(
        scene.pod_sends(stranger, redirect.clone()),
        Reason::ForgedNeighbor
    );
    assert_eq!(scene.peer_sends(stranger, redirect), Reason::Allowed);
}

#[test]
fn a_tunnel_cannot_lead_to_the_nodes_loopback() {
    let mut scene = Scene::new(Family::V4, PolicyOf::both(RulesetId::ALLOW_ALL));
    let loopback = "127.0.0.2".parse().expect("an address");
    assert_eq!(scene.pod_sends(loopback, udp(999, 8472)), Reason::Tunnel);
    assert_eq!(scene.pod_sends(loopback, udp(999, 53)), Reason::Allowed);
}

#[test]
fn an_error_about_a_first_fragment_reaches_who_sent_it() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
        let (pod, friend, stranger) = (scene.pod, scene.friend, scene.stranger);
        assert_eq!(scene.peer_sends(friend, udp(999, 53)), Reason::Allowed);
        let first = Fragment {
            identification: 7,
            offset: 0,
            more: true,
        };
        let answer = frame::packet(pod, friend, udp(53, 999)).fragment(first);
        assert_eq!(scene.sends(&answer.frame()), Reason::Established);
        let error = frame::unreachable(stranger, &answer.frame());
        assert_eq!(scene.peer_sends(stranger, error), Reason::Related);
        let other = frame::packet(pod, friend, udp(53, 998)).fragment(first);
        let error = frame::unreachable(stranger, &other.frame());
        assert_eq!(scene.peer_sends(stranger, error), Reason::Policy);
    }
}

/// "Packet too big" about a packet with options, a routing header that was followed to its end, or authentication.
#[test]
fn an_error_about_extension_headers_reaches_who_sent_it() {
    let mut scene = Scene::new(Family::V6, PolicyOf::to_pod(RULESET));
    let (pod, friend, stranger) = (scene.pod, scene.friend, scene.stranger);
    assert_eq!(scene.peer_sends(friend, udp(999, 53)), Reason::Allowed);
    let first = Fragment {
        identification: 7,
        offset: 0,
        more: true,
    };
    let later = Fragment { offset: 8, ..first };
    let answer = || frame::packet(pod, friend, udp(53, 999));
    let options = |times| answer().padding_options(frame::DESTINATION_OPTIONS, times);
    let hop_by_hop = || answer().padding_options(frame::HOP_BY_HOP, 1);
    let twelve = [[1].as_slice(), &[0; 10]].concat();
    for (packet, expected) in [
        (options(1), Reason::Related),
        (options(6), Reason::Related),
        // No packet of a pod passes with more.
        (options(7), Reason::Policy),
        (hop_by_hop(), Reason::Related),
        (hop_by_hop().fragment(first), Reason::Related),
        (hop_by_hop().fragment(later), Reason::Policy),
        (answer().extension(frame::ROUTING, &[0; 7]), Reason::Related),
        (
            answer().extension(frame::AUTHENTICATION, &twelve),
            Reason::Related,
        ),
    ] {
        let mut error = frame::unreachable(stranger, &packet.frame());
        // "Packet too big".
        error.bytes[0] = 2;
        assert_eq!(scene.peer_sends(stranger, error), expected, "{packet:?}");
    }
    let other = frame::packet(pod, friend, udp(53, 998)).padding_options(frame::HOP_BY_HOP, 1);
    let error = frame::unreachable(stranger, &other.frame());
    assert_eq!(scene.peer_sends(stranger, error), Reason::Policy);
}

/// A pod sends an error only to the sender of the packet that it is about. That packet is one of a connection that is
/// allowed; what the pod has to say goes to another peer.
#[test]
fn a_pod_sends_errors_only_to_the_sender_of_the_packet() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(RULESET));
        let (pod, friend, stranger, node) = (scene.pod, scene.friend, scene.stranger, scene.node);
        assert_eq!(scene.peer_sends(friend, udp(999, 53)), Reason::Allowed);
        assert_eq!(scene.node_sends(node, udp(999, 53)), Reason::Node);
        for peer in [friend, node] {
            let received = frame::packet(peer, pod, udp(999, 53)).frame();
            let error = frame::unreachable(peer, &received);
            assert_eq!(scene.pod_sends(peer, error.clone()), Reason::Related);
            assert_eq!(scene.pod_sends(stranger, error), Reason::Policy);
        }
    }
}

/// An attachment keeps its flows, however many generations were drawn since its birth. 2^31 generations are a month of
/// a busy node: 100 attachments, each renewed ten times a second.
#[test]
fn an_attachment_keeps_its_flows_over_any_generations() {
    for age in [1 << 30, i32::MAX as u32, 1 << 31, u32::MAX - 100] {
        for end in End::BOTH {
            let mut scene = Scene::new(Family::V4, end.policy());
            scene.kernel.skip_generations(age);
            // One direction only: the other may have the generation of its birth for ever.
            scene.kernel.flip(end.direction(), RULESET);
            let friend = scene.friend;
            scene.handshake(friend, 999, 80, end);
            let data = scene.segment(end.other(), 999, flag::ACK);
            assert_eq!(data, Reason::Established, "{age:#x} {end:?}");
            scene.kernel.renew();
            let judged = scene.segment(end, 999, flag::ACK);
            assert_eq!(judged, Reason::Allowed, "{age:#x} {end:?}");
            let data = scene.segment(end.other(), 999, flag::ACK);
            assert_eq!(data, Reason::Established, "{age:#x} {end:?}");
        }
    }
}

#[test]
fn fragments_do_not_outlive_what_allowed_their_first() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(RULESET));
        let (pod, friend) = (scene.pod, scene.friend);
        let part = |offset| Fragment {
            identification: 9,
            offset,
            more: true,
        };
        for end in End::BOTH {
            let (from, to) = match end {
                End::Pod => (pod, friend),
                End::Peer => (friend, pod),
            };
            let sends = |scene: &mut Scene, offset| {
                let frame = frame::packet(from, to, udp(999, 53)).fragment(part(offset));
                let origin = Origin::Elsewhere;
                scene.kernel.run(end.direction(), origin, &frame.frame())
            };
            assert!(sends(&mut scene, 0).passes());
            assert_eq!(sends(&mut scene, 2), Reason::Fragment);
            scene.kernel.flip(end.direction(), RulesetId::DENY_ALL);
            assert_eq!(sends(&mut scene, 2), Reason::FragmentWithoutFirst);
            scene.kernel.flip(end.direction(), RULESET);
            assert_eq!(sends(&mut scene, 2), Reason::FragmentWithoutFirst);
        }
    }
}
