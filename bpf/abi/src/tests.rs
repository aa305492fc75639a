// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words say what was put into them, and reading a packet ends wherever the packet ends.

use crate::packet::Content;
use crate::*;

const ADDRESS: Address = Address::from_ipv4([10, 1, 2, 3]);

#[test]
fn a_policy_word_keeps_ruleset_and_generation() {
    let word = PolicyWord::new(RulesetId::MAX, u32::MAX);
    assert_eq!(word.ruleset(), RulesetId::MAX);
    assert_eq!(word.generation(), u32::MAX);
    assert_eq!(PolicyWord(0).ruleset(), RulesetId::DENY_ALL);
}

#[test]
fn a_peer_word_keeps_classes_and_flag_and_knows_its_address() {
    for is_node in [false, true] {
        let word = PeerWord::new(ADDRESS, Class::MAX, Class(1), is_node);
        assert_eq!((word.class(), word.broad()), (Class::MAX, Class(1)));
        assert_eq!(word.is_node(), is_node);
        assert!(word.belongs_to(ADDRESS));
        assert!(!word.belongs_to(Address::from_ipv4([10, 1, 2, 4])));
        assert_ne!(word, PeerWord::TORN);
    }
}

#[test]
fn a_row_keeps_four_sets_under_the_key_as_tag() {
    let key = RowKey::new(RulesetId::MAX, Class::MAX);
    let sets = RowSets {
        tcp: PortSetId(1),
        udp: PortSetId(2),
        sctp: PortSetId(3),
        rest: PortSetId(u16::MAX),
    };
    let row = RowWords::new(key, sets);
    for (column, set) in [
        (Column::TCP, sets.tcp),
        (Column::UDP, sets.udp),
        (Column::SCTP, sets.sctp),
        (Column::REST, sets.rest),
    ] {
        let word = row.0[column.word()];
        assert_eq!(column.set(word), set);
        assert_eq!(word >> 32, u64::from(key.0));
        assert_ne!(word, u64::MAX, "a torn row has this word");
    }
    assert_eq!(Column::of(6), Column::TCP);
    assert_eq!(Column::of(17), Column::UDP);
    assert_eq!(Column::of(132), Column::SCTP);
    assert_eq!(Column::of(1), Column::REST);
}

#[test]
fn a_flow_word_keeps_who_when_and_how_far() {
    let key = FlowKey {
        peer: ADDRESS,
        peer_port: 80,
        pod_port: 40_000,
        slot: 7,
        protocol: 6,
        padding: 0,
    };
    let other = FlowKey {
        peer_port: 81,
        ..key
    };
    for initiator in [
        Initiator::POD,
        Initiator::PEER,
        Initiator::MIDSTREAM,
        Initiator::NODE,
    ] {
        for state in [
            FlowState::SYN,
            FlowState::SYN_ACK,
            FlowState::HALF,
            FlowState::ESTABLISHED,
            FlowState::CLOSING,
            FlowState::POD_CLOSED,
            FlowState::PEER_CLOSED,
        ] {
            let word = FlowWord::new(&key, 5, initiator, state);
            assert_eq!(
                (word.initiator(), word.state(), word.generation()),
                (initiator, state, 5)
            );
            assert!(word.belongs_to(&key) && !word.belongs_to(&other));
        }
    }
}

/// A count is below its limit until it reaches it, and also when it strayed below zero.
#[test]
fn a_count_is_below_its_limit_also_when_it_strayed_below_zero() {
    for (count, expected) in [
        (0, true),
        (6, true),
        (7, false),
        (8, false),
        (u64::MAX, true),
    ] {
        assert_eq!(Quota::is_below(&Word::new(count), 7), expected, "{count}");
    }
    assert!(!Quota::is_below(&Word::new(0), 0));
}

