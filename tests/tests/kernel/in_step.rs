// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The programs and `decide()` on the host, on frames that nobody would send: the two say the same.
//!
//! [`podgate_tests::kernel::Kernel::run`] compares them. What else is asserted here is what must hold of any frame.

use podgate_abi::{Direction, Reason, RulesetId};
use podgate_tests::frame::{self, Fragment, Payload, flag, packet};
use podgate_tests::kernel::{Origin, PolicyOf};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::setting::{ALL, FAMILIES, FRIENDS, Family, NOTHING, RULESET, Scene, of};

const FRAMES: u32 = 12_000;

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    /// A packet with this peer (friend, stranger, node, the pod itself), perhaps altered.
    Packet {
        direction: Direction,
        origin: Origin,
        peer: usize,
        payload: Content,
        wrapping: Wrapping,
        damage: Damage,
    },
    /// One direction gets another ruleset.
    Flip(Direction, RulesetId),
    /// Everything falls silent for so many seconds.
    Silence(u32),
    /// Another pod gets the slot.
    Attach,
}

#[derive(Debug, Clone)]
enum Content {
    Tcp(u16, u16, u8),
    Udp(u16, u16),
    Sctp(u16, u16),
    Request(u16),
    Reply(u16),
    /// About a packet of the other direction.
    Error(u16, u16),
    Message(u8, u8),
    Other(u8),
}

#[derive(Debug, Clone)]
enum Wrapping {
    Plain,
    Options(Vec<u8>),
    Headers(Vec<u8>),
    Fragment(u32, u16, bool),
}

#[derive(Debug, Clone)]
enum Damage {
    None,
    /// These bytes behind the Ethernet header are others.
    Bytes(Vec<(usize, u8)>),
    /// It ends after so many bytes behind the Ethernet header.
    Cut(usize),
}

fn port() -> impl Strategy<Value = u16> {
    select(&[80, 81, 443, 4789, 8472, 1000, 1001][..])
}

fn content() -> impl Strategy<Value = Content> {
    let flags = select(
        &[
            flag::SYN,
            flag::SYN | flag::ACK,
            flag::ACK,
            flag::ACK | flag::PSH,
            flag::FIN | flag::ACK,
            flag::RST,
            flag::RST | flag::ACK,
            flag::SYN | flag::RST,
            0,
        ][..],
    );
    prop_oneof![
        6 => (port(), port(), flags).prop_map(|(a, b, flags)| Content::Tcp(a, b, flags)),
        3 => (port(), port()).prop_map(|(a, b)| Content::Udp(a, b)),
        1 => (port(), port()).prop_map(|(a, b)| Content::Sctp(a, b)),
        1 => (0..3_u16).prop_map(Content::Request),
        1 => (0..3_u16).prop_map(Content::Reply),
        2 => (port(), port()).prop_map(|(a, b)| Content::Error(a, b)),
        1 => (select(&[3, 5, 11, 12, 1, 2, 4, 130, 133, 134, 135, 136, 137, 143][..]), 0..2_u8)
            .prop_map(|(kind, code)| Content::Message(kind, code)),
        1 => select(&[1, 4, 41, 47, 50, 51, 58, 59, 89, 255][..]).prop_map(Content::Other),
    ]
}

fn wrapping() -> impl Strategy<Value = Wrapping> {
    let header = select(&[0, 43, 44, 51, 60, 135, 139, 140][..]);
    prop_oneof![
        6 => Just(Wrapping::Plain),
        1 => prop::collection::vec(select(&[0, 1, 2, 3, 4, 7, 8, 68, 130, 131, 137][..]), 1..40).prop_map(Wrapping::Options),
        1 => prop::collection::vec(header, 1..9).prop_map(Wrapping::Headers),
        2 => (0..3_u32, select(&[0, 0, 1, 100][..]), any::<bool>()).prop_map(|(id, offset, more)| Wrapping::Fragment(id, offset, more)),
    ]
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        5 => Just(Damage::None),
        2 => prop::collection::vec((0..80_usize, any::<u8>()), 1..4).prop_map(Damage::Bytes),
        1 => (0..100_usize).prop_map(Damage::Cut),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let direction = || select(&Direction::BOTH[..]);
    let origin = select(
        &[
            Origin::Elsewhere,
            Origin::Elsewhere,
            Origin::Node,
            Origin::SameInterface,
        ][..],
    );
    let packet = (
        direction(),
        origin,
        select(&[0, 0, 0, 1, 2, 2, 3][..]),
        content(),
        wrapping(),
        damage(),
    )
        .prop_map(
            |(direction, origin, peer, payload, wrapping, damage)| Event::Packet {
                direction,
                origin,
                peer,
                payload,
                wrapping,
                damage,
            },
        );
    let rulesets = select(
        &[
            RulesetId::DENY_ALL,
            RulesetId::ALLOW_ALL,
            RULESET,
            RULESET,
            RulesetId(3),
        ][..],
    );
    prop_oneof![
        60 => packet,
        3 => (direction(), rulesets).prop_map(|(direction, ruleset)| Event::Flip(direction, ruleset)),
        1 => select(&[19, 31, 61, 121, 181][..]).prop_map(Event::Silence),
        1 => Just(Event::Attach),
    ]
}

