//! A plugin that is killed at any instant.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use podgate_abi::Direction;
use podgate_datapath::attach::{Standing, standing};
use podgate_datapath::lock::Lock;
use podgate_datapath::netlink::{Ifindex, Socket};
use podgate_datapath::{filter, sweep};
use podgate_tests::node::{Call, Node, Pod, is_lost, outside_addresses, wait_until};
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
        let counted = node.tables().counters(Direction::FromPod).unwrap();
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

#[test]
fn wherever_an_add_is_killed_no_filter_lacks_its_record_and_the_next_add_works() {
    let node = Node::new();
    let _outside = node.outside();
    let mut alone = node.ptp(json!({}));
    alone.plugins.truncate(1);
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
        if directions.contains(&Direction::FromPod) {
            is_dropped(&node, &pod);
        }
        if instant % 2 == 0 {
            add.make(&node).ok();
            let record = pod.record(&node);
            assert_eq!(node.run(|| standing(&record)).unwrap(), Standing::InForce);
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
    let mut alone = node.ptp(json!({}));
    alone.plugins.truncate(1);
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

#[test]
fn wherever_the_first_add_of_a_node_is_killed_the_next_one_works() {
    for instant in 0..12 {
        let node = Node::new();
        let mut alone = node.ptp(json!({}));
        alone.plugins.truncate(1);
        let pod = Pod::start(&node, &alone, "a");
        let [add, _] = calls(&node, &pod);
        let mut child = add.start(&node);
        thread::sleep(Duration::from_millis(4) * instant);
        child.kill().unwrap();
        child.wait().unwrap();
        add.make(&node).ok();
        let record = pod.record(&node);
        assert_eq!(node.run(|| standing(&record)).unwrap(), Standing::InForce);
        let sets = podgate_datapath::tables::TableSet::list_sets(&node.paths()).unwrap();
        assert!(!sets.is_empty() && sets.len() <= 2, "{sets:?}");
    }
}
