// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who else stands on a pod's interface, and whether we are heard.

use aya::programs::LinkOrder;
use aya::programs::tc::{NlOptions, SchedClassifier, TcAttachOptions, TcAttachType};
use podgate_tests::node::{Call, Node, Pod, unpoliced};
use serde_json::{Value, json};

/// A pod with an interface, and the ADD that would police it.
fn with_interface(node: &Node) -> (Pod, Call) {
    let alone = unpoliced(node.ptp(json!({})));
    let pod = Pod::start(node, &alone, "a");
    let mut config = node.podgate(json!({}));
    config["cniVersion"] = "1.0.0".into();
    config["name"] = "net".into();
    config["prevResult"] = json!({});
    let add = Call::new("ADD")
        .of(&pod.container_id, pod.netns.path())
        .stdin(config.to_string());
    (pod, add)
}

fn nothing_is_left(node: &Node, pod: &Pod) {
    assert!(node.records().is_empty());
    assert!(!node.has_filter(&pod.host_end(node)));
}

fn bandwidth() -> Value {
    let (rate, burst) = (10_000_000, 10_000_000);
    json!({
        "type": "bandwidth", "ingressRate": rate, "ingressBurst": burst,
        "egressRate": rate, "egressBurst": burst,
    })
}

/// Behind the bandwidth plugin, ADD says that podgate's filters would not be run.
#[test]
fn attack_07_behind_the_bandwidth_plugin_add_is_refused() {
    let node = Node::new();
    let mut conflist = node.ptp(json!({}));
    let bandwidth = bandwidth().as_object().unwrap().clone();
    conflist.plugins.insert(1, bandwidth);
    let mut pod = Pod::bare("default", "a");
    let error = pod.add(&node, &conflist).unwrap_err().to_string();
    assert!(
        error.contains("podgate") && error.contains("code 104"),
        "{error}"
    );
    assert!(error.contains("bandwidth"), "{error}");
    nothing_is_left(&node, &pod);
}

/// The bandwidth plugin behind us fails, and leaves us in force.
#[test]
fn attack_08_the_bandwidth_plugin_behind_us_leaves_us_in_force() {
    let node = Node::new();
    let mut conflist = node.ptp(json!({}));
    conflist
        .plugins
        .push(bandwidth().as_object().unwrap().clone());
    let mut pod = Pod::bare("default", "a");
    let error = pod.add(&node, &conflist).unwrap_err().to_string();
    assert!(
        error.contains("\"bandwidth\"") && error.contains("file exists"),
        "{error}"
    );
    assert!(node.has_filter(&pod.host_end(&node)));
    // What a runtime does then.
    pod.del(&node, &conflist).unwrap();
    assert!(node.records().is_empty());
}

/// On an `ingress` qdisc, ADD says that podgate's filters would not be run.
#[test]
fn attack_09_on_an_ingress_qdisc_add_is_refused() {
    let node = Node::new();
    let (pod, add) = with_interface(&node);
    node.sh(&format!("tc qdisc add dev {} ingress", pod.host_end(&node)));
    add.make(&node).refused(104, "qdisc ingress");
    nothing_is_left(&node, &pod);
}

#[test]
fn a_clsact_qdisc_of_somebody_else_is_as_good_as_ours() {
    let node = Node::new();
    let (pod, add) = with_interface(&node);
    let host_end = pod.host_end(&node);
    node.sh(&format!("tc qdisc add dev {host_end} clsact"));
    add.make(&node).ok();
    assert!(node.has_filter(&host_end));
}

#[test]
fn attack_10_behind_a_filter_that_takes_packets_add_is_refused() {
    let node = Node::new();
    let (pod, add) = with_interface(&node);
    let host_end = pod.host_end(&node);
    for side in ["ingress", "egress"] {
        node.sh(&format!(
            "tc qdisc add dev {host_end} clsact && \
             tc filter add dev {host_end} {side} pref 1 protocol all u32 match u32 0 0 \
             action mirred egress redirect dev lo"
        ));
        add.make(&node).refused(104, "pref 1");
        nothing_is_left(&node, &pod);
        node.sh(&format!("tc qdisc del dev {host_end} clsact"));
    }
    // One that comes after us is nobody's business.
    node.sh(&format!(
        "tc qdisc add dev {host_end} clsact && \
         tc filter add dev {host_end} ingress pref 9 protocol all u32 match u32 0 0 \
         action mirred egress redirect dev lo"
    ));
    add.make(&node).ok();
}

/// Hangs a program up on the node's end of the pod, until the value is dropped.
fn hang_up(
    node: &Node,
    pod: &Pod,
    side: TcAttachType,
    options: TcAttachOptions,
) -> SchedClassifier {
    let host_end = pod.host_end(node);
    // Any program will do.
    let pin = node.paths().current().join("from_pod");
    node.run(|| {
        let mut program = SchedClassifier::from_pin(pin).unwrap();
        program
            .attach_with_options(&host_end, side, options)
            .unwrap();
        program
    })
}

/// Behind a TCX program or the filter of another agent, ADD says so.
#[test]
fn attack_10_behind_a_tcx_program_or_agent_add_is_refused() {
    let node = Node::new();
    // The first pod loads the programs.
    let _first = Pod::start(&node, &node.ptp(json!({})), "first");
    let (pod, add) = with_interface(&node);
    for side in [TcAttachType::Ingress, TcAttachType::Egress] {
        let tcx = TcAttachOptions::TcxOrder(LinkOrder::default());
        let program = hang_up(&node, &pod, side, tcx);
        add.make(&node).refused(104, "TCX program");
        drop(program);
        assert_eq!(node.records().len(), 1);
        assert!(!node.has_filter(&pod.host_end(&node)));
    }
    add.make(&node).ok();
    // The agent of AWS hangs its programs up at priority 1.
    let agent = TcAttachOptions::Netlink(NlOptions {
        priority: 1,
        handle: 1.into(),
        classid: None,
    });
    let program = hang_up(&node, &pod, TcAttachType::Egress, agent);
    add.make(&node).refused(104, "pref 1");
    drop(program);
}
