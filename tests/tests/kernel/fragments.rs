// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fragments, and ICMP errors: packets that are about other packets.

use podgate_abi::{Direction, Reason, RulesetId};
use podgate_tests::frame::flag::SYN;
use podgate_tests::frame::{self, Fragment, Payload, packet, tcp, udp};
use podgate_tests::kernel::{Origin, PolicyOf};

use crate::setting::{FAMILIES, Family, RULESET, Scene};

const FIRST: Fragment = Fragment {
    identification: 77,
    offset: 0,
    more: true,
};
const LATER: Fragment = Fragment {
    identification: 77,
    offset: 2,
    more: true,
};
const LAST: Fragment = Fragment {
    identification: 77,
    offset: 4,
    more: false,
};

/// The bytes of a later fragment: ports, if one took them for a header.
fn middle() -> Payload {
    udp(999, 53)
}

#[test]
fn later_fragments_go_the_way_of_the_first() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(RULESET));
        let (pod, friend, stranger) = (scene.pod, scene.friend, scene.stranger);
        for (peer, first, later) in [
            (friend, Reason::Allowed, Reason::Fragment),
            (stranger, Reason::Policy, Reason::FragmentWithoutFirst),
        ] {
            let part = |part| packet(peer, pod, middle()).fragment(part).frame();
            assert_eq!(scene.receives(&part(LATER)), Reason::FragmentWithoutFirst);
            assert_eq!(scene.receives(&part(FIRST)), first);
            assert_eq!(scene.receives(&part(LATER)), later);
            assert_eq!(scene.receives(&part(LAST)), later);
            let other = Fragment {
                identification: 78,
                ..LATER
            };
            assert_eq!(scene.receives(&part(other)), Reason::FragmentWithoutFirst);
            // Each direction for itself.
            let part = |part| packet(pod, peer, middle()).fragment(part).frame();
            assert_eq!(scene.sends(&part(LATER)), Reason::FragmentWithoutFirst);
        }
    }
}

/// A first fragment without its whole transport header is dropped, and so is all that follows.
#[test]
fn a_first_fragment_without_its_whole_header_is_dropped() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(RULESET));
        let (pod, friend) = (scene.pod, scene.friend);
        let mut tiny = tcp(999, 80, SYN);
        tiny.bytes.truncate(16);
        let frame = packet(friend, pod, tiny).fragment(FIRST).frame();
        assert_eq!(scene.receives(&frame), Reason::BadTransportHeader);
        let later = packet(friend, pod, tcp(999, 80, SYN)).fragment(LATER);
        assert_eq!(scene.receives(&later.frame()), Reason::FragmentWithoutFirst);
    }
}

#[test]
fn a_dropped_first_fragment_shuts_out_those_of_an_earlier_one() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
        let ports = scene.kernel.ports(&[53..=53]);
        scene
            .kernel
            .put_row(RULESET, crate::setting::FRIENDS, crate::setting::of(ports));
        let (pod, friend) = (scene.pod, scene.friend);
        let first = |port| packet(friend, pod, udp(999, port)).fragment(FIRST).frame();
        let later = packet(friend, pod, middle()).fragment(LATER).frame();
        assert_eq!(scene.receives(&first(53)), Reason::Allowed);
        assert_eq!(scene.receives(&later), Reason::Fragment);
        assert_eq!(scene.receives(&first(54)), Reason::Policy);
        assert_eq!(scene.receives(&later), Reason::FragmentWithoutFirst);
    }
}

#[test]
fn the_protocol_names_an_ipv4_datagram_and_not_an_ipv6_one() {
    for (family, expected) in [
        (Family::V4, Reason::FragmentWithoutFirst),
        (Family::V6, Reason::Fragment),
    ] {
        let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
        let (pod, friend) = (scene.pod, scene.friend);
        let first = packet(friend, pod, udp(999, 53)).fragment(FIRST).frame();
        assert_eq!(scene.receives(&first), Reason::Allowed);
        let later = packet(friend, pod, tcp(999, 80, SYN)).fragment(LATER);
        assert_eq!(scene.receives(&later.frame()), expected);
    }
}

