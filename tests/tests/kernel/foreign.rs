// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses that are not the pod's own and that no pod, node or Service has.

use std::net::{IpAddr, Ipv6Addr};

use podgate_abi::{Direction, Foreign, Reason, RulesetId};
use podgate_tests::frame::{self, Payload, packet, udp};
use podgate_tests::kernel::PolicyOf;

use crate::setting::{FAMILIES, Family, RULESET, Scene};

const MODES: [Foreign; 3] = [Foreign::Deny, Foreign::Unisolated, Foreign::Allow];
/// Everybody's friend may talk with the pod under each of them.
const POLICIES: [PolicyOf; 4] = [
    PolicyOf::OPEN,
    PolicyOf::to_pod(RULESET),
    PolicyOf::from_pod(RULESET),
    PolicyOf::both(RULESET),
];
const POD: [u8; 4] = [10, 1, 0, 10];
const FOREIGN: [u8; 4] = [172, 30, 0, 7];
const TAKEN: [u8; 4] = [10, 1, 0, 40];
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

fn address(family: Family, v4: &str, v6: &str) -> IpAddr {
    let text = match family {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    text.parse().expect("an address")
}

fn scene(family: Family, policy: PolicyOf, mode: Foreign) -> Scene {
    let mut scene = Scene::new(family, policy);
    scene.kernel.set_foreign(mode);
    let taken = address(family, "10.1.0.40", "fd00:1::40");
    scene.kernel.put_taken(taken, 128);
    // What the node takes for itself beside its addresses.
    let (range, length) = match family {
        Family::V4 => (address(family, "10.9.0.0", ""), 96 + 16),
        Family::V6 => (address(family, "", "fd00:9::"), 64),
    };
    scene.kernel.put_taken(range, length);
    scene
}

fn admits(mode: Foreign, policy: PolicyOf) -> bool {
    match mode {
        Foreign::Deny => false,
        Foreign::Unisolated => {
            [policy.to_pod, policy.from_pod] == [RulesetId::ALLOW_ALL, RulesetId::ALLOW_ALL]
        }
        Foreign::Allow => true,
    }
}

/// What becomes of a packet of the pod's friend to this address, and of one from it.
fn both_ways(scene: &mut Scene, at_pod: IpAddr, port: u16) -> [Reason; 2] {
    let friend = scene.friend;
    let to_pod = packet(friend, at_pod, udp(port, 999)).frame();
    let from_pod = packet(at_pod, friend, udp(998, port)).frame();
    [scene.receives(&to_pod), scene.sends(&from_pod)]
}

/// Foreign addresses pass both ways as far as the mode goes, and those of others never.
#[test]
fn foreign_addresses_pass_both_ways_as_the_mode_says() {
    for family in FAMILIES {
        for mode in MODES {
            for policy in POLICIES {
                let what = format!("{family:?}, {mode:?}, {policy:?}");
                let mut scene = scene(family, policy, mode);
                let own = scene.pod;
                let [to_pod, from_pod] = both_ways(&mut scene, own, 1);
                assert!(to_pod.passes() && from_pod.passes(), "{what}");

                let foreign = address(family, "172.30.0.7", "fd00:7::7");
                let found = both_ways(&mut scene, foreign, 2);
                if admits(mode, policy) {
                    assert!(
                        found.iter().all(|reason| reason.passes()),
                        "{what}: {found:?}"
                    );
                } else {
                    assert_eq!(found, [Reason::NotForPod, Reason::Spoofed], "{what}");
                }

                for taken in [
                    address(family, "10.1.0.40", "fd00:1::40"),
                    address(family, "10.9.7.7", "fd00:9::7"),
                ] {
                    let found = both_ways(&mut scene, taken, 3);
                    assert_eq!(found, [Reason::NotForPod, Reason::Spoofed], "{what}");
                }
            }
        }
    }
}

#[test]
fn what_is_no_ordinary_address_is_nobodys() {
    for (family, never) in [
        (
            Family::V4,
            &[
                "0.0.0.0",
                "0.1.2.3",
                "127.0.0.2",
                "169.254.169.254",
                "224.0.0.9",
                "255.255.255.255",
            ][..],
        ),
        (Family::V6, &["::", "::1", "fe80::99", "ff02::9", "ff0e::9"]),
    ] {
        let mut scene = scene(family, PolicyOf::OPEN, Foreign::Allow);
        let friend = scene.friend;
        for never in never {
            let source = never.parse().expect("an address");
            let frame = packet(source, friend, udp(998, 4)).frame();
            assert_eq!(scene.sends(&frame), Reason::Spoofed, "{never}");
        }
    }
    // The directed broadcast of its own network, too.
    let mut scene = scene(Family::V4, PolicyOf::OPEN, Foreign::Allow);
    let broadcast = IpAddr::from([10, 1, 0, 255]);
    let frame = packet(broadcast, scene.friend, udp(998, 4)).frame();
    assert_eq!(scene.sends(&frame), Reason::Spoofed);
}

#[test]
fn the_pods_policy_judges_allowed_foreign_addresses() {
    for family in FAMILIES {
        let mut scene = scene(family, PolicyOf::both(RULESET), Foreign::Allow);
        let foreign = address(family, "172.30.0.7", "fd00:7::7");
        let stranger = scene.stranger;
        let frame = packet(stranger, foreign, udp(5, 999)).frame();
        assert_eq!(scene.receives(&frame), Reason::Policy);
        let frame = packet(foreign, stranger, udp(999, 6)).frame();
        assert_eq!(scene.sends(&frame), Reason::Policy);
        // What is told of a flow of such an address belongs to it.
        let sent = packet(foreign, scene.friend, udp(999, 7)).frame();
        assert_eq!(scene.sends(&sent), Reason::Allowed);
        let error = packet(stranger, foreign, frame::unreachable(foreign, &sent)).frame();
        assert_eq!(scene.receives(&error), Reason::Related);
    }
}

#[test]
fn a_policy_that_comes_ends_what_passed_at_a_foreign_address() {
    for family in FAMILIES {
        let mut scene = scene(family, PolicyOf::OPEN, Foreign::Unisolated);
        let foreign = address(family, "172.30.0.7", "fd00:7::7");
        let passes = both_ways(&mut scene, foreign, 8);
        assert!(passes.iter().all(|reason| reason.passes()));
        scene.kernel.flip(Direction::Ingress, RULESET);
        assert_eq!(
            both_ways(&mut scene, foreign, 8),
            [Reason::NotForPod, Reason::Spoofed]
        );
    }
}

#[test]
fn the_hardware_address_stays_bound_whatever_the_mode() {
    let mut scene = scene(Family::V4, PolicyOf::OPEN, Foreign::Allow);
    let foreign = IpAddr::from(FOREIGN);
    let mut frame = packet(foreign, scene.friend, udp(998, 9)).frame();
    frame[6] ^= 2;
    assert_eq!(scene.sends(&frame), Reason::ForeignHardwareAddress);
}

/// A neighbor discovery message about `target`.
fn discovery(kind: u8, target: &str) -> Payload {
    let target: Ipv6Addr = target.parse().expect("an address");
    let rest = [&[0; 4], &target.octets()[..]].concat();
    frame::icmp(target.into(), kind, 0, &rest)
}

#[test]
fn a_pod_speaks_for_foreign_addresses_only_where_allowed() {
    let neighbor = |may| {
        if may {
            Reason::Neighbor
        } else {
            Reason::ForgedNeighbor
        }
    };
    for mode in MODES {
        let may = mode == Foreign::Allow;
        let mut v4 = scene(Family::V4, PolicyOf::OPEN, mode);
        for (frame, expected) in [
            (frame::arp(1, POD, FOREIGN), true),
            (frame::arp(1, FOREIGN, POD), may),
            (frame::arp(2, FOREIGN, POD), may),
            (frame::arp(1, [0; 4], FOREIGN), may),
            (frame::arp(1, TAKEN, POD), false),
            (frame::arp(2, TAKEN, POD), false),
            (frame::arp(1, [0; 4], TAKEN), false),
        ] {
            assert_eq!(v4.sends(&frame), neighbor(expected), "{mode:?}");
        }
        let mut v6 = scene(Family::V6, PolicyOf::OPEN, mode);
        for (source, kind, about, expected) in [
            ("fd00:1::10", SOLICITATION, "fd00:7::7", true),
            ("fd00:7::7", SOLICITATION, "fd00:1::20", may),
            ("fd00:1::10", ADVERTISEMENT, "fd00:7::7", may),
            ("fd00:7::7", ADVERTISEMENT, "fd00:7::7", may),
            ("::", SOLICITATION, "fd00:7::7", may),
            ("fd00:1::40", SOLICITATION, "fd00:1::20", false),
            ("fd00:1::10", ADVERTISEMENT, "fd00:1::40", false),
            ("fd00:7::7", ADVERTISEMENT, "fd00:1::40", false),
            ("::", SOLICITATION, "fd00:1::40", false),
        ] {
            let source = source.parse().expect("an address");
            let to = "ff02::1".parse().expect("an address");
            let frame = packet(source, to, discovery(kind, about))
                .hop_limit(255)
                .frame();
            let what = format!("{mode:?}: {source} says {kind} about {about}");
            assert_eq!(v6.sends(&frame), neighbor(expected), "{what}");
        }
    }
}
