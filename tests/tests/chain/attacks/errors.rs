// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ICMP errors about packets that the pod never saw.

use std::net::{IpAddr, SocketAddr};

use podgate_tests::frame::{self, packet};
use podgate_tests::node::{
    Enforcer, Frames, LOST, Node, Pod, in_force, namespace, pod, policy, unpoliced, wait_until,
};
use serde_json::json;

use super::Receiver;

/// "Packet too big", or "fragmentation needed", about a datagram from one address to another.
fn too_big(inside: (IpAddr, u16), to: (IpAddr, u16)) -> frame::Payload {
    let about = packet(inside.0, to.0, frame::udp(inside.1, to.1)).frame();
    let (kind, code, mtu) = if inside.0.is_ipv4() {
        (3, 4, 552_u32)
    } else {
        (2, 0, 1280)
    };
    let rest = [&mtu.to_be_bytes()[..], &about[14..]].concat();
    frame::icmp(inside.0, kind, code, &rest)
}

#[test]
fn attack_34_an_error_lowers_no_mtu_to_another_pod() {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    for name in ["server", "other", "attacker"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    let dns = "ports: [{protocol: UDP, port: 53}]";
    let ingress = format!("policyTypes: [Ingress], ingress: [{{{dns}}}]");
    node.apply("in", &policy("in", "app: server", &ingress));
    let egress = format!(
        "policyTypes: [Egress], egress: [{{to: [{{podSelector: {{matchLabels: {{app: server}}}}}}], {dns}}}]"
    );
    node.apply("out", &policy("out", "app: attacker", &egress));
    let _enforcer = Enforcer::start(&node);
    let chain = node.ptp(in_force(json!({})));
    let [server, other, attacker] =
        ["server", "other", "attacker"].map(|name| Pod::start(&node, &chain, name));
    let stranger = Pod::start(&node, &unpoliced(chain), "stranger");

    for family in [0, 1] {
        let [at, others, attackers] = [&server, &other, &attacker].map(|pod| pod.addresses[family]);
        let listener = Receiver::at(&server.netns, SocketAddr::new(at, 53));
        // The server has a flow with the other pod, and one with the attacker, who chose the same port.
        for (pod, address) in [(&other, others), (&attacker, attackers)] {
            let client = Receiver::at(&pod.netns, SocketAddr::new(address, 4444));
            client.0.send_to(b"question", (at, 53)).unwrap();
            assert!(listener.gets(b"question"));
            listener.0.send_to(b"answer", (address, 4444)).unwrap();
            assert!(client.gets(b"answer"));
        }
        let seen = Frames::on(&server.netns, "eth0");
        let mtu_is_low = |to: IpAddr| {
            let route = server.sh(&format!("ip route get {to}"));
            route.contains("mtu 552") || route.contains("mtu 1280")
        };
        let sends = |pod: &Pod, about: IpAddr| {
            let cable = [pod.mac(), node.mac(&pod.host_end(&node))];
            let error = too_big((at, 53), (about, 4444));
            let frame = packet(pod.addresses[family], at, error).frame_on(cable);
            Frames::on(&pod.netns, "eth0").send(&frame);
            let source = if family == 0 {
                &frame[26..30]
            } else {
                &frame[22..38]
            };
            let place = if family == 0 { 26..30 } else { 22..38 };
            let (protocol, kind) = if family == 0 { (23, 34) } else { (20, 54) };
            seen.sees(LOST, |seen| {
                seen.get(place.clone()) == Some(source)
                    && seen[protocol] == frame[protocol]
                    && seen[kind] == frame[kind]
            })
        };
        assert!(!sends(&attacker, others), "the error arrived");
        assert!(!mtu_is_low(others));
        // About what the attacker itself received, it may say so.
        assert!(sends(&attacker, attackers), "an honest error is lost");
        wait_until("the honest error counts", || mtu_is_low(attackers));
        assert!(sends(&stranger, others), "the attack is none");
        wait_until("the attack works", || mtu_is_low(others));
    }
}
