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

/// How many frames each of the twelve runs (who tracks connections, direction, family) sends by itself.
const FRAMES: u64 = 8_000;

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

/// Sends, and listens at the other end.
fn attack(
    chance: &mut Chance,
    frames: &Frames,
    cable: [[u8; 6]; 2],
    (from, to): (IpAddr, IpAddr),
    ears: &Ears,
) {
    let (mut sent, mut allowed) = (0, 0);
    let mut listen = |sent| {
        for target in ears.heard() {
            assert_eq!(target, (17, ALLOWED), "after {sent} frames to {to}");
            allowed += 1;
        }
    };
    while sent < hostile::packets(FRAMES) {
        for mut frame in hostile::frames(chance, from, to) {
            frame[..6].copy_from_slice(&cable[1]);
            frame[6..12].copy_from_slice(&cable[0]);
            if chance.once_in(4) {
                frames.send_with(offload(chance), &frame);
            } else {
                frames.send(&frame);
            }
            sent += 1;
        }
        listen(sent);
    }
    listen(sent);
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
    node.apply("subject", &pod("subject", "app: subject"));
    node.apply("out", &policy("out", "app: subject", &lets_out_to(ALLOWED)));
    let only_dns = format!(
        "policyTypes: [Ingress], ingress: [{{ports: [{{protocol: UDP, port: {ALLOWED}}}]}}]"
    );
    node.apply("in", &policy("in", "app: subject", &only_dns));
    let _enforcer = Enforcer::start(&node);
    let subject = Pod::start(&node, &node.ptp(in_force(json!({}))), "subject");
    let host_end = subject.host_end(&node);
    for interface in ["wan", &host_end] {
        node.computes_checksums(interface);
    }
    for (netns, tracks) in [
        (&node.netns, node_tracks),
        (&outside, receivers_track),
        (&subject.netns, receivers_track),
    ] {
        if tracks {
            track_connections(netns);
        }
        forgets_fragments(netns);
    }
    let what = format!("the node tracks: {node_tracks}, receivers: {receivers_track}");
    let mut chance = Chance::new(&what);
    let from_pod = Frames::on(&subject.netns, "eth0");
    let from_outside = Frames::on(&outside, "eth0");
    let out = [subject.mac(), node.mac(&host_end)];
    let back = [[2, 0, 0, 0, 0, 1], node.mac("wan")];
    for (own, other) in subject.addresses.iter().copied().zip(outside_addresses()) {
        // Everybody knows everybody's hardware address.
        assert!(arrives(&node.netns, &outside, other));
        assert!(arrives(&node.netns, &subject.netns, own));
        let ears = Ears::of(&outside);
        attack(&mut chance, &from_pod, out, (own, other), &ears);
        let ears = Ears::of(&subject.netns);
        attack(&mut chance, &from_outside, back, (other, own), &ears);
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
