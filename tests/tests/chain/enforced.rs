// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Plugin and enforcer together: pods start with their policy, and changes take effect.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use podgate_abi::{Direction, FlowKey, RulesetId};
use podgate_datapath::record::Slot;
use podgate_datapath::tables::MapName;
use podgate_tests::metrics::value_of;
use podgate_tests::node::{
    Enforcer, LOST, Node, Pod, Traffic, arrives, in_force, is_lost, lets_in, namespace, pod,
    policy, wait_until,
};
use serde_json::json;

/// A node with an enforcer that knows a web server, a friend and a stranger.
fn scene() -> (Node, Enforcer) {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    for name in ["web", "friend", "stranger"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    let enforcer = Enforcer::start(&node);
    (node, enforcer)
}

fn start(node: &Node, name: &str) -> Pod {
    Pod::start(node, &node.ptp(in_force(json!({}))), name)
}

/// An ADD answers when the policy is in force, and the first packet meets it.
#[test]
fn an_add_answers_when_the_first_packet_meets_the_policy() {
    let (node, _enforcer) = scene();
    node.apply("policy", &policy("p", "app: web", &lets_in("app: friend")));
    let [first, friend, stranger] = ["web", "friend", "stranger"].map(|name| start(&node, name));
    let ruleset = |pod: &Pod| {
        let slot = pod.record(&node).slot;
        let word = node.tables().read_word(slot, Direction::Ingress).unwrap();
        word.ruleset()
    };
    wait_until("the policy is read", || ruleset(&first) >= RulesetId::FIRST);
    for _ in 0..5 {
        let web = start(&node, "web");
        assert_eq!(ruleset(&web), ruleset(&first));
        for address in &web.addresses {
            assert!(arrives(&friend.netns, &web.netns, *address));
            assert!(is_lost(&stranger.netns, &web.netns, *address));
            assert!(arrives(&node.netns, &web.netns, *address));
        }
        web.del(&node, &node.ptp(json!({}))).unwrap();
    }
}

/// In strict mode, a pod without a policy stays closed, and one with a policy is opened by it.
#[test]
fn in_strict_mode_only_a_policy_opens_a_pod() {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    for name in ["web", "friend"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    node.apply("policy", &policy("p", "app: web", &lets_in("app: friend")));
    let both = "policyTypes: [Egress], egress: [{}]";
    node.apply("out", &policy("q", "app: friend", both));
    let _enforcer = Enforcer::start(&node);
    let strict = node.ptp(in_force(json!({"enforcingMode": "strict"})));
    let web = Pod::start(&node, &strict, "web");
    let friend = Pod::start(&node, &strict, "friend");
    assert!(arrives(&friend.netns, &web.netns, web.addresses[0]));
    assert!(is_lost(&web.netns, &friend.netns, friend.addresses[0]));
}

/// A TCP connection between two pods.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn open(from: &Pod, to: &Pod, at: IpAddr) -> Self {
        let listener = to
            .netns
            .run(|| TcpListener::bind(SocketAddr::new(at, 0)).unwrap())
            .unwrap();
        let target = listener.local_addr().unwrap();
        let client = from
            .netns
            .run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)).unwrap())
            .unwrap();
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        Self { client, server }
    }

    /// Whether a byte comes through within `limit`. One that does not is on its way still.
    fn works(&mut self, limit: Duration) -> bool {
        self.server.set_read_timeout(Some(limit)).unwrap();
        self.client.write_all(b"x").unwrap();
        self.server.read_exact(&mut [0]).is_ok()
    }

    /// Waits for what is on its way: it is sent again after a pause that grows as long as it is lost.
    fn recovers(&mut self) -> bool {
        self.server
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        self.server.read_exact(&mut [0]).is_ok()
    }
}

