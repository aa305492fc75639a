// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who a pod says that it is: source addresses, ARP, neighbor discovery.

use podgate_abi::{Direction, Reason};
use podgate_tests::frame::flag::SYN;
use podgate_tests::frame::{self, Payload, packet, tcp, udp};
use podgate_tests::kernel::{Origin, PolicyOf};

use crate::setting::{FAMILIES, Family, RULESET, Scene};

const POD: [u8; 4] = [10, 1, 0, 10];
const OTHER: [u8; 4] = [10, 1, 0, 30];
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// A neighbor discovery message about `target`.
fn discovery(kind: u8, target: &str) -> Payload {
    let target: std::net::Ipv6Addr = target.parse().expect("an address");
    let mut rest = vec![0; 4];
    rest.extend(target.octets());
    frame::icmp(target.into(), kind, 0, &rest)
}

/// "Who is a router?", with these options.
fn router_solicitation(options: &[u8]) -> Payload {
    let any = std::net::Ipv6Addr::UNSPECIFIED;
    frame::icmp(
        any.into(),
        ROUTER_SOLICITATION,
        0,
        &[&[0; 4], options].concat(),
    )
}

fn from(source: &str, destination: &str, payload: Payload) -> frame::Packet {
    let address = |text: &str| text.parse().expect("an address");
    packet(address(source), address(destination), payload)
}

#[test]
fn a_pod_speaks_for_itself_only_whoever_is_policed() {
    for family in FAMILIES {
        for policy in [PolicyOf::OPEN, PolicyOf::both(RULESET), PolicyOf::SHUT] {
            let mut scene = Scene::new(family, policy);
            let (stranger, friend) = (scene.stranger, scene.friend);
            for payload in [
                tcp(999, 80, SYN),
                udp(999, 53),
                frame::echo_request(friend, 7),
            ] {
                let frame = packet(stranger, friend, payload).frame();
                assert_eq!(scene.sends(&frame), Reason::Spoofed);
            }
        }
    }
}

#[test]
fn the_unspecified_address_is_no_pods_own() {
    for (family, text) in [(Family::V4, "0.0.0.0"), (Family::V6, "::")] {
        let mut scene = Scene::new(family, PolicyOf::OPEN);
        let frame = packet(text.parse().expect("an address"), scene.friend, udp(68, 67)).frame();
        assert_eq!(scene.sends(&frame), Reason::Spoofed);
    }
}

#[test]
fn arp_passes_for_the_own_address_and_for_no_other() {
    for policy in [PolicyOf::OPEN, PolicyOf::SHUT] {
        let mut scene = Scene::new(Family::V4, policy);
        for (frame, expected) in [
            (frame::arp(1, POD, OTHER), Reason::Neighbor),
            (frame::arp(2, POD, OTHER), Reason::Neighbor),
            (frame::arp(1, [0; 4], POD), Reason::Neighbor),
            (frame::arp(2, [0; 4], POD), Reason::ForgedNeighbor),
            (frame::arp(1, OTHER, POD), Reason::ForgedNeighbor),
            (frame::arp(2, OTHER, POD), Reason::ForgedNeighbor),
        ] {
            assert_eq!(scene.sends(&frame), expected);
            assert_eq!(scene.receives(&frame), Reason::Neighbor);
            // Cut short, it says nothing of whom it speaks for.
            for length in 14..frame.len() {
                assert_eq!(scene.sends(&frame[..length]), Reason::ForgedNeighbor);
            }
        }
        // For something else than IPv4 over Ethernet.
        for place in [15, 16, 17, 18, 19] {
            let mut frame = frame::arp(1, POD, OTHER);
            frame[place] ^= 4;
            assert_eq!(scene.sends(&frame), Reason::ForgedNeighbor);
        }
    }
}

