// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Frames that a process with `CAP_NET_RAW` in a pod can send.

use podgate_abi::{Direction, Reason};
use podgate_tests::frame::{SERVICE_VLAN, VLAN, tagged};
use podgate_tests::node::{Cable, Frames, Node, Pod, unpoliced};
use serde_json::json;

use super::Receiver;

#[test]
fn attack_02_two_priority_tags_do_not_lead_past_the_filter() {
    let node = Node::new();
    let open = node.ptp(json!({}));
    let victim = Pod::start(&node, &open, "victim");
    let receiver = Receiver::new(&victim.netns, victim.addresses[0]);
    let chains = [
        (unpoliced(open.clone()), true),
        (open, false),
        (node.ptp(json!({"enforcingMode": "strict"})), false),
    ];
    for (chain, arrives) in chains {
        let attacker = Pod::start(&node, &chain, "attacker");
        let cable = Cable {
            from: attacker.mac(),
            to: node.mac(&attacker.host_end(&node)),
        };
        let frames = Frames::on(&attacker.netns, "eth0");
        let source = (attacker.addresses[0], 4000);
        for outer in [VLAN, SERVICE_VLAN] {
            let data = format!("{} {outer:x}", attacker.container_id).into_bytes();
            let plain = cable.udp(source, receiver.address(), &data);
            frames.send(&tagged(outer, &tagged(VLAN, &plain)));
            if arrives && outer == VLAN {
                assert!(receiver.gets(&data), "the attack is none: {outer:x}");
            } else if !arrives {
                assert!(receiver.misses(&data), "{outer:x} arrived");
            }
        }
    }
    let counted = node.tables().counters(Direction::Egress).unwrap();
    assert!(counted[Reason::NotIp as usize] >= 4);
}

/// A packet socket passes a filter at the pod end, and not ours.
#[test]
fn attack_host_end_not_pod_end_skips_only_the_pod_end() {
    let node = Node::new();
    let open = node.ptp(json!({}));
    let victim = Pod::start(&node, &open, "victim");
    let receiver = Receiver::new(&victim.netns, victim.addresses[0]);
    // A program that drops everything where no slot is given.
    let program = node.paths().current().join("from_pod");
    for chain in [
        unpoliced(open),
        node.ptp(json!({"enforcingMode": "strict"})),
    ] {
        let attacker = Pod::start(&node, &chain, "attacker");
        let is_policed = chain.plugins.len() == 2;
        attacker.sh(&format!(
            "tc qdisc add dev eth0 clsact && tc filter add dev eth0 egress bpf da object-pinned {}",
            program.display()
        ));
        let cable = Cable {
            from: attacker.mac(),
            to: node.mac(&attacker.host_end(&node)),
        };
        let source = (attacker.addresses[0], 4000);
        let frame = |data: &[u8]| cable.udp(source, receiver.address(), data);
        let frames = Frames::on(&attacker.netns, "eth0");
        frames.send(&frame(b"filtered"));
        assert!(receiver.misses(b"filtered"), "the pod end filters nothing");
        frames.bypass_filters();
        frames.send(&frame(b"bypassing"));
        if is_policed {
            assert!(receiver.misses(b"bypassing"));
        } else {
            assert!(receiver.gets(b"bypassing"), "the attack is none");
        }
    }
    let counted = node.tables().counters(Direction::Egress).unwrap();
    assert!(counted[Reason::DenyAll as usize] > 0);
}
