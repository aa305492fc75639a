// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a pod's link needs beside policy: DHCP, and groups that a snooping bridge tells apart.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use podgate_tests::node::{
    Cable, Enforcer, Frames, LOST, Node, Pod, in_force, unpoliced, wait_until,
};
use serde_json::{Value, json};

/// A DHCP message: `operation` 1 asks, 2 answers.
fn message(operation: u8, mac: [u8; 6]) -> Vec<u8> {
    let mut message = vec![operation, 1, 6, 0, 1, 2, 3, 4];
    message.resize(28, 0);
    message.extend(mac);
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, 3, 255]);
    message
}

/// Case 3: the client of the CNI plugin `dhcp` asks from no address, and so does any that lost its own.
#[test]
fn a_lease_is_renewed_from_an_isolated_pod() {
    let node = Node::new();
    let everybody = IpAddr::from([255, 255, 255, 255]);
    for mode in ["standard", "strict"] {
        let chain = node.bridge(json!({"enforcingMode": mode}));
        let bare = unpoliced(chain.clone());
        let server = Pod::start(&node, &bare, "server");
        let client = Pod::start(&node, &chain, "client");
        let at_server = Frames::on(&server.netns, "eth0");
        let at_client = Frames::on(&client.netns, "eth0");
        let to_all = |from| Cable {
            from,
            to: [0xff; 6],
        };
        let answer = to_all(server.mac()).udp(
            (server.addresses[0], 67),
            (everybody, 68),
            &message(2, client.mac()),
        );
        at_server.send(&answer);
        if mode == "strict" {
            let comes = at_client.sees(LOST, |seen| seen == answer);
            assert!(!comes, "nobody has asked");
        }
        for source in [IpAddr::from([0; 4]), client.addresses[0]] {
            let request =
                to_all(client.mac()).udp((source, 68), (everybody, 67), &message(1, client.mac()));
            at_client.send(&request);
            assert!(
                at_server.sees(25 * LOST, |seen| seen == request),
                "{mode}: from {source}"
            );
            at_server.send(&answer);
            assert!(
                at_client.sees(25 * LOST, |seen| seen == answer),
                "{mode}: to {source}"
            );
        }
    }
}

/// Case 8: both receivers are isolated, and let the friend in at UDP 5000.
#[test]
fn a_snooping_bridge_hears_of_the_groups_of_isolated_pods() {
    let node = Node::new();
    let pod = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"nodeName": "node", "containers": [{"name": "c", "image": "none"}]},
        })
    };
    let policy = |name: &str, types: &[&str]| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "podSelector": {"matchLabels": {"app": name}}, "policyTypes": types,
                "ingress": [{
                    "from": [{"podSelector": {"matchLabels": {"app": "friend"}}}],
                    "ports": [{"protocol": "UDP", "port": 5000}],
                }],
            },
        })
    };
    let items = json!([
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}},
        pod("in-only"), pod("in-and-out"), pod("friend"),
        policy("in-only", &["Ingress"]),
        policy("in-and-out", &["Ingress", "Egress"]),
    ]);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    std::fs::create_dir_all(node.manifests()).unwrap();
    std::fs::write(node.manifests().join("world.json"), list.to_string()).unwrap();
    let _enforcer = Enforcer::start(&node);
    let chain = node.bridge(in_force(json!({})));
    let friend = Pod::start(&node, &chain, "friend");
    let receivers = ["in-only", "in-and-out"].map(|name| Pod::start(&node, &chain, name));
    node.sh(
        "ip link set cni0 type bridge mcast_snooping 1 mcast_querier 1 mcast_query_use_ifaddr 1",
    );
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let sockets = receivers.each_ref().map(|receiver| {
        let IpAddr::V4(own) = receiver.addresses[0] else {
            panic!("an IPv4 address comes first");
        };
        let socket = receiver.netns.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:5000").unwrap();
            socket.join_multicast_v4(&group, &own).unwrap();
            socket
        });
        socket.unwrap()
    });
    let ports = receivers
        .each_ref()
        .map(|receiver| receiver.host_end(&node));
    wait_until("the bridge knows both members", || {
        let listed = node.sh("bridge -j mdb show dev cni0");
        let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
        let entries = listed[0]["mdb"].as_array().cloned().unwrap_or_default();
        let is_member = |port: &String| {
            entries
                .iter()
                .any(|entry| entry["grp"] == "239.1.2.3" && entry["port"] == port.as_str())
        };
        ports.iter().all(is_member)
    });
    let IpAddr::V4(own) = friend.addresses[0] else {
        panic!("an IPv4 address comes first");
    };
    let sender = friend
        .netns
        .run(|| UdpSocket::bind((own, 0)).unwrap())
        .unwrap();
    sender.send_to(b"podgate", (group, 5000)).unwrap();
    for (socket, receiver) in sockets.iter().zip(&receivers) {
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut buffer = [0; 16];
        let received = socket.recv(&mut buffer);
        assert_eq!(received.ok(), Some(7), "{}", receiver.container_id);
    }
}
