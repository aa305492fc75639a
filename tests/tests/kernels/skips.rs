// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets that tc lets skip tc: from any kernel with an `ifb`, and without the hook of nftables at the egress, which level
//! `chain` takes and Linux has from 5.16 on.

use podgate_tests::metrics::value_of;
use podgate_tests::node::{Enforcer, Node, Pod, arrives, in_force, is_lost, unpoliced, wait_until};
use serde_json::json;

/// What comes back from an `ifb` has a sign, at which the next place that minds it takes it off and does not look. This filter
/// does not match what has come back, so that place is the host end.
const WAY: &str = "ip link add ifb0 type ifb && ip link set ifb0 up && tc qdisc add dev eth0 clsact && \
    tc filter add dev eth0 egress protocol all u32 match mark 0 0xffffffff \
    action skbedit mark 1 pipe action mirred egress redirect dev ifb0";

#[test]
fn attack_24_packets_that_tc_lets_skip_it_go_nowhere() {
    let node = Node::that_denies_web(&["friend"]);
    let enforcer = Enforcer::start(&node);
    let [ptp, bridge] = [
        node.ptp(in_force(json!({}))),
        node.bridge(in_force(json!({}))),
    ];
    for (chain, family) in [(ptp, "inet"), (bridge, "bridge")] {
        let friend = Pod::start(&node, &chain, "friend");
        let address = friend.addresses[0];
        let attacker = Pod::start(&node, &unpoliced(chain.clone()), "web");
        attacker.sh(WAY);
        let is_real = arrives(&attacker.netns, &friend.netns, address);
        assert!(is_real, "{family}: the attack is none");
        drop(attacker);

        let attacker = Pod::start(&node, &chain, "web");
        attacker.sh(WAY);
        let stays = is_lost(&attacker.netns, &friend.netns, address);
        assert!(stays, "{family}: it arrived");
        wait_until("they are counted", || {
            let dropped = format!("podgate_unjudged_packets_total{{family=\"{family}\"}}");
            value_of(&enforcer.metrics(&node), &dropped).is_some_and(|count: f64| count > 0.0)
        });
    }
}
