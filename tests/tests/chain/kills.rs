// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A plugin that is killed at any instant.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use podgate_abi::Direction;
use podgate_datapath::attach::{FilterStatus, filter_status};
use podgate_datapath::lock::Lock;
use podgate_datapath::netlink::{Ifindex, Socket};
use podgate_datapath::record::{self, Record, Slot};
use podgate_datapath::tables::MapName;
use podgate_datapath::{filter, sweep};
use podgate_tests::node::{
    Call, Enforcer, Node, Pod, in_force, is_lost, outside_addresses, unpoliced, wait_until,
};
use serde_json::json;

/// How many instants of one ADD are tried.
const INSTANTS: u32 = 40;

fn calls(node: &Node, pod: &Pod) -> [Call; 2] {
    let mut config = node.podgate(json!({"enforcingMode": "strict"}));
    config["cniVersion"] = "1.0.0".into();
    config["name"] = "net".into();
    config["prevResult"] = json!({});
    ["ADD", "DEL"].map(|verb| {
        Call::new(verb)
            .of(&pod.container_id, pod.netns.path())
            .stdin(config.to_string())
    })
}

/// Which directions of an interface have a filter of ours; each names a slot that has a record and a file.
fn filtered(node: &Node, host_end: &str) -> Vec<Direction> {
    let filters = node.run(|| {
        let mut socket = Socket::open().expect("a netlink socket");
        let ifindex: Ifindex = socket
            .link_by_name(host_end)
            .expect("the interface")
            .ifindex;
        Direction::BOTH
            .into_iter()
            .flat_map(|direction| {
                filter::filters(&mut socket, ifindex, direction).expect("list filters")
            })
            .filter(filter::Filter::is_ours)
            .collect::<Vec<_>>()
    });
    if filters.is_empty() {
        return Vec::new();
    }
    let tables = node.tables();
    let records = node.records();
    filters
        .iter()
        .map(|filter| {
            let slot = filter.slot().expect("a filter with a slot");
            assert!(records.iter().any(|record| record.slot == slot), "no file");
            let attachment = tables.read_attachment(slot).expect("read a record");
            assert_ne!(attachment.origin().birth(), 0, "a filter without a record");
            filter.direction
        })
        .collect()
}

/// Sends one datagram from the pod, and waits until the filter has dropped it.
fn is_dropped(node: &Node, pod: &Pod) {
    let dropped = || -> u64 {
        let counted = node.tables().counters(Direction::Egress).unwrap();
        counted[podgate_abi::Reason::DenyAll as usize]
    };
    let before = dropped();
    let socket = pod
        .netns
        .run(|| UdpSocket::bind("0.0.0.0:0").unwrap())
        .unwrap();
    let target = SocketAddr::new(outside_addresses()[0], 9);
    socket.send_to(b"x", target).unwrap();
    wait_until("the packet is dropped by the baseline", || {
        dropped() > before
    });
}

/// Wherever an ADD is killed, no filter lacks its record, and the next ADD works.
#[test]
fn an_add_killed_anywhere_leaves_no_filter_without_a_record() {
    let node = Node::new();
    let _outside = node.outside();
    let alone = unpoliced(node.ptp(json!({})));
    let first = Pod::start(&node, &alone, "first");
    let start = Instant::now();
    calls(&node, &first)[0].make(&node).ok();
    let whole = start.elapsed().min(Duration::from_millis(100));

    let pod = Pod::start(&node, &alone, "killed");
    let host_end = pod.host_end(&node);
    let [add, del] = calls(&node, &pod);
    let mut kinds = [0; 3];
    for instant in 0..INSTANTS {
        let mut child = add.start(&node);
        thread::sleep(whole * instant / INSTANTS);
        child.kill().unwrap();
        child.wait().unwrap();

        let directions = filtered(&node, &host_end);
        kinds[directions.len()] += 1;
        if directions.contains(&Direction::Egress) {
            is_dropped(&node, &pod);
        }
        if instant % 2 == 0 {
            add.make(&node).ok();
            let record = pod.record(&node);
            assert_eq!(
                node.run(|| filter_status(&record)).unwrap(),
                FilterStatus::InForce
            );
            assert_eq!(node.records().len(), 2);
        }
        del.make(&node).ok();
        assert!(filtered(&node, &host_end).is_empty());
        assert_eq!(node.records().len(), 1);
    }
    assert!(kinds[0] > 0, "{kinds:?}");
    assert!(is_lost(&pod.netns, &first.netns, first.addresses[0]));
}

#[test]
fn what_a_killed_add_left_of_a_pod_that_died_is_swept() {
    let node = Node::new();
    let alone = unpoliced(node.ptp(json!({})));
    let survivor = Pod::start(&node, &alone, "survivor");
    let start = Instant::now();
    calls(&node, &survivor)[0].make(&node).ok();
    let whole = start.elapsed().min(Duration::from_millis(100));
    for instant in 0..8 {
        let pod = Pod::start(&node, &alone, "killed");
        let host_end = pod.host_end(&node);
        let mut child = calls(&node, &pod)[0].start(&node);
        thread::sleep(whole * instant / 8);
        child.kill().unwrap();
        child.wait().unwrap();
        node.sh(&format!("ip link del {host_end}"));
    }
    let paths = node.paths();
    let swept = node.run(|| {
        let lock = Lock::take(&paths).unwrap();
        sweep::sweep(&paths, &lock).unwrap()
    });
    assert!(swept.errors.is_empty(), "{:?}", swept.errors);
    let left = node.records();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].identity, survivor.identity());
    assert_eq!(node.tables().born().unwrap(), [left[0].slot]);
}

