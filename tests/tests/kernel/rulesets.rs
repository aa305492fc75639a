// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a ruleset says: class, broad class, default; port sets; and words that are another's.

use podgate_abi::{
    Address, Class, Direction, PeerWord, PortSetId, PrefixKey, Reason, RowKey, RowSets, RowWords,
    RulesetId,
};
use podgate_tests::frame::flag::SYN;
use podgate_tests::frame::{self, sctp, tcp, udp};
use podgate_tests::kernel::PolicyOf;

use crate::setting::{ALL, FAMILIES, FRIENDS, Family, NEIGHBORHOOD, NOTHING, RULESET, Scene, of};

/// What a new connection to the pod from the friend is judged.
fn friend_is_judged(scene: &mut Scene) -> Reason {
    scene.kernel.renew();
    let friend = scene.friend;
    scene.peer_sends(friend, tcp(999, 80, SYN))
}

/// The class decides before the broad class, and that before the default.
#[test]
fn the_class_decides_before_the_broad_class_and_the_default() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
        let class = RowKey::new(RULESET, FRIENDS);
        let broad = RowKey::new(RULESET, NEIGHBORHOOD);
        scene.kernel.remove_row(class);
        for (default, of_broad, of_class, expected) in [
            (NOTHING, None, None, Reason::Policy),
            (ALL, None, None, Reason::Allowed),
            (NOTHING, Some(ALL), None, Reason::Allowed),
            (ALL, Some(NOTHING), None, Reason::Policy),
            (NOTHING, Some(NOTHING), Some(ALL), Reason::Allowed),
            (ALL, Some(ALL), Some(NOTHING), Reason::Policy),
            (ALL, None, Some(NOTHING), Reason::Policy),
            (NOTHING, None, Some(ALL), Reason::Allowed),
        ] {
            scene
                .kernel
                .put_default_row(RULESET, RowWords::new(RowKey(0), default));
            for (key, sets) in [(broad, of_broad), (class, of_class)] {
                scene.kernel.remove_row(key);
                if let Some(sets) = sets {
                    scene.kernel.put_row_words(key, RowWords::new(key, sets));
                }
            }
            assert_eq!(friend_is_judged(&mut scene), expected);
        }
    }
}

#[test]
fn an_address_that_is_known_is_not_looked_for_in_the_blocks() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
        let (friend, stranger) = (scene.friend, scene.stranger);
        let block = Class(30);
        let length = if family == Family::V4 { 24 } else { 64 };
        scene.kernel.put_prefix(stranger, length, block);
        scene.kernel.put_row(RULESET, block, ALL);
        assert_eq!(scene.peer_sends(stranger, udp(999, 53)), Reason::Allowed);
        scene.kernel.put_peer(friend, Class(31), Class::NONE);
        assert_eq!(scene.peer_sends(friend, udp(999, 53)), Reason::Policy);
    }
}

#[test]
fn the_longest_block_decides() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
        let stranger = scene.stranger;
        let bits = if family == Family::V4 { 32 } else { 128 };
        for (class, length, expected) in [
            (Class(40), 8, Reason::Allowed),
            (Class(41), 16, Reason::Policy),
            (Class(42), bits - 1, Reason::Allowed),
            (Class(43), bits, Reason::Policy),
        ] {
            scene.kernel.put_prefix(stranger, length, class);
            let sets = if expected == Reason::Allowed {
                ALL
            } else {
                NOTHING
            };
            scene.kernel.put_row(RULESET, class, sets);
            scene.kernel.renew();
            assert_eq!(
                scene.peer_sends(stranger, udp(999, 53)),
                expected,
                "/{length}"
            );
        }
    }
}

#[test]
fn attack_17_a_block_of_all_ipv6_is_no_block_of_ipv4() {
    let everything = Class(50);
    for (family, expected) in [(Family::V6, Reason::Allowed), (Family::V4, Reason::Policy)] {
        for policy in [PolicyOf::to_pod(RULESET), PolicyOf::from_pod(RULESET)] {
            let mut scene = Scene::new(family, policy);
            let all = "::".parse().expect("an address");
            scene.kernel.put_prefix(all, 0, everything);
            scene.kernel.put_row(RULESET, everything, ALL);
            let stranger = scene.stranger;
            if policy.to_pod == RULESET {
                assert_eq!(scene.peer_sends(stranger, udp(999, 53)), expected);
            } else {
                assert_eq!(scene.pod_sends(stranger, udp(999, 53)), expected);
            }
        }
    }
}

#[test]
fn each_protocol_asks_its_own_port_set() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(RULESET));
        let sets = RowSets {
            tcp: scene.kernel.ports(&[1..=1]),
            udp: scene.kernel.ports(&[2..=2]),
            sctp: scene.kernel.ports(&[3..=3]),
            rest: scene.kernel.ports(&[50..=50]),
        };
        scene.kernel.put_row(RULESET, FRIENDS, sets);
        let friend = scene.friend;
        for port in 1..=4 {
            let expected = |own| {
                if port == own {
                    Reason::Allowed
                } else {
                    Reason::Policy
                }
            };
            assert_eq!(scene.peer_sends(friend, tcp(999, port, SYN)), expected(1));
            assert_eq!(scene.peer_sends(friend, udp(999, port)), expected(2));
            assert_eq!(scene.peer_sends(friend, sctp(999, port)), expected(3));
            assert_eq!(scene.pod_sends(friend, tcp(2000, port, SYN)), expected(1));
            assert_eq!(scene.pod_sends(friend, udp(2000, port)), expected(2));
            assert_eq!(scene.pod_sends(friend, sctp(2000, port)), expected(3));
        }
        assert_eq!(scene.peer_sends(friend, frame::other(50)), Reason::Allowed);
        assert_eq!(scene.peer_sends(friend, frame::other(115)), Reason::Policy);
        let ping = frame::echo_request(friend, 50);
        assert_eq!(scene.peer_sends(friend, ping), Reason::Policy);
    }
}

