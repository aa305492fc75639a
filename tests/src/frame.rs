// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Hand-made Ethernet frames, the impossible ones too.
//!
//! Everything is written out byte by byte: the odd frames are the point, and no library makes those. Checksums are
//! zero, because the programs do not look at them; [`Packet::frame_on`] fills them in. A test below reads the ordinary frames with etherparse.

mod sums;

use std::net::IpAddr;

pub use sums::internet_sum;

/// IPv4.
pub const IPV4: u16 = 0x0800;
/// ARP.
pub const ARP: u16 = 0x0806;
/// A VLAN tag of IEEE 802.1Q.
pub const VLAN: u16 = 0x8100;
/// IPv6.
pub const IPV6: u16 = 0x86dd;
/// A service tag of IEEE 802.1ad.
pub const SERVICE_VLAN: u16 = 0x88a8;

/// ICMP for IPv4.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;

/// IPv6 hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// IPv6 routing header.
pub const ROUTING: u8 = 43;
/// IPv6 fragment header.
pub const FRAGMENT: u8 = 44;
/// Authentication header.
pub const AUTHENTICATION: u8 = 51;
/// IPv6 destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

/// TCP flags.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Resets the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// Acknowledges.
    pub const ACK: u8 = 0x10;
}

/// What an IP packet carries: a protocol and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The IP protocol.
    pub protocol: u8,
    /// From the transport header on.
    pub bytes: Vec<u8>,
}

/// A TCP segment without data.
pub fn tcp(source_port: u16, destination_port: u16, flags: u8) -> Payload {
    let mut bytes = ports(source_port, destination_port);
    bytes.extend([
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        5 << 4,
        flags,
        0xff,
        0xff,
        0,
        0,
        0,
        0,
    ]);
    Payload {
        protocol: TCP,
        bytes,
    }
}

/// A UDP datagram with four bytes of data.
pub fn udp(source_port: u16, destination_port: u16) -> Payload {
    let mut bytes = ports(source_port, destination_port);
    bytes.extend([0, 12, 0, 0]);
    bytes.extend(*b"data");
    Payload {
        protocol: UDP,
        bytes,
    }
}

/// An SCTP packet with an INIT chunk's first bytes.
pub fn sctp(source_port: u16, destination_port: u16) -> Payload {
    sctp_chunk(source_port, destination_port, 1)
}

/// An SCTP packet with the first bytes of an INIT ACK.
pub fn sctp_ack(source_port: u16, destination_port: u16) -> Payload {
    sctp_chunk(source_port, destination_port, 2)
}

/// An SCTP packet with the first bytes of a DATA chunk.
pub fn sctp_data(source_port: u16, destination_port: u16) -> Payload {
    sctp_chunk(source_port, destination_port, 0)
}

fn sctp_chunk(source_port: u16, destination_port: u16, kind: u8) -> Payload {
    let mut bytes = ports(source_port, destination_port);
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, kind, 0, 0, 4]);
    Payload {
        protocol: SCTP,
        bytes,
    }
}

/// An ICMP echo request of the family of `address`.
pub fn echo_request(address: IpAddr, identifier: u16) -> Payload {
    echo(address, if address.is_ipv4() { 8 } else { 128 }, identifier)
}

/// An ICMP echo reply of the family of `address`.
pub fn echo_reply(address: IpAddr, identifier: u16) -> Payload {
    echo(address, if address.is_ipv4() { 0 } else { 129 }, identifier)
}

fn echo(address: IpAddr, kind: u8, identifier: u16) -> Payload {
    let mut rest = identifier.to_be_bytes().to_vec();
    rest.extend([0, 1]);
    icmp(address, kind, 0, &rest)
}

/// An ICMP "unreachable" of the family of `address`, about the IP packet in `frame`.
pub fn unreachable(address: IpAddr, frame: &[u8]) -> Payload {
    let mut rest = vec![0; 4];
    rest.extend(&frame[14..]);
    icmp(address, if address.is_ipv4() { 3 } else { 1 }, 1, &rest)
}

