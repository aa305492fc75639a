// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets within packets.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use podgate_abi::{Direction, Reason};
use podgate_demo::cni::Conflist;
use podgate_demo::netns::NetNs;
use podgate_tests::node::{
    Cable, Enforcer, Frames, LOST, Node, Pod, in_force, mac_of, namespace, outside_addresses, pod,
    policy, sh, unpoliced, wait_until,
};
use serde_json::json;

use super::Receiver;

/// A tunnel to the own node carries nothing past the policies.
#[test]
fn attack_05_a_tunnel_to_the_own_node_bypasses_no_policy() {
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
    let counted = node.tables().counters(Direction::Egress).unwrap();
    assert_eq!(counted[Reason::Tunnel as usize], 2);
}

/// The node takes for its own what goes to the broadcast address of one of its networks, and to the anycast address
/// that every IPv6 router has (RFC 4291 section 2.6.1). No list of its addresses has them.
#[test]
fn attack_05_a_tunnel_to_a_broadcast_or_anycast_address() {
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
    let counted = node.tables().counters(Direction::Egress).unwrap();
    assert_eq!(counted[Reason::Tunnel as usize], 2);
}

/// The pod sends nothing of its own accord: whoever reaches the node sends it a datagram from an address that the node takes for its
/// own without having it, and the pod answers into the tunnel.
#[test]
fn attack_05_no_answer_into_a_tunnel_at_an_anycast_address() {
    let node = Node::new();
    let open = node.ptp(json!({}));
    let victim = Pod::start(&node, &open, "victim");
    let receiver = Receiver::new(&victim.netns, victim.addresses[0]);
    let outside = node.outside();
    node.sh(
        "ip link add vx0 type vxlan id 7 dstport 8472 local :: nolearning && ip link set vx0 up",
    );
    for name in ["all", "vx0"] {
        node.sysctl(&format!("ipv4/conf/{name}/rp_filter"), "0");
    }
    let anycast = SocketAddr::new("2001:db8::".parse().unwrap(), 8472);
    for chain in [unpoliced(open.clone()), open] {
        let attacker = Pod::start(&node, &chain, "attacker");
        let socket = attacker
            .netns
            .run(|| UdpSocket::bind("[::]:5000").unwrap())
            .unwrap();
        let cable = Cable {
            from: mac_of(&outside, "eth0"),
            to: node.mac("wan"),
        };
        let first = cable.udp(
            (anycast.ip(), anycast.port()),
            (attacker.addresses[1], 5000),
            b"first",
        );
        let sent = Frames::on(&attacker.netns, "eth0");
        Frames::on(&outside, "eth0").send(&first);
        let is_policed = chain.plugins.len() == 2;
        let is_it = |seen: &[u8]| seen.ends_with(b"first");
        assert_eq!(sent.sees(LOST, is_it), !is_policed, "the first datagram");
        let data = attacker.container_id.as_bytes();
        let answer = vxlan(node.mac("vx0"), &receiver, data);
        socket.send_to(&answer, anycast).unwrap();
        if is_policed {
            assert!(receiver.misses(data));
        } else {
            assert!(receiver.gets(data), "the attack is none");
        }
    }
}

/// A VXLAN packet to the vxlan device `name` of a namespace, with a datagram for the receiver inside, from nobody.
fn vxlan(mac: [u8; 6], receiver: &Receiver, data: &[u8]) -> Vec<u8> {
    let cable = Cable {
        from: [2, 0, 0, 0, 0, 9],
        to: mac,
    };
    let mut packet = vec![8, 0, 0, 0, 0, 0, 7, 0];
    packet.extend(cable.udp(
        (IpAddr::from([10, 77, 0, 9]), 4000),
        receiver.address(),
        data,
    ));
    packet
}

/// The command that makes a device which takes tunnels at a port of an address.
fn add_vxlan(local: &str, port: u16) -> String {
    format!(
        "ip link add vx0 type vxlan id 7 dstport {port} local {local} nolearning && ip link set vx0 up"
    )
}

/// Has another node take tunnels at a port, out of which packets for 10.77.0.1 come. The hardware address that it has there.
fn take_tunnels(other: &NetNs, port: u16) -> [u8; 6] {
    sh(other, &add_vxlan("192.0.2.2", port));
    sh(other, "ip addr add 10.77.0.1/24 dev vx0");
    for name in ["all", "vx0"] {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        other.run(|| std::fs::write(path, "0").unwrap()).unwrap();
    }
    mac_of(other, "vx0")
}