#[test]
fn a_fragment_follows_only_its_own_first_for_thirty_seconds() {
    let key = FragmentKey {
        peer: ADDRESS,
        pod: ADDRESS,
        identification: 9,
        slot: 1,
        direction: 0,
        protocol: 17,
    };
    let other = FragmentKey {
        identification: 10,
        ..key
    };
    let second = 250;
    let passed = FragmentValue::new(&key, 5, true, 1_000);
    assert!(passed.passed(&key, 5, 1_000 + 30 * 250, second));
    assert!(!passed.passed(&key, 5, 1_001 + 30 * 250, second));
    assert!(!passed.passed(&other, 5, 1_000, second));
    assert!(!passed.passed(&key, 6, 1_000, second));
    let dropped = FragmentValue::new(&key, 5, false, 1_000);
    assert!(!dropped.passed(&key, 5, 1_000, second));
}

/// A flow is older than an attachment only if it lies further back than the attachment's birth.
#[test]
fn a_flow_is_older_than_an_attachment_only_before_its_birth() {
    let half = 1 << 31;
    for start in [1, half, u32::MAX - 5] {
        let at = |age: u32| start.wrapping_add(age);
        let word = |age| PolicyWord::new(RulesetId::DENY_ALL, at(age));
        let flow = |age| FlowWord((u64::from(at(age))) << 32);
        for age in [10, half - 1, half, u32::MAX - 10] {
            // The other direction was never renewed.
            for life in [
                Life::new(start, word(age), word(0)),
                Life::new(start, word(0), word(age)),
            ] {
                assert_eq!(life.latest(), at(age));
                assert!(!flow(age).is_older_than(life), "the latest");
                assert!(!flow(age + 3).is_older_than(life), "a moment ahead");
                assert!(!flow(age - 9).is_older_than(life), "judged before");
            }
        }
        let life = Life::new(start, word(10), word(4));
        assert!(!flow(0).is_older_than(life), "of the birth");
        assert!(
            flow(0_u32.wrapping_sub(1)).is_older_than(life),
            "of another"
        );
        assert!(flow(0_u32.wrapping_sub(1 << 30)).is_older_than(life));
    }
}

#[test]
fn addresses_know_their_kind() {
    assert!(ADDRESS.is_ipv4() && !ADDRESS.is_link_local() && !ADDRESS.is_multicast_or_broadcast());
    assert!(Address::from_ipv4([224, 0, 0, 1]).is_multicast_or_broadcast());
    assert!(Address::from_ipv4([255; 4]).is_multicast_or_broadcast());
    let mut octets = [0; 16];
    assert!(Address::new(octets).is_unspecified());
    octets[..2].copy_from_slice(&[0xfe, 0xbf]);
    assert!(Address::new(octets).is_link_local());
    octets[..2].copy_from_slice(&[0xff, 0x02]);
    assert!(Address::new(octets).is_multicast_or_broadcast());
    assert_eq!(Address::new(octets).octets(), octets);
}

#[test]
fn the_unused_places_of_an_attachment_are_nobodys() {
    let mut attachment = Attachment::default();
    attachment.addresses[0] = ADDRESS;
    assert!(attachment.owns(ADDRESS));
    assert!(!attachment.owns(Address::UNSPECIFIED));
}

#[test]
fn a_packet_that_is_cut_anywhere_is_read_to_where_it_ends() {
    let mut frame = [0; 14 + 20 + 20];
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&40_u16.to_be_bytes());
    frame[23] = 6;
    frame[34..38].copy_from_slice(&[0x9c, 0x40, 0, 80]);
    frame[46] = 0x50;
    frame[47] = 2;
    let read = |bytes: &[u8]| {
        let mut packet = Packet::default();
        let reason = parse(bytes, ethertype::IPV4, Direction::Egress, &mut packet);
        (reason, packet)
    };
    let (reason, packet) = read(&frame);
    assert_eq!(
        (reason, packet.content, packet.detail),
        (Reason::Allowed, Content::TCP, 2)
    );
    assert_eq!((packet.source_port, packet.destination_port), (40_000, 80));
    for length in 0..frame.len() {
        let (reason, packet) = read(&frame[..length]);
        if length < 34 {
            assert_eq!(reason, Reason::BadIpHeader, "cut at {length}");
        } else {
            assert_eq!(packet.content, Content::CUT_SHORT, "cut at {length}");
        }
    }
}
