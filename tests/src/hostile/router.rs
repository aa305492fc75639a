// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A router with connection tracking on the way, as a node with kube-proxy is one: it puts IPv6 datagrams together and cuts
//! them up again.

use super::receiver::Gathering;
use crate::frame;

/// How much each of its fragments carries.
const PART: usize = 16;

/// The router.
#[derive(Debug, Clone, Default)]
pub struct Router(Gathering);

impl Router {
    /// What it sends when it gets this frame.
    pub fn forward(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        if frame.get(12..14) != Some(&[0x86, 0xdd]) {
            return vec![frame.to_vec()];
        }
        let Some((packet, was_fragmented)) = self.0.take(&frame[14..]) else {
            return Vec::new();
        };
        let Some((at, number_at)) = first_fragmentable(&packet).filter(|_| was_fragmented) else {
            return vec![frame::ethernet(frame::IPV6, &packet)];
        };
        let next = packet[number_at];
        let parts: Vec<&[u8]> = packet[at..].chunks(PART).collect();
        let mut sent = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            let place = u16::try_from(number * PART).expect("a short packet");
            let mut fragment = packet[..at].to_vec();
            fragment[number_at] = frame::FRAGMENT;
            fragment.extend([next, 0]);
            fragment.extend((place | u16::from(number + 1 < parts.len())).to_be_bytes());
            fragment.extend([0, 0, 0, 9]);
            fragment.extend(*part);
            let length = u16::try_from(fragment.len() - 40).expect("a short packet");
            fragment[4..6].copy_from_slice(&length.to_be_bytes());
            sent.push(frame::ethernet(frame::IPV6, &fragment));
        }
        sent
    }
}

/// `ip6_find_1stfragopt`: where a fragment header is put in, and where the number before it stands.
fn first_fragmentable(packet: &[u8]) -> Option<(usize, usize)> {
    let (mut number_at, mut at, mut found_routing) = (6, 40, false);
    loop {
        match *packet.get(number_at)? {
            frame::HOP_BY_HOP => {}
            frame::ROUTING => found_routing = true,
            frame::DESTINATION_OPTIONS if !found_routing => {}
            _ => return Some((at, number_at)),
        }
        number_at = at;
        at += (usize::from(*packet.get(at + 1)?) + 1) * 8;
        if at > packet.len() {
            return None;
        }
    }
}
