//! Packets within packets.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use podgate_abi::{Direction, Reason};
use podgate_tests::node::{Cable, Node, Pod};
use serde_json::json;

use super::{Receiver, unpoliced};

#[test]
fn attack_05_a_tunnel_to_the_own_node_carries_nothing_past_the_policies() {
    let node = Node::new();
    let open = node.ptp(json!({}));
    let victim = Pod::start(&node, &open, "victim");
    let receiver = Receiver::new(&victim.netns, victim.addresses[0]);
    let gateway = IpAddr::from([10, 96, 0, 1]);
    for (name, port) in [("vx0", 8472), ("vx1", 4789)] {
        node.sh(&format!(
            "ip link add {name} type vxlan id 7 dstport {port} local {gateway} nolearning && \
             ip link set {name} up"
        ));
        node.sysctl(&format!("ipv4/conf/{name}/rp_filter"), "0");
    }
    node.sysctl("ipv4/conf/all/rp_filter", "0");
    for chain in [unpoliced(open.clone()), open] {
        let attacker = Pod::start(&node, &chain, "attacker");
        for (name, port) in [("vx0", 8472), ("vx1", 4789)] {
            let data = format!("{} {port}", attacker.container_id).into_bytes();
            let cable = Cable {
                from: [2, 0, 0, 0, 0, 9],
                to: node.mac(name),
            };
            let inner_source = (IpAddr::from([10, 99, 9, 9]), 4000);
            // RFC 7348 section 5: the flag "VNI is valid", and the VNI.
            let mut packet = vec![8, 0, 0, 0, 0, 0, 7, 0];
            packet.extend(cable.udp(inner_source, receiver.address(), &data));
            let socket = attacker
                .netns
                .run(|| UdpSocket::bind("0.0.0.0:0").unwrap())
                .unwrap();
            socket
                .send_to(&packet, SocketAddr::new(gateway, port))
                .unwrap();
            if chain.plugins.len() == 1 {
                assert!(receiver.gets(&data), "the attack is none: port {port}");
            } else {
                assert!(receiver.misses(&data), "port {port}");
            }
        }
    }
    let counted = node.tables().counters(Direction::FromPod).unwrap();
    assert_eq!(counted[Reason::Tunnel as usize], 2);
}

/// The node takes for its own what goes to the broadcast address of one of its networks, and to the anycast address
/// that every IPv6 router has (RFC 4291 section 2.6.1). No list of its addresses has them.
#[test]
fn attack_05_a_tunnel_to_a_broadcast_or_anycast_address_of_the_node() {
    let node = Node::new();
    let open = node.ptp(json!({}));
    let victim = Pod::start(&node, &open, "victim");
    let receiver = Receiver::new(&victim.netns, victim.addresses[0]);
    let _outside = node.outside();
    let ways = [
        ("vx0", "0.0.0.0", "192.0.2.255"),
        ("vx1", "::", "2001:db8::"),
    ];
    for (id, (name, local, _)) in ways.iter().enumerate() {
        node.sh(&format!(
            "ip link add {name} type vxlan id {} dstport 8472 local {local} nolearning && ip link set {name} up",
            7 + id
        ));
        node.sysctl(&format!("ipv4/conf/{name}/rp_filter"), "0");
    }
    node.sysctl("ipv4/conf/all/rp_filter", "0");
    for chain in [unpoliced(open.clone()), open] {
        let attacker = Pod::start(&node, &chain, "attacker");
        for (id, (name, any, to)) in (7_u8..).zip(ways) {
            let data = format!("{} {to}", attacker.container_id).into_bytes();
            let cable = Cable {
                from: [2, 0, 0, 0, 0, 9],
                to: node.mac(name),
            };
            let inner_source = (IpAddr::from([10, 99, 9, 9]), 4000);
            let mut packet = vec![8, 0, 0, 0, 0, 0, id, 0];
            packet.extend(cable.udp(inner_source, receiver.address(), &data));
            let to: IpAddr = to.parse().unwrap();
            let any: IpAddr = any.parse().unwrap();
            let socket = attacker
                .netns
                .run(|| UdpSocket::bind((any, 0)).unwrap())
                .unwrap();
            socket.send_to(&packet, SocketAddr::new(to, 8472)).unwrap();
            if chain.plugins.len() == 1 {
                assert!(receiver.gets(&data), "the attack is none: to {to}");
            } else {
                assert!(receiver.misses(&data), "to {to}");
            }
        }
    }
    let counted = node.tables().counters(Direction::FromPod).unwrap();
    assert_eq!(counted[Reason::Tunnel as usize], 2);
}
