// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tables of flows that get another size, or come from another version: what is open stays open where it can.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData};
use podgate_abi::{FlowState, FlowWord, Limit};
use podgate_datapath::Sizes;
use podgate_datapath::flows::{Copied, Tracked};
use podgate_datapath::lock::Lock;
use podgate_datapath::record::Slot;
use podgate_datapath::tables::{MapName, TableSet, Unnamed};
use podgate_tests::node::{
    Enforcer, LOST, Node, Pod, Traffic, arrives, in_force, lets_in, namespace, pod, policy,
    small_tables, wait_until,
};
use serde_json::json;

/// An enforcer that wants room for so many flows.
fn with_room(node: &Node, flows: &str) -> Enforcer {
    let enforcer = Enforcer::begin(
        node,
        &[
            "--metrics-bind-addr=127.0.0.1:8162",
            "--health-probe-bind-addr=127.0.0.1:8163",
            "--conntrack-cache-table-size",
            flows,
        ],
    );
    wait_until("the enforcer is ready", || {
        enforcer.readiness(node).0 == 200
    });
    enforcer
}

fn room(node: &Node) -> u32 {
    let usage = node.tables().usage().unwrap();
    let flows = usage.iter().find(|usage| usage.map == MapName::Flows);
    flows.unwrap().capacity
}

fn start(node: &Node, name: &str) -> Pod {
    Pod::start(node, &node.ptp(in_force(json!({}))), name)
}

/// A web server that the friend alone reaches, and a friend that nobody reaches.
fn scene() -> Node {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    for name in ["web", "friend"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    node.apply(
        "web-policy",
        &policy("p", "app: web", &lets_in("app: friend")),
    );
    node.apply(
        "friend-policy",
        &policy("q", "app: friend", &lets_in("app: nobody")),
    );
    node
}

/// A TCP connection, seen from both ends: client, server.
fn connection(from: &Pod, to: &Pod) -> [TcpStream; 2] {
    let address = SocketAddr::new(to.addresses[0], 0);
    let listener = to
        .netns
        .run(|| TcpListener::bind(address).unwrap())
        .unwrap();
    let target = listener.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&target, Duration::from_secs(5)).unwrap();
    let client = from.netns.run(connect).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.set_read_timeout(Some(25 * LOST)).unwrap();
    server.set_read_timeout(Some(25 * LOST)).unwrap();
    [client, server]
}

#[test]
fn connections_outlive_a_restart_that_resizes_the_flow_table() {
    let node = scene();
    let mut enforcer = with_room(&node, "1024");
    let [web, friend] = ["web", "friend"].map(|name| start(&node, name));
    assert_eq!(room(&node), 1024);
    // An attachment may have a quarter of a table: however much goes on beside, two of them find room in one that is
    // smaller by a quarter.
    let [mut client, mut server] = connection(&friend, &web);
    let echoes = Traffic::tcp_echoes(&friend, &web, web.addresses[1]);
    for (round, wanted) in ["4096", "3072", "3072"].into_iter().enumerate() {
        let sent = echoes.sent();
        wait_until("traffic goes on", || echoes.sent() > sent + 20);
        enforcer.kill();
        enforcer = with_room(&node, wanted);
        assert_eq!(room(&node).to_string(), wanted);
        assert_eq!(enforcer.log().contains("copied the flows"), round < 2);
        // The server speaks first: to a pod that nobody may reach, but in a connection that it began.
        server.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        client.write_all(b"y").unwrap();
        server.read_exact(&mut [0]).unwrap();
        let tables = node.tables();
        for pod in [&web, &friend] {
            let slot = pod.record(&node).slot;
            assert!(tables.read_budget(slot).unwrap()[0] >= 2, "{slot:?}");
        }
    }
    let sent = echoes.sent();
    wait_until("traffic goes on", || echoes.sent() > sent + 20);
    assert_eq!(echoes.wrong(), 0);
}

/// Writes a flow into a set's table of flows.
fn put(set: &TableSet, flow: Tracked) {
    let map = Map::HashMap(MapData::from_pin(set.pin(MapName::Flows)).unwrap());
    let mut map: HashMap<_, [u8; 24], [u64; 2]> = map.try_into().unwrap();
    map.insert(
        bytemuck::cast::<_, [u8; 24]>(flow.key),
        [flow.word.0, flow.seen],
        0,
    )
    .unwrap();
}

/// Writes 200 more flows of the same two into it, each seen a jiffy later than the one before.
fn put_like(set: &TableSet, flow: Tracked, state: FlowState) {
    for number in 0..200 {
        let key = podgate_abi::FlowKey {
            peer_port: 5000 + number,
            ..flow.key
        };
        let (generation, initiator) = (flow.word.generation(), flow.word.initiator());
        let word = FlowWord::new(&key, generation, initiator, state);
        let seen = flow.seen + u64::from(number);
        put(set, Tracked { key, word, seen });
    }
}

/// What an enforcer left that is gone: its table set, with room for 1,024 flows, and a connection that stands in it.
struct Left {
    _connection: [TcpStream; 2],
    pods: [Pod; 2],
    old: TableSet,
    node: Node,
}