/// Wherever the first ADD of a node is killed, the next one works.
#[test]
fn after_a_first_add_killed_anywhere_the_next_one_works() {
    for instant in 0..12 {
        let node = Node::new();
        let alone = unpoliced(node.ptp(json!({})));
        let pod = Pod::start(&node, &alone, "a");
        let [add, _] = calls(&node, &pod);
        let mut child = add.start(&node);
        thread::sleep(Duration::from_millis(4) * instant);
        child.kill().unwrap();
        child.wait().unwrap();
        add.make(&node).ok();
        let record = pod.record(&node);
        assert_eq!(
            node.run(|| filter_status(&record)).unwrap(),
            FilterStatus::InForce
        );
        let sets = podgate_datapath::tables::TableSet::list_sets(&node.paths()).unwrap();
        assert!(!sets.is_empty() && sets.len() <= 2, "{sets:?}");
    }
}

/// What an ADD leaves that is repeated for a pod and killed after so many of its filters: file and record are new.
fn repeat_and_kill(node: &Node, pod: &Pod, filters: usize) -> Record {
    let set = node.tables();
    let lock = Lock::take(&node.paths()).unwrap();
    let old = pod.record(node);
    let new = Record {
        slot: Slot(old.slot.0 + 1),
        birth: set.draw_generation().unwrap(),
        ..old
    };
    record::restore(&node.paths(), &new, &lock).unwrap();
    set.write_attachment(&new).unwrap();
    let program = set.pin(MapName::Attachments).with_file_name("to_pod");
    if filters > 0 {
        node.sh(&format!(
            "tc filter replace dev {} egress pref 2 handle 0x706f6467 \
             bpf object-pinned {} classid 0:{:x} direct-action",
            pod.host_end(node),
            program.display(),
            new.slot.0
        ));
    }
    new
}

fn sweep_left_both_filters(filters: usize) {
    let node = Node::new();
    let conflist = node.ptp(json!({}));
    let pod = Pod::start(&node, &conflist, "a");
    let new = repeat_and_kill(&node, &pod, filters);
    let paths = node.paths();
    let swept = node.run(|| {
        let lock = Lock::take(&paths).unwrap();
        sweep::sweep(&paths, &lock).unwrap()
    });
    assert!(swept.errors.is_empty(), "{:?}", swept.errors);
    assert_eq!(node.records(), std::slice::from_ref(&new));
    for side in ["egress", "ingress"] {
        let shown = node.sh(&format!(
            "tc filter show dev {} {side}",
            pod.host_end(&node)
        ));
        assert!(shown.contains("0x706f6467"), "{side} is open: {shown}");
    }
    let _enforcer = Enforcer::start(&node);
    assert_eq!(
        node.run(|| filter_status(&new)).unwrap(),
        FilterStatus::InForce
    );
    assert_eq!(node.tables().born().unwrap(), [new.slot]);
}

/// A repeated ADD that was killed between its filters leaves no direction open.
#[test]
fn a_repeated_add_killed_between_filters_opens_no_direction() {
    sweep_left_both_filters(1);
}

/// A repeated ADD that was killed before its filters leaves an attachment that still belongs to its pod.
#[test]
fn a_repeated_add_killed_before_its_filters_is_not_swept() {
    sweep_left_both_filters(0);
}

#[test]
fn a_killed_repeated_add_is_finished_by_a_running_enforcer() {
    for filters in [0, 1] {
        let node = Node::new();
        let conflist = node.ptp(in_force(json!({})));
        let _enforcer = Enforcer::start(&node);
        let pod = Pod::start(&node, &conflist, "a");
        let other = Pod::start(&node, &conflist, "b");
        other.del(&node, &conflist).unwrap();
        let new = repeat_and_kill(&node, &pod, filters);
        wait_until("the filters are the new ADD's", || {
            // Whatever wakes an enforcer.
            let other = Pod::start(&node, &conflist, "b");
            other.del(&node, &conflist).unwrap();
            node.run(|| filter_status(&new)).unwrap() == FilterStatus::InForce
        });
        assert_eq!(node.records(), std::slice::from_ref(&new));
        assert_eq!(node.tables().born().unwrap(), [new.slot]);
    }
}

#[test]
fn the_del_after_a_repeated_add_that_was_killed_leaves_nothing() {
    for filters in [0, 1] {
        let node = Node::new();
        let alone = unpoliced(node.ptp(json!({})));
        let pod = Pod::start(&node, &alone, "a");
        let [add, del] = calls(&node, &pod);
        add.make(&node).ok();
        repeat_and_kill(&node, &pod, filters);
        del.make(&node).ok();
        assert!(filtered(&node, &pod.host_end(&node)).is_empty());
        assert!(node.records().is_empty());
        assert_eq!(node.tables().born().unwrap(), []);
    }
}
