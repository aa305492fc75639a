// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a host takes a packet for, written from the RFCs and from what Linux does, without a look at the programs.

use std::collections::HashMap;

use super::queue::{Put, Queue};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NOTHING: u8 = 59;
const OPTIONS: u8 = 60;

/// Length of the IPv6 header, and where it has the number of the next one.
const IPV6: usize = 40;
const NUMBER: usize = 6;

/// What reaches a socket, or leaves for somewhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// These bytes of a protocol.
    Here(u8, Vec<u8>),
    /// A source route leads on.
    Elsewhere,
}

impl Delivered {
    /// The protocol and the port that it is for, of protocols that have ports; none: no socket gets it.
    pub fn target(&self) -> Option<(u8, u16)> {
        let Self::Here(protocol, bytes) = self else {
            return Some((0, 0));
        };
        let needed = match protocol {
            6 => 20,
            132 => 12,
            17 => 8,
            _ => return Some((*protocol, 0)),
        };
        if bytes.len() < needed || (*protocol == 6 && bytes[12] >> 4 < 5) {
            return None;
        }
        Some((*protocol, u16::from_be_bytes([bytes[2], bytes[3]])))
    }
}

/// Which datagram a fragment belongs to: addresses, protocol (IPv4 only) and identification.
type Datagram = (Vec<u8>, u8, u32);

/// An IPv6 packet on its way through a stack.
#[derive(Debug, Clone)]
pub(super) struct Stack {
    /// From the IPv6 header on.
    pub(super) bytes: Vec<u8>,
    /// Where the number of the header at `at` stands (`IP6CB(skb)->nhoff`).
    number_at: usize,
    /// Where the stack goes on (`skb->transport_header`).
    at: usize,
    is_reassembled: bool,
}

/// A datagram whose fragments have not all come.
#[derive(Debug, Clone)]
struct Waiting {
    parts: Queue,
    /// The packet with its first part, the header's place in it, the place of the number before, and the number after.
    first: Option<(Stack, usize, usize, u8)>,
}

/// A host, with or without connection tracking.
#[derive(Debug, Clone)]
pub struct Receiver {
    tracks: bool,
    ipv4: HashMap<Datagram, Queue>,
    tracked: HashMap<Datagram, Waiting>,
    local: HashMap<Datagram, Waiting>,
}

impl Receiver {
    /// A host that tracks connections, or does not.
    pub fn new(tracks: bool) -> Self {
        Self {
            tracks,
            ipv4: HashMap::new(),
            tracked: HashMap::new(),
            local: HashMap::new(),
        }
    }

    /// Takes a frame; what it delivers, if it does.
    pub fn take(&mut self, frame: &[u8]) -> Option<Delivered> {
        // Fragments that wait for others time out.
        for waiting in [&mut self.tracked, &mut self.local] {
            if waiting.len() > 512 {
                waiting.clear();
            }
        }
        if self.ipv4.len() > 512 {
            self.ipv4.clear();
        }
        match frame.get(12..14)? {
            [0x08, 0x00] => self.take_ipv4(&frame[14..]),
            [0x86, 0xdd] => self.take_ipv6(&frame[14..]),
            _ => None,
        }
    }

    /// RFC 791, `ip_rcv_core`, `ip_local_deliver`.
    fn take_ipv4(&mut self, packet: &[u8]) -> Option<Delivered> {
        let header = usize::from(packet.first()? & 15) * 4;
        let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
        if packet[0] >> 4 != 4 || header < 20 || total < header || packet.len() < total {
            return None;
        }
        if leads_elsewhere(&packet[20..header])? {
            return Some(Delivered::Elsewhere);
        }
        let place = u16::from_be_bytes([packet[6], packet[7]]);
        let (offset, more) = (usize::from(place & 0x1fff) * 8, place & 0x2000 != 0);
        let body = &packet[header..total];
        let protocol = packet[9];
        if offset == 0 && !more {
            return Some(Delivered::Here(protocol, body.to_vec()));
        }
        let identification = u16::from_be_bytes([packet[4], packet[5]]);
        let key = (packet[12..20].to_vec(), protocol, identification.into());
        match self
            .ipv4
            .entry(key.clone())
            .or_default()
            .put(offset, body, more)
        {
            Put::Waits => None,
            Put::Ends => {
                self.ipv4.remove(&key);
                None
            }
            Put::Whole(datagram) => {
                self.ipv4.remove(&key);
                Some(Delivered::Here(protocol, datagram))
            }
        }
    }

    fn take_ipv6(&mut self, packet: &[u8]) -> Option<Delivered> {
        let mut stack = enter(packet)?;
        if self.tracks {
            stack = track(&mut self.tracked, stack)?;
        }
        self.deliver(stack)
    }

    /// `ip6_protocol_deliver_rcu`: header by header, to the protocol.
    fn deliver(&mut self, mut stack: Stack) -> Option<Delivered> {
        loop {
            let at = stack.at;
            let number = *stack.bytes.get(stack.number_at)?;
            let units = stack.bytes.get(at + 1).map(|units| usize::from(*units));
            let length = match number {
                // Only directly behind the IPv6 header (RFC 8200 section 4), where it was read before.
                HOP_BY_HOP | NOTHING => return None,
                FRAGMENT => {
                    stack = self.join(stack)?;
                    continue;
                }
                ROUTING if *stack.bytes.get(at + 3)? != 0 => return Some(Delivered::Elsewhere),
                ROUTING | OPTIONS => (units? + 1) * 8,
                AUTHENTICATION => (units? + 2) * 4,
                protocol => {
                    let bytes = stack.bytes.get(at..)?.to_vec();
                    return Some(Delivered::Here(protocol, bytes));
                }
            };
            if at + length > stack.bytes.len() {
                return None;
            }
            stack.number_at = at;
            stack.at = at + length;
        }
    }

