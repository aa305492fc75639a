// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses that are not a pod's own: VPN, routers, keepalived, virtual machines.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use podgate_tests::node::{
    Enforcer, LOST, Node, Pod, arrives, in_force, is_lost, lets_in, namespace, pod, policy,
    wait_until,
};
use serde_json::json;

/// Addresses behind the router, which nobody knows of.
const BEHIND: [&str; 2] = ["172.30.0.7", "fd00:7::7"];

fn behind() -> [IpAddr; 2] {
    BEHIND.map(|text| text.parse().unwrap())
}

/// A node with these flags, that knows a router, a friend and another.
fn scene(flags: &[&str]) -> (Node, Enforcer, [Pod; 3]) {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    let names = ["router", "friend", "other"];
    for name in names {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    let enforcer = Enforcer::begin(&node, flags);
    wait_until("the enforcer is ready", || {
        enforcer.readiness(&node).0 == 200
    });
    let chain = node.ptp(in_force(json!({})));
    let pods = names.map(|name| Pod::start(&node, &chain, name));
    let [router, ..] = &pods;
    let host_end = router.host_end(&node);
    for (address, by) in BEHIND.iter().zip(&router.addresses) {
        router.sh(&format!("ip addr add {address} dev lo"));
        node.sh(&format!(
            "ip route add {address} via {by} dev {host_end} onlink"
        ));
    }
    (node, enforcer, pods)
}

/// Whether a datagram of `from` with this source reaches `to`.
fn reaches(from: &Pod, source: IpAddr, to: &Pod) -> bool {
    let at = |address: &&IpAddr| address.is_ipv4() == source.is_ipv4();
    let target = *to.addresses.iter().find(at).unwrap();
    let socket = |pod: &Pod, address: IpAddr| {
        let bound = pod
            .netns
            .run(|| UdpSocket::bind(SocketAddr::new(address, 0)));
        bound.unwrap().unwrap()
    };
    let (receiver, sender) = (socket(to, target), socket(from, source));
    receiver.set_read_timeout(Some(LOST)).unwrap();
    sender
        .send_to(b"podgate", receiver.local_addr().unwrap())
        .unwrap();
    let mut buffer = [0; 16];
    receiver
        .recv_from(&mut buffer)
        .is_ok_and(|(_, by)| by.ip() == source)
}

/// What is sent to it comes, and what is sent from it.
fn is_open(from: &Pod, to: &Pod, address: IpAddr) {
    wait_until("it is open", || {
        !is_lost(&from.netns, &to.netns, address) && reaches(to, address, from)
    });
}

/// Neither comes.
fn is_shut(from: &Pod, to: &Pod, address: IpAddr) {
    wait_until("it is shut", || !reaches(to, address, from));
    for _ in 0..3 {
        assert!(is_lost(&from.netns, &to.netns, address), "to {address}");
        assert!(!reaches(to, address, from), "from {address}");
    }
}

fn isolates_the_router() -> String {
    policy("p", "app: router", &lets_in("app: friend"))
}

/// A route by way of an open pod works, and one by way of an isolated pod does not.
#[test]
fn a_route_through_a_pod_works_unless_the_pod_is_isolated() {
    let (node, _enforcer, [router, friend, _]) = scene(&[]);
    for address in behind() {
        is_open(&friend, &router, address);
    }
    node.apply("policy", &isolates_the_router());
    for (address, own) in behind().into_iter().zip(&router.addresses) {
        is_shut(&friend, &router, address);
        assert!(arrives(&friend.netns, &router.netns, *own));
    }
    node.withdraw("policy");
    for address in behind() {
        is_open(&friend, &router, address);
    }
}

/// Addresses of pods, nodes and Services are no other pod's until they are free.
#[test]
fn taken_addresses_are_foreign_only_once_they_are_free() {
    let (node, _enforcer, [router, friend, other]) = scene(&["--foreign-addresses", "allow"]);
    for address in behind() {
        is_open(&friend, &router, address);
    }
    node.apply(
        "service",
        "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: default}\n\
         spec: {clusterIP: 10.200.0.9, clusterIPs: [10.200.0.9], ports: [{port: 80}]}\n",
    );
    node.apply(
        "node",
        "apiVersion: v1\nkind: Node\nmetadata: {name: elsewhere}\n\
         status: {addresses: [{type: InternalIP, address: 198.51.100.3}]}\n",
    );
    let [v4, v6] = [other.addresses[0], other.addresses[1]];
    let taken = [
        v4,
        v6,
        IpAddr::from([10, 200, 0, 9]),
        IpAddr::from([198, 51, 100, 3]),
    ];
    for address in taken {
        router.sh(&format!("ip addr add {address} dev lo"));
    }
    for address in taken {
        wait_until("it is taken", || !reaches(&router, address, &friend));
        assert!(!reaches(&router, address, &friend), "{address}");
    }
    let chain = node.ptp(json!({}));
    other.del(&node, &chain).unwrap();
    node.withdraw("other");
    let host_end = router.host_end(&node);
    node.sh(&format!(
        "ip route add {v4} via {} dev {host_end} onlink",
        router.addresses[0]
    ));
    is_open(&friend, &router, v4);
}

/// A node may deny foreign addresses, and a namespace may say otherwise where the node obeys it.
#[test]
fn a_namespace_may_override_the_node_on_foreign_addresses() {
    let flags = [
        "--foreign-addresses",
        "deny",
        "--foreign-addresses-by-namespace",
    ];
    let (node, _enforcer, [router, friend, _]) = scene(&flags);
    let says = |mode: &str| {
        let annotation = format!("{{podgate.io/foreign-addresses: {mode}}}");
        let text = namespace("default");
        let text = text.replace(
            "{name: default}",
            &format!("{{name: default, annotations: {annotation}}}"),
        );
        node.apply("namespace", &text);
    };
    for address in behind() {
        is_shut(&friend, &router, address);
    }
    says("allow");
    node.apply("policy", &isolates_the_router());
    for address in behind() {
        is_open(&friend, &router, address);
    }
    says("unisolated");
    for address in behind() {
        is_shut(&friend, &router, address);
    }
}

/// The annotation of a namespace counts only where the node obeys it.
#[test]
fn a_namespaces_annotation_counts_only_where_the_node_obeys() {
    let (node, _enforcer, [router, friend, _]) = scene(&["--foreign-addresses", "deny"]);
    let annotated =
        "metadata: {name: default, annotations: {podgate.io/foreign-addresses: allow}}\n";
    node.apply(
        "namespace",
        &format!("apiVersion: v1\nkind: Namespace\n{annotated}"),
    );
    node.apply(
        "policy",
        &policy("p", "app: other", &lets_in("app: friend")),
    );
    for address in behind() {
        is_shut(&friend, &router, address);
    }
}
