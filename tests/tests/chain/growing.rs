// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A larger table set is made beside the one in force: what changes meanwhile comes into force, and is not undone when the
//! other set takes over.

use std::time::Instant;

use podgate_tests::metrics::value_of;
use podgate_tests::node::{
    Enforcer, Node, Pod, Traffic, in_force, is_lost, lets_in, namespace, pod, policy, wait_until,
};
use serde_json::json;

use crate::tenants::{Tenants, supersets};

/// When so many were sent and none arrived, none does.
const ENOUGH: u64 = 50;

/// Whether datagrams arrive: so it is as soon as one does.
fn flows(stream: &Traffic) -> bool {
    let (sent, arrived) = (stream.sent(), stream.wrong());
    let arrives = || stream.wrong() != arrived;
    wait_until("one arrives, or none of many does", || {
        arrives() || stream.sent() >= sent + ENOUGH
    });
    arrives()
}

#[test]
fn a_larger_table_set_undoes_no_change_made_meanwhile() {
    let node = Node::new();
    node.apply("default", &namespace("default"));
    for name in ["web", "friend", "stranger"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    let tenants = Tenants::announce(&node);
    let enforcer = Enforcer::start(&node);
    let conflist = node.ptp(in_force(json!({})));
    let [web, friend, stranger] =
        ["web", "friend", "stranger"].map(|name| Pod::start(&node, &conflist, name));
    let _tenants = tenants.start(&node, &conflist);
    let lets = |who: &str| node.apply("policy", &policy("p", "app: web", &lets_in(who)));
    let begun = || {
        let metrics = enforcer.metrics(&node);
        value_of(&metrics, "podgate_transactions_total{kind=\"build\"}").unwrap_or(0.0)
    };
    // Of those that are denied: whatever arrives is counted as wrong.
    let stream = Traffic::denied(&friend, &web, web.addresses[0]);
    for (round, blocks) in [700, 2_800, 7_000].into_iter().enumerate() {
        lets("app: friend");
        wait_until("the stream flows", || flows(&stream));
        let (set, builds) = (node.tables().name(), begun());
        let is_new = || node.tables().name() != set;
        node.apply("large-policies", &supersets(blocks).join("---\n"));
        wait_until("a larger table set is begun", || begun() > builds);
        let began = Instant::now();
        lets("app: none");
        wait_until("the stream is stopped", || !flows(&stream));
        println!(
            "{blocks} blocks: stopped after {:?}, by {} table set",
            began.elapsed(),
            if is_new() { "the new" } else { "the old" }
        );
        let arrived = stream.wrong();
        let name = format!("web{round}");
        node.apply(&name, &pod(&name, "app: web"));
        let added = Pod::start(&node, &conflist, &name);
        let is_closed = || is_lost(&stranger.netns, &added.netns, added.addresses[0]);
        assert!(is_closed(), "{name} began open");
        wait_until("the larger table set is in force", is_new);
        assert!(is_closed(), "{name} is open");
        assert!(
            !flows(&stream) && stream.wrong() == arrived,
            "it was undone"
        );
        added.del(&node, &conflist).expect("DEL");
    }
}
