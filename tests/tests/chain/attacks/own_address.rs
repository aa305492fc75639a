// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets for an address that is not the receiver's.

use std::net::{IpAddr, SocketAddr};

use podgate_abi::{Direction, Reason};
use podgate_tests::node::{Cable, Frames, LOST, Node, Pod, outside_addresses, unpoliced};
use serde_json::json;

use super::Receiver;

/// What is for the sender itself never leaves a pod, but by a raw socket; on a bridge the hardware address says who
/// gets it.
#[test]
fn attack_29_own_address_at_another_pods_hardware_address() {
    let node = Node::new();
    let shut = node.bridge(json!({"enforcingMode": "strict"}));
    let victim = Pod::start(&node, &unpoliced(shut.clone()), "victim");
    let seen = Frames::on(&victim.netns, "eth0");
    for chain in [unpoliced(shut.clone()), shut] {
        let attacker = Pod::start(&node, &chain, "attacker");
        let sender = Frames::on(&attacker.netns, "eth0");
        for (own, to) in attacker
            .addresses
            .iter()
            .flat_map(|own| [(*own, victim.mac()), (*own, [0xff; 6])])
        {
            let cable = Cable {
                from: attacker.mac(),
                to,
            };
            let frame = cable.udp((own, 4000), (own, 53), b"out of a deny-all");
            sender.send(&frame);
            let is_it = |seen: &[u8]| seen == frame;
            if chain.plugins.len() == 2 {
                assert!(!seen.sees(LOST, is_it), "{own} to {to:x?}");
            } else {
                assert!(seen.sees(25 * LOST, is_it), "the attack is none: {own}");
            }
        }
    }
}

/// The receiver's half: what enters a pod is for its own addresses, also where the sender may say so.
#[test]
fn attack_29_what_is_for_another_address_enters_no_pod() {
    let node = Node::new();
    let open = node.bridge(json!({}));
    let attacker = Pod::start(&node, &unpoliced(open.clone()), "attacker");
    let sender = Frames::on(&attacker.netns, "eth0");
    for chain in [unpoliced(open.clone()), open] {
        let victim = Pod::start(&node, &chain, "victim");
        let seen = Frames::on(&victim.netns, "eth0");
        for (from, to) in [
            (attacker.addresses[0], "10.99.9.9"),
            (attacker.addresses[1], "fd99::9"),
        ] {
            let to: IpAddr = to.parse().unwrap();
            let cable = Cable {
                from: attacker.mac(),
                to: victim.mac(),
            };
            let frame = cable.udp((from, 4000), (to, 53), b"for somebody else");
            sender.send(&frame);
            let is_it = |seen: &[u8]| seen == frame;
            if chain.plugins.len() == 2 {
                assert!(!seen.sees(LOST, is_it), "{to}");
            } else {
                assert!(seen.sees(25 * LOST, is_it), "the attack is none: {to}");
            }
        }
        // Broadcasts and groups of its own networks are for it.
        for to in ["255.255.255.255", "10.96.0.255", "224.0.0.1"] {
            let cable = Cable {
                from: attacker.mac(),
                to: [0xff; 6],
            };
            let from = (attacker.addresses[0], 4000);
            let frame = cable.udp(from, (to.parse().unwrap(), 53), b"for everybody");
            sender.send(&frame);
            assert!(seen.sees(25 * LOST, |seen| seen == frame), "{to}");
        }
    }
}

/// A Service at the pod's own address leads to a denied host. A Service may have any address as external one: here the
/// pod's own. What the node makes of it is what kube-proxy makes of a Service of the tenant's.
#[test]
fn attack_29_a_service_at_the_own_address_to_a_denied_host() {
    let node = Node::new();
    let outside = node.outside();
    let denied = Receiver::at(&outside, SocketAddr::new(outside_addresses()[0], 5353));
    let shut = node.ptp(json!({"enforcingMode": "strict"}));
    node.sh("nft 'add table ip proxy' && \
         nft 'add chain ip proxy pre { type nat hook prerouting priority -100; }'");
    for chain in [unpoliced(shut.clone()), shut] {
        let attacker = Pod::start(&node, &chain, "attacker");
        let own = attacker.addresses[0];
        node.sh(&format!(
            "nft 'add rule ip proxy pre ip daddr {own} udp dport 53 dnat to 192.0.2.2:5353'"
        ));
        let cable = Cable {
            from: attacker.mac(),
            to: node.mac(&attacker.host_end(&node)),
        };
        let data = attacker.container_id.as_bytes();
        let frame = cable.udp((own, 4000), (own, 53), data);
        // A packet with a local source and destination is a martian unless the node looks at neither.
        Frames::on(&attacker.netns, "eth0").send(&frame);
        if chain.plugins.len() == 2 {
            assert!(denied.misses(data));
            let counted = node.tables().counters(Direction::Egress).unwrap();
            assert_eq!(counted[Reason::NotForPod as usize], 1);
        } else {
            assert!(denied.gets(data), "the attack is none");
        }
    }
}
