//! From bytes to what a verdict needs of a packet. Every raw read is here.

use crate::{Address, Direction, Reason};

/// Ethertypes, in host order.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

/// IPv6 extension headers that are followed: RFC 8200 section 4, RFC 6275, RFC 7401, RFC 5533.
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION_OPTIONS: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
    pub(super) const HIP: u8 = 139;
    pub(super) const SHIM6: u8 = 140;
}

/// How many extension headers are followed.
const MAX_EXTENSIONS: usize = 6;

/// Length of the Ethernet header, after which the network header stands.
const ETHERNET: u32 = 14;

/// The bytes of a packet, from its Ethernet header on.
pub trait Bytes {
    /// `N` bytes from `offset` on; none if the packet ends before.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

impl Bytes for [u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.get(offset as usize..)?.first_chunk::<N>().copied()
    }
}

/// What a packet says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Where it says that it comes from.
    pub source: Address,
    /// Where it goes.
    pub destination: Address,
    /// Source port; for an ICMP echo request its identifier; for an ICMP error that of the packet inside.
    pub source_port: u16,
    /// Destination port; for an ICMP echo reply its identifier; for an ICMP error that of the packet inside.
    pub destination_port: u16,
    /// For an ICMP error the peer of the packet inside; for a neighbour advertisement its target; else `::`.
    pub about: Address,
    /// The identification field, if it is a fragment.
    pub identification: u32,
    /// The IP protocol, after IPv6 extension headers.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    /// Which part of a datagram it is.
    pub part: Part,
    /// It has an IPv6 fragment header, even one that says that the datagram is whole.
    pub has_fragment_header: bool,
    /// What there is above IP.
    pub content: Content,
}

/// Which part of a datagram a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// A fragment that begins with the transport header.
    First,
    /// A fragment without the transport header.
    Later,
}

/// What there is above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing readable: it is a [`Part::Later`].
    Hidden,
    /// Could not be read, for this reason.
    Unreadable(Reason),
    /// TCP with these flags.
    Tcp(u8),
    /// A protocol with or without ports whose packets make a flow: UDP, SCTP, ICMP echo, and all the rest.
    Datagram,
    /// Neighbour or multicast listener discovery: the ICMPv6 type and code.
    Discovery(u8, u8),
    /// An ICMP error about a packet of this protocol, whose far end is [`Packet::about`] and whose ports are
    /// the packet's ports. Type and code stay unread.
    Error(u8),
    /// Any other ICMP message.
    Message,
}

/// TCP flags.
pub(crate) mod tcp {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const ACK: u8 = 0x10;
}

#[inline(always)]
const fn word16(bytes: [u8; 2]) -> u16 {
    u16::from_be_bytes(bytes)
}

/// Reads a packet whose frame carries `ethertype`, which is [`ethertype::IPV4`] or [`ethertype::IPV6`].
///
/// `direction` tells which end of the packet inside an ICMP error is the peer. An error is for what is wrong
/// with the IP header itself, so that not even the addresses are known.
#[inline(always)]
pub fn parse(
    bytes: &(impl Bytes + ?Sized),
    ethertype: u16,
    direction: Direction,
) -> Result<Packet, Reason> {
    if ethertype == ethertype::IPV4 {
        parse_ipv4(bytes, direction)
    } else {
        parse_ipv6(bytes, direction)
    }
}

#[inline(always)]
fn parse_ipv4(bytes: &(impl Bytes + ?Sized), direction: Direction) -> Result<Packet, Reason> {
    let header = bytes.load::<20>(ETHERNET).ok_or(Reason::BadIpHeader)?;
    let header_length = u32::from(header[0] & 0xf) * 4;
    // A length of 0 is a TCP segment beyond 64 KiB that is still to be cut (Linux 6.3, "BIG TCP"); from the
    // wire, the stack refuses it.
    let length = match word16([header[2], header[3]]) {
        0 => u32::from(u16::MAX),
        length => u32::from(length),
    };
    if header[0] >> 4 != 4 || header_length < 20 || length < header_length {
        return Err(Reason::BadIpHeader);
    }
    let fragmentation = word16([header[6], header[7]]);
    let part = match (fragmentation & 0x1fff != 0, fragmentation & 0x2000 != 0) {
        (true, _) => Part::Later,
        (false, true) => Part::First,
        (false, false) => Part::Whole,
    };
    let mut packet = Packet {
        source: Address::from_ipv4([header[12], header[13], header[14], header[15]]),
        destination: Address::from_ipv4([header[16], header[17], header[18], header[19]]),
        source_port: 0,
        destination_port: 0,
        about: Address::UNSPECIFIED,
        identification: u32::from(word16([header[4], header[5]])),
        protocol: header[9],
        hop_limit: header[8],
        part,
        has_fragment_header: false,
        content: Content::Hidden,
    };
    if header_length > 20 && has_source_route(bytes, ETHERNET + header_length) {
        packet.content = Content::Unreadable(Reason::SourceRoute);
    } else {
        read_transport(
            bytes,
            &mut packet,
            ETHERNET + header_length,
            length - header_length,
            direction,
        );
    }
    Ok(packet)
}

