// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What upkeep deletes of the tables of flows, beside what timed out.

use std::fs;
use std::net::IpAddr;

use aya::maps::{HashMap, Map, MapData};
use podgate_abi::{FlowKey, FlowState, FlowWord, Initiator};
use podgate_datapath::flows::{Collected, jiffies};
use podgate_datapath::lock::Lock;
use podgate_datapath::netlink::Ifindex;
use podgate_datapath::record::{AttachmentId, Baseline, Generation, Record, Slot};
use podgate_datapath::tables::{MapName, TableSet};
use podgate_tests::frame::TCP;
use podgate_tests::node::{Node, small_tables};

const FLOWS: u16 = 100;

/// Makes a table set, and names it current.
fn make(node: &Node) -> TableSet {
    let lock = Lock::take(&node.paths()).unwrap();
    let set = TableSet::create(&node.paths(), &lock, &small_tables()).unwrap();
    set.name_current(&lock).unwrap()
}

/// Puts connections of an attachment of this slot and generation into both tables that are counted.
fn connect(set: &TableSet, slot: Slot, generation: u32) {
    for table in [MapName::Flows, MapName::Embryonic] {
        let map = Map::HashMap(MapData::from_pin(set.pin(table)).unwrap());
        let mut map: HashMap<_, [u8; 24], [u64; 2]> = map.try_into().unwrap();
        for peer_port in 1..=FLOWS {
            let key = FlowKey {
                peer: IpAddr::from([10, 0, 0, 9]).into(),
                peer_port,
                pod_port: 80,
                slot: slot.0 as u16,
                protocol: TCP,
                padding: 0,
            };
            let word = FlowWord::new(&key, generation, Initiator::PEER, FlowState::ESTABLISHED);
            let key = bytemuck::cast::<_, [u8; 24]>(key);
            map.insert(key, [word.0, jiffies().unwrap()], 0).unwrap();
        }
    }
    set.recount().unwrap();
    assert_eq!(set.read_budget(slot).unwrap(), [u64::from(FLOWS); 2]);
}

fn attach(set: &TableSet, slot: Slot, birth: u32) {
    set.write_attachment(&Record {
        identity: AttachmentId {
            container_id: "b".into(),
            ifname: "eth0".into(),
        },
        network: "n".into(),
        pod: None,
        netns_inode: 7,
        pod_ifindex: Ifindex(2),
        host_ifindex: Ifindex(9),
        host_mac: None,
        pod_mac: None,
        broadcasts: Vec::new(),
        addresses: vec![IpAddr::from([10, 0, 0, 1])],
        baseline: Baseline::Allow,
        slot,
        birth: Generation(birth),
    })
    .unwrap();
}

fn collect(set: &TableSet) -> Collected {
    set.collect(jiffies().unwrap()).unwrap()
}

/// Whoever has the flows keeps them, or they go and are not counted any more.
fn assert_kept(set: &TableSet, slot: Slot, are_kept: bool) {
    let flows = usize::from(FLOWS);
    let [kept, deleted] = if are_kept { [flows, 0] } else { [0, 2 * flows] };
    let expected = Collected {
        kept,
        waiting: kept,
        deleted,
    };
    assert_eq!(collect(set), expected);
    assert_eq!(set.read_budget(slot).unwrap(), [kept as u64; 2]);
}

#[test]
fn flows_of_an_attachment_that_is_gone_are_collected() {
    let (node, slot) = (Node::new(), Slot(7));
    let set = make(&node);
    attach(&set, slot, 5);
    connect(&set, slot, 6);
    assert_kept(&set, slot, true);
    set.clear_attachment(slot).unwrap();
    assert_kept(&set, slot, false);
}

#[test]
fn a_reused_slot_begins_with_nothing_of_its_last_pod() {
    let (node, slot) = (Node::new(), Slot(7));
    let set = make(&node);
    connect(&set, slot, 999);
    attach(&set, slot, 1000);
    assert_kept(&set, slot, false);
    connect(&set, slot, 1000);
    assert_kept(&set, slot, true);
}

/// An attachment that stayed with an older table set keeps its flows.
#[test]
fn an_attachment_left_with_an_older_set_keeps_its_flows() {
    let (node, slot) = (Node::new(), Slot(7));
    let older = make(&node);
    attach(&older, slot, 5);
    let set = make(&node);
    connect(&set, slot, 6);
    assert_eq!(set.born().unwrap(), []);
    assert_kept(&set, slot, true);
    older.clear_attachment(slot).unwrap();
    assert_kept(&set, slot, false);
}

/// Names are used again, where somebody removed the pins.
#[test]
fn a_set_whose_name_another_took_is_not_current() {
    let node = Node::new();
    let older = make(&node);
    assert!(older.is_current().unwrap());
    fs::remove_dir_all(node.paths().bpffs).unwrap();
    assert!(!older.is_current().unwrap());
    let newer = make(&node);
    assert_eq!(older.name().to_string(), newer.name().to_string());
    assert!(!older.is_current().unwrap());
    assert!(newer.is_current().unwrap());
}
