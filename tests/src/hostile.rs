// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets as an attacker makes them up: by chance, of pieces that read as more than one header; and what receivers take
//! them for, by a reading of their own: [`Receiver`].
//!
//! `PODGATE_SEED` repeats a run, `PODGATE_PACKETS` says how many packets a test sends, and with `PODGATE_LONG` it is ten
//! times as many.

mod chance;
mod queue;
mod readers;
mod receiver;
mod router;

use std::net::IpAddr;

pub use chance::{Chance, packets};
pub use readers::Readers;
pub use receiver::{Delivered, Receiver};
pub use router::Router;

use crate::frame::{self, IPV4, IPV6};

/// The port that a policy allows, of UDP and nothing else.
pub const ALLOWED: u16 = 53;

/// Another port, in the same lowest byte's place.
const DENIED: u8 = 80;

/// What comes next, as headers say: hop-by-hop options, routing, fragment, authentication, nothing, destination options,
/// mobility, and the transport protocols, those that there is more to learn from more often.
const NEXT: [u8; 18] = [
    0, 43, 44, 44, 44, 51, 59, 60, 60, 60, 135, 17, 17, 17, 17, 17, 6, 132,
];

fn port(chance: &mut Chance) -> u8 {
    chance.one_of(&[ALLOWED as u8, ALLOWED as u8, ALLOWED as u8, DENIED])
}

/// A piece that is a header of some kind, and often of another kind too.
fn piece(chance: &mut Chance) -> Vec<u8> {
    let next = chance.one_of(&NEXT);
    let port = port(chance);
    match chance.below(10) {
        0 | 1 => vec![next, 0, 1, 4, 0, 0, 0, 0],
        2 => [[next, 1, 1, 12].as_slice(), &[0; 12]].concat(),
        // A routing header that leads nowhere else, padding, or ports.
        3 => vec![next, 0, 0, 0, 0, 0, 0, 0],
        // Options, a routing header, or ports: which ones is in the second half.
        4 | 5 => vec![next, 0, 0, port, 0, 1, 0, 0],
        6 | 7 => vec![15, 160, 0, port, 0, 16, 0, 0],
        8 => fragment_header(chance, next),
        _ => {
            let mut segment = frame::tcp(4000, port.into(), frame::flag::SYN).bytes;
            segment.extend([0; 4]);
            segment
        }
    }
}

fn fragment_header(chance: &mut Chance, next: u8) -> Vec<u8> {
    let place = chance.one_of(&[0_u16, 0, 1, 1, 8, 9, 16, 17, 24, 2]);
    let mut bytes = vec![next, 0];
    bytes.extend(place.to_be_bytes());
    bytes.extend([0, 0, 0, chance.one_of(&[1, 2, 3])]);
    bytes
}

fn pieces(chance: &mut Chance) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..1 + chance.below(6) {
        bytes.extend(piece(chance));
    }
    if chance.once_in(8) {
        let length = chance.below(bytes.len());
        bytes.truncate(length);
    }
    bytes
}

/// Frames that are sent one after the other, from `source` to `destination`: one packet, or the parts of one.
pub fn frames(chance: &mut Chance, source: IpAddr, destination: IpAddr) -> Vec<Vec<u8>> {
    let mut frames = match (source, destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let addresses = [source.octets(), destination.octets()].concat();
            ipv6(chance, &addresses)
        }
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let addresses = [source.octets(), destination.octets()].concat();
            ipv4(chance, &addresses)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            panic!("addresses of one family")
        }
    };
    if chance.once_in(6) {
        let twice = chance.below(frames.len());
        frames.push(frames[twice].clone());
    }
    if chance.once_in(6) {
        frames.reverse();
    }
    frames
}

/// Cuts a datagram at multiples of eight bytes: offset and bytes of each part.
fn cut(chance: &mut Chance, datagram: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < datagram.len() {
        let length = 8 * (1 + chance.below(5));
        let end = (at + length).min(datagram.len());
        let offset = u16::try_from(at / 8).expect("a short datagram");
        parts.push((offset, datagram[at..end].to_vec()));
        // Now and then a hole, or a part that says what another one said.
        at = match chance.below(24) {
            0 => end + 8,
            1 if end >= 8 => end - 8,
            _ => end,
        };
    }
    parts
}

