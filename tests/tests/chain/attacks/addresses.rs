// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses that change hands.

use std::net::IpAddr;

use podgate_abi::{
    Class, Direction, PeerWord, PolicyWord, PortSetId, RowKey, RowSets, RowWords, RulesetId,
};
use podgate_datapath::lock::Lock;
use podgate_demo::cni::Conflist;
use podgate_tests::node::{Node, Pod, arrives, is_lost};
use serde_json::json;

/// A chain that gives this address.
fn with_address(node: &Node, address: &str) -> Conflist {
    let addresses = json!([{"address": format!("{address}/24"), "gateway": "10.96.0.1"}]);
    let ipam = json!({"type": "static", "addresses": addresses, "routes": [{"dst": "0.0.0.0/0"}]});
    node.conflist(json!({"type": "ptp", "ipam": ipam}), json!({}))
}

#[test]
fn attack_20_a_new_pod_inherits_no_rights_of_its_address() {
    const FRIENDS: Class = Class(5);
    let node = Node::new();
    let victim = Pod::start(&node, &node.ptp(json!({})), "victim");
    let old = Pod::start(&node, &with_address(&node, "10.96.0.200"), "old");
    let address: IpAddr = old.addresses[0];

    // What an enforcer would have written: only friends may come in, and the old pod is one.
    let tables = node.tables();
    let row = |key, set| {
        RowWords::new(
            key,
            RowSets {
                tcp: set,
                udp: set,
                sctp: set,
                rest: set,
            },
        )
    };
    let friends = RowKey::new(RulesetId::FIRST, FRIENDS);
    tables
        .put_default_row(RulesetId::FIRST, row(RowKey(0), PortSetId::NONE))
        .unwrap();
    tables
        .put_row(friends, row(friends, PortSetId::ALL))
        .unwrap();
    let lock = Lock::take(&node.paths()).unwrap();
    let word = PeerWord::new(address.into(), FRIENDS, Class::NONE, false);
    tables.put_peer(address, word, &lock).unwrap();
    drop(lock);
    let slot = victim.record(&node).slot;
    let generation = tables.draw_generation().unwrap();
    let policy = PolicyWord::new(RulesetId::FIRST, generation.0);
    tables.store_word(slot, Direction::Ingress, policy).unwrap();
    assert!(arrives(&old.netns, &victim.netns, victim.addresses[0]));

    // It dies while no enforcer runs, and another pod gets its address.
    node.sh(&format!("ip link del {}", old.host_end(&node)));
    let new = Pod::start(&node, &with_address(&node, "10.96.0.200"), "new");
    assert_eq!(new.addresses[0], address);
    assert_eq!(tables.read_peer(address).unwrap(), None);
    assert!(is_lost(&new.netns, &victim.netns, victim.addresses[0]));
    // Flows that the old pod had are judged again.
    let word = tables.read_word(slot, Direction::Ingress).unwrap();
    assert_ne!(word.generation(), generation.0);
    assert_eq!(word.ruleset(), RulesetId::FIRST);
}
