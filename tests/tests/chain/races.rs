// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Plugins that run at the same time.

use std::collections::BTreeSet;
use std::thread;

use podgate_abi::{Direction, RulesetId};
use podgate_datapath::Paths;
use podgate_datapath::attach::{FilterStatus, filter_status};
use podgate_datapath::tables::TableSet;
use podgate_tests::node::{
    Enforcer, Node, Pod, arrives, in_force, is_lost, lets_in, namespace, pod, policy, unpoliced,
};
use serde_json::json;

#[test]
fn the_first_add_of_a_node_loads_the_object() {
    // With tables of the sizes that a node has.
    let node = Node::with_large_tables();
    assert!(!node.paths().bpffs.exists());
    let closed = json!({"enforcingMode": "strict"});
    let closed = Pod::start(&node, &node.ptp(closed), "closed");
    let open = Pod::start(&node, &node.ptp(json!({})), "open");
    assert_eq!(TableSet::list_sets(&node.paths()).unwrap().len(), 1);
    assert!(is_lost(&open.netns, &closed.netns, closed.addresses[0]));
    assert!(arrives(&node.netns, &open.netns, open.addresses[0]));
}

#[test]
fn twenty_adds_race_on_a_fresh_node() {
    let node = Node::new();
    let conflist = node.ptp(json!({"enforcingMode": "strict"}));
    let alone = unpoliced(conflist.clone());
    let mut pods: Vec<Pod> = (0..20).map(|_| Pod::start(&node, &alone, "p")).collect();
    // Only podgate races; what ptp does beside it is ptp's business.
    thread::scope(|scope| {
        for pod in &mut pods {
            let (node, conflist) = (&node, &conflist);
            scope.spawn(move || {
                let result = pod.result.take().expect("a result");
                let podgate = &conflist.plugins[1];
                let verb = podgate_demo::cni::Verb::Add;
                let chain = node.chain(conflist);
                let said = node
                    .run(|| chain.invoke(podgate, verb, &pod.sandbox, Some(&result)))
                    .unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(said, result.get());
            });
        }
    });
    let records = node.records();
    assert_eq!(records.len(), 20);
    let distinct = |numbers: Vec<u32>| numbers.into_iter().collect::<BTreeSet<_>>().len();
    assert_eq!(distinct(records.iter().map(|r| r.slot.0).collect()), 20);
    assert_eq!(distinct(records.iter().map(|r| r.birth.0).collect()), 20);
    assert_eq!(
        distinct(records.iter().map(|r| r.host_ifindex.0).collect()),
        20
    );
    assert_eq!(TableSet::list_sets(&node.paths()).unwrap().len(), 1);
    let tables = node.tables();
    for record in &records {
        assert_eq!(
            node.run(|| filter_status(record)).unwrap(),
            FilterStatus::InForce
        );
        let attachment = tables.read_attachment(record.slot).unwrap();
        assert_eq!(attachment.origin().birth(), record.birth.0);
    }
    assert!(is_lost(
        &pods[0].netns,
        &pods[1].netns,
        pods[1].addresses[0]
    ));
}

#[test]
fn generations_that_many_draw_at_once_never_repeat() {
    let node = Node::new();
    let _first = Pod::start(&node, &node.ptp(json!({})), "a");
    let paths: Paths = node.paths();
    let drawn = thread::scope(|scope| {
        let draw = || {
            // Everybody opens the counter from its pin, as plugin and enforcers do.
            let tables = TableSet::open_current(&paths).unwrap().unwrap();
            let numbers: Vec<u32> = (0..2000)
                .map(|_| tables.draw_generation().unwrap().0)
                .collect();
            assert!(numbers.is_sorted());
            numbers
        };
        let drawing: Vec<_> = (0..4).map(|_| scope.spawn(draw)).collect();
        let more = Pod::start(&node, &node.ptp(json!({})), "b");
        let mut all: Vec<u32> = drawing
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        all.push(more.record(&node).birth.0);
        all
    });
    assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), drawn.len());
    assert!(!drawn.contains(&0));
}

/// Twenty ADDs race for an enforcer, and each answers when its own policy is in force.
#[test]
fn twenty_racing_adds_each_answer_when_in_force() {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    node.apply("policy", &policy("p", "app: web", &lets_in("app: friend")));
    for number in 0..20 {
        let name = format!("web{number}");
        node.apply(&name, &pod(&name, "app: web"));
    }
    let _enforcer = Enforcer::start(&node);
    let conflist = node.ptp(in_force(json!({})));
    let alone = unpoliced(conflist.clone());
    let pods: Vec<Pod> = (0..20)
        .map(|number| Pod::start(&node, &alone, &format!("web{number}")))
        .collect();
    thread::scope(|scope| {
        for pod in &pods {
            let (node, conflist) = (&node, &conflist);
            scope.spawn(move || {
                let chain = node.chain(conflist);
                let verb = podgate_demo::cni::Verb::Add;
                let result = pod.result.as_deref();
                node.run(|| chain.invoke(&conflist.plugins[1], verb, &pod.sandbox, result))
                    .unwrap_or_else(|error| panic!("{error}"));
                let slot = pod.record(node).slot;
                let word = node.tables().read_word(slot, Direction::Ingress).unwrap();
                assert!(word.ruleset() >= RulesetId::FIRST, "{word:?}");
            });
        }
    });
    assert!(is_lost(
        &pods[0].netns,
        &pods[1].netns,
        pods[1].addresses[0]
    ));
}
