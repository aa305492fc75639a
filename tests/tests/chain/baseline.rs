// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What holds for a pod while no enforcer runs, with real packets.

use podgate_abi::{Direction, Reason};
use podgate_tests::node::{LOST, Node, Pod, arrives, connects, is_lost, outside_addresses};
use serde_json::json;

fn strict() -> serde_json::Value {
    json!({"enforcingMode": "strict"})
}

#[test]
fn an_open_pod_reaches_and_is_reached_by_everybody() {
    let node = Node::new();
    let outside = node.outside();
    let conflist = node.ptp(json!({}));
    let [a, b] = ["a", "b"].map(|name| Pod::start(&node, &conflist, name));
    for (a_address, b_address) in a.addresses.iter().zip(&b.addresses) {
        assert!(arrives(&a.netns, &b.netns, *b_address));
        assert!(arrives(&outside, &a.netns, *a_address));
        assert!(arrives(&node.netns, &a.netns, *a_address));
        assert!(connects(&a.netns, &b.netns, *b_address, 50 * LOST));
    }
    for address in outside_addresses() {
        assert!(arrives(&a.netns, &outside, address), "{address}");
    }
}

#[test]
fn a_closed_pod_reaches_nobody_and_is_reached_by_the_node_alone() {
    let node = Node::new();
    let outside = node.outside();
    let open = Pod::start(&node, &node.ptp(json!({})), "open");
    let closed = Pod::start(&node, &node.ptp(strict()), "closed");
    for (open_address, closed_address) in open.addresses.iter().zip(&closed.addresses) {
        assert!(is_lost(&closed.netns, &open.netns, *open_address));
        assert!(is_lost(&open.netns, &closed.netns, *closed_address));
        assert!(is_lost(&outside, &closed.netns, *closed_address));
        assert!(!connects(&open.netns, &closed.netns, *closed_address, LOST));
        // The node's probes work, with their answers, and so does finding each other by ARP and solicitation.
        assert!(arrives(&node.netns, &closed.netns, *closed_address));
        assert!(connects(
            &node.netns,
            &closed.netns,
            *closed_address,
            50 * LOST
        ));
    }
    for address in outside_addresses() {
        assert!(is_lost(&closed.netns, &outside, address), "{address}");
    }
    let dropped = node.tables().counters(Direction::Egress).unwrap();
    assert!(dropped[Reason::DenyAll as usize] > 0);
}

#[test]
fn a_closed_pod_on_a_bridge_is_reached_by_the_node_alone() {
    let node = Node::new();
    let open = Pod::start(&node, &node.bridge(json!({})), "open");
    let closed = Pod::start(&node, &node.bridge(strict()), "closed");
    for (open_address, closed_address) in open.addresses.iter().zip(&closed.addresses) {
        assert!(is_lost(&closed.netns, &open.netns, *open_address));
        assert!(is_lost(&open.netns, &closed.netns, *closed_address));
        assert!(connects(
            &node.netns,
            &closed.netns,
            *closed_address,
            50 * LOST
        ));
    }
}

#[test]
fn a_pod_of_an_exempt_namespace_starts_open_in_strict_mode() {
    let node = Node::new();
    let conflist = node.ptp(json!({"enforcingMode": "strict", "exemptNamespaces": ["ops"]}));
    let exempt = Pod::start_in(&node, &conflist, "ops", "a");
    let other = Pod::start_in(&node, &node.ptp(json!({})), "default", "b");
    let closed = Pod::start_in(&node, &conflist, "kube-system", "c");
    for place in 0..2 {
        assert!(arrives(&exempt.netns, &other.netns, other.addresses[place]));
        assert!(arrives(
            &other.netns,
            &exempt.netns,
            exempt.addresses[place]
        ));
        assert!(is_lost(
            &other.netns,
            &closed.netns,
            closed.addresses[place]
        ));
    }
}

#[test]
fn a_pod_sends_from_its_own_addresses_only_whoever_is_policed() {
    let node = Node::new();
    let conflist = node.ptp(json!({}));
    let [a, b] = ["a", "b"].map(|name| Pod::start(&node, &conflist, name));
    a.sh("ip addr add 10.96.0.77/32 dev lo && ip addr add fd96::77/128 dev lo nodad");
    for (target, spoofed) in b.addresses.iter().zip(["10.96.0.77", "fd96::77"]) {
        a.sh(&format!(
            "ip route replace {target} dev eth0 via {} src {spoofed}",
            if target.is_ipv4() {
                "10.96.0.1"
            } else {
                "fd96::1"
            }
        ));
        assert!(is_lost(&a.netns, &b.netns, *target), "{target}");
        a.sh(&format!("ip route del {target} dev eth0"));
        assert!(arrives(&a.netns, &b.netns, *target), "{target}");
    }
    let counted = node.tables().counters(Direction::Egress).unwrap();
    assert!(counted[Reason::Spoofed as usize] >= 2);
}
