// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets of a connection, as bytes, at the host end of the pod that is judged.

use std::net::IpAddr;

use podgate_abi::{Address, Decision, Direction, Hook, Slot, decide, ethertype};
use podgate_policy::connection::{Connection, Transport};
use podgate_policy::model::Protocol;

use super::HostTables;

/// The port of whoever opened the connection.
pub(crate) const CLIENT_PORT: u16 = 40_000;

/// A packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The first one; of TCP a SYN.
    Opening,
    /// The first one back; of TCP a SYN-ACK.
    Answer,
    /// One that comes later from who opened it.
    Request,
    /// One that comes later from the other side.
    Reply,
}

/// The addresses of the attachment's pod: of neither family one that any policy names.
pub(crate) fn own_addresses(slot: Slot) -> [Address; 2] {
    let low = u8::try_from(slot.0).expect("few slots");
    let mut v6 = [0; 16];
    (v6[0], v6[1], v6[15]) = (0xfd, 0xff, low);
    [Address::from_ipv4([192, 168, 0, low]), Address::new(v6)]
}

/// Whether the kernel passes the packet.
pub(crate) fn passes(tables: &HostTables, slot: Slot, connection: &Connection, part: Part) -> bool {
    let opens = connection.direction;
    let direction = match part {
        Part::Opening | Part::Request => opens,
        Part::Answer | Part::Reply => opens.opposite(),
    };
    let is_ipv4 = connection.peer.is_ipv4();
    let hook = Hook {
        slot,
        direction,
        ethertype: if is_ipv4 {
            ethertype::IPV4
        } else {
            ethertype::IPV6
        },
        received_from: 2,
        interface: 3,
    };
    let pod = tables.own(slot, is_ipv4);
    let frame = frame(pod, connection, part, direction);
    match decide(&tables, frame.as_slice(), &hook) {
        Decision::Pass(_) => true,
        Decision::Drop(_) => false,
    }
}

fn frame(pod: Address, connection: &Connection, part: Part, direction: Direction) -> Vec<u8> {
    let peer = Address::from(connection.peer);
    let (source, destination) = match direction {
        Direction::Ingress => (peer.octets(), pod.octets()),
        Direction::Egress => (pod.octets(), peer.octets()),
    };
    let (protocol, transport) = transport(connection.transport, part);
    let length = u16::try_from(transport.len()).expect("short");
    let mut frame = vec![0; 12];
    match connection.peer {
        IpAddr::V4(_) => {
            frame.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
            frame.extend_from_slice(&(20 + length).to_be_bytes());
            frame.extend_from_slice(&[0, 0, 0, 0, 64, protocol, 0, 0]);
            frame.extend_from_slice(&source[12..]);
            frame.extend_from_slice(&destination[12..]);
        }
        IpAddr::V6(_) => {
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend_from_slice(&length.to_be_bytes());
            frame.extend_from_slice(&[protocol, 64]);
            frame.extend_from_slice(&source);
            frame.extend_from_slice(&destination);
        }
    }
    frame.extend_from_slice(&transport);
    frame
}

fn transport(transport: Transport, part: Part) -> (u8, [u8; 20]) {
    let mut bytes = [0; 20];
    let is_reply = matches!(part, Part::Answer | Part::Reply);
    match transport {
        Transport::Port(protocol, port) => {
            let (source, destination) = if is_reply {
                (port, CLIENT_PORT)
            } else {
                (CLIENT_PORT, port)
            };
            bytes[..2].copy_from_slice(&source.to_be_bytes());
            bytes[2..4].copy_from_slice(&destination.to_be_bytes());
            let number = match protocol {
                Protocol::Tcp => {
                    bytes[12] = 5 << 4;
                    bytes[13] = match part {
                        Part::Opening => 0x02,
                        Part::Answer => 0x12,
                        Part::Request | Part::Reply => 0x10,
                    };
                    6
                }
                Protocol::Udp => 17,
                Protocol::Sctp => 132,
            };
            (number, bytes)
        }
        Transport::Other(number) => {
            // echo requests and replies of ICMP and ICMPv6
            bytes[0] = match (number, is_reply) {
                (1, false) => 8,
                (58, false) => 128,
                (58, true) => 129,
                _ => 0,
            };
            (number, bytes)
        }
    }
}
