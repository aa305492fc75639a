// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Devices and tunnels that a pod makes on its own end. Those that most kernels have are operations of `ground`, which level
//! `chain` does; these need modules that a machine may not have.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use podgate_tests::node::{Enforcer, Frames, LOST, Node, Pod, in_force, unpoliced, wait_until};
use serde_json::json;

/// How a pod with address `$A` makes device `made` that leads to the pod with address `$F`, by the network behind it or its
/// default route; and whom it sends to then, if not that pod.
const DEVICES: &[(&str, &str, Option<&str>)] = &[
    (
        "geneve",
        "ip link add made type geneve id 7 remote $F",
        INSIDE,
    ),
    (
        "gre",
        "ip link add made type gre local $A remote $F",
        INSIDE,
    ),
    (
        "gretap",
        "ip link add made type gretap local $A remote $F",
        INSIDE,
    ),
    (
        "ipip",
        "ip link add made type ipip local $A remote $F",
        INSIDE,
    ),
    (
        "fou",
        "ip link add made type ipip local $A remote $F encap fou encap-sport auto encap-dport 5555",
        INSIDE,
    ),
    (
        "sit",
        "ip link add made type sit local $A remote $F",
        Some("fd31::2"),
    ),
    (
        "l2tp_in_udp",
        "ip l2tp add tunnel tunnel_id 1 peer_tunnel_id 1 encap udp local $A remote $F udp_sport 5000 udp_dport 5000 && \
         ip l2tp add session name made tunnel_id 1 session_id 1 peer_session_id 1",
        INSIDE,
    ),
    (
        "l2tp_in_ip",
        "ip l2tp add tunnel tunnel_id 1 peer_tunnel_id 1 encap ip local $A remote $F && \
         ip l2tp add session name made tunnel_id 1 session_id 1 peer_session_id 1",
        INSIDE,
    ),
    (
        "priority_tag",
        "ip link add made link eth0 type vlan id 0",
        None,
    ),
    (
        "ipvlan",
        "ip link add made link eth0 type ipvlan mode l2",
        None,
    ),
    (
        "bond",
        "ip link add made type bond mode active-backup && ip link set eth0 down && ip link set eth0 master made",
        None,
    ),
];

/// An address of the network behind a tunnel.
const INSIDE: Option<&str> = Some("172.31.0.2");

/// What gives `made` the pod's own address and routes.
const DRESS: &str = "ip -4 addr flush dev eth0 && ip link set made up && ip addr add $A/32 dev made && \
    ip route add $G dev made && ip route add default via $G dev made && \
    ip neigh replace $G lladdr $M dev made nud permanent";

/// Makes a device and sends through it, again and again until `is_over`.
fn send_through(
    node: &Node,
    pod: &Pod,
    friend: IpAddr,
    device: usize,
    mut is_over: impl FnMut() -> bool,
) {
    let (name, make, inside) = DEVICES[device];
    let dress = match inside {
        Some(_) => {
            "ip link set made up && ip addr add 172.31.0.1/24 dev made && ip addr add fd31::1/64 dev made nodad"
        }
        None => DRESS,
    };
    let own = pod.addresses[0];
    let [a, b, c, d, e, f] = node.mac(&pod.host_end(node));
    pod.sh(&format!(
        "A={own} F={friend} G=10.96.0.1 M={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}; {make} && {dress}"
    ));
    let to = inside.map_or(friend, |inside| inside.parse().expect("an address"));
    let to = SocketAddr::new(to, 9);
    let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = pod
        .netns
        .run(|| UdpSocket::bind(from).expect("bind"))
        .expect("enter a namespace");
    wait_until(&format!("{name}: it is over"), || {
        // A device without a carrier yet has no way.
        socket.send_to(b"podgate", to).ok();
        is_over()
    });
    // The next one has its name; and what it stood on is dressed again with it.
    pod.sh("ip l2tp del tunnel tunnel_id 1 2>/dev/null || ip link del made; ip link set eth0 up");
    wait_until("it is gone", || {
        !pod.sh("ip -o link show").contains(" made")
    });
}

/// Whether a frame is an IPv4 packet from one to the other.
fn is_between(frame: &[u8], from: Ipv4Addr, to: Ipv4Addr) -> bool {
    frame[12..14] == [8, 0] && frame[26..30] == from.octets() && frame[30..34] == to.octets()
}

fn v4(pod: &Pod) -> Ipv4Addr {
    let IpAddr::V4(address) = pod.addresses[0] else {
        panic!("an IPv4 address comes first");
    };
    address
}

#[test]
fn devices_that_a_pod_makes_on_its_end_change_no_verdict() {
    let node = Node::that_denies_web(&["friend"]);
    let enforcer = Enforcer::start(&node);
    let chain = node.ptp(in_force(json!({})));
    let friend = Pod::start(&node, &chain, "friend");
    let twin = Pod::start(&node, &unpoliced(chain.clone()), "web");
    let web = Pod::start(&node, &chain, "web");
    let record = web.record(&node);
    let host_end = web.host_end(&node);
    let seen = Frames::on(&friend.netns, "eth0");
    for (number, (name, ..)) in DEVICES.iter().enumerate() {
        let leads = |pod: &Pod| seen.saw(|frame| is_between(frame, v4(pod), v4(&friend)));
        send_through(&node, &twin, friend.addresses[0], number, || leads(&twin));
        let began = Instant::now();
        println!("{name}");
        send_through(&node, &web, friend.addresses[0], number, || {
            assert!(!leads(&web), "{name} led past the policy");
            began.elapsed() > 2 * LOST
        });
        assert!(node.has_filter(&host_end), "{name}");
        assert_eq!(web.record(&node), record, "{name}");
    }
    wait_until("the enforcer is ready", || {
        enforcer.readiness(&node).0 == 200
    });
}
