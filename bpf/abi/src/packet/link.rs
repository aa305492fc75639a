// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a host tells its link: options of neighbor discovery, group membership, DHCP.

use super::{Bytes, Content, ETHERNET, Packet, Transport, port};
use crate::Direction;

/// The shortest Ethernet frame without its checksum: what is shorter is padded.
const SHORTEST: u32 = 60;

/// Whether nothing stands behind the IP packet, where no receiver of the packet but any listener on the link reads it.
#[inline(always)]
fn ends_with_packet(bytes: &(impl Bytes + ?Sized), transport: &Transport) -> bool {
    let end = transport.offset + transport.length;
    let end = if end < SHORTEST { SHORTEST } else { end };
    bytes.load::<1>(end).is_none()
}

/// Length of an option of neighbor discovery that holds an Ethernet address, or a nonce.
const OPTION: u32 = 8;

/// The hardware address whose first two bytes are the lower half of `first`, and the other four `second`.
#[inline(always)]
const fn hardware(first: u32, second: u32) -> u64 {
    (first as u64 & 0xffff) << 32 | second as u64
}

/// A length in units of `unit` bytes, the begun one included; as much as fits.
#[inline(always)]
const fn units(length: u32, unit: u32) -> u8 {
    let units = length / unit + 1;
    if units > 255 { 255 } else { units as u8 }
}

/// Reads the options of neighbor discovery (RFC 4861 section 4.6) that a message has from `at` on.
///
/// Plain is a message right behind the IPv6 header, with two options at most: link-layer addresses, which must be the
/// same, and a nonce (RFC 7527). More is a place for data that no policy has seen.
#[inline(always)]
pub(super) fn read_options(
    bytes: &(impl Bytes + ?Sized),
    packet: &mut Packet,
    transport: &Transport,
    at: u32,
) {
    if transport.offset != ETHERNET + 40 || !ends_with_packet(bytes, transport) {
        return;
    }
    let left = transport.length - at;
    if left == 0 {
        packet.is_plain = 1;
        return;
    }
    if left != OPTION && left != 2 * OPTION {
        return;
    }
    let Some([first, second]) = bytes.load_words::<2>(transport.offset + at) else {
        return;
    };
    let (kind, address) = option(first, second);
    let (mut other_kind, mut other) = (kind, address);
    if left == 2 * OPTION {
        let Some([first, second]) = bytes.load_words::<2>(transport.offset + at + OPTION) else {
            return;
        };
        (other_kind, other) = option(first, second);
    }
    if kind == UNKNOWN || other_kind == UNKNOWN {
        return;
    }
    if kind == STATES && other_kind == STATES && address != other {
        return;
    }
    packet.stated = address | other;
    packet.is_plain = 1;
}

const UNKNOWN: u8 = 0;
const STATES: u8 = 1;
const NONCE: u8 = 2;

/// What an option of eight bytes is, and the address that it states.
#[inline(always)]
const fn option(first: u32, second: u32) -> (u8, u64) {
    let first = u32::from_be(first);
    match first >> 16 {
        // source and target link-layer address
        0x0101 | 0x0201 => (STATES, hardware(first, u32::from_be(second))),
        0x0e01 => (NONCE, 0),
        _ => (UNKNOWN, 0),
    }
}

/// More than anybody may tell at once.
const TOO_HEAVY: u8 = u8::MAX;

/// The weight of a message whose own header has eight bytes. What stands between it and the IP header, beyond the eight bytes of a
/// router alert, is a place for data like the rest.
#[inline(always)]
fn weigh(packet: &Packet, transport: &Transport, unit: u32) -> u8 {
    let header = if packet.source.is_ipv4() { 20 } else { 40 };
    let between = transport.offset - (ETHERNET + header);
    let between = between.saturating_sub(8);
    units(transport.length - 8 + between, unit)
}

/// Group membership in IPv6. A record of a group has 20 bytes, and 16 more for each source: so there are no more
/// groups and sources than units of 16 bytes.
#[inline(always)]
pub(super) fn weigh_listener(
    bytes: &(impl Bytes + ?Sized),
    packet: &mut Packet,
    transport: &Transport,
) {
    packet.weight = if ends_with_packet(bytes, transport) {
        weigh(packet, transport, 16)
    } else {
        TOO_HEAVY
    };
}

/// IGMP (RFC 1112, 2236, 3376). `start` is its first word. A record of a group has 8 bytes, and 4 more for each
/// source.
#[inline(always)]
pub(super) fn read_igmp(
    bytes: &(impl Bytes + ?Sized),
    packet: &mut Packet,
    start: u32,
    transport: &Transport,
) {
    packet.detail = (start >> 24) as u8;
    packet.content = Content::MLD;
    packet.weight = if ends_with_packet(bytes, transport) {
        weigh(packet, transport, 8)
    } else {
        TOO_HEAVY
    };
}

/// A message of DHCP (RFC 2131, RFC 8415), by its ports: from the pod a client's request, to the pod an answer. The content
/// stays a datagram.
#[inline(always)]
pub(super) fn read_dhcp(
    bytes: &(impl Bytes + ?Sized),
    packet: &mut Packet,
    transport: &Transport,
    direction: Direction,
) {
    let is_ipv4 = packet.source.is_ipv4();
    let (client, server) = if is_ipv4 {
        (port::DHCP_CLIENT, port::DHCP_SERVER)
    } else {
        (port::DHCPV6_CLIENT, port::DHCPV6_SERVER)
    };
    let is_request = direction as u8 == Direction::Egress as u8;
    let (from, to) = if is_request {
        (client, server)
    } else {
        (server, client)
    };
    let is_of_dhcp = packet.source_port == from && packet.destination_port == to;
    if !is_of_dhcp || !ends_with_packet(bytes, transport) {
        return;
    }
    packet.weight = weigh(packet, transport, 16);
    let at = transport.offset + 8;
    if is_ipv4 {
        // A message has 236 bytes before its options; `chaddr` begins at 28.
        if transport.length < 8 + 236 {
            return;
        }
        let (Some([start]), Some([first, second])) =
            (bytes.load_words::<1>(at), bytes.load_words::<2>(at + 28))
        else {
            return;
        };
        // A request or a reply, Ethernet, six bytes.
        let expected = if is_request { 0x01_01_06 } else { 0x02_01_06 };
        if u32::from_be(start) >> 8 == expected {
            let (first, second) = (u32::from_be(first), u32::from_be(second));
            packet.stated = (first as u64) << 16 | (second >> 16) as u64;
            packet.is_plain = 1;
        }
    } else {
        let Some([start]) = bytes.load_words::<1>(at) else {
            return;
        };
        // Whatever a client says is for servers only; a server advertises, replies, or asks to be asked.
        let kind = u32::from_be(start) >> 24;
        packet.is_plain = u8::from(is_request || kind == 2 || kind == 7 || kind == 10);
    }
}