/// Another node takes tunnels as this one does, and its pods are judged by what comes out of them.
/// Another node, known by its object.
fn apply_other_node(node: &Node) {
    node.apply("namespace", &namespace("default"));
    node.apply(
        "nodes",
        "apiVersion: v1\nkind: Node\nmetadata: {name: other}\n\
         status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}\n",
    );
}

/// A pod, and what isolates it for egress, if there is such a rule.
fn apply_pod(node: &Node, name: &str, rule: Option<&str>) {
    let labels = format!("app: {name}");
    node.apply(name, &pod(name, &labels));
    if let Some(rule) = rule {
        let spec = format!("policyTypes: [Egress], egress: [{rule}]");
        node.apply(&format!("of-{name}"), &policy(name, &labels, &spec));
    }
}

/// Starts a pod with a socket of UDP; the one named `bare` is where podgate is not.
fn sender<'a>(node: &Node, chain: &Conflist, name: &'a str) -> (&'a str, Pod, UdpSocket) {
    let chain = match name {
        "bare" => unpoliced(chain.clone()),
        _ => chain.clone(),
    };
    let pod = Pod::start(node, &chain, name);
    let socket = pod.netns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    (name, pod, socket.unwrap())
}

#[test]
fn attack_28_a_tunnel_to_another_node_needs_a_rule() {
    let node = Node::new();
    let other = node.outside();
    let mac = take_tunnels(&other, 8472);
    let receiver = Receiver::new(&other, IpAddr::from([10, 77, 0, 1]));
    let nodes = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "other"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]},
    });
    let isolated = |name: &str, rule: serde_json::Value| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"podSelector": {"matchLabels": {"app": name}}, "policyTypes": ["Egress"], "egress": [rule]},
        })
    };
    let pod = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"nodeName": "node", "containers": [{"name": "c", "image": "none"}]},
        })
    };
    let block = json!([{"ipBlock": {"cidr": "192.0.2.0/24"}}]);
    let ports = json!([{"protocol": "UDP", "port": 8472}]);
    let items = json!([
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}},
        nodes, pod("open"), pod("wide"), pod("named"),
        isolated("wide", json!({"to": block})),
        isolated("named", json!({"to": block, "ports": ports})),
    ]);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    std::fs::create_dir_all(node.manifests()).unwrap();
    std::fs::write(node.manifests().join("world.json"), list.to_string()).unwrap();
    let _enforcer = Enforcer::start(&node);
    let chain = node.ptp(in_force(json!({})));
    for (name, chain, arrives) in [
        ("bare", unpoliced(chain.clone()), true),
        ("open", chain.clone(), false),
        ("wide", chain.clone(), false),
        ("named", chain, true),
    ] {
        let attacker = Pod::start(&node, &chain, name);
        let data = attacker.container_id.as_bytes();
        let socket = attacker.netns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let to = SocketAddr::new(outside_addresses()[0], 8472);
        let packet = vxlan(mac, &receiver, data);
        socket.unwrap().send_to(&packet, to).unwrap();
        if arrives {
            assert!(
                receiver.gets(data),
                "{name}: the attack is none, or the rule"
            );
        } else {
            assert!(receiver.misses(data), "{name}");
        }
    }
    let counted = node.tables().counters(Direction::Egress).unwrap();
    assert_eq!(counted[Reason::Tunnel as usize], 1, "of the open pod");
    assert_eq!(counted[Reason::Policy as usize], 1, "of the isolated one");
}

