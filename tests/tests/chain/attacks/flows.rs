// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tables of flows: what pods that may reach nobody do to others' connections, and what a spoofed end does.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use aya::maps::{HashMap, Map, MapData};
use etherparse::PacketBuilder;
use podgate_abi::Limit;
use podgate_datapath::Sizes;
use podgate_datapath::flows::second;
use podgate_datapath::tables::MapName;
use podgate_demo::netns::NetNs;
use podgate_tests::node::{
    Enforcer, Frames, LOST, Node, Pod, in_force, lets_in, namespace, outside_addresses, pod,
    policy, small_tables, wait_until,
};
use serde_json::json;

/// Nothing in, nothing out.
const NOBODY: &str = "policyTypes: [Ingress, Egress]";

/// Room for flows; a quarter is what one pod may have.
const ROOM: u16 = 2048;

fn ipv4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address} is no IPv4 address"),
    }
}

/// A TCP connection, seen from both ends: client, server.
fn connection(from: &NetNs, to: &NetNs, at: IpAddr) -> [TcpStream; 2] {
    let listener = to
        .run(|| TcpListener::bind(SocketAddr::new(at, 0)).unwrap())
        .unwrap();
    let target = listener.local_addr().unwrap();
    let client = from
        .run(|| TcpStream::connect_timeout(&target, 25 * LOST).unwrap())
        .unwrap();
    let (server, _) = listener.accept().unwrap();
    client.set_read_timeout(Some(10 * LOST)).unwrap();
    [client, server]
}

/// How many echo replies came to the pod.
fn echo_replies(pod: &Pod) -> u64 {
    let counts = pod.sh("grep ^Icmp: /proc/net/snmp");
    let mut rows = counts.lines().map(str::split_whitespace);
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let (_, value) = names
        .zip(values)
        .find(|(name, _)| *name == "InEchoReps")
        .expect("a count of echo replies");
    value.parse().unwrap()
}

/// Questions to the pod's own node, which is always reachable, as a raw socket makes them: echo requests with so many
/// identifiers, which are answered, and datagrams to as many ports, which are not.
fn asks_its_node(node: &Node, pod: &Pod, questions: u16) {
    let own = ipv4(pod.addresses[0]);
    let route = pod.sh("ip -4 route show default");
    let gateway: Ipv4Addr = route
        .split_whitespace()
        .nth(2)
        .and_then(|word| word.parse().ok())
        .expect("a default route");
    let cable = (pod.mac(), node.mac(&pod.host_end(node)));
    let frames = Frames::on(&pod.netns, "eth0");
    let before = echo_replies(pod);
    for number in 0..questions {
        let echo = PacketBuilder::ethernet2(cable.0, cable.1)
            .ipv4(own.octets(), gateway.octets(), 64)
            .icmpv4_echo_request(number, 1);
        let mut frame = Vec::new();
        echo.write(&mut frame, b"podgate").unwrap();
        frames.send(&frame);
    }
    // The control. Whether flows of them stand is what the attack is about.
    wait_until("the node answers most of them", || {
        echo_replies(pod) - before > u64::from(questions / 2)
    });
    let flood = || {
        let socket = UdpSocket::bind((own, 0)).unwrap();
        for port in 1..=4 * questions {
            // What the node answers, an error, is of no interest.
            let _ = socket.send_to(b"x", (gateway, port));
        }
    };
    pod.netns.run(flood).unwrap();
}

/// Pods that may reach no peer cost no other pod its connection.
#[test]
fn attack_33_shut_pods_cost_no_other_its_connection() {
    let node = Node::with_tables(Sizes {
        flows: ROOM.into(),
        flows_per_attachment: u32::from(ROOM) / 4,
        crowd: 512,
        ..small_tables()
    });
    node.apply("namespace", &namespace("default"));
    for name in ["client", "server", "shut1", "shut2", "shut3", "shut4"] {
        let app = if name.starts_with("shut") {
            "shut"
        } else {
            name
        };
        node.apply(name, &pod(name, &format!("app: {app}")));
    }
    node.apply("shut", &policy("shut", "app: shut", NOBODY));
    // An answer passes because the connection is known, or not at all.
    node.apply(
        "client-policy",
        &policy("client", "app: client", &lets_in("app: nobody")),
    );
    let _enforcer = Enforcer::start(&node);
    let chain = node.ptp(in_force(json!({})));
    let start = |name: &str| Pod::start(&node, &chain, name);
    let [client, server] = ["client", "server"].map(start);
    let shut = ["shut1", "shut2", "shut3", "shut4"].map(start);
    let connect = || connection(&client.netns, &server.netns, server.addresses[0]);
    let mut connections = vec![connect()];
    for pod in &shut {
        asks_its_node(&node, pod, ROOM / 4);
    }
    // The last ones are more than a pod is sure of: for them there is room as long as others did not take it.
    let sure = node.tables().limit(Limit::Guarantee).unwrap();
    connections.extend((0..2 * sure).map(|_| connect()));
    for pod in &shut {
        asks_its_node(&node, pod, ROOM / 4);
    }
    for (number, [client, server]) in connections.iter_mut().enumerate() {
        server.write_all(b"x").unwrap();
        let got = client.read(&mut [0]);
        assert_eq!(got.ok(), Some(1), "connection {number} lost its answer");
    }
}

