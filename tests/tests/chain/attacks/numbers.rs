// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interface numbers that are used again.

use std::net::{SocketAddr, UdpSocket};

use podgate_tests::node::{Call, LOST, Node, Pod, outside_addresses, wait_until};
use serde_json::{Value, json};

/// A pod whose interface was made in the pod, and its other end moved to the node.
fn with_moved_veth(node: &Node, settings: Value) -> (Pod, Call, Call) {
    let pod = Pod::bare("default", "moved");
    pod.sh(&format!(
        "ip link add h0 type veth peer name eth0 && ip link set h0 netns {} && \
         ip link set eth0 up && ip addr add 10.96.9.2/24 dev eth0",
        node.netns.path().display()
    ));
    node.sh("ip link set h0 up && ip addr add 10.96.9.1/24 dev h0");
    pod.sh("ip route add default via 10.96.9.1");
    let mut config = node.podgate(settings);
    config["cniVersion"] = "1.0.0".into();
    config["name"] = "net".into();
    config["prevResult"] = json!({"ips": [{"address": "10.96.9.2/24"}]});
    let call = |verb| {
        Call::new(verb)
            .of(&pod.container_id, pod.netns.path())
            .stdin(config.to_string())
    };
    let (add, del) = (call("ADD"), call("DEL"));
    (pod, add, del)
}

/// A datagram each way between the peer and the pod, over sockets of the same ports each time: which way they come.
/// Those that should may take their time.
fn exchange(peer: &UdpSocket, pod: &Pod, should_come: bool) -> [bool; 2] {
    let limit = if should_come { 25 * LOST } else { LOST };
    let own = SocketAddr::from(([10, 96, 9, 2], 5000));
    let inside = pod.netns.run(|| UdpSocket::bind(own).unwrap()).unwrap();
    let mut buffer = [0; 8];
    for socket in [peer, &inside] {
        socket.set_read_timeout(Some(limit)).unwrap();
    }
    inside.send_to(b"out", peer.local_addr().unwrap()).unwrap();
    let out = peer.recv(&mut buffer).is_ok();
    peer.send_to(b"in", own).unwrap();
    let back = inside.recv(&mut buffer).is_ok();
    [out, back]
}

#[test]
fn attack_04_a_new_pod_on_a_used_ifindex_inherits_nothing() {
    let node = Node::new();
    let outside = node.outside();
    let peer_address = SocketAddr::new(outside_addresses()[0], 6000);
    let peer = outside
        .run(|| UdpSocket::bind(peer_address).unwrap())
        .unwrap();

    let mut numbers = Vec::new();
    let mut slots = Vec::new();
    let mut farewells = Vec::new();
    for (mode, passes) in [("standard", true), ("strict", false), ("strict", false)] {
        let (pod, add, del) = with_moved_veth(&node, json!({"enforcingMode": mode}));
        add.make(&node).ok();
        let record = pod.record(&node);
        numbers.push(record.host_ifindex);
        slots.push(record.slot);
        // The same addresses and ports each time, so that an old flow would fit.
        for _ in 0..2 {
            assert_eq!(exchange(&peer, &pod, passes), [passes, passes], "{mode}");
        }
        // A late DEL of those that were on this interface number before leaves the new one alone.
        for farewell in farewells.drain(..) {
            let farewell: Call = farewell;
            farewell.make(&node).ok();
        }
        assert!(node.has_filter("h0"));
        assert_eq!(
            exchange(&peer, &pod, passes),
            [passes, passes],
            "{mode}, after DEL"
        );
        farewells.push(del);
        // The pod dies without a DEL.
        drop(pod);
        wait_until("the interface goes with the pod", || {
            node.veths().iter().all(|name| name != "h0")
        });
    }
    assert!(
        numbers.windows(2).all(|two| two[0] == two[1]),
        "{numbers:?}"
    );
    assert!(slots.windows(2).all(|two| two[0] != two[1]), "{slots:?}");
}