    /// `ipv6_frag_rcv`: a fragment header where the packet has come to.
    fn join(&mut self, mut stack: Stack) -> Option<Stack> {
        let at = stack.at;
        if stack.is_reassembled || stack.bytes.len() < at + 8 {
            return None;
        }
        let place = u16::from_be_bytes([stack.bytes[at + 2], stack.bytes[at + 3]]);
        if place & 0xfff9 == 0 {
            stack.number_at = at;
            stack.at = at + 8;
            stack.is_reassembled = true;
            return Some(stack);
        }
        let number_at = stack.number_at;
        collect(&mut self.local, stack, at, number_at)
    }
}

/// Whether IPv4 options hold a source route; none if they contradict themselves (`ip_options_compile`).
fn leads_elsewhere(mut options: &[u8]) -> Option<bool> {
    while let [kind, rest @ ..] = options {
        match kind {
            0 => break,
            1 => options = rest,
            131 | 137 => return Some(true),
            _ => {
                let length = usize::from(*rest.first()?);
                if length < 2 {
                    return None;
                }
                options = options.get(length..)?;
            }
        }
    }
    Some(false)
}

/// `ip6_rcv_core`: the length, and hop-by-hop options at the beginning.
pub(super) fn enter(packet: &[u8]) -> Option<Stack> {
    if packet.len() < IPV6 || packet[0] >> 4 != 6 {
        return None;
    }
    let said = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    let has_options = packet[NUMBER] == HOP_BY_HOP;
    // Of length 0 are jumbograms, which have options.
    let end = if said == 0 && has_options {
        packet.len()
    } else {
        IPV6 + said
    };
    let bytes = packet.get(..end)?.to_vec();
    let (number_at, at) = if has_options {
        (IPV6, IPV6 + (usize::from(*bytes.get(IPV6 + 1)?) + 1) * 8)
    } else {
        (NUMBER, IPV6)
    };
    (at <= bytes.len()).then_some(Stack {
        bytes,
        number_at,
        at,
        is_reassembled: false,
    })
}

/// `find_prev_fhdr`: the first fragment header, whatever stands before it, and the place of the number before that, which
/// is kept in eight bits.
fn fragment_header(bytes: &[u8]) -> Option<(usize, usize)> {
    let (mut number, mut number_at, mut at) = (bytes[NUMBER], NUMBER, IPV6);
    while number != FRAGMENT {
        let units = usize::from(*bytes.get(at + 1)?);
        let length = match number {
            HOP_BY_HOP | ROUTING | OPTIONS => (units + 1) * 8,
            AUTHENTICATION => (units + 2) * 4,
            _ => return None,
        };
        number = bytes[at];
        number_at = at & 0xff;
        at += length;
    }
    (at + 8 <= bytes.len()).then_some((at, number_at))
}

/// `nf_ct_frag6_gather`: puts fragments together before the stack sees them. None: others are missing.
fn track(waiting: &mut HashMap<Datagram, Waiting>, stack: Stack) -> Option<Stack> {
    match fragment_header(&stack.bytes) {
        Some((at, number_at)) => collect(waiting, stack, at, number_at),
        None => Some(stack),
    }
}

/// Keeps a fragment whose header is at `at` until its datagram is whole.
fn collect(
    waiting: &mut HashMap<Datagram, Waiting>,
    stack: Stack,
    at: usize,
    number_at: usize,
) -> Option<Stack> {
    let header = stack.bytes.get(at..at + 8)?;
    let identification = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let place = u16::from_be_bytes([header[2], header[3]]);
    let (offset, more, next) = (usize::from(place & 0xfff8), place & 1 != 0, header[0]);
    let key = (stack.bytes[8..40].to_vec(), 0, identification);
    let datagram = waiting.entry(key.clone()).or_insert_with(|| Waiting {
        parts: Queue::default(),
        first: None,
    });
    let put = datagram.parts.put(offset, &stack.bytes[at + 8..], more);
    if offset == 0 && datagram.first.is_none() {
        datagram.first = Some((stack, at, number_at, next));
    }
    match put {
        Put::Waits => None,
        Put::Ends => {
            waiting.remove(&key);
            None
        }
        Put::Whole(whole) => {
            let (mut stack, at, number_at, next) = waiting.remove(&key)?.first?;
            stack.bytes.truncate(at);
            stack.bytes.extend(whole);
            // The first header's number stays where the stack goes on from: it may not be the one that is written here.
            *stack.bytes.get_mut(number_at)? = next;
            stack.at = at;
            stack.is_reassembled = true;
            Some(stack)
        }
    }
}

/// A router that tracks connections: what it makes of a packet before it sends it on.
#[derive(Debug, Clone, Default)]
pub(super) struct Gathering(HashMap<Datagram, Waiting>);

impl Gathering {
    /// The packet, from its IPv6 header on, and whether it had come in fragments.
    pub(super) fn take(&mut self, packet: &[u8]) -> Option<(Vec<u8>, bool)> {
        if self.0.len() > 512 {
            self.0.clear();
        }
        let mut stack = track(&mut self.0, enter(packet)?)?;
        let length = u16::try_from(stack.bytes.len() - IPV6).ok()?;
        stack.bytes[4..6].copy_from_slice(&length.to_be_bytes());
        Some((stack.bytes, stack.is_reassembled))
    }
}