#[test]
fn a_port_set_has_its_ports_to_the_edges() {
    let edges = [0, 1, 63, 64, 4095, 4096, 61439, 61440, 65534, 65535];
    let mut scene = Scene::new(Family::V4, PolicyOf::to_pod(RULESET));
    let friend = scene.friend;
    for one in edges {
        let set = scene.kernel.ports(&[one..=one]);
        scene.kernel.put_row(RULESET, FRIENDS, of(set));
        for port in edges {
            let expected = if port == one {
                Reason::Allowed
            } else {
                Reason::Policy
            };
            scene.kernel.renew();
            let reason = scene.peer_sends(friend, udp(999, port));
            assert_eq!(reason, expected, "{port} in {{{one}}}");
        }
    }
    let set = scene.kernel.ports(&[4000..=4100, 65000..=65535]);
    scene.kernel.put_row(RULESET, FRIENDS, of(set));
    for port in [3999, 4000, 4095, 4096, 4100, 4101, 64999, 65000, 65535] {
        let expected = if (4000..=4100).contains(&port) || port >= 65000 {
            Reason::Allowed
        } else {
            Reason::Policy
        };
        scene.kernel.renew();
        assert_eq!(scene.peer_sends(friend, udp(999, port)), expected, "{port}");
    }
}

#[test]
fn a_port_set_or_ruleset_that_was_never_written_allows_nothing() {
    let mut scene = Scene::new(Family::V4, PolicyOf::to_pod(RULESET));
    let friend = scene.friend;
    for set in [PortSetId(700), PortSetId(u16::MAX)] {
        scene.kernel.put_row(RULESET, FRIENDS, of(set));
        assert_eq!(scene.peer_sends(friend, udp(999, 53)), Reason::Policy);
    }
    for ruleset in [RulesetId(900), RulesetId::MAX, RulesetId(u32::MAX)] {
        scene.kernel.flip(Direction::Ingress, ruleset);
        assert_eq!(scene.peer_sends(friend, udp(999, 53)), Reason::Policy);
    }
}

#[test]
fn attack_03_a_word_written_for_another_key_decides_nothing() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(RULESET));
        let (friend, stranger) = (scene.friend, scene.stranger);
        // The element of the stranger's address holds the friend's word, as after a replacement under a reader.
        let address = Address::from(stranger);
        let foreign = PeerWord::new(friend.into(), FRIENDS, NEIGHBORHOOD, false);
        scene.kernel.put_peer_word(address, foreign);
        assert_eq!(scene.peer_sends(stranger, udp(999, 53)), Reason::Torn);
        assert_eq!(scene.pod_sends(stranger, udp(2000, 53)), Reason::Torn);
        // The row of the strangers' class is that of the friends, or that of another ruleset.
        scene.kernel.put_peer(stranger, Class(60), Class(61));
        for class in [Class(60), Class(61)] {
            for foreign in [
                RowKey::new(RULESET, FRIENDS),
                RowKey::new(RulesetId(3), class),
            ] {
                let key = RowKey::new(RULESET, class);
                scene.kernel.put_row_words(key, RowWords::new(foreign, ALL));
                for payload in [udp(999, 53), sctp(999, 53), frame::other(50)] {
                    assert_eq!(scene.peer_sends(stranger, payload.clone()), Reason::Torn);
                    assert_eq!(scene.pod_sends(stranger, payload), Reason::Torn);
                }
                scene.kernel.remove_row(key);
            }
        }
        assert_eq!(scene.peer_sends(stranger, udp(999, 53)), Reason::Policy);
    }
}

#[test]
fn a_removed_block_leaves_its_addresses_to_the_next_larger() {
    let mut scene = Scene::new(Family::V4, PolicyOf::to_pod(RULESET));
    let stranger = scene.stranger;
    scene.kernel.put_row(RULESET, Class(70), ALL);
    scene.kernel.put_prefix(stranger, 16, Class(70));
    scene.kernel.put_prefix(stranger, 24, Class::NONE);
    assert_eq!(scene.peer_sends(stranger, udp(999, 53)), Reason::Policy);
    let mut key = PrefixKey {
        length: 96 + 24,
        address: stranger.into(),
    };
    scene.kernel.remove_prefix(key);
    assert_eq!(scene.peer_sends(stranger, udp(999, 53)), Reason::Allowed);
    key.length = 96 + 16;
    scene.kernel.remove_prefix(key);
    scene.kernel.renew();
    assert_eq!(scene.peer_sends(stranger, udp(999, 53)), Reason::Policy);
}