#[test]
fn a_fragment_header_of_a_whole_datagram_changes_nothing() {
    let mut scene = Scene::new(Family::V6, PolicyOf::to_pod(RULESET));
    let (pod, friend, stranger) = (scene.pod, scene.friend, scene.stranger);
    let whole = Fragment {
        identification: 1,
        offset: 0,
        more: false,
    };
    for (peer, expected) in [(friend, Reason::Allowed), (stranger, Reason::Policy)] {
        let frame = packet(peer, pod, udp(999, 53)).fragment(whole).frame();
        assert_eq!(scene.receives(&frame), expected);
    }
}

#[test]
fn without_a_policy_fragments_pass_and_the_nodes_pass_always() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::OPEN);
        let (pod, friend, node) = (scene.pod, scene.friend, scene.node);
        let later = packet(friend, pod, middle()).fragment(LATER).frame();
        assert_eq!(scene.receives(&later), Reason::Unpoliced);
        scene.attach(PolicyOf::SHUT);
        let later = packet(node, pod, middle()).fragment(LATER).frame();
        let reason = scene.kernel.run(Direction::Ingress, Origin::Node, &later);
        match family {
            Family::V4 => assert_eq!(reason, Reason::Node),
            Family::V6 => assert_eq!(reason, Reason::FragmentWithoutFirst),
        }
    }
}

#[test]
fn attack_01_a_refragmented_ipv6_packet_seems_to_be_the_nodes() {
    let mut scene = Scene::new(Family::V6, PolicyOf::SHUT);
    let (pod, stranger, node) = (scene.pod, scene.stranger, scene.node);
    // 504 bytes of destination options, then the fragment header, as `ip6_fragment` makes it of a datagram that
    // conntrack put together. It comes from nowhere; the third time even with the node's own address.
    let mut options = vec![62, 1, 255];
    options.resize(260, 0);
    options.extend([1, 241]);
    options.resize(503, 0);
    for source in [stranger, node] {
        for (part, expected) in [
            (FIRST, Reason::DenyAll),
            (LATER, Reason::FragmentWithoutFirst),
            (LAST, Reason::FragmentWithoutFirst),
        ] {
            let plain = packet(source, pod, udp(999, 53)).fragment(part);
            let behind_options = packet(source, pod, udp(999, 53))
                .extension(frame::DESTINATION_OPTIONS, &options)
                .fragment(part);
            for (packet, expected) in [
                (plain, expected),
                (behind_options, Reason::AmbiguousHeaders),
            ] {
                let frame = packet.frame();
                let reason = scene.kernel.run(Direction::Ingress, Origin::Node, &frame);
                assert_eq!(reason, expected);
            }
        }
    }
    // Where the headers are not read as far as the fragment header, or there is another defect before it.
    let seven = packet(node, pod, udp(999, 53)).padding_options(frame::DESTINATION_OPTIONS, 7);
    let routed = packet(node, pod, udp(999, 53)).extension(frame::ROUTING, &[0, 0, 1, 0, 0, 0, 0]);
    for (hidden, expected) in [
        (seven, Reason::TooManyHeaders),
        (routed, Reason::SourceRoute),
    ] {
        let frame = hidden.fragment(FIRST).frame();
        let reason = scene.kernel.run(Direction::Ingress, Origin::Node, &frame);
        assert_eq!(reason, expected);
    }
    // Whole, the node's own passes.
    assert_eq!(scene.node_sends(node, udp(999, 53)), Reason::Node);
}

#[test]
fn an_error_about_a_tracked_flow_passes_and_any_other_is_judged() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(RULESET));
        let (pod, friend, stranger) = (scene.pod, scene.friend, scene.stranger);
        let requests = [
            tcp(2000, 80, SYN),
            udp(2000, 53),
            frame::sctp(2000, 80),
            frame::echo_request(friend, 7),
        ];
        for request in requests {
            let out = packet(pod, friend, request).frame();
            let error = frame::unreachable(friend, &out);
            // The router that says so is nobody that the policy knows.
            assert_eq!(scene.peer_sends(stranger, error.clone()), Reason::Policy);
            assert_eq!(scene.sends(&out), Reason::Allowed);
            assert_eq!(scene.peer_sends(stranger, error.clone()), Reason::Related);
            scene.kernel.flip(Direction::Egress, RulesetId::DENY_ALL);
            assert_eq!(scene.peer_sends(stranger, error), Reason::DenyAll);
            scene.kernel.flip(Direction::Egress, RULESET);
        }
        for request in [
            tcp(999, 80, SYN),
            udp(999, 53),
            frame::sctp(999, 80),
            frame::echo_request(friend, 8),
        ] {
            let back = packet(friend, pod, request).frame();
            let error = frame::unreachable(friend, &back);
            assert_eq!(scene.pod_sends(stranger, error.clone()), Reason::Policy);
            assert_eq!(scene.receives(&back), Reason::Allowed);
            assert_eq!(scene.pod_sends(friend, error.clone()), Reason::Related);
            // The pod owes the stranger no error about what the friend sent.
            assert_eq!(scene.pod_sends(stranger, error), Reason::Policy);
        }
    }
}

