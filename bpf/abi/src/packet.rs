// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From bytes to what a verdict needs of a packet. Every raw read is here.

use core::hint::black_box;

use crate::{Address, Direction, Reason};

mod icmp;
mod link;
mod offload;

pub use offload::Offload;

use icmp::{read_icmp, read_icmpv6};
use link::{read_dhcp, read_igmp};

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
pub(crate) const IGMP: u8 = 2;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

/// IPv6 extension headers that are followed: RFC 8200 section 4, RFC 4302.
///
/// Mobility (135), HIP (139) and Shim6 (140) look like extension headers (RFC 7045), but Linux does not follow them
/// (`ipv6_ext_hdr`): it gives them to sockets of these protocols. They are protocols of their own here too.
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION_OPTIONS: u8 = 60;
}

/// How many extension headers are followed.
const MAX_EXTENSIONS: u64 = 6;

/// Length of the Ethernet header, after which the network header stands.
const ETHERNET: u32 = 14;

/// The bytes of a packet, from its Ethernet header on.
pub trait Bytes {
    /// `N` bytes from `offset` on; none if the packet ends before.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// `N` words of four bytes from `offset` on, as they lie in memory; none if the packet ends before.
    fn load_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
    /// What the kernel is still to do to them.
    #[inline(always)]
    fn offload(&self) -> Offload {
        Offload::NONE
    }
}

impl Bytes for [u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.get(offset as usize..)?.first_chunk::<N>().copied()
    }

    fn load_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let (words, _) = self.get(offset as usize..)?.as_chunks::<4>();
        words
            .first_chunk::<N>()
            .map(|words| words.map(u32::from_ne_bytes))
    }
}

/// What a packet says of itself.
///
/// Numbers and no enums: in the kernel it is kept in a table, and the verifier takes anything for possible that
/// comes out of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Packet {
    /// Where it says that it comes from.
    pub source: Address,
    /// Where it goes.
    pub destination: Address,
    /// For an ICMP error the peer of the packet inside; for a neighbor solicitation or advertisement its target; else
    /// `::`.
    pub about: Address,
    /// For an ICMP error the pod's end of the packet inside; else `::`.
    pub near: Address,
    /// The IPv6 extension headers that must not come any more, as bits of their numbers.
    pub barred: u64,
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
    /// 1 if it has an IPv6 fragment header, even one that says that the datagram is whole, or may have one: its headers
    /// were not read to their end.
    pub has_fragment_header: u8,
    /// Where in the frame the transport header stands.
    pub transport: u16,
    /// 1 if a message for the link is what it must be: neighbor discovery with nothing behind it but options that are
    /// known, a DHCP client's request, a DHCP server's answer.
    pub is_plain: u8,
    /// Length of a message for the link, in units: see there.
    pub weight: u8,
    /// The hardware address that a message for the link names as the sender's, as a number; 0 for none.
    pub stated: u64,
}

/// Which part of a datagram a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    /// A protocol with or without ports whose packets make a flow: UDP, SCTP, ICMP echo, and all the rest. Of SCTP the
    /// detail is the type of the first chunk.
    pub const DATAGRAM: Self = Self(5);
    /// Neighbor discovery; the detail is the ICMPv6 type. The code is 0 (RFC 4861: else it is to be dropped).
    pub const NEIGHBOR: Self = Self(6);
    /// Group membership: multicast listener discovery, where the detail is the ICMPv6 type, or IGMP, where it is the
    /// IGMP type. The numbers do not overlap.
    pub const MLD: Self = Self(7);
    /// An ICMP error about a packet whose protocol is the detail, whose far end is [`Packet::about`] and whose
    /// ports are the packet's ports.
    pub const ERROR: Self = Self(8);
    /// Any other ICMP message.
    pub const MESSAGE: Self = Self(9);
    /// An ICMP redirect (RFC 792) or router advertisement (RFC 1256): who believes it sends elsewhere.
    pub const REDIRECT: Self = Self(10);
    /// Extension headers that receivers read in different ways: [`Order`].
    pub const AMBIGUOUS: Self = Self(11);

    /// Why nothing can be said of what is above IP, if so.
    #[inline(always)]
    pub const fn defect(self) -> Option<Reason> {
        match self {
            Self::CUT_SHORT => Some(Reason::BadTransportHeader),
            Self::TOO_MANY_HEADERS => Some(Reason::TooManyHeaders),
            Self::SOURCE_ROUTE => Some(Reason::SourceRoute),
            Self::AMBIGUOUS => Some(Reason::AmbiguousHeaders),
            _ => None,
        }
    }
}