/// A list of usual ports is not enough: a device of the node takes tunnels at the port that it was given, and nodes are
/// alike.
#[test]
fn attack_28_a_tunnel_by_a_port_of_a_node_device_needs_a_rule() {
    const PORT: u16 = 14789;
    let node = Node::new();
    let other = node.outside();
    let of_other = take_tunnels(&other, PORT);
    let far = Receiver::new(&other, IpAddr::from([10, 77, 0, 1]));
    apply_other_node(&node);
    let nodes = "[{ipBlock: {cidr: 192.0.2.0/24}}, {ipBlock: {cidr: 10.96.0.1/32}}]";
    for (name, rule) in [
        ("open", None),
        ("wide", Some(format!("{{to: {nodes}}}"))),
        (
            "named",
            Some(format!(
                "{{to: {nodes}, ports: [{{protocol: UDP, port: {PORT}}}]}}"
            )),
        ),
    ] {
        apply_pod(&node, name, rule.as_deref());
    }
    let enforcer = Enforcer::begin(&node, &[]);
    wait_until("the enforcer is ready", || {
        enforcer.readiness(&node).0 == 200
    });
    let chain = node.ptp(in_force(json!({})));
    let victim = Pod::start(&node, &chain, "victim");
    let near = Receiver::new(&victim.netns, victim.addresses[0]);
    let pods = ["bare", "open", "wide", "named"].map(|name| sender(&node, &chain, name));
    let gateway = IpAddr::from([10, 96, 0, 1]);
    let reaches =
        |socket: &UdpSocket, to: IpAddr, mac: [u8; 6], receiver: &Receiver, name: &str| {
            let packet = vxlan(mac, receiver, name.as_bytes());
            socket.send_to(&packet, SocketAddr::new(to, PORT)).unwrap();
            receiver.got(LOST, name.as_bytes())
        };
    let another = outside_addresses()[0];
    // No device of this node: nothing says that it is a tunnel. These flows are known from now on.
    for (name, _, socket) in &pods {
        wait_until("the tunnel leads to the other node", || {
            reaches(socket, another, of_other, &far, name)
        });
        let nobody = SocketAddr::new(gateway, PORT);
        socket.send_to(b"nobody there", nobody).unwrap();
    }
    node.sh(&add_vxlan("10.96.0.1", PORT));
    for name in ["all", "vx0"] {
        node.sysctl(&format!("ipv4/conf/{name}/rp_filter"), "0");
    }
    let own = node.mac("vx0");
    for (name, _, socket) in &pods {
        let may = matches!(*name, "bare" | "named");
        for (to, mac, receiver) in [(another, of_other, &far), (gateway, own, &near)] {
            wait_until(&format!("{name} to {to}: {may}"), || {
                reaches(socket, to, mac, receiver, name) == may
            });
            for _ in 0..3 {
                assert_eq!(
                    reaches(socket, to, mac, receiver, name),
                    may,
                    "{name} to {to}"
                );
            }
        }
    }
    let (_, _, open) = &pods[1];
    let leads_there = || reaches(open, another, of_other, &far, "open");
    node.sh("ip link del vx0");
    wait_until("it is a port as any other", leads_there);
    node.sh(&add_vxlan("10.96.0.1", PORT));
    wait_until("it is a tunnel again", || !leads_there());
    // What it receives by stays in the node's namespace.
    let victims = victim.netns.path().display();
    node.sh(&format!("ip link set vx0 netns {victims}"));
    for _ in 0..5 {
        assert!(!leads_there(), "the device is only elsewhere");
    }
}

/// A segment of SRv6 is no address: the route has a lightweight tunnel, which takes the packet apart.
#[test]
fn attack_28_a_segment_of_srv6_at_the_node_needs_a_rule() {
    let node = Node::new();
    let open = node.ptp(json!({}));
    let victim = Pod::start(&node, &open, "victim");
    let receiver = Receiver::new(&victim.netns, victim.addresses[1]);
    let _outside = node.outside();
    node.sh("ip -6 route add 2001:db8:5::1/128 encap seg6local action End.DT6 table 254 dev wan");
    for chain in [unpoliced(open.clone()), open] {
        let attacker = Pod::start(&node, &chain, "attacker");
        let cable = Cable {
            from: attacker.mac(),
            to: node.mac(&attacker.host_end(&node)),
        };
        let data = attacker.container_id.as_bytes();
        let nobody: IpAddr = "fd99::9".parse().unwrap();
        let inner = cable.udp((nobody, 4000), receiver.address(), data);
        let segment: IpAddr = "2001:db8:5::1".parse().unwrap();
        // Its own packet to the segment, with the other one inside instead of a datagram.
        let mut frame = cable.udp((attacker.addresses[1], 1), (segment, 1), &[]);
        frame.truncate(14 + 40);
        let length = u16::try_from(inner.len() - 14).unwrap();
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        frame[20] = 41;
        frame.extend(&inner[14..]);
        Frames::on(&attacker.netns, "eth0").send(&frame);
        if chain.plugins.len() == 1 {
            assert!(receiver.gets(data), "the attack is none");
        } else {
            assert!(receiver.misses(data));
        }
    }
    let counted = node.tables().counters(Direction::Egress).unwrap();
    assert_eq!(counted[Reason::Tunnel as usize], 1);
}

