// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The first packets of connections in random worlds, and which of them the oracle does not judge.

use std::net::IpAddr;

use podgate_abi::Direction;
use podgate_policy::connection::{Connection, Subject, Transport};
use podgate_policy::model::{Protocol, SCOPES, World};

use crate::frame::{self, Payload, flag};

/// The first packet of a connection: the transport, from one port that nobody names.
pub fn opens(transport: Transport) -> Payload {
    const PORT: u16 = 40_000;
    match transport {
        Transport::Port(Protocol::Tcp, port) => frame::tcp(PORT, port, flag::SYN),
        Transport::Port(Protocol::Udp, port) => frame::udp(PORT, port),
        Transport::Port(Protocol::Sctp, port) => frame::sctp(PORT, port),
        Transport::Other(number) => frame::other(number),
    }
}

/// The pod's addresses: one of each family, made up where the world has none.
pub fn addresses_of(world: &World, subject: &Subject) -> Vec<IpAddr> {
    let known = &world.pods[&subject.name].addresses;
    let of = |wanted: fn(&&IpAddr) -> bool, otherwise: &str| {
        let known = known.iter().find(wanted).copied();
        known.unwrap_or_else(|| otherwise.parse().expect("an address"))
    };
    vec![
        of(|address| address.is_ipv4(), "10.99.0.1"),
        of(|address| address.is_ipv6(), "fd99::1"),
    ]
}

/// Whether the node takes what is sent there for its own, or sends it nowhere, whatever its routes.
fn is_taken_by_the_node(peer: IpAddr) -> bool {
    SCOPES.iter().any(|scope| scope.contains(&peer))
}

/// Whether a Service has it as a NodePort.
fn is_node_port(world: &World, transport: Transport) -> bool {
    let mut ports = world.services.values().flat_map(|service| &service.ports);
    ports.any(|port| {
        let number = port.node_port;
        number.is_some_and(|number| Transport::Port(port.protocol, number) == transport)
    })
}

/// Whether the kernel answers by itself, before any policy: a packet to the pod's own address, a tunnel or a NodePort that
/// leads into one to whoever listens, and one from a node that this one did not make, or from what the node takes for its own, which the pod could answer into.
pub fn is_not_the_policys(world: &World, own: &[IpAddr], connection: &Connection) -> bool {
    let peer = connection.peer;
    match (connection.direction, connection.transport) {
        (Direction::Egress, transport) => {
            own.contains(&peer)
                || (is_taken_by_the_node(peer)
                    && (transport.is_tunnel(&world.tunnel_ports) || is_node_port(world, transport)))
        }
        (Direction::Ingress, transport @ Transport::Other(_)) => {
            let is_nodes =
                world.node_addresses.contains(&peer) || world.cluster_nodes.contains(&peer);
            transport.is_tunnel(&world.tunnel_ports) && (is_nodes || is_taken_by_the_node(peer))
        }
        (Direction::Ingress, Transport::Port(..)) => false,
    }
}