/// UDP ports.
pub(crate) mod port {
    pub(crate) const DHCP_CLIENT: u16 = 68;
    pub(crate) const DHCP_SERVER: u16 = 67;
    pub(crate) const DHCPV6_CLIENT: u16 = 546;
    pub(crate) const DHCPV6_SERVER: u16 = 547;
}

/// Types of SCTP chunks (RFC 9260, section 3.2).
pub(crate) mod chunk {
    pub(crate) const INIT: u8 = 1;
}

/// TCP flags.
pub(crate) mod tcp {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;
}

/// The upper half of a word that is in host order.
#[inline(always)]
const fn upper(word: u32) -> u16 {
    (word >> 16) as u16
}

/// Where the transport header stands, and how many bytes the IP header says are left for it and what follows.
struct Transport {
    offset: u32,
    length: u32,
}

/// Reads a packet whose frame carries `ethertype`, which is [`ethertype::IPV4`] or [`ethertype::IPV6`].
///
/// `direction` tells which end of the packet inside an ICMP error is the peer. What is wrong with the IP header
/// itself, so that not even the addresses are known, comes back; else [`Reason::Allowed`].
#[inline(always)]
pub fn parse(
    bytes: &(impl Bytes + ?Sized),
    ethertype: u16,
    direction: Direction,
    packet: &mut Packet,
) -> Reason {
    packet.about = Address::UNSPECIFIED;
    packet.near = Address::UNSPECIFIED;
    packet.identification = 0;
    packet.barred = 0;
    packet.source_port = 0;
    packet.destination_port = 0;
    packet.part = Part::WHOLE;
    packet.content = Content::HIDDEN;
    packet.detail = 0;
    packet.has_fragment_header = 0;
    packet.is_plain = 0;
    packet.weight = 0;
    packet.stated = 0;
    let mut transport = Transport {
        offset: 0,
        length: 0,
    };
    let reason = if ethertype == ethertype::IPV4 {
        parse_ipv4(bytes, packet, &mut transport)
    } else {
        parse_ipv6(bytes, packet, &mut transport)
    };
    packet.transport = transport.offset as u16;
    if reason.passes() && packet.content == Content::HIDDEN && packet.part != Part::LATER {
        read_transport(bytes, packet, &transport, direction);
    }
    reason
}

#[inline(always)]
fn parse_ipv4(
    bytes: &(impl Bytes + ?Sized),
    packet: &mut Packet,
    transport: &mut Transport,
) -> Reason {
    let Some([start, fragmentation, rest, source, destination]) = bytes.load_words::<5>(ETHERNET)
    else {
        return Reason::BadIpHeader;
    };
    let start = u32::from_be(start);
    let header_length = (start >> 24 & 0xf) * 4;
    let length = announced(start & 0xffff);
    if start >> 28 != 4 || header_length < 20 || length < header_length {
        return Reason::BadIpHeader;
    }
    let fragmentation = u32::from_be(fragmentation);
    if fragmentation & 0x1fff != 0 {
        packet.part = Part::LATER;
    } else if fragmentation & 0x2000 != 0 {
        packet.part = Part::FIRST;
    }
    packet.source = Address::from_ipv4_word(source);
    packet.destination = Address::from_ipv4_word(destination);
    packet.identification = fragmentation >> 16;
    packet.protocol = (u32::from_be(rest) >> 16) as u8;
    packet.hop_limit = (u32::from_be(rest) >> 24) as u8;
    if header_length > 20 && has_source_route(bytes, ETHERNET + header_length) {
        packet.content = Content::SOURCE_ROUTE;
    }
    *transport = Transport {
        offset: ETHERNET + header_length,
        length: length - header_length,
    };
    Reason::Allowed
}

/// What a length field of 16 bits announces. 0 is a TCP segment beyond 64 KiB that is still to be cut (Linux
/// 6.3, "BIG TCP"); from the wire, the stack refuses it.
#[inline(always)]
const fn announced(length: u32) -> u32 {
    if length == 0 { 0xffff } else { length }
}