/// Whether the IPv4 options, which end at `end`, hold a source route (RFC 791: types 131 and 137), or cannot be
/// read to their end.
#[inline(always)]
fn has_source_route(bytes: &(impl Bytes + ?Sized), end: u32) -> bool {
    let mut at = ETHERNET + 20;
    for _ in 0..40 {
        if at >= end {
            return false;
        }
        let Some([kind]) = bytes.load::<1>(at) else {
            return true;
        };
        match kind {
            0 => return false,
            1 => at += 1,
            131 | 137 => return true,
            _ => {
                let Some([length]) = bytes.load::<1>(at + 1) else {
                    return true;
                };
                if length < 2 {
                    return true;
                }
                at += u32::from(length);
            }
        }
    }
    false
}

#[inline(always)]
fn parse_ipv6(bytes: &(impl Bytes + ?Sized), direction: Direction) -> Result<Packet, Reason> {
    let header = bytes.load::<40>(ETHERNET).ok_or(Reason::BadIpHeader)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::BadIpHeader);
    }
    let mut packet = Packet {
        source: address_at(&header, 8),
        destination: address_at(&header, 24),
        source_port: 0,
        destination_port: 0,
        about: Address::UNSPECIFIED,
        identification: 0,
        protocol: header[6],
        hop_limit: header[7],
        part: Part::Whole,
        has_fragment_header: false,
        content: Content::Hidden,
    };
    if packet.source.is_ipv4() || packet.destination.is_ipv4() {
        return Err(Reason::MappedAddress);
    }
    // 0 as in `parse_ipv4`: a jumbogram.
    let mut length = match word16([header[4], header[5]]) {
        0 => u32::from(u16::MAX),
        length => u32::from(length),
    };
    let mut offset = ETHERNET + 40;
    let mut next = packet.protocol;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(next) {
            break;
        }
        let Some(extension) = bytes.load::<8>(offset) else {
            packet.content = Content::Unreadable(Reason::BadTransportHeader);
            return Ok(packet);
        };
        let size = match next {
            extension::FRAGMENT => 8,
            extension::AUTHENTICATION => (u32::from(extension[1]) + 2) * 4,
            _ => (u32::from(extension[1]) + 1) * 8,
        };
        if size > length {
            packet.content = Content::Unreadable(Reason::BadTransportHeader);
            return Ok(packet);
        }
        if next == extension::ROUTING && extension[3] != 0 {
            packet.content = Content::Unreadable(Reason::SourceRoute);
            return Ok(packet);
        }
        if next == extension::FRAGMENT {
            let fragmentation = word16([extension[2], extension[3]]);
            packet.has_fragment_header = true;
            packet.identification =
                u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]);
            if fragmentation & 0xfff8 != 0 {
                packet.part = Part::Later;
                return Ok(packet);
            }
            if fragmentation & 1 != 0 {
                packet.part = Part::First;
            }
        }
        next = extension[0];
        offset += size;
        length -= size;
    }
    packet.protocol = next;
    if is_extension(next) {
        packet.content = Content::Unreadable(Reason::TooManyHeaders);
    } else {
        read_transport(bytes, &mut packet, offset, length, direction);
    }
    Ok(packet)
}

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        extension::HOP_BY_HOP
            | extension::ROUTING
            | extension::FRAGMENT
            | extension::AUTHENTICATION
            | extension::DESTINATION_OPTIONS
            | extension::MOBILITY
            | extension::HIP
            | extension::SHIM6
    )
}

#[inline(always)]
fn address_at(header: &[u8; 40], at: usize) -> Address {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    Address::new(octets)
}

