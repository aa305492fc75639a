// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Orders of IPv6 extension headers that receivers read in different ways.

use podgate_abi::{Direction, PortSetId, Reason, RowSets, RulesetId};
use podgate_tests::frame::{
    self, AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, Fragment, HOP_BY_HOP, Packet, ROUTING,
    packet, udp,
};
use podgate_tests::kernel::PolicyOf;

use crate::setting::{FRIENDS, Family, RULESET, Scene};

/// A whole datagram with a fragment header.
const ATOMIC: Fragment = Fragment {
    identification: 77,
    offset: 0,
    more: false,
};

fn with_headers(packet: Packet, kinds: &[u8], part: Fragment) -> Packet {
    kinds.iter().fold(packet, |packet, kind| match *kind {
        FRAGMENT => packet.fragment(part),
        // The authentication header counts in words of four bytes, beyond two of them.
        AUTHENTICATION => packet.extension(AUTHENTICATION, &[1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
        ROUTING => packet.extension(ROUTING, &[0, 0, 0, 0, 0, 0, 0]),
        kind => packet.padding_options(kind, 1),
    })
}

/// Each chain, and whether all receivers read it in one way.
const CHAINS: [(&[u8], bool); 17] = [
    (&[FRAGMENT], true),
    (&[HOP_BY_HOP, FRAGMENT], true),
    (&[FRAGMENT, AUTHENTICATION], true),
    (
        &[
            HOP_BY_HOP,
            DESTINATION_OPTIONS,
            ROUTING,
            DESTINATION_OPTIONS,
        ],
        true,
    ),
    (
        &[DESTINATION_OPTIONS, AUTHENTICATION, DESTINATION_OPTIONS],
        true,
    ),
    (&[DESTINATION_OPTIONS, FRAGMENT], false),
    (&[ROUTING, FRAGMENT], false),
    (&[AUTHENTICATION, FRAGMENT], false),
    (&[FRAGMENT, FRAGMENT], false),
    (&[HOP_BY_HOP, DESTINATION_OPTIONS, FRAGMENT], false),
    (&[HOP_BY_HOP, FRAGMENT, FRAGMENT], false),
    (&[FRAGMENT, DESTINATION_OPTIONS], false),
    (&[FRAGMENT, ROUTING], false),
    (&[FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS], false),
    (&[HOP_BY_HOP, HOP_BY_HOP], false),
    (&[DESTINATION_OPTIONS, HOP_BY_HOP], false),
    (&[FRAGMENT, HOP_BY_HOP], false),
];

#[test]
fn attack_22_headers_that_receivers_read_differently() {
    let mut scene = Scene::new(Family::V6, PolicyOf::both(RULESET));
    let (pod, friend) = (scene.pod, scene.friend);
    for (chain, is_clear) in CHAINS {
        for more in [false, true] {
            let part = Fragment { more, ..ATOMIC };
            let frame =
                |from, to| with_headers(packet(from, to, udp(4352, 53)), chain, part).frame();
            let expected = if is_clear {
                Reason::Allowed
            } else {
                Reason::AmbiguousHeaders
            };
            for policy in [PolicyOf::both(RULESET), PolicyOf::OPEN] {
                // Others judge by what a pod's packets say, whoever is policed.
                scene.attach(policy);
                assert_eq!(scene.sends(&frame(pod, friend)), expected, "{chain:?}");
            }
            scene.attach(PolicyOf::both(RULESET));
            assert_eq!(scene.receives(&frame(friend, pod)), expected, "{chain:?}");
            scene.attach(PolicyOf::OPEN);
            assert!(scene.receives(&frame(friend, pod)).passes(), "{chain:?}");
        }
    }
}

/// Linux gives them to sockets of these protocols, whatever they say of a next header.
#[test]
fn mobility_hip_and_shim6_are_protocols_of_their_own() {
    let mut scene = Scene::new(Family::V6, PolicyOf::both(RULESET));
    let only_udp = RowSets {
        tcp: PortSetId::NONE,
        udp: PortSetId::ALL,
        sctp: PortSetId::NONE,
        rest: PortSetId::NONE,
    };
    scene.kernel.put_row(RULESET, FRIENDS, only_udp);
    let (pod, friend) = (scene.pod, scene.friend);
    for kind in [135, 139, 140] {
        let before_udp = |from, to| {
            let packet = packet(from, to, udp(999, 80));
            packet.padding_options(kind, 1).frame()
        };
        assert_eq!(scene.receives(&before_udp(friend, pod)), Reason::Policy);
        assert_eq!(scene.sends(&before_udp(pod, friend)), Reason::Policy);
    }
    let mobility = scene.kernel.ports(&[135..=135]);
    let only_mobility = RowSets {
        udp: PortSetId::NONE,
        rest: mobility,
        ..only_udp
    };
    scene.kernel.put_row(RULESET, FRIENDS, only_mobility);
    assert_eq!(scene.peer_sends(friend, frame::other(135)), Reason::Allowed);
    assert_eq!(scene.peer_sends(friend, frame::other(139)), Reason::Policy);
    scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
    assert_eq!(scene.peer_sends(friend, frame::other(135)), Reason::DenyAll);
}