/// Lets every answered flow of the node have been silent for so many seconds longer.
fn age_flows(node: &Node, seconds: u64) {
    let set = node.tables();
    let map = Map::HashMap(MapData::from_pin(set.pin(MapName::Flows)).unwrap());
    let mut map: HashMap<_, [u8; 24], [u64; 2]> = map.try_into().unwrap();
    for flow in set.tracked(MapName::Flows).unwrap() {
        let seen = flow.seen - seconds * second().unwrap();
        let key = bytemuck::cast::<_, [u8; 24]>(flow.key);
        map.insert(key, [flow.word.0, seen], 0).unwrap();
    }
}

/// A reset or an end from one to the other, such as the other's stack ignores: its checksum and sequence are wrong.
fn spoof(from: &NetNs, cable: ([u8; 6], [u8; 6]), ends: [SocketAddr; 2], is_reset: bool) {
    let [source, destination] = ends.map(|end| (ipv4(end.ip()), end.port()));
    let packet = PacketBuilder::ethernet2(cable.0, cable.1)
        .ipv4(source.0.octets(), destination.0.octets(), 64)
        .tcp(source.1, destination.1, 0x7000_0001, 64);
    let packet = if is_reset {
        packet.rst()
    } else {
        packet.fin().ack(1)
    };
    let mut frame = Vec::new();
    packet.write(&mut frame, &[]).unwrap();
    // The checksum stands 16 bytes behind Ethernet and IPv4.
    frame[14 + 20 + 16] ^= 0x55;
    Frames::on(from, "eth0").send(&frame);
}

#[test]
fn attack_38_a_spoofed_end_costs_no_server_its_late_answer() {
    let node = Node::new();
    let outside = node.outside();
    node.apply("namespace", &namespace("default"));
    node.apply("web", &pod("web", "app: web"));
    // The answer passes because the connection is known, or not at all.
    let from_outside =
        "policyTypes: [Ingress, Egress], ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]";
    node.apply("web-policy", &policy("p", "app: web", from_outside));
    let _enforcer = Enforcer::start(&node);
    let web = Pod::start(&node, &node.ptp(in_force(json!({}))), "web");
    let mac = |netns: &NetNs| -> [u8; 6] {
        let text = podgate_tests::node::sh(netns, "cat /sys/class/net/eth0/address");
        let bytes: Vec<u8> = (text.trim().split(':'))
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        bytes.try_into().unwrap()
    };
    let cable = (mac(&outside), node.mac("wan"));
    let counted = |state: &str| {
        let set = node.tables();
        let flows = set.tracked(MapName::Flows).unwrap();
        let mut states = flows.iter().map(|flow| format!("{:?}", flow.word.state()));
        states.any(|found| found == state)
    };
    assert_eq!(outside_addresses()[0], IpAddr::from([192, 0, 2, 2]));
    for (is_reset, state) in [(true, "FlowState(4)"), (false, "FlowState(6)")] {
        let [mut client, mut server] = connection(&outside, &web.netns, web.addresses[0]);
        let ends = [client.local_addr().unwrap(), client.peer_addr().unwrap()];
        spoof(&outside, cable, ends, is_reset);
        // The control: it was taken for one by the programs.
        wait_until("the spoofed segment is seen", || counted(state));
        age_flows(&node, 126);
        server.write_all(b"late").unwrap();
        let got = client.read(&mut [0; 4]);
        assert_eq!(got.ok(), Some(4), "the answer was lost; reset: {is_reset}");
        drop((client, server));
        // What ended for good stays among the flows, where nobody needs the room.
        wait_until("both ends are closed", || counted("FlowState(4)"));
    }
}
