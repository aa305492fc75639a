// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Frames between two addresses of one family.

use std::net::IpAddr;

use anyhow::{Result, bail};
use etherparse::{PacketBuilder, PacketBuilderStep, TcpHeader};

/// Both ends of a connection, seen from the sender.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) from: (IpAddr, u16),
    pub(crate) to: (IpAddr, u16),
}

impl Ends {
    /// Seen from the other one.
    pub(crate) fn turned(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
        }
    }

    fn ip(self) -> Result<PacketBuilderStep<etherparse::IpHeaders>> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        Ok(match (self.from.0, self.to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                bail!("{self:?} are of two families")
            }
        })
    }

    /// A datagram with 18 bytes in it.
    pub(crate) fn udp(self) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        let udp = self.ip()?.udp(self.from.1, self.to.1);
        udp.write(&mut frame, &[0; 18])?;
        Ok(frame)
    }

    /// A segment with `syn` and `ack`.
    pub(crate) fn tcp(self, syn: bool, ack: bool) -> Result<Vec<u8>> {
        let mut header = TcpHeader::new(self.from.1, self.to.1, 1, 65_535);
        header.syn = syn;
        header.ack = ack;
        let mut frame = Vec::new();
        self.ip()?.tcp_header(header).write(&mut frame, &[])?;
        Ok(frame)
    }
}