#[test]
fn an_error_makes_no_flow_and_lets_nothing_else_in() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
        let (pod, friend, stranger) = (scene.pod, scene.friend, scene.stranger);
        let out = packet(pod, stranger, udp(2000, 53)).frame();
        let error = frame::unreachable(friend, &out);
        // A friend may send errors; that makes no flow with the stranger that it is about.
        assert_eq!(scene.peer_sends(friend, error.clone()), Reason::Allowed);
        assert_eq!(scene.peer_sends(stranger, udp(53, 2000)), Reason::Policy);
        assert_eq!(scene.peer_sends(friend, error), Reason::Allowed);
        // An error whose inner packet is cut short is any message.
        let mut short = frame::unreachable(friend, &out);
        short.bytes.truncate(20);
        assert_eq!(scene.sends(&out), Reason::Allowed);
        assert_eq!(scene.peer_sends(stranger, short), Reason::Policy);
        let error = frame::unreachable(friend, &out);
        assert_eq!(scene.peer_sends(stranger, error), Reason::Related);
    }
}

#[test]
fn attack_34_an_error_about_anothers_packet_belongs_to_no_flow() {
    for family in FAMILIES {
        for direction in Direction::BOTH {
            let mut scene = Scene::new(family, PolicyOf::both(RULESET));
            let ports = scene.kernel.ports(&[53..=53]);
            let only_ports = podgate_abi::RowSets {
                rest: podgate_abi::PortSetId::NONE,
                ..crate::setting::of(ports)
            };
            scene
                .kernel
                .put_row(RULESET, crate::setting::FRIENDS, only_ports);
            let (pod, friend, stranger) = (scene.pod, scene.friend, scene.stranger);
            // Inside is what the pod sent, or what the friend sent to the pod; or to, or from, another one.
            let (own, foreign) = match direction {
                Direction::Ingress => ((pod, friend), (stranger, friend)),
                Direction::Egress => ((friend, pod), (friend, stranger)),
            };
            let flow = packet(own.0, own.1, udp(999, 53)).frame();
            let error = |inside: (_, _)| {
                let inside = packet(inside.0, inside.1, udp(999, 53)).frame();
                packet(own.1, own.0, frame::unreachable(own.1, &inside)).frame()
            };
            let mut run = |way, frame: &[u8]| scene.kernel.run(way, Origin::Elsewhere, frame);
            assert_eq!(run(direction.opposite(), &flow), Reason::Allowed);
            assert_eq!(run(direction, &error(own)), Reason::Related);
            assert_eq!(run(direction, &error(foreign)), Reason::Policy);
        }
    }
}

/// An error about a packet with an impossible header is a message.
#[test]
fn an_error_about_an_impossible_header_is_a_message() {
    let mut scene = Scene::new(Family::V4, PolicyOf::to_pod(RULESET));
    let (pod, stranger) = (scene.pod, scene.stranger);
    let out = packet(pod, stranger, udp(999, 53)).frame();
    assert_eq!(scene.sends(&out), Reason::Allowed);
    for (words, expected) in [
        (5, Reason::Related),
        (6, Reason::Related),
        (1, Reason::Policy),
    ] {
        // The ports stand where a header of so many words ends.
        let mut inside = out.clone();
        inside.extend([0; 8]);
        inside[14] = 0x40 | words;
        let at = 14 + usize::from(words) * 4;
        inside[at..at + 4].copy_from_slice(&[3, 231, 0, 53]);
        let reason = scene.peer_sends(stranger, frame::unreachable(stranger, &inside));
        assert_eq!(reason, expected, "{words} words");
    }
}
