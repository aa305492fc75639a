// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a sender tells the kernel of a packet, beside its bytes.

use std::net::{IpAddr, SocketAddr};

use podgate_abi::{Direction, Reason};
use podgate_tests::frame::{self, DESTINATION_OPTIONS, Payload, UDP, packet};
use podgate_tests::node::{
    Enforcer, Frames, LOST, Node, Offload, Pod, arrives, in_force, namespace, outside_addresses,
    pod, policy, unpoliced,
};
use serde_json::json;

use super::{Receiver, lets_out_to};

/// A datagram from port 4000.
fn datagram(port: u16, data: &[u8]) -> Payload {
    let length = u16::try_from(8 + data.len()).unwrap();
    let mut bytes = [4000_u16, port, length, 0].map(u16::to_be_bytes).concat();
    bytes.extend(data);
    Payload {
        protocol: UDP,
        bytes,
    }
}

/// A frame to port 53, of which the kernel makes one to port 80 when it puts in the checksum that it is asked for: with
/// data of `data`, whose last two bytes do not matter.
fn becomes_another(
    from: IpAddr,
    to: IpAddr,
    cable: [[u8; 6]; 2],
    data: &[u8],
) -> (Vec<u8>, Offload) {
    // Its checksum is that of the datagram that arrives; IPv4 may be without. What is summed is to have a word that is part
    // of no other checksum: the last of the data, or one in an option that nobody knows. Linux refuses a sum that begins
    // in the IP header.
    let mut packet = packet(from, to, datagram(80, data));
    if from.is_ipv6() {
        packet = packet.extension(DESTINATION_OPTIONS, &[0, 0x1e, 4, 0, 0, 0, 0]);
    }
    let mut frame = packet.frame_on(cable);
    let (start, transport, free) = if from.is_ipv4() {
        frame[34 + 6..34 + 8].fill(0);
        (34, 34, frame.len() - 2)
    } else {
        (54, 62, 58)
    };
    let port = transport + 2;
    frame[port..port + 2].copy_from_slice(&53_u16.to_be_bytes());
    frame[free..free + 2].fill(0);
    let sum = frame::internet_sum(&frame[start..]);
    // The kernel writes the complement of the sum; in the sum of the rest, this is what is missing.
    let word = one_complement_sum(sum, !80);
    frame[free..free + 2].copy_from_slice(&word.to_be_bytes());
    assert_eq!(frame::internet_sum(&frame[start..]), 80);
    let offload = Offload {
        checksum: Some((
            u16::try_from(start).unwrap(),
            u16::try_from(port - start).unwrap(),
        )),
        ..Offload::default()
    };
    (frame, offload)
}

fn one_complement_sum(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

#[test]
fn attack_23_a_checksum_to_be_computed_changes_no_port() {
    let node = Node::new();
    let outside = node.outside();
    node.computes_checksums("wan");
    node.apply("namespace", &namespace("default"));
    node.apply("attacker", &pod("attacker", "app: attacker"));
    node.apply("policy", &policy("out", "app: attacker", &lets_out_to(53)));
    let _enforcer = Enforcer::start(&node);
    let chain = node.ptp(in_force(json!({})));
    for chain in [unpoliced(chain.clone()), chain] {
        let is_policed = chain.plugins.len() == 2;
        let attacker = Pod::start(&node, &chain, "attacker");
        let frames = Frames::on(&attacker.netns, "eth0");
        let cable = [attacker.mac(), node.mac(&attacker.host_end(&node))];
        for (from, to) in attacker.addresses.iter().copied().zip(outside_addresses()) {
            assert!(arrives(&node.netns, &outside, to));
            let denied = Receiver::at(&outside, SocketAddr::new(to, 80));
            let allowed = Receiver::at(&outside, SocketAddr::new(to, 53));
            let data = if is_policed {
                b"policed..."
            } else {
                b"without..."
            };
            let (frame, offload) = becomes_another(from, to, cable, data);
            frames.send_with(offload, &frame);
            let begins = |buffer: &[u8]| buffer.starts_with(&data[..6]);
            if is_policed {
                assert!(!denied.got_some(LOST, begins));
            } else {
                assert!(denied.got_some(25 * LOST, begins), "the attack is none");
                continue;
            }
            // A checksum in its place, and one in the data, as of a packet in a tunnel.
            let transport = if from.is_ipv4() { 34 } else { 54 };
            for (start, offset) in [(transport, 6), (transport + 8, 6)] {
                let mut data = vec![0; 20];
                data[10..].copy_from_slice(b"in its pla");
                data[9] = u8::try_from(start).unwrap();
                let mut frame = packet(from, to, datagram(53, &data)).frame_on(cable);
                if start == transport {
                    // What Linux leaves there: the sum of the pseudo-header.
                    let sum = frame::internet_sum(&frame[usize::from(transport)..]);
                    let field = usize::from(transport) + 6;
                    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
                } else if from.is_ipv4() {
                    frame[40..42].fill(0);
                } else {
                    continue;
                }
                let offload = Offload {
                    checksum: Some((start, offset)),
                    ..Offload::default()
                };
                frames.send_with(offload, &frame);
                let ends = |buffer: &[u8]| buffer.get(9..) == Some(&data[9..]);
                assert!(allowed.got_some(25 * LOST, ends), "from {start}");
            }
        }
    }
    let counted = node.tables().counters(Direction::Egress).unwrap();
    assert_eq!(counted[Reason::OffloadMetadata as usize], 2);
}
