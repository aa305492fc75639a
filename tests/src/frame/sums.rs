// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Frames that a real stack takes: with hardware addresses and checksums.

use std::net::IpAddr;

use super::{ICMP, ICMPV6, Packet, TCP, UDP};

impl Packet {
    /// The frame with these hardware addresses, first the sender's, and with the checksums of the IPv4 header and of the
    /// payload, which is summed as if nothing but IP stood before it.
    pub fn frame_on(&self, hardware: [[u8; 6]; 2]) -> Vec<u8> {
        let mut packet = self.clone();
        if let Some(place) = place_of_sum(packet.payload.protocol)
            && packet.payload.bytes.len() >= place + 2
        {
            packet.payload.bytes[place..place + 2].fill(0);
            let sum = self.sum_of_payload(&packet.payload.bytes);
            packet.payload.bytes[place..place + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let mut frame = packet.frame();
        let [from, to] = hardware;
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&from);
        if self.source.is_ipv4() {
            let end = 14 + usize::from(frame[14] & 15) * 4;
            let sum = internet_sum(&frame[14..end]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        frame
    }

    /// RFC 768, RFC 8200 section 8.1. ICMP for IPv4 has no pseudo-header.
    fn sum_of_payload(&self, payload: &[u8]) -> u16 {
        let mut summed = Vec::new();
        if self.payload.protocol != ICMP {
            for address in [self.source, self.destination] {
                match address {
                    IpAddr::V4(address) => summed.extend(address.octets()),
                    IpAddr::V6(address) => summed.extend(address.octets()),
                }
            }
            let length = u32::try_from(payload.len()).expect("a length");
            summed.extend(length.to_be_bytes());
            summed.extend([0, 0, 0, self.payload.protocol]);
        }
        summed.extend(payload);
        match internet_sum(&summed) {
            0 if self.payload.protocol == UDP => u16::MAX,
            sum => sum,
        }
    }
}

/// Where in its header a protocol has the Internet checksum.
const fn place_of_sum(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMPV6 => Some(2),
        _ => None,
    }
}

/// RFC 1071.
pub fn internet_sum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = bytes
        .chunks(2)
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
