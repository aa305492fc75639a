// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What goes with a packet beside its bytes, and has the kernel change them after the verdict.

use super::{ICMP, ICMPV6, Packet, Part, SCTP, TCP, UDP};

/// What the kernel is still to do to a packet.
///
/// A sender sets it (`PACKET_VNET_HDR`, a tap, its own stack), and it survives a veth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// A checksum that is to be written (`CHECKSUM_PARTIAL`); 0 if there is none. Bits 31..16: from which byte of the
    /// frame on it is summed. 15..0: how far behind that it is written.
    pub checksum: u32,
    /// How much each segment is to carry; 0 if it is not to be segmented.
    pub segment: u32,
}

impl Offload {
    /// Nothing.
    pub const NONE: Self = Self {
        checksum: 0,
        segment: 0,
    };
    /// It could not be read.
    pub const UNKNOWN: Self = Self {
        checksum: u32::MAX,
        segment: 0,
    };

    /// A checksum summed from byte `start` of the frame on, and written `offset` bytes behind that.
    #[inline(always)]
    pub const fn checksum(start: u16, offset: u16) -> Self {
        let checksum = (start as u32) << 16 | offset as u32;
        if checksum == 0 {
            // At the very beginning no header has one.
            return Self::UNKNOWN;
        }
        Self {
            checksum,
            segment: 0,
        }
    }

    /// Whether it changes nothing of a packet that was judged.
    ///
    /// A checksum goes where the transport header has its own, or behind all that was read: into a packet in a tunnel,
    /// for example; of a message of DHCP more was read. Fragments have neither: the kernel computes checksums before it cuts
    /// a datagram up.
    #[inline(always)]
    pub const fn spares(self, packet: &Packet) -> bool {
        if self.checksum == 0 && self.segment == 0 {
            return true;
        }
        if packet.part.0 != Part::WHOLE.0 {
            return false;
        }
        if self.checksum == 0 {
            return true;
        }
        let start = self.checksum >> 16;
        let offset = self.checksum & 0xffff;
        let transport = packet.transport as u32;
        // Where the header has its checksum, and how much of it was read. Of ICMP, no more is known.
        let (own, read) = match packet.protocol {
            TCP => (16, 20),
            UDP if packet.is_plain == 0 => (6, 8),
            UDP => (6, 0xffff),
            SCTP => (8, 12),
            ICMP | ICMPV6 => (2, 0xffff),
            _ => (0xffff, 0),
        };
        // Checksums of headers stand near the beginning; what has no sense is far off.
        let is_sensible = start >= transport && start < 0x8000;
        let is_own = start == transport && offset == own;
        is_sensible && (is_own || start + offset >= transport + read)
    }
}
