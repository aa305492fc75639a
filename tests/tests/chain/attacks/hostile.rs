// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets by chance through real namespaces, and what real stacks deliver of them.

use std::net::IpAddr;

use podgate_demo::netns::NetNs;
use podgate_tests::hostile::{self, ALLOWED, Chance};
use podgate_tests::node::{
    Ears, Enforcer, Frames, Node, Offload, Pod, arrives, in_force, namespace, outside_addresses,
    pod, policy, sh, track_connections,
};
use serde_json::json;

use super::lets_out_to;

/// How many frames each of the twelve runs (who tracks connections, direction, family) sends by itself, of IPv4 and IPv6.
///
/// Without the rule for what follows a fragment header, one IPv6 frame in 35,000 or so reached a denied port.
const FRAMES: [u64; 2] = [8_000, 80_000];

/// Mostly nothing; else a checksum anywhere among the headers, or segments of any kind.
fn offload(chance: &mut Chance) -> Offload {
    let mut offload = Offload::default();
    if chance.once_in(2) {
        let start = chance.one_of(&[14, 34, 34, 38, 54, 54, 62]);
        offload.checksum = Some((start, chance.one_of(&[0, 2, 2, 6, 6, 16])));
    }
    if chance.once_in(3) {
        offload.gso_type = chance.one_of(&[1, 3, 4, 5]);
        offload.gso_size = chance.one_of(&[8, 16, 24, 1000]);
        offload.header_length = chance.one_of(&[0, 42, 54, 62]);
    }
    offload
}

/// Sends, and listens at the other end, which must not have been sent anything by this one before: an answer needs no rule.
fn attack(
    chance: &mut Chance,
    frames: &Frames,
    cable: [[u8; 6]; 2],
    (from, to): (IpAddr, IpAddr),
    ears: &Ears,
) {
    let (mut sent, mut allowed) = (0, 0);
    let mut listen = |sent, last: &[Vec<u8>]| {
        for target in ears.heard() {
            let expected = (17, ALLOWED);
            assert_eq!(target, expected, "after {sent} to {to}: {last:02x?}");
            allowed += 1;
        }
    };
    let frames_to_send = hostile::packets(FRAMES[usize::from(from.is_ipv6())]);
    while sent < frames_to_send {
        let mut last = hostile::frames(chance, from, to);
        for frame in &mut last {
            frame[..6].copy_from_slice(&cable[1]);
            frame[6..12].copy_from_slice(&cable[0]);
            if chance.once_in(4) {
                frames.send_with(offload(chance), frame);
            } else {
                frames.send(frame);
            }
            sent += 1;
        }
        listen(sent, &last);
    }
    listen(sent, &[]);
    assert!(
        allowed > sent / 100,
        "only {allowed} of {sent} arrived at {to}"
    );
}

/// Fragments that wait for others make room soon.
fn forgets_fragments(netns: &NetNs) {
    sh(
        netns,
        "for file in ipv4/ipfrag_time ipv6/ip6frag_time netfilter/nf_conntrack_frag6_timeout; do \
         [ ! -e /proc/sys/net/$file ] || echo 1 > /proc/sys/net/$file; done",
    );
}

fn through(node_tracks: bool, receivers_track: bool) {
    let node = Node::new();
    let outside = node.outside();
    node.apply("namespace", &namespace("default"));
    for name in ["sender", "receiver"] {
        node.apply(name, &pod(name, "app: subject"));
    }
    node.apply("out", &policy("out", "app: subject", &lets_out_to(ALLOWED)));
    let only_dns = format!(
        "policyTypes: [Ingress], ingress: [{{ports: [{{protocol: UDP, port: {ALLOWED}}}]}}]"
    );
    node.apply("in", &policy("in", "app: subject", &only_dns));
    let _enforcer = Enforcer::start(&node);
    let chain = node.ptp(in_force(json!({})));
    // Two: what goes in would be an answer to what went out of the same one.
    let sender = Pod::start(&node, &chain, "sender");
    let receiver = Pod::start(&node, &chain, "receiver");
    let host_end = sender.host_end(&node);
    for interface in ["wan", &host_end, &receiver.host_end(&node)] {
        node.computes_checksums(interface);
    }
    for (netns, tracks) in [
        (&node.netns, node_tracks),
        (&outside, receivers_track),
        (&sender.netns, receivers_track),
        (&receiver.netns, receivers_track),
    ] {
        if tracks {
            track_connections(netns);
        }
        forgets_fragments(netns);
    }
    let what = format!("the node tracks: {node_tracks}, receivers: {receivers_track}");
    let mut chance = Chance::new(&what);
    let from_pod = Frames::on(&sender.netns, "eth0");
    let from_outside = Frames::on(&outside, "eth0");
    let out = [sender.mac(), node.mac(&host_end)];
    let back = [[2, 0, 0, 0, 0, 1], node.mac("wan")];
    let pods = sender.addresses.iter().zip(&receiver.addresses);
    for ((from, to), other) in pods.zip(outside_addresses()) {
        // Everybody knows everybody's hardware address.
        assert!(arrives(&node.netns, &outside, other));
        assert!(arrives(&node.netns, &receiver.netns, *to));
        let ears = Ears::of(&outside);
        attack(&mut chance, &from_pod, out, (*from, other), &ears);
        let ears = Ears::of(&receiver.netns);
        attack(&mut chance, &from_outside, back, (other, *to), &ears);
    }
}

#[test]
fn attack_22_real_stacks_get_nothing_denied() {
    through(false, false);
}

#[test]
fn attack_22_stacks_that_track_get_nothing_denied() {
    through(false, true);
}

#[test]
fn attack_22_stacks_behind_a_tracking_node_get_nothing_denied() {
    through(true, true);
}
