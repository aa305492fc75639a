//! A larger table set is made beside the one in force: what changes meanwhile comes into force, and is not undone when the
//! other set takes over.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use podgate_tests::metrics::value_of;
use podgate_tests::node::{
    Enforcer, Node, Pod, in_force, is_lost, lets_in, namespace, pod, policy, wait_until,
};
use serde_json::json;

use crate::tenants::{TENANTS, supersets};

/// How often a datagram is sent.
const EACH: Duration = Duration::from_micros(500);

/// After how long without any, none arrives.
const NONE: Duration = Duration::from_millis(50);

/// Datagrams from one pod to another, as long as this lives.
struct Stream<'a> {
    arrived: &'a AtomicU64,
}

impl Stream<'_> {
    fn arrived(&self) -> u64 {
        self.arrived.load(Relaxed)
    }

    /// Whether some arrive.
    fn flows(&self) -> bool {
        let before = self.arrived();
        thread::sleep(NONE);
        self.arrived() != before
    }

    /// Runs `test` beside datagrams from `from` to `to`.
    fn run(from: &Pod, to: &Pod, test: impl FnOnce(&Stream<'_>)) {
        let at = SocketAddr::new(to.addresses[0], 7_000);
        let receiver = to.netns.run(|| UdpSocket::bind(at).unwrap()).unwrap();
        let source = SocketAddr::new(from.addresses[0], 0);
        let sender = from.netns.run(|| UdpSocket::bind(source).unwrap()).unwrap();
        receiver.set_read_timeout(Some(NONE)).unwrap();
        let (arrived, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let stopped = Stop(&stop);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    // What is denied may be answered by an error.
                    sender.send_to(b"x", at).ok();
                    thread::sleep(EACH);
                }
            });
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    if receiver.recv(&mut [0; 8]).is_ok() {
                        arrived.fetch_add(1, Relaxed);
                    }
                }
            });
            let _stopped = stopped;
            test(&Stream { arrived: &arrived });
        });
    }
}

/// Stops both threads, also of a test that fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn what_changes_while_a_larger_table_set_is_made_is_not_undone_by_it() {
    let node = Node::new();
    for name in ["default", "large"] {
        node.apply(name, &namespace(name));
    }
    for name in ["web", "friend", "stranger"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    let tenants: Vec<String> = (0..TENANTS).map(|it| format!("tenant{it}")).collect();
    for name in &tenants {
        let manifest = pod(name, &format!("app: {name}"));
        let in_large = manifest.replace("namespace: default", "namespace: large");
        node.apply(name, &in_large);
    }
    let enforcer = Enforcer::start(&node);
    let conflist = node.ptp(in_force(json!({})));
    let [web, friend, stranger] =
        ["web", "friend", "stranger"].map(|name| Pod::start(&node, &conflist, name));
    let _tenants: Vec<Pod> = tenants
        .iter()
        .map(|name| Pod::start_in(&node, &conflist, "large", name))
        .collect();
    let lets = |who: &str| node.apply("policy", &policy("p", "app: web", &lets_in(who)));
    let begun = || {
        let metrics = enforcer.metrics(&node);
        value_of(&metrics, "podgate_transactions_total{kind=\"build\"}").unwrap_or(0.0)
    };
    Stream::run(&friend, &web, |stream| {
        for (round, blocks) in [700, 2_800, 7_000].into_iter().enumerate() {
            lets("app: friend");
            wait_until("the stream flows", || stream.flows());
            let (set, builds) = (node.tables().name(), begun());
            let is_new = || node.tables().name() != set;
            node.apply("large-policies", &supersets(blocks).join("---\n"));
            wait_until("a larger table set is begun", || begun() > builds);
            let began = Instant::now();
            lets("app: none");
            wait_until("the stream is stopped", || !stream.flows());
            println!(
                "{blocks} blocks: stopped after {:?}, by {} table set",
                began.elapsed() - NONE,
                if is_new() { "the new" } else { "the old" }
            );
            let arrived = stream.arrived();
            let name = format!("web{round}");
            node.apply(&name, &pod(&name, "app: web"));
            let added = Pod::start(&node, &conflist, &name);
            let is_closed = || is_lost(&stranger.netns, &added.netns, added.addresses[0]);
            assert!(is_closed(), "{name} began open");
            wait_until("the larger table set is in force", is_new);
            assert!(is_closed(), "{name} is open");
            assert!(
                !stream.flows() && stream.arrived() == arrived,
                "it was undone"
            );
            added.del(&node, &conflist).expect("DEL");
        }
    });
}