/// How many IPv4 options are looked at, padding included.
const MAX_OPTIONS: u64 = 12;

/// Whether the IPv4 options, which end at `end`, hold a source route (RFC 791: types 131 and 137), or cannot be
/// read to their end.
#[inline(always)]
fn has_source_route(bytes: &(impl Bytes + ?Sized), end: u32) -> bool {
    let mut at = ETHERNET + 20;
    // Before 5.16 the verifier loses what it knew of `at`, so something else must count.
    let mut left = black_box(MAX_OPTIONS);
    while at < end {
        if left == 0 {
            return true;
        }
        left -= 1;
        let Some([kind, length]) = bytes.load::<2>(at) else {
            return true;
        };
        if kind == 0 {
            return false;
        }
        let size = if kind == 1 { 1 } else { u32::from(length) };
        if kind == 131 || kind == 137 || size == 0 {
            return true;
        }
        at += size;
    }
    false
}

#[inline(always)]
fn parse_ipv6(
    bytes: &(impl Bytes + ?Sized),
    packet: &mut Packet,
    transport: &mut Transport,
) -> Reason {
    let Some([start, rest, a, b, c, d, e, f, g, h]) = bytes.load_words::<10>(ETHERNET) else {
        return Reason::BadIpHeader;
    };
    if u32::from_be(start) >> 28 != 6 {
        return Reason::BadIpHeader;
    }
    let rest = u32::from_be(rest);
    packet.source = Address::from_words([a, b, c, d]);
    packet.destination = Address::from_words([e, f, g, h]);
    packet.hop_limit = rest as u8;
    if packet.source.is_ipv4() || packet.destination.is_ipv4() {
        return Reason::MappedAddress;
    }
    let mut next = (rest >> 8) as u8;
    *transport = Transport {
        offset: ETHERNET + 40,
        length: announced(rest >> 16),
    };
    packet.barred = Order::START.0;
    // Hidden from the compiler, which would write the loop out six times.
    let mut left = black_box(MAX_EXTENSIONS);
    while is_extension(next) {
        // Kept with the packet, where the kernel's verifier forgets it: else each order is a state of its own.
        let packet = black_box(&mut *packet);
        let order = Order(packet.barred);
        if order.is_ambiguous(next) {
            packet.content = Content::AMBIGUOUS;
            break;
        }
        if left == 0 {
            packet.content = Content::TOO_MANY_HEADERS;
            break;
        }
        left -= 1;
        let Some([extension, identification]) = bytes.load_words::<2>(transport.offset) else {
            packet.content = Content::CUT_SHORT;
            break;
        };
        let extension = u32::from_be(extension);
        let size = size_of_extension(next, extension);
        if size > transport.length {
            packet.content = Content::CUT_SHORT;
            break;
        }
        // Segments left: the address in the header is not the last one.
        if next == extension::ROUTING && extension & 0xff != 0 {
            packet.content = Content::SOURCE_ROUTE;
            break;
        }
        if next == extension::FRAGMENT {
            packet.has_fragment_header = 1;
            packet.identification = u32::from_be(identification);
            if extension & 0xfff8 != 0 {
                packet.part = Part::LATER;
                break;
            }
            if extension & 1 != 0 {
                packet.part = Part::FIRST;
            }
        }
        packet.barred = order.after(next).0;
        next = (extension >> 24) as u8;
        transport.offset += size;
        transport.length -= size;
    }
    // What was not read to its end may have a fragment header where nobody looked.
    packet.has_fragment_header |= u8::from(packet.content != Content::HIDDEN);
    packet.protocol = next;
    Reason::Allowed
}

/// The extension headers that must not come any more, as bits of their numbers.
///
/// A chain that receivers read in different ways has no ports that hold for all of them. Linux itself reads some in two
/// ways, depending on whether connection tracking is on:
/// - A fragment header behind anything but one leading hop-by-hop header. `nf_ct_frag6_reasm` removes it and leaves
///   `IP6CB(skb)->nhoff` at the first header of the chain, so `ip6_protocol_deliver_rcu` takes what followed the fragment
///   header for a header of the first one's kind; without tracking, `ipv6_frag_rcv` takes it for what it says.
/// - Hop-by-hop options, a routing header or destination options behind a fragment header. A router with tracking
///   reassembles the datagram and fragments it again, and `ip6_find_1stfragopt` puts the new fragment header behind them.
/// - Hop-by-hop options that are not first. RFC 8200 section 4 and `inet6_protos` refuse them, `ipv6_skip_exthdr`, by which
///   tracking finds the ports, passes over them.
#[derive(Debug, Clone, Copy)]
struct Order(u64);