/// Reads the transport header, which stands at `offset` and of which the IP header says that `length` bytes
/// are left. It must be there whole: what is split over fragments could be put together otherwise (RFC 1858).
#[inline(always)]
fn read_transport(
    bytes: &(impl Bytes + ?Sized),
    packet: &mut Packet,
    offset: u32,
    length: u32,
    direction: Direction,
) {
    if matches!(packet.part, Part::Later) {
        return;
    }
    packet.content = Content::Unreadable(Reason::BadTransportHeader);
    let needed = match packet.protocol {
        TCP => 20,
        SCTP => 12,
        UDP | ICMP | ICMPV6 => 8,
        _ => {
            packet.content = Content::Datagram;
            return;
        }
    };
    if length < needed {
        return;
    }
    let Some(header) = bytes.load::<8>(offset) else {
        return;
    };
    match packet.protocol {
        TCP => {
            let Some([data_offset, flags]) = bytes.load::<2>(offset + 12) else {
                return;
            };
            if data_offset >> 4 < 5 || bytes.load::<1>(offset + 19).is_none() {
                return;
            }
            packet.source_port = word16([header[0], header[1]]);
            packet.destination_port = word16([header[2], header[3]]);
            packet.content = Content::Tcp(flags);
        }
        ICMP => read_icmp(bytes, packet, header, offset, direction),
        ICMPV6 => read_icmpv6(bytes, packet, header, offset, direction),
        _ => {
            packet.source_port = word16([header[0], header[1]]);
            packet.destination_port = word16([header[2], header[3]]);
            packet.content = Content::Datagram;
        }
    }
}

/// RFC 792, RFC 1812.
#[inline(always)]
fn read_icmp(
    bytes: &(impl Bytes + ?Sized),
    packet: &mut Packet,
    header: [u8; 8],
    offset: u32,
    direction: Direction,
) {
    let identifier = word16([header[4], header[5]]);
    packet.content = Content::Message;
    match header[0] {
        8 => {
            packet.source_port = identifier;
            packet.content = Content::Datagram;
        }
        0 => {
            packet.destination_port = identifier;
            packet.content = Content::Datagram;
        }
        // unreachable, time exceeded, parameter problem; not redirect, not source quench
        3 | 11 | 12 => {
            let Some(inside) = bytes.load::<20>(offset + 8) else {
                return;
            };
            if inside[0] >> 4 != 4 || word16([inside[6], inside[7]]) & 0x1fff != 0 {
                return;
            }
            packet.about = match direction {
                Direction::ToPod => {
                    Address::from_ipv4([inside[16], inside[17], inside[18], inside[19]])
                }
                Direction::FromPod => {
                    Address::from_ipv4([inside[12], inside[13], inside[14], inside[15]])
                }
            };
            let transport = offset + 8 + u32::from(inside[0] & 0xf) * 4;
            read_inside(bytes, packet, inside[9], transport);
        }
        _ => {}
    }
}

/// RFC 4443, RFC 4861, RFC 2710, RFC 3810.
#[inline(always)]
fn read_icmpv6(
    bytes: &(impl Bytes + ?Sized),
    packet: &mut Packet,
    header: [u8; 8],
    offset: u32,
    direction: Direction,
) {
    let identifier = word16([header[4], header[5]]);
    packet.content = Content::Message;
    match header[0] {
        128 => {
            packet.source_port = identifier;
            packet.content = Content::Datagram;
        }
        129 => {
            packet.destination_port = identifier;
            packet.content = Content::Datagram;
        }
        1..=4 => {
            let Some(inside) = bytes.load::<40>(offset + 8) else {
                return;
            };
            if inside[0] >> 4 != 6 {
                return;
            }
            packet.about = match direction {
                Direction::ToPod => address_at(&inside, 24),
                Direction::FromPod => address_at(&inside, 8),
            };
            read_inside(bytes, packet, inside[6], offset + 48);
        }
        130..=137 | 143 => {
            if header[0] == 136 {
                let Some(target) = bytes.load::<16>(offset + 8) else {
                    return;
                };
                packet.about = Address::new(target);
            }
            packet.content = Content::Discovery(header[0], header[1]);
        }
        _ => {}
    }
}

/// Reads the ports of the packet inside an ICMP error, which went the other way: so its source port is the
/// destination port here.
#[inline(always)]
fn read_inside(bytes: &(impl Bytes + ?Sized), packet: &mut Packet, protocol: u8, offset: u32) {
    let Some(header) = bytes.load::<8>(offset) else {
        return;
    };
    let identifier = word16([header[4], header[5]]);
    match (protocol, header[0]) {
        (TCP | UDP | SCTP, _) => {
            packet.source_port = word16([header[2], header[3]]);
            packet.destination_port = word16([header[0], header[1]]);
        }
        (ICMP, 8) | (ICMPV6, 128) => packet.destination_port = identifier,
        (ICMP, 0) | (ICMPV6, 129) => packet.source_port = identifier,
        (ICMP | ICMPV6, _) => return,
        _ => {}
    }
    packet.content = Content::Error(protocol);
}
