// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The packets of a connection.

use std::net::IpAddr;

use podgate_policy::model::Protocol;

use crate::cases::expect::{Probe, What};
use crate::frame::{self, Payload, flag};

/// A packet of a connection, by who sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The first packet.
    Opening,
    /// The first one back.
    Answer,
    /// One that comes later from who opened it.
    Request,
    /// One that comes later from the other side.
    Reply,
}

/// What a packet carries; `source` is of the family that it goes by.
pub(super) fn payload(probe: &Probe, source: IpAddr, client_port: u16, part: Part) -> Payload {
    let back = match part {
        Part::Opening | Part::Request => false,
        Part::Answer | Part::Reply => true,
    };
    let ports = |port| {
        if back {
            (port, client_port)
        } else {
            (client_port, port)
        }
    };
    match probe.what {
        What::Port(Protocol::Tcp, port) => {
            let flags = match part {
                Part::Opening => flag::SYN,
                Part::Answer => flag::SYN | flag::ACK,
                Part::Request | Part::Reply => flag::ACK,
            };
            let (source, destination) = ports(port);
            frame::tcp(source, destination, flags)
        }
        What::Port(Protocol::Udp, port) => {
            let (source, destination) = ports(port);
            frame::udp(source, destination)
        }
        What::Port(Protocol::Sctp, port) => {
            let (source, destination) = ports(port);
            match part {
                Part::Opening => frame::sctp(source, destination),
                Part::Answer => frame::sctp_ack(source, destination),
                Part::Request | Part::Reply => frame::sctp_data(source, destination),
            }
        }
        What::Echo if back => frame::echo_reply(source, client_port),
        What::Echo => frame::echo_request(source, client_port),
    }
}
