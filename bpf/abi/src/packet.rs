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
const MAX_EXTENSIONS: u64 = 6;

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
///
/// Numbers and no enums: in the kernel it is kept in a table, and the verifier takes anything for possible that
/// comes out of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Packet {
    /// Where it says that it comes from.
    pub source: Address,
    /// Where it goes.
    pub destination: Address,
    /// For an ICMP error the peer of the packet inside; for a neighbour advertisement its target; else `::`.
    pub about: Address,
    /// The identification field, if it is a fragment.
    pub identification: u32,
    /// Source port; for an ICMP echo request its identifier; for an ICMP error that of the packet inside.
    pub source_port: u16,
    /// Destination port; for an ICMP echo reply its identifier; for an ICMP error that of the packet inside.
    pub destination_port: u16,
    /// The IP protocol, after IPv6 extension headers.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    /// Which part of a datagram it is.
    pub part: Part,
    /// What there is above IP.
    pub content: Content,
    /// More of the content: see there.
    pub detail: u8,
    /// 1 if it has an IPv6 fragment header, even one that says that the datagram is whole.
    pub has_fragment_header: u8,
    /// Zero.
    pub padding: [u8; 2],
}

/// Which part of a datagram a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Part(u8);

impl Part {
    /// All of it.
    pub const WHOLE: Self = Self(0);
    /// A fragment that begins with the transport header.
    pub const FIRST: Self = Self(1);
    /// A fragment without the transport header.
    pub const LATER: Self = Self(2);
}

/// What there is above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Content(u8);

impl Content {
    /// Nothing readable: it is a [`Part::LATER`].
    pub const HIDDEN: Self = Self(0);
    /// The transport header is cut short, or not all in the first fragment.
    pub const CUT_SHORT: Self = Self(1);
    /// More extension headers than are followed.
    pub const TOO_MANY_HEADERS: Self = Self(2);
    /// A source route, which hides the destination.
    pub const SOURCE_ROUTE: Self = Self(3);
    /// TCP; the detail is its flags.
    pub const TCP: Self = Self(4);
    /// A protocol with or without ports whose packets make a flow: UDP, SCTP, ICMP echo, and all the rest.
    pub const DATAGRAM: Self = Self(5);
    /// Neighbour discovery; the detail is the ICMPv6 type. The code is 0 (RFC 4861: else it is to be dropped).
    pub const NEIGHBOUR: Self = Self(6);
    /// Multicast listener discovery; the detail is the ICMPv6 type.
    pub const LISTENER: Self = Self(7);
    /// An ICMP error about a packet whose protocol is the detail, whose far end is [`Packet::about`] and whose
    /// ports are the packet's ports.
    pub const ERROR: Self = Self(8);
    /// Any other ICMP message.
    pub const MESSAGE: Self = Self(9);

