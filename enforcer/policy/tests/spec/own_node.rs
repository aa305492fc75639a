// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Item 36: a pod and its own node, and the tunnels that would leave the node as somebody else's traffic.

use std::sync::Arc;

use podgate_policy::connection::Direction::{Egress, Ingress};
use podgate_policy::connection::Verdict::{Allow, Deny};
use podgate_policy::connection::{Transport, tunnel};
use podgate_policy::model::{ObjectName, Port, Protocol, Rule};

use crate::fixture::*;

#[test]
fn an_isolated_pod_may_send_to_its_own_node() {
    let world = world_with([egress([])]);
    for transport in [
        tcp(10250),
        udp(53),
        sctp(1),
        udp(4788),
        udp(8473),
        Transport::Other(1),
        Transport::Other(46),
    ] {
        assert_eq!(
            judge(&world, Egress, NODE, transport),
            Allow,
            "{transport:?}"
        );
        assert_eq!(
            judge(&world, Egress, X_HOST, transport),
            Deny,
            "another node, {transport:?}"
        );
    }
}

#[test]
fn the_own_nodes_address_is_an_ordinary_peer_on_ingress() {
    let world = world_with([ingress([with_peers([block(&format!("{X_HOST}/32"), &[])])])]);
    assert_eq!(judge(&world, Ingress, NODE, tcp(80)), Deny);
    let open = world_with([ingress([Rule::default()])]);
    assert_eq!(judge(&open, Ingress, NODE, udp(8472)), Allow);
    assert_eq!(
        judge(
            &crate::fixture::world(),
            Ingress,
            NODE,
            Transport::Other(47)
        ),
        Allow
    );
}

#[test]
fn a_tunnel_to_the_own_node_is_denied_whoever_is_policed() {
    for world in [
        world(),
        world_with([egress([])]),
        world_with([egress([Rule::default()])]),
    ] {
        for transport in tunnel::UDP_PORTS
            .map(udp)
            .into_iter()
            .chain(tunnel::PROTOCOLS.map(Transport::Other))
        {
            assert_eq!(
                judge(&world, Egress, NODE, transport),
                Deny,
                "{transport:?}"
            );
        }
    }
}

#[test]
fn a_rule_that_names_the_port_opens_a_tunnel_to_the_own_node() {
    let to_node = || vec![block(&format!("{NODE}/32"), &[])];
    let ranges = [
        range(Protocol::Udp, 8472, 8472),
        range(Protocol::Udp, 8000, 9000),
        Port::All(Protocol::Udp),
    ];
    for port in ranges {
        for peers in [vec![], to_node()] {
            let world = world_with([egress([Rule {
                peers,
                ports: vec![port.clone()],
            }])]);
            assert_eq!(judge(&world, Egress, NODE, udp(8472)), Allow, "{port:?}");
        }
    }
}

/// It needs a rule as one of the list does, whoever is policed.
#[test]
fn attack_28_a_port_of_the_nodes_own_device_is_a_tunnels() {
    const PORT: u16 = 14789;
    let names_it = || with_ports([range(Protocol::Udp, PORT, PORT)]);
    for (policies, expected) in [
        (vec![], Deny),
        (vec![egress([])], Deny),
        (vec![egress([Rule::default()])], Deny),
        (vec![egress([names_it()])], Allow),
        (vec![egress([Rule::default(), names_it()])], Allow),
    ] {
        let mut world = world_with(policies);
        world.cluster_nodes.insert(address(X_HOST));
        let before = judge(&world, Egress, NODE, udp(PORT));
        assert_eq!(before, Allow, "no device takes it");
        world.tunnel_ports.insert(PORT);
        for node in [NODE, X_HOST] {
            assert_eq!(judge(&world, Egress, node, udp(PORT)), expected, "{node}");
        }
        assert_eq!(judge(&world, Egress, NODE, tcp(PORT)), Allow);
    }
}

/// A rule that names the tunnel's port still opens the tunnel when it is beside a rule without ports.
#[test]
fn a_rule_with_the_port_beside_one_without_opens_the_tunnel() {
    let world = world_with([egress([
        Rule::default(),
        with_ports([range(Protocol::Udp, 8472, 8472)]),
    ])]);
    assert_eq!(judge(&world, Egress, NODE, udp(8472)), Allow);
    assert_eq!(judge(&world, Egress, NODE, udp(4789)), Deny);
}

#[test]
fn a_rule_for_somebody_else_or_another_port_opens_no_tunnel() {
    let others = Rule {
        peers: vec![block("10.0.0.0/8", &[])],
        ports: vec![range(Protocol::Udp, 8472, 8472)],
    };
    let all_but = with_ports([
        range(Protocol::Udp, 1, 8471),
        range(Protocol::Tcp, 8472, 8472),
    ]);
    let named = with_ports([port_called(Protocol::Udp, "http")]);
    let world = world_with([egress([others, all_but, named])]);
    assert_eq!(judge(&world, Egress, NODE, udp(8472)), Deny);
}

/// A node has come whose address is still known as that of a pod, which calls a tunnel's port by a name.
#[test]
fn a_name_opens_no_tunnel_to_a_node() {
    let by_name = || with_ports([port_called(Protocol::Udp, "http")]);
    for (rules, to_pod) in [
        (vec![by_name()], Allow),
        (vec![Rule::default(), by_name()], Allow),
        (vec![], Deny),
    ] {
        let mut world = world_with([egress(rules)]);
        let claiming = world.pods.get_mut(&ObjectName::new("x", "db"));
        let ports = &mut Arc::make_mut(claiming.expect("x/db")).ports;
        ports.push(named("http", Protocol::Udp, 8472));
        assert_eq!(judge(&world, Egress, X_DB, udp(8472)), to_pod);
        world.cluster_nodes.insert(address(X_DB));
        assert_eq!(judge(&world, Egress, X_DB, udp(8472)), Deny);
    }
}

#[test]
fn no_rule_opens_a_tunnel_without_ports_to_the_own_node() {
    let world = world_with([egress([
        Rule::default(),
        with_ports([Port::All(Protocol::Udp)]),
    ])]);
    for protocol in tunnel::PROTOCOLS {
        assert_eq!(
            judge(&world, Egress, NODE, Transport::Other(protocol)),
            Deny,
            "protocol {protocol}"
        );
    }
}

#[test]
fn a_tunnel_to_anybody_else_is_ordinary_traffic() {
    assert_eq!(judge(&world(), Egress, STRANGER, udp(8472)), Allow);
    let world = world_with([egress([with_peers([block("198.51.100.0/24", &[])])])]);
    assert_eq!(judge(&world, Egress, STRANGER, Transport::Other(47)), Allow);
    assert_eq!(judge(&world, Egress, X_HOST, Transport::Other(47)), Deny);
}
