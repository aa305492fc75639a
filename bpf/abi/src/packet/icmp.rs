// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ICMP of both families: echoes, errors about other packets, what neighbors say to each other.

use core::hint::black_box;

use super::link::{read_options, weigh_listener};
use super::{
    Bytes, Content, ICMP, ICMPV6, MAX_EXTENSIONS, Packet, SCTP, TCP, Transport, UDP, extension,
    is_extension, size_of_extension, upper,
};
use crate::{Address, Direction};

/// RFC 792, RFC 1812. `start` and `rest` are its first two words.
#[inline(always)]
pub(super) fn read_icmp(
    bytes: &(impl Bytes + ?Sized),
    packet: &mut Packet,
    start: u32,
    rest: u32,
    offset: u32,
    direction: Direction,
) {
    packet.content = Content::MESSAGE;
    match start >> 24 {
        8 => {
            packet.source_port = upper(rest);
            packet.content = Content::DATAGRAM;
        }
        0 => {
            packet.destination_port = upper(rest);
            packet.content = Content::DATAGRAM;
        }
        5 | 9 => packet.content = Content::REDIRECT,
        // unreachable, time exceeded, parameter problem; not source quench
        3 | 11 | 12 => {
            let Some([start, fragmentation, rest, source, destination]) =
                bytes.load_words::<5>(offset + 8)
            else {
                return;
            };
            let start = u32::from_be(start);
            let header_length = (start >> 24 & 0xf) * 4;
            if start >> 28 != 4 || header_length < 20 || u32::from_be(fragmentation) & 0x1fff != 0 {
                return;
            }
            let (near, far) = match direction {
                Direction::Ingress => (source, destination),
                Direction::Egress => (destination, source),
            };
            packet.near = Address::from_ipv4_word(near);
            packet.about = Address::from_ipv4_word(far);
            let transport = offset + 8 + header_length;
            read_inside(bytes, packet, (u32::from_be(rest) >> 16) as u8, transport);
        }
        _ => {}
    }
}

/// RFC 4443, RFC 4861, RFC 2710, RFC 3810. `start` and `rest` are its first two words.
#[expect(clippy::too_many_lines, reason = "one arm for each type of message")]
#[inline(always)]
pub(super) fn read_icmpv6(
    bytes: &(impl Bytes + ?Sized),
    packet: &mut Packet,
    start: u32,
    rest: u32,
    place: &Transport,
    direction: Direction,
) {
    let offset = place.offset;
    packet.content = Content::MESSAGE;
    let kind = start >> 24;
    match kind {
        128 => {
            packet.source_port = upper(rest);
            packet.content = Content::DATAGRAM;
        }
        129 => {
            packet.destination_port = upper(rest);
            packet.content = Content::DATAGRAM;
        }
        1..=4 => {
            let Some([start, rest, a, b, c, d, e, f, g, h]) = bytes.load_words::<10>(offset + 8)
            else {
                return;
            };
            if u32::from_be(start) >> 28 != 6 {
                return;
            }
            let (near, far) = match direction {
                Direction::Ingress => ([a, b, c, d], [e, f, g, h]),
                Direction::Egress => ([e, f, g, h], [a, b, c, d]),
            };
            packet.near = Address::from_words(near);
            packet.about = Address::from_words(far);
            let mut next = (u32::from_be(rest) >> 8) as u8;
            let mut transport = offset + 48;
            // Hidden from the compiler, which would write the loop out.
            let mut left = black_box(MAX_EXTENSIONS);
            while is_extension(next) {
                if left == 0 {
                    return;
                }
                left -= 1;
                let Some([extension]) = bytes.load_words::<1>(transport) else {
                    return;
                };
                let extension = u32::from_be(extension);
                // Of a fragmented datagram, the first fragment says whose it is. "Packet too big" may be about it.
                if next == extension::FRAGMENT && extension & 0xfff8 != 0 {
                    return;
                }
                transport += size_of_extension(next, extension);
                next = (extension >> 24) as u8;
            }
            read_inside(bytes, packet, next, transport);
        }
        130..=132 | 143 => {
            packet.detail = kind as u8;
            packet.content = Content::MLD;
            weigh_listener(bytes, packet, place);
        }
        // Multicast router discovery (RFC 4286): who advertises gets all groups of a snooping bridge.
        151..=153 => {
            packet.detail = kind as u8;
            packet.content = Content::MLD;
        }
        133..=137 => {
            let has_target = kind == 135 || kind == 136;
            let target = if has_target {
                bytes.load_words::<4>(offset + 8)
            } else {
                Some([0; 4])
            };
            let Some(target) = target else {
                packet.content = Content::CUT_SHORT;
                return;
            };
            packet.about = Address::from_words(target);
            packet.detail = kind as u8;
            let fixed = if has_target { 24 } else { 8 };
            if place.length < fixed {
                packet.content = Content::CUT_SHORT;
                return;
            }
            read_options(bytes, packet, place, fixed);
            packet.content = if start >> 16 & 0xff == 0 {
                Content::NEIGHBOR
            } else {
                Content::CUT_SHORT
            };
        }
        _ => {}
    }
}

/// Reads the ports of the packet inside an ICMP error, which went the other way: so its source port is the
/// destination port here.
#[inline(always)]
fn read_inside(bytes: &(impl Bytes + ?Sized), packet: &mut Packet, protocol: u8, offset: u32) {
    let Some([start, rest]) = bytes.load_words::<2>(offset) else {
        return;
    };
    let start = u32::from_be(start);
    let identifier = upper(u32::from_be(rest));
    let kind = start >> 24;
    if protocol == TCP || protocol == UDP || protocol == SCTP {
        packet.source_port = start as u16;
        packet.destination_port = upper(start);
    } else if (protocol == ICMP && kind == 8) || (protocol == ICMPV6 && kind == 128) {
        packet.destination_port = identifier;
    } else if (protocol == ICMP && kind == 0) || (protocol == ICMPV6 && kind == 129) {
        packet.source_port = identifier;
    } else if protocol == ICMP || protocol == ICMPV6 {
        return;
    }
    packet.detail = protocol;
    packet.content = Content::ERROR;
}