#[test]
fn neighbor_discovery_passes_for_the_own_addresses_only() {
    for policy in [PolicyOf::OPEN, PolicyOf::SHUT] {
        let mut scene = Scene::new(Family::V6, policy);
        for (frame, expected) in [
            (
                from(
                    "fd00:1::10",
                    "fd00:1::30",
                    discovery(SOLICITATION, "fd00:1::30"),
                ),
                Reason::Neighbor,
            ),
            (
                from(
                    "::",
                    "ff02::1:ff00:10",
                    discovery(SOLICITATION, "fd00:1::10"),
                ),
                Reason::Neighbor,
            ),
            (
                from("fe80::10", "ff02::2", router_solicitation(&[])),
                Reason::Neighbor,
            ),
            (
                from(
                    "fd00:1::10",
                    "fd00:1::30",
                    discovery(ADVERTISEMENT, "fd00:1::10"),
                ),
                Reason::Neighbor,
            ),
            (
                from(
                    "fe80::10",
                    "ff02::1",
                    discovery(ADVERTISEMENT, "fd00:1::10"),
                ),
                Reason::Neighbor,
            ),
            (
                from(
                    "fd00:1::10",
                    "fd00:1::30",
                    discovery(ADVERTISEMENT, "fd00:1::20"),
                ),
                Reason::ForgedNeighbor,
            ),
            (
                from(
                    "fd00:1::20",
                    "fd00:1::30",
                    discovery(ADVERTISEMENT, "fd00:1::20"),
                ),
                Reason::ForgedNeighbor,
            ),
            (
                from("::", "ff02::1", discovery(ADVERTISEMENT, "fd00:1::10")),
                Reason::ForgedNeighbor,
            ),
            (
                from(
                    "fd00:1::20",
                    "fd00:1::30",
                    discovery(SOLICITATION, "fd00:1::30"),
                ),
                Reason::ForgedNeighbor,
            ),
        ] {
            assert_eq!(scene.sends(&frame.hop_limit(255).frame()), expected);
        }
    }
}

#[test]
fn neighbor_discovery_through_a_router_is_dropped_both_ways() {
    for policy in [PolicyOf::OPEN, PolicyOf::SHUT] {
        let mut scene = Scene::new(Family::V6, policy);
        let asks = discovery(SOLICITATION, "fd00:1::30");
        let out = from("fd00:1::10", "fd00:1::30", asks.clone());
        let back = from("fd00:1::30", "fd00:1::10", asks);
        for (hop_limit, expected) in [
            (255, Reason::Neighbor),
            (254, Reason::ForgedNeighbor),
            (0, Reason::ForgedNeighbor),
        ] {
            let out = out.clone().hop_limit(hop_limit).frame();
            assert_eq!(scene.sends(&out), expected);
            let back = back.clone().hop_limit(hop_limit).frame();
            assert_eq!(scene.receives(&back), expected);
        }
        // RFC 6980: and never in fragments.
        let whole = frame::Fragment {
            identification: 1,
            offset: 0,
            more: false,
        };
        let back = back.hop_limit(255).fragment(whole).frame();
        assert_eq!(scene.receives(&back), Reason::ForgedNeighbor);
    }
}

#[test]
fn a_policed_pod_hears_routers_and_neighbors() {
    let mut scene = Scene::new(Family::V6, PolicyOf::SHUT);
    for kind in [ROUTER_ADVERTISEMENT, SOLICITATION, ADVERTISEMENT, REDIRECT] {
        let frame = from("fe80::1", "fd00:1::10", discovery(kind, "fd00:1::10"));
        let frame = frame.hop_limit(255).frame();
        assert_eq!(scene.receives(&frame), Reason::Neighbor);
    }
}

#[test]
fn attack_18_a_pod_advertises_as_router_or_redirects_others() {
    for policy in [PolicyOf::OPEN, PolicyOf::both(RULESET), PolicyOf::SHUT] {
        let mut scene = Scene::new(Family::V6, policy);
        for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
            for source in ["fe80::10", "fd00:1::10", "fe80::1"] {
                let frame = from(source, "ff02::1", discovery(kind, "fd00:1::10"));
                let frame = frame.hop_limit(255).frame();
                assert_eq!(scene.sends(&frame), Reason::ForgedNeighbor);
            }
        }
    }
}

