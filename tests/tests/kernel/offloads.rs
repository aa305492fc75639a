// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Checksums that the kernel is still to write, on the host: a test run in the kernel cannot have any.

use std::net::IpAddr;

use podgate_abi::{Decision, Direction, Hook, Offload, Reason, decide};
use podgate_tests::frame::{self, Fragment, Packet, Payload, flag, packet, sctp, tcp, udp};
use podgate_tests::kernel::{PolicyOf, SLOT};

use crate::hostile::Sent;
use crate::setting::{FAMILIES, Family, RULESET, Scene};

/// Why a frame with this offload is passed or dropped.
fn judged(scene: &Scene, direction: Direction, frame: &[u8], offload: Offload) -> Reason {
    let hook = Hook {
        slot: SLOT,
        direction,
        ethertype: u16::from_be_bytes([frame[12], frame[13]]),
        received_from: 7,
        interface: 1,
    };
    let tables = &scene.kernel.host;
    match decide(&tables, &Sent(frame, offload), &hook) {
        Decision::Pass(reason) | Decision::Drop(reason) => reason,
    }
}

/// The places where a checksum of two bytes may be written, as seen from the transport header.
fn places(scene: &Scene, direction: Direction, packet: &Packet, transport: u16) -> Vec<u16> {
    let frame = packet.frame();
    let length = u16::try_from(frame.len()).expect("a short frame");
    let spared = |(start, offset)| {
        let offload = Offload::checksum(start, offset);
        judged(scene, direction, &frame, offload) != Reason::OffloadMetadata
    };
    let mut places = Vec::new();
    for at in 0..length - 1 {
        // Whatever it is summed from.
        if (0..=at).any(|start| spared((start, at - start))) {
            assert!(at >= transport, "{at} is before the transport header");
            places.push(at - transport);
        }
    }
    places
}

/// A checksum is written in its place, or behind what was read.
#[test]
fn attack_23_a_checksum_is_written_to_its_place_or_beyond() {
    for family in FAMILIES {
        for direction in Direction::BOTH {
            let scene = Scene::new(family, PolicyOf::both(RULESET));
            let (from, to): (IpAddr, IpAddr) = match direction {
                Direction::Ingress => (scene.friend, scene.pod),
                Direction::Egress => (scene.pod, scene.friend),
            };
            let longer = |mut payload: Payload| {
                payload.bytes.resize(26, 0);
                payload
            };
            let transport = if family == Family::V4 { 34 } else { 54 };
            for (payload, own, read) in [
                (tcp(999, 80, flag::SYN), 16, 20),
                (udp(999, 53), 6, 8),
                (sctp(999, 80), 8, 12),
                (frame::echo_request(from, 7), 2, 26),
                (frame::other(47), 0, 0),
            ] {
                let mut expected = vec![own];
                expected.extend(read.max(own + u16::from(read == 0))..25);
                let plain = packet(from, to, longer(payload.clone()));
                let found = places(&scene, direction, &plain, transport);
                assert_eq!(found, expected, "{direction:?} {payload:?}");
                // Behind options and extension headers.
                let (packet, further) = match family {
                    Family::V4 => (plain.options(&[1; 4]), 4),
                    Family::V6 => (plain.padding_options(frame::DESTINATION_OPTIONS, 1), 8),
                };
                let found = places(&scene, direction, &packet, transport + further);
                assert_eq!(found, expected, "{direction:?} {payload:?}");
            }
        }
    }
}

#[test]
fn attack_23_fragments_and_neighbors_have_no_checksum_to_come() {
    for family in FAMILIES {
        let scene = Scene::new(family, PolicyOf::OPEN);
        let (pod, friend) = (scene.pod, scene.friend);
        let transport = if family == Family::V4 { 34 } else { 62 };
        let own = Offload::checksum(transport, 6);
        for (offset, more) in [(0, true), (3, true), (3, false)] {
            let part = Fragment {
                identification: 5,
                offset,
                more,
            };
            let frame = packet(pod, friend, udp(999, 53)).fragment(part).frame();
            let segments = Offload {
                segment: 8,
                ..Offload::NONE
            };
            for offload in [own, segments] {
                let reason = judged(&scene, Direction::Egress, &frame, offload);
                assert_eq!(reason, Reason::OffloadMetadata);
            }
            let reason = judged(&scene, Direction::Egress, &frame, Offload::NONE);
            assert!(reason.passes(), "{reason:?}");
        }
        let arp = frame::arp(1, [10, 1, 0, 10], [10, 1, 0, 20]);
        if family == Family::V4 {
            let way = Direction::Egress;
            assert_eq!(judged(&scene, way, &arp, Offload::NONE), Reason::Neighbor);
            for offload in [own, Offload::UNKNOWN] {
                assert_eq!(judged(&scene, way, &arp, offload), Reason::OffloadMetadata);
            }
        }
        // What cannot be read is nothing that is allowed.
        let plain = packet(pod, friend, udp(999, 53)).frame();
        let reason = judged(&scene, Direction::Egress, &plain, Offload::UNKNOWN);
        assert_eq!(reason, Reason::OffloadMetadata);
    }
}