/// Policies that come, change and go take effect on live connections.
#[test]
fn policies_take_effect_on_live_connections() {
    let (node, _enforcer) = scene();
    let web = start(&node, "web");
    let friend = start(&node, "friend");
    let mut connection = Connection::open(&friend, &web, web.addresses[0]);
    assert!(connection.works(25 * LOST));

    // A policy that allows it changes nothing for it.
    node.apply("policy", &policy("p", "app: web", &lets_in("app: friend")));
    let stranger = start(&node, "stranger");
    wait_until("strangers are shut out", || {
        is_lost(&stranger.netns, &web.netns, web.addresses[0])
    });
    assert!(connection.works(25 * LOST));

    // Edited: it does not allow it any more.
    node.apply("policy", &policy("p", "app: web", &lets_in("app: nobody")));
    wait_until("the connection is cut", || {
        !connection.works(LOST) && is_lost(&friend.netns, &web.netns, web.addresses[0])
    });

    // Renamed: the same policy from another file, without a moment in between.
    let denied = Traffic::denied(&friend, &web, web.addresses[0]);
    for (from, to) in [("policy", "renamed"), ("renamed", "policy")] {
        let path = |name| node.manifests().join(format!("{name}.yaml"));
        std::fs::rename(path(from), path(to)).unwrap();
        let sent = denied.sent();
        wait_until("more was sent", || denied.sent() > sent + 300);
    }
    assert_eq!(denied.wrong(), 0);
    drop(denied);

    // Gone: what was on its way comes through.
    node.withdraw("policy");
    assert!(connection.recovers());
    wait_until("strangers come in", || {
        arrives(&stranger.netns, &web.netns, web.addresses[0])
    });
}

/// The table of answered flows.
struct Answered(HashMap<MapData, [u8; size_of::<FlowKey>()], [u8; 16]>);

impl Answered {
    fn of(node: &Node) -> Self {
        let pin = node.tables().pin(MapName::Flows);
        let map = Map::HashMap(MapData::from_pin(pin).unwrap());
        Self(map.try_into().unwrap())
    }

    fn flows_of(&self, slot: Slot) -> Vec<FlowKey> {
        let flows = self.0.keys();
        flows
            .map(|key| bytemuck::pod_read_unaligned::<FlowKey>(&key.unwrap()))
            .filter(|key| u32::from(key.slot) == slot.0)
            .collect()
    }

    /// Takes the flows of a slot away, as if they had timed out.
    fn evict(&mut self, slot: Slot) {
        for key in self.flows_of(slot) {
            let key: [u8; size_of::<FlowKey>()] = bytemuck::cast(key);
            self.0.remove(&key).unwrap();
        }
    }
}

