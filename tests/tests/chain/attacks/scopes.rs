// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses that stand for many receivers, or for another one on each link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use podgate_tests::node::{Enforcer, Node, Pod, in_force, namespace, pod, policy, wait_until};
use serde_json::json;

use super::Receiver;

/// Sends a datagram by an ordinary socket of the pod; whether it could be sent.
fn sends(from: &Pod, to: SocketAddr, data: &[u8]) -> bool {
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = from
        .netns
        .run(|| UdpSocket::bind((any, 0)).expect("a socket"))
        .expect("enter a pod");
    socket.set_broadcast(true).expect("allow broadcasts");
    socket.send_to(data, to).is_ok()
}

#[test]
fn attack_30_no_scope_leads_to_an_excepted_peer() {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    for name in ["sender", "free", "victim"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    let _enforcer = Enforcer::start(&node);
    let chain = node.bridge(in_force(json!({})));
    let [sender, free, victim] =
        ["sender", "free", "victim"].map(|name| Pod::start(&node, &chain, name));
    let [v4, v6] = [victim.addresses[0], victim.addresses[1]];
    // Everything but the victim.
    let spec = format!(
        "policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: 0.0.0.0/0, except: [{v4}/32]}}}}, \
         {{ipBlock: {{cidr: '::/0', except: ['{v6}/128']}}}}]}}]"
    );
    node.apply("all-but-one", &policy("all-but-one", "app: sender", &spec));

    let receivers = [
        Receiver::new(&victim.netns, Ipv4Addr::UNSPECIFIED.into()),
        Receiver::new(&victim.netns, Ipv6Addr::UNSPECIFIED.into()),
    ];
    let of = |address: IpAddr| &receivers[usize::from(address.is_ipv6())];
    let reaches = |from: &Pod, to: SocketAddr, data: &str| {
        let data = format!("{} {to} {data}", from.container_id).into_bytes();
        let receiver = of(to.ip());
        let is_control = from.container_id == free.container_id;
        sends(from, to, &data)
            && if is_control {
                receiver.gets(&data)
            } else {
                !receiver.misses(&data)
            }
    };
    let port = |address: IpAddr| of(address).address().1;
    for address in [v4, v6] {
        let plain = SocketAddr::new(address, port(address));
        wait_until("the policy is in force", || {
            !reaches(&sender, plain, "plain")
        });
    }
    // The rest of the world is open to it.
    let other = Receiver::new(&free.netns, free.addresses[0]);
    let (address, number) = other.address();
    assert!(sends(&sender, SocketAddr::new(address, number), b"other"));
    assert!(
        other.gets(b"other"),
        "the policy lets through what it does not except"
    );

    let at = |text: &str| -> IpAddr { text.parse().expect("an address") };
    for (address, data) in [
        (at("255.255.255.255"), "limited broadcast"),
        (at("10.96.0.255"), "broadcast of the link"),
        (at("224.0.0.1"), "all hosts"),
    ] {
        let to = SocketAddr::new(address, port(address));
        assert!(reaches(&free, to, data), "the attack is none: {data}");
        // That the node has this broadcast address is heard of beside all else.
        wait_until(&format!("nothing arrives by {data}"), || {
            !reaches(&sender, to, data)
        });
    }
}