/// Service `default/led`: cluster address 10.97.0.53, port 53 of UDP, NodePort 30053, with one endpoint: 192.0.2.2 at this port.
fn led(node: &Node, port: u16) {
    node.apply(
        "led",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: led, namespace: default}}\n\
             spec: {{type: NodePort, clusterIP: 10.97.0.53, clusterIPs: [10.97.0.53],\n\
             \x20 ports: [{{name: dns, protocol: UDP, port: 53, nodePort: 30053}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: led-1, namespace: default, labels: {{kubernetes.io/service-name: led}}}}\n\
             addressType: IPv4\nports: [{{name: dns, protocol: UDP, port: {port}}}]\n\
             endpoints: [{{addresses: [192.0.2.2], conditions: {{ready: true}}}}]\n"
        ),
    );
    // What a proxy of the node's does.
    node.sh(&format!(
        "nft 'flush chain ip proxy pre' && for to in '10.97.0.53 udp dport 53' '192.0.2.1 udp dport 30053'; do \
         nft \"add rule ip proxy pre ip daddr $to dnat to 192.0.2.2:{port}\"; done"
    ));
}

/// A tenant that may write Services leads any pod's datagrams to the tunnel of a node, out of which they come as
/// packets of others.
#[expect(
    clippy::too_many_lines,
    reason = "one way into the tunnel after the other, on one set of nodes"
)]
#[test]
fn attack_05_a_service_into_a_tunnel_at_a_node_needs_a_rule() {
    let node = Node::new();
    let other = node.outside();
    let mac = take_tunnels(&other, 4789);
    let receiver = Receiver::new(&other, IpAddr::from([10, 77, 0, 1]));
    let echo = other.run(|| UdpSocket::bind("192.0.2.2:5353").unwrap());
    let echo = echo.unwrap();
    node.sh("nft 'add table ip proxy; add chain ip proxy pre { type nat hook prerouting priority dstnat; }'");
    for timeout in ["udp_timeout", "udp_timeout_stream"] {
        node.sh(&format!(
            "echo 1 > /proc/sys/net/netfilter/nf_conntrack_{timeout}"
        ));
    }
    apply_other_node(&node);
    for (name, rule) in [
        ("open", None),
        ("all", Some("{}")),
        ("named", Some("{ports: [{protocol: UDP, port: 4789}]}")),
    ] {
        apply_pod(&node, name, rule);
    }
    led(&node, 5353);
    let enforcer = Enforcer::begin(&node, &[]);
    wait_until("the enforcer is ready", || {
        enforcer.readiness(&node).0 == 200
    });
    let chain = node.ptp(in_force(json!({})));
    let pods = ["bare", "open", "all", "named"].map(|name| sender(&node, &chain, name));
    let ways = [
        SocketAddr::from(([10, 97, 0, 53], 53)),
        SocketAddr::from(([192, 0, 2, 1], 30053)),
    ];
    // The Service is an ordinary one, and pods have flows to it.
    let mut buffer = [0; 64];
    for (name, _, socket) in pods.iter().filter(|(name, ..)| *name != "named") {
        for way in ways {
            socket.send_to(name.as_bytes(), way).unwrap();
            let length = echo.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], name.as_bytes(), "{way}");
        }
    }
    led(&node, 4789);
    wait_until("the node forgets how it translated", || {
        !node.sh("cat /proc/net/nf_conntrack").contains("5353")
    });
    let ended = || node.tables().counters(Direction::Egress).unwrap()[Reason::Tunnel as usize];
    for (_, _, socket) in pods
        .iter()
        .filter(|(name, ..)| ["open", "all"].contains(name))
    {
        for way in ways {
            wait_until("a flow to the Service ends", || {
                let before = ended();
                socket.send_to(b"no tunnel's header", way).unwrap();
                ended() > before
            });
        }
    }
    for (name, pod, socket) in &pods {
        for way in ways {
            let data = format!("{} {way}", pod.container_id).into_bytes();
            socket.send_to(&vxlan(mac, &receiver, &data), way).unwrap();
            if ["bare", "named"].contains(name) {
                assert!(
                    receiver.gets(&data),
                    "{name}: the attack is none, or the rule"
                );
            } else {
                assert!(receiver.misses(&data), "{name} {way}");
            }
        }
    }
    // And it opens again.
    led(&node, 5353);
    wait_until("the Service is open", || {
        node.tables().way_keys().unwrap().is_empty()
    });
    wait_until("the node forgets how it translated", || {
        !node.sh("cat /proc/net/nf_conntrack").contains("4789")
    });
    let (_, _, socket) = &pods[1];
    for way in ways {
        socket.send_to(b"again", way).unwrap();
        let length = echo.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"again", "{way}");
    }
}
