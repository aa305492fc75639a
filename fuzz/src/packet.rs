// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets between a pod and its friend, byte for byte, under a policy that allows one UDP port: no receiver finds anything
//! else in what passed. Receivers read by themselves ([`Readers`]).

use std::net::IpAddr;

use podgate_abi::{
    CHUNK_NONE, Chunk, Class, Decision, Direction, FIRST_CHUNK, Hook, PeerWord, PolicyWord,
    PortSetChunks, PortSetId, Reason, RowKey, RowSets, RowWords, RulesetId, Slot, decide,
};
use podgate_tests::frame::{ICMP, ICMPV6, IPV4, IPV6};
use podgate_tests::hostile::{ALLOWED, Readers};
use podgate_tests::kernel::HostTables;

const SLOT: Slot = Slot(1);
const RULESET: RulesetId = RulesetId::FIRST;
const FRIENDS: Class = Class(5);
const UDP: u8 = 17;
const IGMP: u8 = 2;

/// Packets of one input at most.
const PACKETS: usize = 16;

/// The pod and its friend, in a family.
fn ends(is_ipv4: bool) -> [IpAddr; 2] {
    let text = if is_ipv4 {
        ["10.1.0.10", "10.1.0.20"]
    } else {
        ["fd00:1::10", "fd00:1::20"]
    };
    text.map(|address| address.parse().expect("an address"))
}

/// UDP to the allowed port with the friend, in both directions, and nothing else.
fn tables(pod: IpAddr, friend: IpAddr) -> HostTables {
    let mut tables = HostTables::with_room_for(64);
    let mut chunk = Chunk::NONE;
    chunk.insert(ALLOWED);
    tables.chunks.insert(FIRST_CHUNK, chunk);
    let mut chunks = [CHUNK_NONE; 16];
    chunks[0] = FIRST_CHUNK;
    let udp = PortSetId(100);
    tables.port_sets.insert(udp.0, PortSetChunks(chunks));
    let sets = |udp| RowSets {
        tcp: PortSetId::NONE,
        udp,
        sctp: PortSetId::NONE,
        rest: PortSetId::NONE,
    };
    let nothing = RowWords::new(RowKey(0), sets(PortSetId::NONE));
    tables.rulesets.insert(RULESET.0, nothing);
    let key = RowKey::new(RULESET, FRIENDS);
    tables.rows.insert(key, RowWords::new(key, sets(udp)));
    let word = PeerWord::new(friend.into(), FRIENDS, Class::NONE, false);
    tables.peers.insert(friend.into(), word);
    let birth = tables.attach(SLOT, &[pod]);
    for direction in Direction::BOTH {
        let word = PolicyWord::new(RULESET, birth);
        tables.attachments[&SLOT].words[direction as usize].store(word.0);
    }
    tables
}

/// Whether a packet that passed for this reason may be for that.
fn may_be(reason: Reason, (protocol, port): (u8, u16)) -> bool {
    let is_allowed = (protocol, port) == (UDP, ALLOWED);
    if reason == Reason::Related {
        return protocol == ICMP || protocol == ICMPV6;
    }
    if reason == Reason::Neighbor || reason == Reason::OnLink {
        let is_dhcp = protocol == UDP && [67, 68, 546, 547].contains(&port);
        return protocol == ICMPV6 || protocol == IGMP || is_dhcp;
    }
    let by_policy = [Reason::Allowed, Reason::Established, Reason::Fragment];
    is_allowed && by_policy.contains(&reason)
}

/// The first byte has the family and the direction; then come packets, each behind its length.
pub fn run(data: &[u8]) {
    let Some((choice, mut rest)) = data.split_first() else {
        return;
    };
    let is_ipv4 = choice & 1 == 0;
    let direction = if choice & 2 == 0 {
        Direction::Ingress
    } else {
        Direction::Egress
    };
    let [pod, friend] = ends(is_ipv4);
    let tables = tables(pod, friend);
    let (source, destination) = match direction {
        Direction::Ingress => (friend, pod),
        Direction::Egress => (pod, friend),
    };
    let mut readers = Readers::default();
    for _ in 0..PACKETS {
        let Some((length, after)) = rest.split_first() else {
            break;
        };
        let (packet, after) = after.split_at(after.len().min(usize::from(*length)));
        rest = after;
        let frame = frame(packet, source, destination);
        let hook = Hook {
            slot: SLOT,
            direction,
            ethertype: if is_ipv4 { IPV4 } else { IPV6 },
            received_from: 7,
            interface: 1,
        };
        let Decision::Pass(reason) = decide(&&tables, frame.as_slice(), &hook) else {
            continue;
        };
        for (place, target, _) in readers.read(&frame) {
            assert!(
                may_be(reason, target),
                "{reason:?}: {target:?} {place}, in {frame:02x?}"
            );
        }
    }
}

/// The packet behind an Ethernet header, and with these addresses where it has any.
fn frame(packet: &[u8], source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let (ethertype, at, addresses) = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            (IPV4, 12, [source.octets(), destination.octets()].concat())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            (IPV6, 8, [source.octets(), destination.octets()].concat())
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            unreachable!("both are of one family")
        }
    };
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    if let Some(place) = frame.get_mut(14 + at..14 + at + addresses.len()) {
        place.copy_from_slice(&addresses);
    }
    frame
}
