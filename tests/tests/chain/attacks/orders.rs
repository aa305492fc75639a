// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IPv6 headers that the programs and a receiver with connection tracking read in different ways.

use std::net::{IpAddr, SocketAddr};

use podgate_demo::netns::NetNs;
use podgate_tests::frame::{DESTINATION_OPTIONS, Fragment, Payload, UDP, packet};
use podgate_tests::node::{
    Enforcer, Frames, Node, Pod, arrives, in_force, namespace, outside_addresses, pod, policy,
    track_connections, unpoliced,
};
use serde_json::json;

use super::{Receiver, lets_out_to};

/// Eight bytes that read as a UDP header from port 4352 to port 53, and as destination options before UDP. All of it but
/// the first byte, the protocol of what follows.
const EITHER: [u8; 7] = [0, 0, 53, 0, 1, 0, 0];

/// The real datagram, to port 80.
fn real(data: &[u8]) -> Payload {
    let length = u16::try_from(8 + data.len()).unwrap();
    let mut bytes = [4000_u16, 80, length, 0].map(u16::to_be_bytes).concat();
    bytes.extend(data);
    Payload {
        protocol: UDP,
        bytes,
    }
}

const WHOLE: Fragment = Fragment {
    identification: 7,
    offset: 0,
    more: false,
};

/// One frame: destination options, a fragment header, eight ambiguous bytes.
fn options_first(from: IpAddr, to: IpAddr, cable: [[u8; 6]; 2], data: &[u8]) -> Vec<Vec<u8>> {
    let frame = packet(from, to, real(data))
        .padding_options(DESTINATION_OPTIONS, 1)
        .fragment(WHOLE)
        .extension(UDP, &EITHER)
        .frame_on(cable);
    vec![frame]
}

/// Two fragments whose options stand behind the fragment header, for a router that reassembles them and fragments the
/// datagram again, with the header behind the options.
fn options_last(from: IpAddr, to: IpAddr, cable: [[u8; 6]; 2], data: &[u8]) -> Vec<Vec<u8>> {
    let whole = packet(from, to, real(data))
        .padding_options(DESTINATION_OPTIONS, 1)
        .extension(UDP, &EITHER)
        .frame_on(cable);
    let datagram = &whole[54..];
    let (first, last) = datagram.split_at(1304);
    [(0, first), (1304 / 8, last)]
        .map(|(offset, bytes)| {
            let part = Payload {
                protocol: DESTINATION_OPTIONS,
                bytes: bytes.to_vec(),
            };
            packet(from, to, part)
                .fragment(Fragment {
                    offset,
                    more: offset == 0,
                    ..WHOLE
                })
                .frame_on(cable)
        })
        .to_vec()
}

type Shape = fn(IpAddr, IpAddr, [[u8; 6]; 2], &[u8]) -> Vec<Vec<u8>>;

/// From a pod that may send to port 53 only, to port 80 of a host with connection tracking.
fn out_of_a_pod(node: &Node, outside: &NetNs, shape: Shape, data_length: usize) {
    node.apply("namespace", &namespace("default"));
    node.apply("attacker", &pod("attacker", "app: attacker"));
    node.apply("policy", &policy("out", "app: attacker", &lets_out_to(53)));
    let _enforcer = Enforcer::start(node);
    track_connections(outside);
    let to = outside_addresses()[1];
    assert!(arrives(&node.netns, outside, to));
    let receiver = Receiver::at(outside, SocketAddr::new(to, 80));
    let allowed = Receiver::at(outside, SocketAddr::new(to, 53));
    let chain = node.ptp(in_force(json!({})));
    for chain in [unpoliced(chain.clone()), chain] {
        let is_policed = chain.plugins.len() == 2;
        let attacker = Pod::start(node, &chain, "attacker");
        let from = attacker.addresses[1];
        let frames = Frames::on(&attacker.netns, "eth0");
        let cable = [attacker.mac(), node.mac(&attacker.host_end(node))];
        let data = vec![if is_policed { b'p' } else { b'u' }; data_length];
        for frame in shape(from, to, cable, &data) {
            frames.send(&frame);
        }
        if is_policed {
            assert!(
                receiver.misses(&data),
                "it arrived at a port that is denied"
            );
            let mut plain = real(&data[..40]);
            plain.bytes[3] = 53;
            frames.send(&packet(from, to, plain).frame_on(cable));
            assert!(allowed.gets(&data[..40]), "an allowed datagram is lost");
        } else {
            assert!(receiver.gets(&data), "the attack is none");
        }
    }
}

#[test]
fn attack_22_a_fragment_header_behind_options_from_a_pod() {
    let node = Node::new();
    let outside = node.outside();
    out_of_a_pod(&node, &outside, options_first, 64);
}

#[test]
fn attack_22_options_that_a_router_puts_before_the_header() {
    let node = Node::new();
    let outside = node.outside();
    track_connections(&node.netns);
    out_of_a_pod(&node, &outside, options_last, 1400);
}

#[test]
fn attack_22_a_fragment_header_behind_options_to_a_pod() {
    let node = Node::new();
    let outside = node.outside();
    node.apply("namespace", &namespace("default"));
    node.apply("victim", &pod("victim", "app: victim"));
    let only_dns = "policyTypes: [Ingress], ingress: [{ports: [{protocol: UDP, port: 53}]}]";
    node.apply("policy", &policy("in", "app: victim", only_dns));
    let _enforcer = Enforcer::start(&node);
    let chain = node.ptp(in_force(json!({})));
    for chain in [unpoliced(chain.clone()), chain] {
        let is_policed = chain.plugins.len() == 2;
        let victim = Pod::start(&node, &chain, "victim");
        track_connections(&victim.netns);
        let to = victim.addresses[1];
        assert!(arrives(&node.netns, &victim.netns, to));
        let receiver = Receiver::at(&victim.netns, SocketAddr::new(to, 80));
        let frames = Frames::on(&outside, "eth0");
        let cable = [[2, 0, 0, 0, 0, 1], node.mac("wan")];
        let data = if is_policed { b"policed" } else { b"without" };
        for frame in options_first(outside_addresses()[1], to, cable, data) {
            frames.send(&frame);
        }
        if is_policed {
            assert!(receiver.misses(data), "it arrived at a port that is denied");
        } else {
            assert!(receiver.gets(data), "the attack is none");
        }
    }
}
