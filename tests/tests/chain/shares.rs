// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What pods have of the tables of flows: counted by the programs, set right by upkeep.

use std::net::UdpSocket;

use aya::maps::{Array, Map, MapData};
use podgate_datapath::flows::{self, Collected};
use podgate_datapath::tables::MapName;
use podgate_tests::node::{Node, Pod, arrives};
use serde_json::json;

/// Later than any time-out, in jiffies.
const AGES: u64 = 1 << 40;

fn has(node: &Node, pod: &Pod) -> [u64; 2] {
    let slot = pod.record(node).slot;
    node.tables().read_budget(slot).unwrap()
}

fn write(node: &Node, pod: &Pod, counts: [u64; 2]) {
    let pin = node.tables().pin(MapName::Quotas);
    let map = Map::Array(MapData::from_pin(pin).unwrap());
    let mut quotas: Array<_, [u64; 2]> = map.try_into().unwrap();
    quotas.set(pod.record(node).slot.0, counts, 0).unwrap();
}

#[test]
fn what_timed_out_goes_and_counts_that_strayed_are_set_right() {
    // No enforcer, which would collect as well.
    let node = Node::new();
    let conflist = node.ptp(json!({}));
    let [asking, asked] = ["asking", "asked"].map(|name| Pod::start(&node, &conflist, name));
    assert!(arrives(&asking.netns, &asked.netns, asked.addresses[0]));
    let before = [has(&node, &asking), has(&node, &asked)];
    let ask = || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for port in 1..=5 {
            socket.send_to(b"?", (asked.addresses[0], port)).unwrap();
        }
    };
    asking.netns.run(ask).unwrap();
    let waiting = [(&asking, before[0]), (&asked, before[1])];
    for (pod, [flows, waiting]) in waiting {
        assert_eq!(has(&node, pod), [flows, waiting + 5]);
    }

    let now = flows::jiffies().unwrap();
    let tables = node.tables();
    let Collected {
        kept,
        waiting: stand,
        deleted,
    } = tables.collect(now).unwrap();
    let [flows, waiting] = [0, 1].map(|word| before[0][word] + before[1][word]);
    assert_eq!(
        (kept as u64, stand as u64, deleted),
        (flows, waiting + 10, 0)
    );
    let right = has(&node, &asking);
    for stray in [[99, 99], [0, 0], [u64::MAX, u64::MAX - 7]] {
        write(&node, &asking, stray);
        tables.collect(now).unwrap();
        assert_eq!(has(&node, &asking), right);
    }

    let deleted = tables.collect(now + AGES).unwrap().deleted;
    assert_eq!(deleted, kept + stand);
    for pod in [&asking, &asked] {
        assert_eq!(has(&node, pod), [0, 0]);
    }
}