impl Left {
    fn new() -> Self {
        let node = scene();
        let enforcer = with_room(&node, "1024");
        let pods = ["web", "friend"].map(|name| start(&node, name));
        let _connection = connection(&pods[1], &pods[0]);
        enforcer.kill();
        Self {
            _connection,
            pods,
            old: node.tables(),
            node,
        }
    }

    /// A table set that comes after it, with room for so many flows, as yet without any.
    fn next(&self, flows: u32) -> Unnamed {
        let lock = Lock::take(&self.node.paths()).unwrap();
        let wanted = Sizes {
            flows,
            ..small_tables()
        };
        TableSet::create(&self.node.paths(), &lock, &wanted).unwrap()
    }
}

#[test]
fn of_a_flow_that_two_sets_know_what_was_seen_last_is_copied() {
    let left = Left::new();
    let old = &left.old;
    let new = left.next(2048);
    assert!(new.tracked(MapName::Flows).unwrap().is_empty());
    let copied = new.copy_flows().unwrap();
    assert!(copied.copied > 0 && copied.left == 0, "{copied:?}");
    let sorted = |set: &TableSet| {
        let mut flows = set.tracked(MapName::Flows).unwrap();
        flows.sort_by_key(|flow| (flow.key.slot, flow.key.peer_port));
        flows
    };
    let flows = sorted(old);
    assert_eq!(flows.len(), 2);
    assert_eq!(sorted(&new), flows);
    assert_eq!(new.copy_flows().unwrap(), Copied::default());

    // One comes to its end in the old set, the other in the new one.
    let closing = |flow: Tracked| Tracked {
        word: FlowWord::new(
            &flow.key,
            flow.word.generation(),
            flow.word.initiator(),
            FlowState::CLOSING,
        ),
        seen: flow.seen + 100,
        ..flow
    };
    let ended = [closing(flows[0]), closing(flows[1])];
    put(old, ended[0]);
    put(&new, ended[1]);
    assert_eq!(new.copy_flows().unwrap().copied, 1);
    assert_eq!(sorted(&new), ended);
}

#[test]
fn an_attachment_that_comes_over_late_brings_only_its_own_flows() {
    let left = Left::new();
    let flow = left.old.tracked(MapName::Flows).unwrap()[0];
    let mut key = flow.key;
    key.slot += 100;
    let word = FlowWord::new(
        &key,
        flow.word.generation(),
        flow.word.initiator(),
        flow.word.state(),
    );
    put(&left.old, Tracked { key, word, ..flow });
    let new = left.next(2048);
    new.copy_flows_of(Slot(key.slot.into())).unwrap();
    let keys: Vec<_> = new.tracked(MapName::Flows).unwrap();
    let keys: Vec<_> = keys.into_iter().map(|flow| flow.key).collect();
    assert_eq!(keys, [key]);
}

/// What a set lets one attachment have.
fn limits(set: &TableSet) -> [u64; 2] {
    let map = Map::Array(MapData::from_pin(set.pin(MapName::Limits)).unwrap());
    let map: Array<_, u64> = map.try_into().unwrap();
    [Limit::Flows, Limit::Embryonic].map(|limit| map.get(&(limit as u32), 0).unwrap())
}

/// A set that is being made leaves the limits of the one in force alone.
#[test]
fn a_set_being_made_leaves_the_limits_in_force_alone() {
    let left = Left::new();
    let before = limits(&left.old);
    let new = left.next(64);
    assert_ne!(limits(&new), before);
    assert_eq!(limits(&left.old), before);
}

#[test]
fn a_smaller_table_gets_the_flows_that_were_seen_last() {
    let left = Left::new();
    let old = &left.old;
    let flow = old.tracked(MapName::Flows).unwrap()[0];
    put_like(old, flow, flow.word.state());
    let new = left.next(64);
    let copied = new.copy_flows().unwrap();
    assert_eq!(copied.left, 202 - 64);
    let flows = new.tracked(MapName::Flows).unwrap();
    assert_eq!(flows.len(), 64);
    assert!(flows.iter().all(|new| new.seen >= flow.seen + 200 - 64));
}

/// A smaller table leaves connections behind that have ended, and not those that are silent.
#[test]
fn a_smaller_table_drops_ended_connections_not_silent_ones() {
    let left = Left::new();
    let old = &left.old;
    let open = old.tracked(MapName::Flows).unwrap();
    let flow = open[0];
    put_like(old, flow, FlowState::CLOSING);
    let new = left.next(64);
    assert_eq!(new.copy_flows().unwrap().left, 202 - 64);
    let flows = new.tracked(MapName::Flows).unwrap();
    assert!(open.iter().all(|flow| flows.contains(flow)));
}

/// A start beside flows of an unknown layout begins without any, and says so.
#[test]
fn a_start_beside_flows_of_an_unknown_layout_begins_empty() {
    let Left {
        pods: [web, friend],
        old,
        node,
        ..
    } = Left::new();
    let pin = old.pin(MapName::Flows);
    let shared = pin.parent().unwrap();
    std::fs::rename(shared, shared.with_file_name("shared-9999")).unwrap();
    let enforcer = with_room(&node, "1024");
    assert!(enforcer.log().contains("another version's layout"));
    assert!(node.tables().tracked(MapName::Flows).unwrap().is_empty());
    assert!(arrives(&friend.netns, &web.netns, web.addresses[0]));
}