fn payload(
    scene: &Scene,
    content: &Content,
    direction: Direction,
    peer: std::net::IpAddr,
) -> Payload {
    match *content {
        Content::Tcp(a, b, flags) => frame::tcp(a, b, flags),
        Content::Udp(a, b) => frame::udp(a, b),
        Content::Sctp(a, b) => frame::sctp(a, b),
        Content::Request(identifier) => frame::echo_request(peer, identifier),
        Content::Reply(identifier) => frame::echo_reply(peer, identifier),
        Content::Error(a, b) => {
            let (source, destination) = match direction {
                Direction::Ingress => (scene.pod, scene.friend),
                Direction::Egress => (scene.friend, scene.pod),
            };
            let inside = packet(source, destination, frame::tcp(a, b, flag::ACK));
            frame::unreachable(peer, &inside.frame())
        }
        Content::Message(kind, code) => {
            let mut rest = vec![0; 4];
            rest.extend(podgate_abi::Address::from(scene.pod).octets());
            frame::icmp(peer, kind, code, &rest)
        }
        Content::Other(protocol) => frame::other(protocol),
    }
}

fn wrapped(packet: frame::Packet, wrapping: &Wrapping, family: Family) -> frame::Packet {
    match (wrapping, family) {
        (Wrapping::Plain, _)
        | (Wrapping::Options(_), Family::V6)
        | (Wrapping::Headers(_), Family::V4) => packet,
        (Wrapping::Options(options), Family::V4) => packet.options(options),
        (Wrapping::Headers(kinds), Family::V6) => kinds
            .iter()
            .fold(packet, |packet, kind| packet.padding_options(*kind, 1)),
        (Wrapping::Fragment(identification, offset, more), _) => packet.fragment(Fragment {
            identification: *identification,
            offset: *offset,
            more: *more,
        }),
    }
}

fn damaged(mut frame: Vec<u8>, damage: &Damage) -> Vec<u8> {
    match damage {
        Damage::None => {}
        Damage::Bytes(bytes) => {
            for (place, value) in bytes {
                if let Some(byte) = frame.get_mut(14 + place) {
                    *byte = *value;
                }
            }
        }
        Damage::Cut(length) => frame.truncate(14 + length),
    }
    frame
}

fn scene(family: Family) -> Scene {
    let mut scene = Scene::new(family, PolicyOf::both(RULESET));
    let ports = scene.kernel.ports(&[80..=80, 4789..=4789]);
    scene.kernel.put_row(RULESET, FRIENDS, of(ports));
    scene.kernel.put_row(RulesetId(3), FRIENDS, ALL);
    let default = podgate_abi::RowWords::new(podgate_abi::RowKey(0), NOTHING);
    scene.kernel.put_default_row(RulesetId(3), default);
    scene
}

#[test]
fn kernel_and_host_agree_on_sequences_of_odd_packets() {
    for family in FAMILIES {
        let mut runner = TestRunner::default();
        let mut scene = scene(family);
        let mut passed = 0;
        for _ in 0..FRAMES {
            let event = event().new_tree(&mut runner).expect("an event").current();
            match event {
                Event::Flip(direction, ruleset) => scene.kernel.flip(direction, ruleset),
                Event::Silence(seconds) => scene.kernel.age_flows(seconds),
                Event::Attach => scene.attach(PolicyOf::both(RULESET)),
                Event::Packet {
                    direction,
                    origin,
                    peer,
                    payload: content,
                    wrapping,
                    damage,
                } => {
                    let peer = [scene.friend, scene.stranger, scene.node, scene.pod][peer];
                    let payload = payload(&scene, &content, direction, peer);
                    let (source, destination) = match direction {
                        Direction::Ingress => (peer, scene.pod),
                        Direction::Egress => (scene.pod, peer),
                    };
                    let packet = wrapped(packet(source, destination, payload), &wrapping, family);
                    let hop_limit = if matches!(content, Content::Message(..)) {
                        255
                    } else {
                        64
                    };
                    let frame = damaged(packet.hop_limit(hop_limit).frame(), &damage);
                    let reason = scene.kernel.run(direction, origin, &frame);
                    passed += u32::from(reason.passes());
                }
            }
        }
        assert!(passed > FRAMES / 10 && passed < FRAMES, "{passed} passed");
    }
}

/// Nothing at all passes a shut direction but what is always let through.
#[test]
fn nothing_passes_a_shut_direction_but_what_always_passes() {
    for family in FAMILIES {
        let mut runner = TestRunner::default();
        let mut scene = scene(family);
        scene.attach(PolicyOf::SHUT);
        let ethertype = if family == Family::V4 {
            frame::IPV4
        } else {
            frame::IPV6
        };
        let bytes = prop::collection::vec(any::<u8>(), 40..120);
        for turn in 0..FRAMES / 4 {
            let mut frame = frame::ethernet(
                ethertype,
                &bytes.new_tree(&mut runner).expect("bytes").current(),
            );
            // Else hardly any would have a header that can be read.
            frame[14] = if family == Family::V4 { 0x45 } else { 0x60 };
            let direction = Direction::BOTH[turn as usize % 2];
            let reason = scene.kernel.run(direction, Origin::Elsewhere, &frame);
            assert!(
                !reason.passes() || reason == Reason::Neighbor,
                "{reason:?} for {frame:02x?}"
            );
        }
    }
}