fn ipv6(chance: &mut Chance, addresses: &[u8]) -> Vec<Vec<u8>> {
    let next = chance.one_of(&NEXT);
    let datagram = pieces(chance);
    let bodies = if chance.once_in(2) || datagram.is_empty() {
        vec![(next, datagram)]
    } else {
        let before = match chance.below(4) {
            0 => vec![0],
            1 => vec![chance.one_of(&[60, 43, 51])],
            2 => vec![0, 60],
            _ => vec![],
        };
        let identification = chance.next_number() as u32;
        let parts = cut(chance, &datagram);
        let count = parts.len();
        (1..)
            .zip(parts)
            .map(|(number, (offset, bytes))| {
                let mut body = Vec::new();
                for (place, kind) in before.iter().enumerate() {
                    let next = before.get(place + 1).copied().unwrap_or(44);
                    let length = u8::from(*kind == 51);
                    body.extend([next, length, 0, 0, 0, 0, 0, 0]);
                    body.extend(vec![0; 4 * usize::from(length)]);
                }
                body.extend([next, 0]);
                body.extend((offset << 3 | u16::from(number < count)).to_be_bytes());
                body.extend(identification.to_be_bytes());
                body.extend(bytes);
                (before.first().copied().unwrap_or(44), body)
            })
            .collect()
    };
    bodies
        .into_iter()
        .map(|(next, body)| {
            let said = said_length(chance, body.len());
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(said.to_be_bytes());
            packet.extend([next, 64]);
            packet.extend(addresses);
            packet.extend(body);
            frame::ethernet(IPV6, &packet)
        })
        .collect()
}

/// What a length field says: now and then something else.
fn said_length(chance: &mut Chance, length: usize) -> u16 {
    let length = u16::try_from(length).expect("a short packet");
    match chance.below(40) {
        0 => length.saturating_sub(8),
        1 => length + 8,
        2 => 0,
        _ => length,
    }
}

fn ipv4(chance: &mut Chance, addresses: &[u8]) -> Vec<Vec<u8>> {
    let protocol = chance.one_of(&[17, 17, 17, 6, 132, 51, 135]);
    let options = match chance.below(8) {
        0 => vec![1, 1, 1, 1],
        1 => vec![7, 4, 4, 0],
        2 => vec![131, 4, 4, 0],
        3 => vec![68, 8, 5, 0, 0, 0, 0, 0],
        4 => vec![17, 0, 0, ALLOWED as u8],
        _ => vec![],
    };
    let datagram = pieces(chance);
    let identification = chance.next_number() as u16;
    let parts = if chance.once_in(2) || datagram.is_empty() {
        let place = chance.one_of(&[0, 0, 0, 0, 0, 0x4000, 0x8000, 0x2000, 1]);
        vec![(place, datagram)]
    } else {
        let parts = cut(chance, &datagram);
        let count = parts.len();
        let place = |number, offset| {
            if number < count {
                offset | 0x2000
            } else {
                offset
            }
        };
        (1..)
            .zip(parts)
            .map(|(number, (offset, bytes))| (place(number, offset), bytes))
            .collect()
    };
    parts
        .into_iter()
        .map(|(place, body)| {
            let header = 20 + options.len();
            let mut packet = vec![0x40 | u8::try_from(header / 4).expect("a header"), 0];
            packet.extend(said_length(chance, header + body.len()).to_be_bytes());
            packet.extend(identification.to_be_bytes());
            packet.extend(place.to_be_bytes());
            packet.extend([64, protocol, 0, 0]);
            packet.extend(addresses);
            packet.extend(&options);
            let sum = frame::internet_sum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet.extend(body);
            frame::ethernet(IPV4, &packet)
        })
        .collect()
}
