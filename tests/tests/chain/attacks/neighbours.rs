//! Lies about who is where.

use std::net::Ipv6Addr;

use podgate_abi::{Direction, Reason};
use podgate_tests::node::{Cable, Frames, LOST, Node, Pod, wait_until};
use serde_json::json;

use super::unpoliced;

#[test]
fn attack_18_no_router_advertisement_of_a_pod_reaches_a_bridge() {
    let node = Node::new();
    let open = node.bridge(json!({}));
    // The victim itself is not policed: the attacker is.
    let victim = Pod::start(&node, &unpoliced(open.clone()), "victim");
    victim.sh("ip -6 route flush default");
    for setting in ["accept_ra", "accept_ra_defrtr"] {
        victim.sh(&format!(
            "echo 1 > /proc/sys/net/ipv6/conf/eth0/{setting}; echo 0 > /proc/sys/net/ipv6/conf/eth0/forwarding"
        ));
    }
    for chain in [open.clone(), unpoliced(open)] {
        let attacker = Pod::start(&node, &chain, "attacker");
        let mac @ [a, b, c, d, e, f] = attacker.mac();
        let own: Ipv6Addr = [
            0xfe80,
            0,
            0,
            0,
            u16::from_be_bytes([a ^ 2, b]),
            u16::from_be_bytes([c, 0xff]),
            u16::from_be_bytes([0xfe, d]),
            u16::from_be_bytes([e, f]),
        ]
        .into();
        let cable = Cable {
            from: mac,
            to: [0x33, 0x33, 0, 0, 0, 1],
        };
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        // RFC 4861 section 4.2: hop limit 64, no flags, a router for 1,800 s; no other time.
        let advertisement = [64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
        let seen = Frames::on(&victim.netns, "eth0");
        let frames = Frames::on(&attacker.netns, "eth0");
        frames.send(&cable.icmpv6(own, all_nodes, 134, &advertisement));
        let is_advertisement = |frame: &[u8]| {
            frame.get(12..14) == Some(&[0x86, 0xdd])
                && frame.get(6..12) == Some(&mac)
                && frame.get(54) == Some(&134)
        };
        let has_route = || victim.sh("ip -6 route show default").contains("ra");
        if chain.plugins.len() == 2 {
            assert!(!seen.sees(LOST, is_advertisement));
            assert!(!has_route());
            let counted = node.tables().counters(Direction::FromPod).unwrap();
            assert_eq!(counted[Reason::ForgedNeighbour as usize], 1);
        } else {
            assert!(seen.sees(25 * LOST, is_advertisement), "the attack is none");
            wait_until("the victim takes the pod for its router", has_route);
        }
    }
}

#[test]
fn attack_18_no_advertisement_or_arp_for_anothers_address_leaves_a_pod() {
    let node = Node::new();
    let open = node.bridge(json!({}));
    let victim = Pod::start(&node, &unpoliced(open.clone()), "victim");
    for chain in [open.clone(), unpoliced(open)] {
        let attacker = Pod::start(&node, &chain, "attacker");
        let mac = attacker.mac();
        let seen = Frames::on(&victim.netns, "eth0");
        let frames = Frames::on(&attacker.netns, "eth0");
        // "10.96.0.1, the gateway, is at the attacker's hardware address."
        let mut arp = podgate_tests::frame::arp(2, [10, 96, 0, 1], [10, 96, 0, 2]);
        arp[..6].copy_from_slice(&[0xff; 6]);
        arp[6..12].copy_from_slice(&mac);
        arp[22..28].copy_from_slice(&mac);
        frames.send(&arp);
        let is_it = |frame: &[u8]| {
            frame.get(6..14) == Some(&[&mac[..], &[8, 6]].concat())
                && frame.get(28..32) == Some(&[10, 96, 0, 1])
        };
        if chain.plugins.len() == 2 {
            assert!(!seen.sees(LOST, is_it));
        } else {
            assert!(seen.sees(25 * LOST, is_it), "the attack is none");
        }
    }
}