impl Order {
    const START: Self = Self(0);

    #[inline(always)]
    const fn is_ambiguous(self, header: u8) -> bool {
        self.0 >> (header & 63) & 1 != 0
    }

    /// What must not come behind `header` either. Without branches: the verifier follows each of them.
    #[inline(always)]
    const fn after(self, header: u8) -> Self {
        let is_hop_by_hop = (header == extension::HOP_BY_HOP) as u64;
        let is_fragment = (header == extension::FRAGMENT) as u64;
        Self(
            self.0
                | 1 << extension::HOP_BY_HOP
                | (1 - is_hop_by_hop) << extension::FRAGMENT
                | is_fragment << extension::ROUTING
                | is_fragment << extension::DESTINATION_OPTIONS,
        )
    }
}

/// Bytes of an extension header of this kind whose first word this is (RFC 8200 section 4, RFC 4302 section 2.2).
#[inline(always)]
const fn size_of_extension(kind: u8, word: u32) -> u32 {
    let units = word >> 16 & 0xff;
    match kind {
        extension::FRAGMENT => 8,
        extension::AUTHENTICATION => (units + 2) * 4,
        _ => (units + 1) * 8,
    }
}

/// As a set of bits: the kernel's verifier follows every branch of a comparison to the end.
#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    const EXTENSIONS: u64 = 1 << extension::HOP_BY_HOP
        | 1 << extension::ROUTING
        | 1 << extension::FRAGMENT
        | 1 << extension::AUTHENTICATION
        | 1 << extension::DESTINATION_OPTIONS;
    protocol < 64 && EXTENSIONS >> (protocol & 63) & 1 != 0
}

/// Reads the transport header. It must be there whole: what is split over fragments could be put together
/// otherwise (RFC 1858).
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
        // With the header of a chunk: Linux drops shorter ones (`sctp_rcv`), and a first fragment that ends before it could
        // hide an INIT.
        SCTP => 16,
        UDP | ICMP | ICMPV6 | IGMP => 8,
        _ => 0,
    };
    if transport.length < needed {
        return;
    }
    if needed == 0 {
        packet.content = Content::DATAGRAM;
        return;
    }
    if needed == 20 {
        let Some([ports, _, _, flags, _]) = bytes.load_words::<5>(offset) else {
            return;
        };
        let flags = u32::from_be(flags);
        if flags >> 28 >= 5 {
            let ports = u32::from_be(ports);
            packet.source_port = upper(ports);
            packet.destination_port = ports as u16;
            packet.detail = (flags >> 16) as u8;
            packet.content = Content::TCP;
        }
        return;
    }
    let Some([start, rest]) = bytes.load_words::<2>(offset) else {
        return;
    };
    let start = u32::from_be(start);
    let is_ipv4 = packet.source.is_ipv4();
    match packet.protocol {
        ICMP if is_ipv4 => read_icmp(bytes, packet, start, u32::from_be(rest), offset, direction),
        ICMPV6 if !is_ipv4 => read_icmpv6(
            bytes,
            packet,
            start,
            u32::from_be(rest),
            transport,
            direction,
        ),
        IGMP if is_ipv4 => read_igmp(bytes, packet, start, transport),
        // The other family's messages are nobody's, and say nothing here.
        ICMP | ICMPV6 | IGMP => packet.content = Content::DATAGRAM,
        _ => {
            if packet.protocol == SCTP {
                let Some([chunk]) = bytes.load_words::<1>(offset + 12) else {
                    return;
                };
                packet.detail = (u32::from_be(chunk) >> 24) as u8;
            }
            packet.source_port = upper(start);
            packet.destination_port = start as u16;
            packet.content = Content::DATAGRAM;
            if packet.protocol == UDP {
                read_dhcp(bytes, packet, transport, direction);
            }
        }
    }
}
