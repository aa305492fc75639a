// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets that a real stack takes: hardware addresses and checksums as they must be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;

/// The two ends of a cable.
#[derive(Debug, Clone, Copy)]
pub struct Cable {
    /// The sender's hardware address.
    pub from: [u8; 6],
    /// The receiver's.
    pub to: [u8; 6],
}

impl Cable {
    /// A UDP datagram in one Ethernet frame.
    pub fn udp(self, source: (IpAddr, u16), destination: (IpAddr, u16), data: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(self.from, self.to);
        let ip = match (source.0, destination.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
            (from, to) => panic!("{from} and {to} are of two families"),
        };
        let packet = ip.udp(source.1, destination.1);
        let mut frame = Vec::with_capacity(packet.size(data.len()));
        packet.write(&mut frame, data).expect("write a packet");
        frame
    }

    /// An ICMPv6 message, with hop limit 255 as neighbor discovery has it.
    pub fn icmpv6(self, source: Ipv6Addr, destination: Ipv6Addr, kind: u8, rest: &[u8]) -> Vec<u8> {
        let (first, data) = rest.split_at(4);
        let first = [first[0], first[1], first[2], first[3]];
        let packet = PacketBuilder::ethernet2(self.from, self.to)
            .ipv6(source.octets(), destination.octets(), 255)
            .icmpv6_raw(kind, 0, first);
        let mut frame = Vec::with_capacity(packet.size(data.len()));
        packet.write(&mut frame, data).expect("write a packet");
        frame
    }

    /// A report of membership in these groups (RFC 3810), behind the router alert that it needs.
    pub fn listener_report(self, source: Ipv6Addr, groups: &[Ipv6Addr]) -> Vec<u8> {
        let mut message = vec![143, 0, 0, 0, 0, 0];
        message.extend(u16::try_from(groups.len()).expect("groups").to_be_bytes());
        for group in groups {
            // "Change to exclude nothing", without sources.
            message.extend([4, 0, 0, 0]);
            message.extend(group.octets());
        }
        let all_routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
        let length = u32::try_from(message.len()).expect("a length");
        let mut pseudo = [source.octets(), all_routers.octets()].concat();
        pseudo.extend(length.to_be_bytes());
        pseudo.extend([0, 0, 0, 58]);
        pseudo.extend(&message);
        message[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        let mut frame = [self.to, self.from].concat();
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(
            u16::try_from(message.len() + 8)
                .expect("a length")
                .to_be_bytes(),
        );
        frame.extend([0, 1]);
        frame.extend(source.octets());
        frame.extend(all_routers.octets());
        frame.extend([58, 0, 5, 2, 0, 0, 1, 0]);
        frame.extend(message);
        frame
    }

    /// A report of membership in these groups (RFC 3376), with the router alert option.
    pub fn group_report(self, source: Ipv4Addr, groups: &[Ipv4Addr]) -> Vec<u8> {
        let mut message = vec![0x22, 0, 0, 0, 0, 0];
        message.extend(u16::try_from(groups.len()).expect("groups").to_be_bytes());
        for group in groups {
            message.extend([4, 0, 0, 0]);
            message.extend(group.octets());
        }
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        self.igmp(source, Ipv4Addr::new(224, 0, 0, 22), &message)
    }

    /// An IGMP message, with time to live 1 and the router alert option.
    pub fn igmp(self, source: Ipv4Addr, destination: Ipv4Addr, message: &[u8]) -> Vec<u8> {
        let length = u16::try_from(24 + message.len()).expect("a length");
        let mut header = vec![0x46, 0xc0];
        header.extend(length.to_be_bytes());
        header.extend([0, 0, 0x40, 0, 1, 2, 0, 0]);
        header.extend(source.octets());
        header.extend(destination.octets());
        header.extend([0x94, 4, 0, 0]);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut frame = [self.to, self.from].concat();
        frame.extend([8, 0]);
        frame.extend(header);
        frame.extend(message);
        frame
    }

    /// A UDP datagram over IPv6 in three fragments; before the fragment header of the first one only are 504 bytes
    /// of destination options.
    pub fn hidden_fragments(
        self,
        source: (Ipv6Addr, u16),
        destination: (Ipv6Addr, u16),
        data: &[u8],
    ) -> Vec<Vec<u8>> {
        let whole = self.udp(
            (source.0.into(), source.1),
            (destination.0.into(), destination.1),
            data,
        );
        // After Ethernet and IPv6: the UDP header and the data, with a checksum of all of it.
        let datagram = &whole[14 + 40..];
        let pieces: Vec<&[u8]> = datagram.chunks(888).collect();
        let mut frames = Vec::new();
        for (number, piece) in pieces.iter().enumerate() {
            let offset = u16::try_from(number * 888).expect("an offset");
            let more = u16::from(number + 1 < pieces.len());
            let mut after = Vec::new();
            if number == 0 {
                after.extend(options_of_504_bytes());
            }
            after.extend([UDP, 0]);
            after.extend((offset | more).to_be_bytes());
            after.extend(0x706f_6467_u32.to_be_bytes());
            after.extend(*piece);
            let mut frame = whole[..14 + 40].to_vec();
            let length = u16::try_from(after.len()).expect("a length");
            frame[18..20].copy_from_slice(&length.to_be_bytes());
            frame[20] = if number == 0 { OPTIONS } else { FRAGMENT };
            frame.extend(after);
            frames.push(frame);
        }
        frames
    }
}

/// The Internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;

/// Two options that nobody knows and everybody skips; receivers drop longer padding.
fn options_of_504_bytes() -> Vec<u8> {
    let mut bytes = vec![FRAGMENT, 62];
    for length in [248, 250] {
        bytes.extend([0x1e, length]);
        bytes.extend(vec![0; usize::from(length)]);
    }
    assert_eq!(bytes.len(), 504);
    bytes
}
