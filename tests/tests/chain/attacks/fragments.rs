// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is left of a packet's origin when the node has put it together and cut it up again.

use std::net::{IpAddr, Ipv6Addr};

use podgate_tests::node::{Cable, Frames, Node, Pod};
use serde_json::json;

use super::Receiver;

/// What the node fragmented again is not taken for the node's own.
#[test]
fn attack_01_what_the_node_refragmented_is_not_its_own() {
    let node = Node::new();
    let outside = node.outside();
    // Connection tracking, as kube-proxy brings it, puts fragments together.
    node.sh("nft add table inet t && \
         nft 'add chain inet t c { type filter hook prerouting priority 0; }' && \
         nft add rule inet t c ct state new counter");
    let chains = [
        (node.ptp(json!({})), true),
        (node.ptp(json!({"enforcingMode": "strict"})), false),
    ];
    for (chain, arrives) in chains {
        let victim = Pod::start(&node, &chain, "victim");
        let IpAddr::V6(address) = victim.addresses[1] else {
            panic!("the second address is IPv6");
        };
        let receiver = Receiver::new(&victim.netns, victim.addresses[1]);
        let port = receiver.address().1;
        // The node knows the way to the pod's hardware address.
        assert!(podgate_tests::node::arrives(
            &node.netns,
            &victim.netns,
            victim.addresses[1]
        ));
        let frames = Frames::on(&outside, "eth0");
        let cable = Cable {
            from: [2, 0, 0, 0, 0, 1],
            to: node.mac("wan"),
        };
        // From the peer's own address, and from one that it takes from the node.
        for (host, fill) in [(2, b'p'), (1, b'n')] {
            let source = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host);
            let data = vec![fill; 2600];
            for frame in cable.hidden_fragments((source, 4000), (address, port), &data) {
                frames.send(&frame);
            }
            if arrives {
                assert!(receiver.gets(&data), "the attack is none: from {source}");
            } else {
                assert!(receiver.misses(&data), "from {source}");
            }
        }
    }
}
