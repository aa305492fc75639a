// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reports of multicast membership.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podgate_tests::node::{Cable, Frames, LOST, Node, Pod, unpoliced, wait_until};
use serde_json::{Value, json};

/// Whether the bridge still tells groups apart.
fn snoops(node: &Node) -> bool {
    let listed = node.sh("ip -j -d link show cni0");
    let links: Vec<Value> = serde_json::from_str(&listed).unwrap();
    links[0]["linkinfo"]["info_data"]["mcast_snooping"] == 1
}

/// How many groups the bridge knows.
fn groups(node: &Node) -> usize {
    let listed = node.sh("bridge -j mdb show dev cni0");
    let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
    listed[0]["mdb"].as_array().map_or(0, Vec::len)
}

fn group_v6(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 7, number)
}

fn group_v4(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(239, 7, high, low)
}

/// Reports of one pod do not fill a bridge's snooping table.
#[test]
fn attack_37_one_pods_reports_do_not_fill_a_snooping_table() {
    for mode in ["strict", "standard"] {
        let node = Node::new();
        let chain = node.bridge(json!({"enforcingMode": mode}));
        for chain in [chain.clone(), unpoliced(chain)] {
            let attacker = Pod::start(&node, &chain, "attacker");
            node.sh("ip link set cni0 type bridge mcast_snooping 1 mcast_hash_max 512");
            let sender = Frames::on(&attacker.netns, "eth0");
            let [a, b, c, d, e, f] = attacker.mac();
            let link_local = Ipv6Addr::from([
                0xfe,
                0x80,
                0,
                0,
                0,
                0,
                0,
                0,
                a ^ 2,
                b,
                c,
                0xff,
                0xfe,
                d,
                e,
                f,
            ]);
            let cable = Cable {
                from: attacker.mac(),
                to: [0x33, 0x33, 0, 0, 0, 0x16],
            };
            // What a server of many groups says passes.
            let some: Vec<Ipv6Addr> = (0..30).map(group_v6).collect();
            sender.send(&cable.listener_report(link_local, &some));
            wait_until("the bridge knows its groups", || groups(&node) >= 30);
            let IpAddr::V4(own) = attacker.addresses[0] else {
                panic!("an IPv4 address comes first");
            };
            for number in 100..2600 {
                sender.send(&cable.listener_report(link_local, &[group_v6(number)]));
                sender.send(&cable.group_report(own, &[group_v4(number)]));
            }
            if chain.plugins.len() == 2 {
                let seen = Frames::on(&node.netns, "cni0");
                assert!(!seen.sees(LOST, |_| false));
                assert!(snoops(&node), "{mode}");
                assert!(groups(&node) < 512, "{mode}: {}", groups(&node));
            } else {
                wait_until("the attack is none: the bridge gives up", || !snoops(&node));
            }
        }
    }
}