#[test]
fn attack_37_a_pod_advertises_itself_as_router_of_groups() {
    for policy in [PolicyOf::OPEN, PolicyOf::SHUT] {
        let mut scene = Scene::new(Family::V6, policy);
        for kind in 151..=153 {
            let discovery = from("fe80::10", "ff02::6a", discovery(kind, "::")).hop_limit(1);
            assert_eq!(scene.sends(&discovery.frame()), Reason::ForgedNeighbor);
        }
        let mut scene = Scene::new(Family::V4, policy);
        let advertisement = frame::icmp(scene.pod, 9, 0, &[1, 2, 0, 30, 10, 0, 0, 9, 0, 0, 0, 0]);
        let advertisement = packet(scene.pod, scene.friend, advertisement).frame();
        assert_eq!(scene.sends(&advertisement), Reason::ForgedNeighbor);
    }
}

#[test]
fn listeners_may_say_what_they_listen_to() {
    let mut scene = Scene::new(Family::V6, PolicyOf::SHUT);
    let report = |source| from(source, "ff02::16", discovery(143, "::")).hop_limit(1);
    for source in ["fe80::10", "::"] {
        assert_eq!(scene.sends(&report(source).frame()), Reason::Neighbor);
    }
    let routed = report("fe80::10").hop_limit(2).frame();
    assert_eq!(scene.sends(&routed), Reason::ForgedNeighbor);
    let to_one = from("fe80::10", "fd00:1::30", discovery(143, "::")).hop_limit(1);
    assert_eq!(scene.sends(&to_one.frame()), Reason::ForgedNeighbor);
    assert_eq!(scene.sends(&report("fe80::20").frame()), Reason::Spoofed);
    // A query is a router's.
    let query = from("fe80::10", "ff02::1", discovery(130, "::")).hop_limit(1);
    assert_eq!(scene.sends(&query.frame()), Reason::ForgedNeighbor);
    let query = from("fe80::1", "ff02::1", discovery(130, "::")).hop_limit(1);
    assert_eq!(scene.receives(&query.frame()), Reason::Neighbor);
}

#[test]
fn what_a_pod_sends_to_itself_comes_back_and_never_leaves() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::SHUT);
        let (pod, stranger) = (scene.pod, scene.stranger);
        assert_eq!(scene.pod_sends(pod, udp(999, 53)), Reason::NotForPod);
        // Through a Service it comes back by the interface that it left by, with another source perhaps.
        let frame = packet(stranger, pod, udp(999, 53)).frame();
        let back = Origin::SameInterface;
        assert_eq!(
            scene.kernel.run(Direction::Ingress, back, &frame),
            Reason::Own
        );
        assert_eq!(scene.receives(&frame), Reason::DenyAll);
    }
}

#[test]
fn attack_18_a_router_advertisement_behind_too_many_headers() {
    let mut scene = Scene::new(Family::V6, PolicyOf::OPEN);
    let frame = from(
        "fe80::10",
        "ff02::1",
        discovery(ROUTER_ADVERTISEMENT, "fd00:1::10"),
    )
    .hop_limit(255)
    .padding_options(frame::DESTINATION_OPTIONS, 7)
    .frame();
    assert_eq!(scene.sends(&frame), Reason::TooManyHeaders);
}

#[test]
fn neighbor_discovery_is_none_in_ipv4() {
    let mut scene = Scene::new(Family::V4, PolicyOf::SHUT);
    let (pod, stranger) = (scene.pod, scene.stranger);
    for kind in [SOLICITATION, ADVERTISEMENT, 143] {
        let mut message = discovery(kind, "fd00:1::10");
        message.bytes.extend([0; 32]);
        for hop_limit in [255, 1] {
            let frame = packet(pod, stranger, message.clone())
                .hop_limit(hop_limit)
                .frame();
            assert_eq!(scene.sends(&frame), Reason::DenyAll);
            let frame = packet(stranger, pod, message.clone())
                .hop_limit(hop_limit)
                .frame();
            assert_eq!(scene.receives(&frame), Reason::DenyAll);
        }
    }
}