/// Any ICMP message of the family of `address`: `rest` follows the checksum.
pub fn icmp(address: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Payload {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(rest);
    Payload {
        protocol: if address.is_ipv4() { ICMP } else { ICMPV6 },
        bytes,
    }
}

/// Sixteen bytes of any protocol.
pub fn other(protocol: u8) -> Payload {
    Payload {
        protocol,
        bytes: vec![0; 16],
    }
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

/// Where in its datagram a fragment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// What all fragments of the datagram share.
    pub identification: u32,
    /// In units of eight bytes.
    pub offset: u16,
    /// Whether others come after it.
    pub more: bool,
}

/// An IP packet to be.
#[derive(Debug, Clone)]
pub struct Packet {
    source: IpAddr,
    destination: IpAddr,
    hop_limit: u8,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    fragment: Option<Fragment>,
    payload: Payload,
}

/// A packet from `source` to `destination`, which are of one family.
pub fn packet(source: IpAddr, destination: IpAddr, payload: Payload) -> Packet {
    assert_eq!(
        source.is_ipv4(),
        destination.is_ipv4(),
        "addresses of one family"
    );
    Packet {
        source,
        destination,
        hop_limit: 64,
        options: Vec::new(),
        extensions: Vec::new(),
        fragment: None,
        payload,
    }
}

impl Packet {
    /// Sets the time to live, or hop limit.
    pub fn hop_limit(self, hop_limit: u8) -> Self {
        Self { hop_limit, ..self }
    }

    /// Adds IPv4 options; padded with zeroes to a multiple of four bytes.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options.extend(options);
        self.options
            .resize(self.options.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an IPv6 extension header. `body` is all of it but its first byte, the protocol of the next one.
    pub fn extension(mut self, kind: u8, body: &[u8]) -> Self {
        self.extensions.push((kind, body.to_vec()));
        self
    }

    /// Adds IPv6 options of the `kind` hop-by-hop or destination, eight bytes that say nothing, `times` times.
    pub fn padding_options(self, kind: u8, times: usize) -> Self {
        (0..times).fold(self, |packet, _| {
            packet.extension(kind, &[0, 1, 4, 0, 0, 0, 0])
        })
    }

    /// Makes it a fragment: in IPv4 by the fields of the header, in IPv6 by a header here among the others.
    pub fn fragment(mut self, fragment: Fragment) -> Self {
        if self.source.is_ipv4() {
            self.fragment = Some(fragment);
            return self;
        }
        let place = fragment.offset << 3 | u16::from(fragment.more);
        let mut body = vec![0];
        body.extend(place.to_be_bytes());
        body.extend(fragment.identification.to_be_bytes());
        self.extension(FRAGMENT, &body)
    }

    /// The frame, as it is met at the host end.
    pub fn frame(&self) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = 20 + self.options.len();
                let words = u8::try_from(header / 4).expect("options that fit into a header");
                let length = u16::try_from(header + self.payload.bytes.len()).expect("a length");
                let (identification, place) = match self.fragment {
                    None => (0, 0),
                    Some(fragment) => (
                        fragment.identification as u16,
                        fragment.offset | if fragment.more { 0x2000 } else { 0 },
                    ),
                };
                let mut bytes = vec![0x40 | words, 0];
                bytes.extend(length.to_be_bytes());
                bytes.extend(identification.to_be_bytes());
                bytes.extend(place.to_be_bytes());
                bytes.extend([self.hop_limit, self.payload.protocol, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(&self.options);
                bytes.extend(&self.payload.bytes);
                ethernet(IPV4, &bytes)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut kinds: Vec<u8> = self.extensions.iter().map(|(kind, _)| *kind).collect();
                kinds.push(self.payload.protocol);
                let mut after = Vec::new();
                for ((_, body), next) in self.extensions.iter().zip(&kinds[1..]) {
                    after.push(*next);
                    after.extend(body);
                }
                after.extend(&self.payload.bytes);
                let length = u16::try_from(after.len()).expect("a length");
                let mut bytes = vec![0x60, 0, 0, 0];
                bytes.extend(length.to_be_bytes());
                bytes.extend([kinds[0], self.hop_limit]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(after);
                ethernet(IPV6, &bytes)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                unreachable!("`packet` takes addresses of one family")
            }
        }
    }
}

/// The hardware address that all frames come from.
pub const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A frame with any content.
pub fn ethernet(ethertype: u16, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1];
    frame.extend(SENDER);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(content);
    frame
}

/// The frame with a tag of number 0 in its data: a priority tag.
pub fn tagged(kind: u16, frame: &[u8]) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend(kind.to_be_bytes());
    tagged.extend([0, 0]);
    tagged.extend(&frame[12..]);
    tagged
}

/// An ARP packet for IPv4 over Ethernet; operation 1 asks, 2 answers.
pub fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation];
    bytes.extend(SENDER);
    bytes.extend(sender);
    bytes.extend([0; 6]);
    bytes.extend(target);
    ethernet(ARP, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    const V4: [IpAddr; 2] = [
        IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
        IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)),
    ];
    const V6: [IpAddr; 2] = [
        IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
        IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
    ];

    #[test]
    fn another_reader_finds_in_ordinary_frames_what_was_put_there() {
        for [source, destination] in [V4, V6] {
            let frame = packet(source, destination, tcp(1000, 80, flag::SYN)).frame();
            let read = SlicedPacket::from_ethernet(&frame).unwrap();
            match read.net.unwrap() {
                NetSlice::Ipv4(ip) => {
                    assert_eq!(IpAddr::V4(ip.header().source_addr()), source);
                    assert_eq!(IpAddr::V4(ip.header().destination_addr()), destination);
                }
                NetSlice::Ipv6(ip) => {
                    assert_eq!(IpAddr::V6(ip.header().source_addr()), source);
                    assert_eq!(IpAddr::V6(ip.header().destination_addr()), destination);
                }
                NetSlice::Arp(_) => panic!("ARP"),
            }
            let Some(TransportSlice::Tcp(segment)) = read.transport else {
                panic!("TCP");
            };
            assert_eq!(
                (segment.source_port(), segment.destination_port()),
                (1000, 80)
            );
            assert!(segment.syn() && !segment.ack());
        }
    }

    #[test]
    fn another_reader_finds_headers_behind_options_and_extensions() {
        let frame = packet(V4[0], V4[1], udp(5, 6)).options(&[1, 1, 1]).frame();
        let read = SlicedPacket::from_ethernet(&frame).unwrap();
        assert!(matches!(read.transport, Some(TransportSlice::Udp(_))));
        let frame = packet(V6[0], V6[1], udp(5, 6))
            .padding_options(HOP_BY_HOP, 1)
            .padding_options(DESTINATION_OPTIONS, 2)
            .frame();
        let read = SlicedPacket::from_ethernet(&frame).unwrap();
        assert!(matches!(read.transport, Some(TransportSlice::Udp(_))));
    }

    #[test]
    fn another_reader_finds_fragments() {
        let part = Fragment {
            identification: 7,
            offset: 3,
            more: true,
        };
        for [source, destination] in [V4, V6] {
            let frame = packet(source, destination, udp(5, 6))
                .fragment(part)
                .frame();
            let read = SlicedPacket::from_ethernet(&frame).unwrap();
            assert!(read.transport.is_none(), "a later fragment has no ports");
        }
    }
}
