// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Floods: what one pod opens costs no other pod its answers.

use std::net::{IpAddr, UdpSocket};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use podgate_datapath::Sizes;
use podgate_tests::node::{
    Enforcer, Node, Pod, in_force, lets_in, namespace, pod, policy, small_tables,
};
use serde_json::json;

use super::Receiver;

/// Room for flows that were seen in one direction.
const ROOM: u32 = 2048;

/// Sends one datagram to each of so many ports of the target, from every processor: each recycles elements of its own
/// first.
fn opens_flows(from: &Pod, target: IpAddr, flows: u16) {
    for cpu in 0..std::thread::available_parallelism().unwrap().get() {
        let flood = || {
            let mut only = CpuSet::new();
            only.set(cpu).unwrap();
            sched_setaffinity(Pid::from_raw(0), &only).unwrap();
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for port in 1..=flows {
                socket.send_to(b"x", (target, port)).unwrap();
            }
        };
        from.netns.run(flood).unwrap();
    }
}

/// A pod that opens flows without end costs no other pod its slow answer.
#[test]
fn attack_06_a_pod_that_floods_costs_no_other_its_slow_answer() {
    let node = Node::with_tables(Sizes {
        embryonic: ROOM,
        crowd: ROOM,
        ..small_tables()
    });
    node.apply("namespace", &namespace("default"));
    for name in ["quiet", "busy", "server"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    // Nobody may come in to either: an answer passes because its question was seen, or not at all.
    for name in ["quiet", "busy"] {
        let app = format!("app: {name}");
        node.apply(
            &format!("shut-{name}"),
            &policy(name, &app, &lets_in("app: nobody")),
        );
    }
    let _enforcer = Enforcer::start(&node);
    let chain = node.ptp(in_force(json!({})));
    let [quiet, busy, server] =
        ["quiet", "busy", "server"].map(|name| Pod::start(&node, &chain, name));
    let listener = Receiver::new(&server.netns, server.addresses[0]);
    let asks = |pod: &Pod| {
        let socket = Receiver::new(&pod.netns, pod.addresses[0]);
        socket.0.send_to(b"question", listener.address()).unwrap();
        assert!(listener.gets(b"question"));
        socket
    };
    let answers = |to: &Receiver| listener.0.send_to(b"answer", to.address()).unwrap();

    // Each time eight times as many as there is room for.
    let flood = || opens_flows(&busy, server.addresses[0], (4 * ROOM).try_into().unwrap());
    flood();
    let waiting = asks(&quiet);
    flood();
    // The busy pod itself is served as long as its answers are not slow.
    let hurried = asks(&busy);
    answers(&hurried);
    assert!(hurried.gets(b"answer"), "the busy pod had no answer");
    answers(&waiting);
    assert!(waiting.gets(b"answer"), "the quiet pod had no answer");
}