/// A connection that was picked up in mid-stream is cut by a revocation all the same.
#[test]
fn attack_16_a_picked_up_connection_is_cut_by_a_revocation() {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    for name in ["web", "friend"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    node.apply("policy", &policy("p", "app: web", &lets_in("app: friend")));
    let _enforcer = Enforcer::start(&node);
    let web = start(&node, "web");
    let friend = start(&node, "friend");
    let mut connection = Connection::open(&friend, &web, web.addresses[0]);
    assert!(connection.works(25 * LOST));

    let slot = web.record(&node).slot;
    let mut answered = Answered::of(&node);
    assert!(!answered.flows_of(slot).is_empty());
    // The server may acknowledge what it got in this moment.
    wait_until("it is forgotten", || {
        answered.evict(slot);
        answered.flows_of(slot).is_empty()
    });

    // The server speaks first, as if the pod had begun.
    connection.client.set_read_timeout(Some(25 * LOST)).unwrap();
    connection.server.write_all(b"y").unwrap();
    connection.client.read_exact(&mut [0]).unwrap();
    wait_until("it is picked up", || !answered.flows_of(slot).is_empty());
    node.apply("policy", &policy("p", "app: web", &lets_in("app: nobody")));
    wait_until("nobody is let in", || {
        is_lost(&friend.netns, &web.netns, web.addresses[0])
    });
    assert!(!connection.works(LOST));
    connection.client.set_read_timeout(Some(LOST)).unwrap();
    connection.server.write_all(b"y").unwrap();
    assert!(connection.client.read_exact(&mut [0]).is_err());
}

#[test]
fn an_unrelated_change_keeps_connections_whole() {
    let (node, _enforcer) = scene();
    node.apply("policy", &policy("p", "app: web", &lets_in("app: friend")));
    let web = start(&node, "web");
    let friend = start(&node, "friend");
    let udp = Traffic::udp_echoes(&friend, &web, web.addresses[1]);
    let tcp = Traffic::tcp_echoes(&friend, &web, web.addresses[0]);
    for round in 0..10 {
        node.apply(
            "other",
            &policy("q", "app: other", &lets_in(&format!("app: x{round}"))),
        );
        let sent = udp.sent() + tcp.sent();
        wait_until("more was sent", || udp.sent() + tcp.sent() > sent + 60);
    }
    assert_eq!((udp.wrong(), tcp.wrong()), (0, 0));
}

#[test]
fn a_change_of_labels_takes_effect_in_both_directions() {
    let (node, _enforcer) = scene();
    node.apply("policy", &policy("p", "app: web", &lets_in("role: guest")));
    let web = start(&node, "web");
    let friend = start(&node, "friend");
    wait_until("nobody is a guest", || {
        is_lost(&friend.netns, &web.netns, web.addresses[0])
    });
    node.apply("friend", &pod("friend", "role: guest"));
    wait_until("the friend is a guest", || {
        !is_lost(&friend.netns, &web.netns, web.addresses[0])
    });
    let mut connection = Connection::open(&friend, &web, web.addresses[0]);
    assert!(connection.works(25 * LOST));
    node.apply("friend", &pod("friend", "app: friend"));
    wait_until("the connection is cut", || !connection.works(LOST));
}

#[test]
fn an_unreadable_file_keeps_what_it_last_said_and_is_reported() {
    let (node, enforcer) = scene();
    node.apply("policy", &policy("p", "app: web", &lets_in("app: friend")));
    let web = start(&node, "web");
    let friend = start(&node, "friend");
    let stranger = start(&node, "stranger");
    wait_until("the policy is in force", || {
        is_lost(&stranger.netns, &web.netns, web.addresses[0])
    });
    node.apply("policy", "apiVersion: networking.k8s.io/v1\nkind: [\n");
    wait_until("the file is told of", || {
        enforcer.is_not_ready(&node, "policy.yaml")
    });
    assert!(
        enforcer
            .metrics(&node)
            .contains("podgate_manifest_errors 1")
    );
    assert!(enforcer.log().contains("policy.yaml"));
    assert!(arrives(&friend.netns, &web.netns, web.addresses[0]));
    assert!(is_lost(&stranger.netns, &web.netns, web.addresses[0]));
    node.apply(
        "policy",
        &policy("p", "app: web", &lets_in("app: stranger")),
    );
    wait_until("it is ready", || enforcer.readiness(&node).0 == 200);
    wait_until("the new policy is in force", || {
        is_lost(&friend.netns, &web.netns, web.addresses[0])
    });
    assert!(
        enforcer
            .metrics(&node)
            .contains("podgate_manifest_errors 0")
    );
}

/// A pod that the source does not know is answered at once, and keeps its baseline.
#[test]
fn an_unknown_pod_is_answered_at_once_and_keeps_its_baseline() {
    let (node, _enforcer) = scene();
    let unknown = start(&node, "unknown");
    let web = start(&node, "web");
    assert!(arrives(&web.netns, &unknown.netns, unknown.addresses[0]));
    // When the source learns of it, it is policed without another ADD.
    node.apply("policy", &policy("p", "app: unknown", &lets_in("app: x")));
    node.apply("unknown", &pod("unknown", "app: unknown"));
    wait_until("it is policed", || {
        is_lost(&web.netns, &unknown.netns, unknown.addresses[0])
    });
}

/// An attachment file that cannot be read is reported, and stops no change.
#[test]
fn an_unreadable_attachment_file_is_reported_and_stops_nothing() {
    let (node, enforcer) = scene();
    let web = start(&node, "web");
    let friend = start(&node, "friend");
    let cut = node.paths().attachments().join("cut-eth0.json");
    std::fs::write(&cut, "{").unwrap();
    node.apply("policy", &policy("p", "app: web", &lets_in("app: nobody")));
    wait_until("the policy is in force", || {
        is_lost(&friend.netns, &web.netns, web.addresses[0])
    });
    wait_until("the file is told of", || {
        enforcer.is_not_ready(&node, "cut-eth0.json")
    });
    std::fs::remove_file(&cut).unwrap();
    node.withdraw("policy");
    wait_until("it is ready", || enforcer.readiness(&node).0 == 200);
}

/// While another process holds the lock, a change is reported as not in force.
#[test]
fn a_change_under_a_held_lock_is_reported_as_not_in_force() {
    let (node, enforcer) = scene();
    let (web, friend) = (start(&node, "web"), start(&node, "friend"));
    assert!(arrives(&friend.netns, &web.netns, web.addresses[0]));
    let held = podgate_datapath::lock::Lock::take(&node.paths()).unwrap();
    node.apply("policy", &policy("p", "app: web", ""));
    wait_until("it is not ready", || enforcer.readiness(&node).0 == 503);
    // The pod is denied until its policy can be written.
    assert!(is_lost(&friend.netns, &web.netns, web.addresses[0]));
    drop(held);
    wait_until("it is ready", || enforcer.readiness(&node).0 == 200);
    assert!(is_lost(&friend.netns, &web.netns, web.addresses[0]));
}

#[test]
fn pods_without_attachments_and_the_reverse_are_reported() {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    let enforcer = Enforcer::start(&node);
    let mut unpoliced = node.ptp(json!({}));
    unpoliced
        .plugins
        .retain(|plugin| plugin["type"] != "podgate");
    let open = Pod::start(&node, &unpoliced, "open");
    let policed = Pod::start(&node, &node.ptp(json!({})), "policed");
    for (name, added) in [("open", &open), ("policed", &policed)] {
        let address = added.addresses[0];
        let status = format!("status: {{podIPs: [{{ip: {address}}}]}}\n");
        node.apply(name, &(pod(name, "app: web") + &status));
    }
    let _unheard_of = Pod::start(&node, &node.ptp(json!({})), "unheard-of");
    let is_so = [
        "warning: no attachment, and so no policy in force, at pods of this node (1): default/open; ",
        "warning: no object is known of attached pods",
    ];
    wait_until("both are reported", || {
        let (status, said) = enforcer.readiness(&node);
        status == 200 && is_so.iter().all(|is| said.contains(is))
    });
    let (_, said) = enforcer.readiness(&node);
    assert!(
        said.contains("isolates (1): default/unheard-of; ") && !said.contains("default/policed"),
        "{said}"
    );
    let log = enforcer.log();
    assert!(
        log.contains("names=default/open") && log.contains("names=default/unheard-of"),
        "{log}"
    );
    let figure = "podgate_pods_without_attachment 1";
    assert!(enforcer.metrics(&node).contains(figure));
}

#[test]
fn what_was_counted_outlives_a_new_table_set() {
    let (node, enforcer) = scene();
    node.apply("policy", &policy("p", "app: web", &lets_in("app: friend")));
    let [web, stranger] = ["web", "stranger"].map(|name| start(&node, name));
    assert!(is_lost(&stranger.netns, &web.netns, web.addresses[0]));
    // Somebody takes a pin away: the next change is put in force by a new set.
    std::fs::remove_file(node.paths().current()).unwrap();
    node.apply("policy", &policy("p", "app: web", &lets_in("app: x")));
    wait_until("there is a new table set", || {
        let log = enforcer.log();
        log.matches("a new table set is in force").count() > 1
    });
    let figure = "podgate_packets_total{direction=\"to_pod\",verdict=\"drop\",reason=\"policy\"}";
    let metrics = enforcer.metrics(&node);
    let counted = value_of(&metrics, figure);
    assert_ne!(counted.unwrap_or(0), 0, "{metrics}");
}
