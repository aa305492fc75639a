// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interfaces that cannot be policed: a clear error, and nothing left behind.

use podgate_demo::netns::NetNs;
use podgate_tests::node::{Call, Node, Pod, sh};
use serde_json::json;

fn add(node: &Node, pod: &Pod) -> Call {
    let mut config = node.podgate(json!({}));
    config["cniVersion"] = "1.0.0".into();
    config["name"] = "net".into();
    config["prevResult"] = json!({});
    Call::new("ADD")
        .of(&pod.container_id, pod.netns.path())
        .stdin(config.to_string())
}

fn nothing_is_left(node: &Node) {
    assert!(node.records().is_empty());
    assert!(node.veths().iter().all(|veth| !node.has_filter(veth)));
}

#[test]
fn a_macvlan_is_refused_by_its_kind() {
    let node = Node::new();
    let _outside = node.outside();
    let main = json!({
        "type": "macvlan", "master": "wan",
        "ipam": {"type": "static", "addresses": [{"address": "192.0.2.9/24"}]},
    });
    let mut pod = Pod::bare("default", "a");
    let error = pod
        .add(&node, &node.conflist(main, json!({})))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("code 101") && error.contains("macvlan"),
        "{error}"
    );
    nothing_is_left(&node);
}

#[test]
fn a_veth_whose_other_end_is_elsewhere_is_refused() {
    let node = Node::new();
    let third = NetNs::create(node.dir().join("third")).unwrap();
    let pod = Pod::bare("default", "a");
    sh(
        &third,
        &format!(
            "ip link add far type veth peer name eth0 netns {} && ip link set far up",
            pod.netns.path().display()
        ),
    );
    add(&node, &pod)
        .make(&node)
        .refused(102, "not in the node's network namespace");
    nothing_is_left(&node);
    // The interface of the same number on the node is another one, and a veth too.
    let other = NetNs::create(node.dir().join("other")).unwrap();
    for number in 2..6 {
        node.sh(&format!(
            "ip link add v{number} index {number} type veth peer name p{number} netns {}",
            other.path().display()
        ));
    }
    add(&node, &pod).make(&node).refused(102, "eth0");
    nothing_is_left(&node);
}

#[test]
fn a_veth_within_the_pod_is_refused() {
    let node = Node::new();
    let pod = Pod::bare("default", "a");
    pod.sh("ip link add eth0 type veth peer name eth1");
    add(&node, &pod).make(&node).refused(102, "eth0");
    nothing_is_left(&node);
}

#[test]
fn a_pod_without_the_interface_is_refused() {
    let node = Node::new();
    let pod = Pod::bare("default", "a");
    add(&node, &pod).make(&node).refused(100, "eth0");
    nothing_is_left(&node);
}

#[test]
fn a_namespace_that_is_missing_is_a_wrong_variable() {
    let node = Node::new();
    let pod = Pod::bare("default", "a");
    add(&node, &pod)
        .env("CNI_NETNS", "/nowhere/netns")
        .make(&node)
        .refused(4, "CNI_NETNS");
    nothing_is_left(&node);
}

#[test]
fn the_nodes_own_namespace_is_no_pod() {
    let node = Node::new();
    let pod = Pod::bare("default", "a");
    let own = node.netns.path().display().to_string();
    add(&node, &pod)
        .env("CNI_NETNS", &own)
        .make(&node)
        .refused(8, "node");
    nothing_is_left(&node);
}