    /// Why nothing can be said of what is above IP, if so.
    #[inline(always)]
    pub const fn defect(self) -> Option<Reason> {
        match self {
            Self::CUT_SHORT => Some(Reason::BadTransportHeader),
            Self::TOO_MANY_HEADERS => Some(Reason::TooManyHeaders),
            Self::SOURCE_ROUTE => Some(Reason::SourceRoute),
            _ => None,
        }
    }
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

/// Where the transport header stands, and how many bytes the IP header says are left for it and what follows.
struct Transport {
    offset: u32,
    length: u32,
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
    let mut packet = Packet {
        source: Address::UNSPECIFIED,
        destination: Address::UNSPECIFIED,
        about: Address::UNSPECIFIED,
        identification: 0,
        source_port: 0,
        destination_port: 0,
        protocol: 0,
        hop_limit: 0,
        part: Part::WHOLE,
        content: Content::HIDDEN,
        detail: 0,
        has_fragment_header: 0,
        padding: [0; 2],
    };
    let transport = if ethertype == ethertype::IPV4 {
        parse_ipv4(bytes, &mut packet)?
    } else {
        parse_ipv6(bytes, &mut packet)?
    };
    if packet.content == Content::HIDDEN && packet.part != Part::LATER {
        read_transport(bytes, &mut packet, &transport, direction);
    }
    Ok(packet)
}

#[inline(always)]
fn parse_ipv4(bytes: &(impl Bytes + ?Sized), packet: &mut Packet) -> Result<Transport, Reason> {
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
    if fragmentation & 0x1fff != 0 {
        packet.part = Part::LATER;
    } else if fragmentation & 0x2000 != 0 {
        packet.part = Part::FIRST;
    }
    packet.source = Address::from_ipv4([header[12], header[13], header[14], header[15]]);
    packet.destination = Address::from_ipv4([header[16], header[17], header[18], header[19]]);
    packet.identification = u32::from(word16([header[4], header[5]]));
    packet.protocol = header[9];
    packet.hop_limit = header[8];
    if header_length > 20 && has_source_route(bytes, ETHERNET + header_length) {
        packet.content = Content::SOURCE_ROUTE;
    }
    Ok(Transport {
        offset: ETHERNET + header_length,
        length: length - header_length,
    })
}

/// Whether the IPv4 options, which end at `end`, hold a source route (RFC 791: types 131 and 137), or cannot be
/// read to their end.
#[inline(always)]
fn has_source_route(bytes: &(impl Bytes + ?Sized), end: u32) -> bool {
    let mut at = ETHERNET + 20;
    while at < end {
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
fn parse_ipv6(bytes: &(impl Bytes + ?Sized), packet: &mut Packet) -> Result<Transport, Reason> {
    let header = bytes.load::<40>(ETHERNET).ok_or(Reason::BadIpHeader)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::BadIpHeader);
    }
    packet.source = address_at(&header, 8);
    packet.destination = address_at(&header, 24);
    packet.protocol = header[6];
    packet.hop_limit = header[7];
    if packet.source.is_ipv4() || packet.destination.is_ipv4() {
        return Err(Reason::MappedAddress);
    }
    // 0 as in `parse_ipv4`: a jumbogram.
    let length = match word16([header[4], header[5]]) {
        0 => u32::from(u16::MAX),
        length => u32::from(length),
    };
    let mut transport = Transport {
        offset: ETHERNET + 40,
        length,
    };
    // Hidden from the compiler, which would write the loop out six times.
    let mut left = core::hint::black_box(MAX_EXTENSIONS);
    while is_extension(packet.protocol) {
        if left == 0 {
            packet.content = Content::TOO_MANY_HEADERS;
            break;
        }
        left -= 1;
        let Some(extension) = bytes.load::<8>(transport.offset) else {
            packet.content = Content::CUT_SHORT;
            break;
        };
        let size = match packet.protocol {
            extension::FRAGMENT => 8,
            extension::AUTHENTICATION => (u32::from(extension[1]) + 2) * 4,
            _ => (u32::from(extension[1]) + 1) * 8,
        };
        if size > transport.length {
            packet.content = Content::CUT_SHORT;
            break;
        }
        if packet.protocol == extension::ROUTING && extension[3] != 0 {
            packet.content = Content::SOURCE_ROUTE;
            break;
        }
        if packet.protocol == extension::FRAGMENT {
            let fragmentation = word16([extension[2], extension[3]]);
            packet.has_fragment_header = 1;
            packet.identification =
                u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]);
            if fragmentation & 0xfff8 != 0 {
                packet.part = Part::LATER;
                break;
            }
            if fragmentation & 1 != 0 {
                packet.part = Part::FIRST;
            }
        }
        packet.protocol = extension[0];
        transport.offset += size;
        transport.length -= size;
    }
    Ok(transport)
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

/// Reads the transport header. It must be there whole: what is split over fragments could be put together otherwise (RFC 1858).
#[inline(always)]
fn read_transport(
    bytes: &(impl Bytes + ?Sized),
    packet: &mut Packet,
    transport: &Transport,
    direction: Direction,
) {
    let offset = transport.offset;
    packet.content = Content::CUT_SHORT;
    let needed = match packet.protocol {
        TCP => 20,
        SCTP => 12,
        UDP | ICMP | ICMPV6 => 8,
        _ => 0,
    };
    if needed == 0 {
        packet.content = Content::DATAGRAM;
        return;
    }
    if transport.length < needed {
        return;
    }
    if packet.protocol == TCP {
        let Some(header) = bytes.load::<20>(offset) else {
            return;
        };
        if header[12] >> 4 >= 5 {
            packet.source_port = word16([header[0], header[1]]);
            packet.destination_port = word16([header[2], header[3]]);
            packet.detail = header[13];
            packet.content = Content::TCP;
        }
        return;
    }
    let Some(header) = bytes.load::<8>(offset) else {
        return;
    };
    match packet.protocol {
        ICMP => read_icmp(bytes, packet, header, offset, direction),
        ICMPV6 => read_icmpv6(bytes, packet, header, offset, direction),
        _ => {
            packet.source_port = word16([header[0], header[1]]);
            packet.destination_port = word16([header[2], header[3]]);
            packet.content = Content::DATAGRAM;
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
    packet.content = Content::MESSAGE;
    match header[0] {
        8 => {
            packet.source_port = identifier;
            packet.content = Content::DATAGRAM;
        }
        0 => {
            packet.destination_port = identifier;
            packet.content = Content::DATAGRAM;
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
    packet.content = Content::MESSAGE;
    match header[0] {
        128 => {
            packet.source_port = identifier;
            packet.content = Content::DATAGRAM;
        }
        129 => {
            packet.destination_port = identifier;
            packet.content = Content::DATAGRAM;
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
            packet.detail = header[0];
            packet.content = discovery(header[0], header[1]);
        }
        _ => {}
    }
}

#[inline(always)]
const fn discovery(kind: u8, code: u8) -> Content {
    match kind {
        133..=137 if code == 0 => Content::NEIGHBOUR,
        133..=137 => Content::CUT_SHORT,
        _ => Content::LISTENER,
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
    packet.detail = protocol;
    packet.content = Content::ERROR;
}
