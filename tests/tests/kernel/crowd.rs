//! Pods that begin many flows: where these stand, and that nobody else pays for it.

use std::net::IpAddr;

use podgate_abi::{Direction, FlowKey, Reason, Ruleset};
use podgate_tests::frame::flag::{ACK, SYN};
use podgate_tests::frame::{TCP, UDP, packet, tcp, udp};
use podgate_tests::kernel::{Kernel, Origin, PolicyOf, SLOT, Sizes};

use crate::setting::{Began, FAMILIES, Family, RULESET, Scene};

/// How many flows a slot may begin in a second and direction.
const PACE: u16 = 8;

/// A pod that may begin anything, and to which nobody may.
fn scene(family: Family) -> Scene {
    let kernel = Kernel::new(Sizes {
        pace: PACE.into(),
        ..Sizes::default()
    });
    let mut scene = Scene::with_kernel(kernel, family, PolicyOf::from_pod(RULESET));
    scene.kernel.flip(Direction::ToPod, Ruleset::DENY_ALL);
    scene
}

/// In how many of the tables for flows of one direction this one stands: `embryonic`, `crowd`.
fn places(scene: &Scene, peer: IpAddr, peer_port: u16, pod_port: u16, protocol: u8) -> [bool; 2] {
    let key = FlowKey {
        peer: peer.into(),
        peer_port,
        pod_port,
        slot: SLOT as u16,
        protocol,
        padding: 0,
    };
    let bytes: [u8; 24] = bytemuck::cast(key);
    let kernel = &scene.kernel;
    let found = [&kernel.embryonic, &kernel.crowd].map(|table| table.get(&bytes, 0).is_ok());
    let host = [&kernel.host.embryonic, &kernel.host.crowd].map(|table| table.get(&key).is_some());
    assert_eq!(found, host, "kernel and host have it in the same tables");
    found
}

const EMBRYONIC: [bool; 2] = [true, false];
const CROWD: [bool; 2] = [false, true];

#[test]
fn attack_06_flows_of_one_direction_without_end_take_no_place_from_another_pods() {
    const ROOM: u32 = 1024;
    let kernel = Kernel::new(Sizes {
        embryonic: ROOM,
        crowd: ROOM,
        pace: 16,
        ..Sizes::default()
    });
    let mut scene = Scene::with_kernel(kernel, Family::V4, PolicyOf::from_pod(RULESET));
    let friend = scene.friend;
    for port in 1..=16 {
        assert_eq!(scene.pod_sends(friend, udp(2000, port)), Reason::Allowed);
    }
    // What another pod waits for.
    assert_eq!(scene.kernel.move_embryonic_to_slot(3), 16);
    scene.kernel.flip(Direction::FromPod, Ruleset::ALLOW_ALL);
    // The host's model has no LRU, so this is the kernel's alone.
    for number in 0..20 * ROOM {
        let address = IpAddr::from([10, 200, (number >> 8) as u8, number as u8]);
        let out = packet(scene.pod, address, udp(2000, 53)).frame();
        let kernel = &scene.kernel;
        assert!(kernel.run_in_kernel(Direction::FromPod, Origin::Elsewhere, &out));
    }
    assert_eq!(scene.kernel.kernel_embryonic_of_slot(3), 16);
}

#[test]
fn the_answers_of_a_pod_that_hurries_pass() {
    for family in FAMILIES {
        let mut scene = scene(family);
        let friend = scene.friend;
        for port in 1..=5 * PACE {
            assert_eq!(scene.pod_sends(friend, udp(2000, port)), Reason::Allowed);
            let expected = if port <= PACE { EMBRYONIC } else { CROWD };
            assert_eq!(places(&scene, friend, port, 2000, UDP), expected, "{port}");
        }
        for port in 1..=5 * PACE {
            let answer = scene.peer_sends(friend, udp(port, 2000));
            assert_eq!(answer, Reason::Established, "{port}");
        }
        let stray = scene.peer_sends(friend, udp(5 * PACE + 1, 2000));
        assert_eq!(stray, Reason::DenyAll);
        // A second later nobody hurries.
        scene.kernel.age_flows(1);
        assert_eq!(scene.pod_sends(friend, udp(3000, 1)), Reason::Allowed);
        assert_eq!(places(&scene, friend, 1, 3000, UDP), EMBRYONIC);
    }
}

#[test]
fn what_others_begin_is_not_counted_against_what_the_pod_begins() {
    for family in FAMILIES {
        let mut scene = Scene::with_kernel(
            Kernel::new(Sizes {
                pace: PACE.into(),
                ..Sizes::default()
            }),
            family,
            PolicyOf::both(RULESET),
        );
        let friend = scene.friend;
        for port in 1..=5 * PACE {
            assert_eq!(scene.peer_sends(friend, udp(port, 53)), Reason::Allowed);
        }
        assert_eq!(places(&scene, friend, 5 * PACE, 53, UDP), CROWD);
        assert_eq!(scene.pod_sends(friend, udp(2000, 53)), Reason::Allowed);
        assert_eq!(places(&scene, friend, 53, 2000, UDP), EMBRYONIC);
    }
}

#[test]
fn a_flow_stays_in_the_table_in_which_it_was_begun() {
    for family in FAMILIES {
        let mut scene = scene(family);
        let friend = scene.friend;
        for port in 1..=2 * PACE {
            assert_eq!(
                scene.pod_sends(friend, tcp(2000, port, SYN)),
                Reason::Allowed
            );
        }
        // Sent again, answered and begun anew, while the pod hurries and while it does not.
        for silence in [0, 2] {
            scene.kernel.age_flows(silence);
            for (port, expected) in [(1, EMBRYONIC), (2 * PACE, CROWD)] {
                let again = scene.pod_sends(friend, tcp(2000, port, SYN));
                assert_eq!(again, Reason::Established);
                assert_eq!(places(&scene, friend, port, 2000, TCP), expected);
                let answer = scene.peer_sends(friend, tcp(port, 2000, SYN | ACK));
                assert_eq!(answer, Reason::Established);
                assert_eq!(places(&scene, friend, port, 2000, TCP), expected);
            }
        }
        assert_eq!(scene.kernel.flow_count(), 0);
        // The third step enters it into the flows, from either.
        for port in [1, 2 * PACE] {
            let third = scene.pod_sends(friend, tcp(2000, port, ACK));
            assert_eq!(third, Reason::Established);
        }
        assert_eq!(scene.kernel.flow_count(), 2);
    }
}

#[test]
fn a_connection_that_the_other_end_begins_anew_is_not_found_as_it_was_before() {
    for family in FAMILIES {
        let mut scene = Scene::with_kernel(
            Kernel::new(Sizes {
                pace: PACE.into(),
                ..Sizes::default()
            }),
            family,
            PolicyOf::both(RULESET),
        );
        let friend = scene.friend;
        // The pod's own, begun in peace.
        assert_eq!(scene.pod_sends(friend, tcp(80, 999, SYN)), Reason::Allowed);
        for port in 1..=2 * PACE {
            assert_eq!(
                scene.peer_sends(friend, tcp(port, 81, SYN)),
                Reason::Allowed
            );
        }
        // Now the peer begins one with the same ports, while peers hurry: it takes the place of the pod's.
        assert_eq!(scene.peer_sends(friend, tcp(999, 80, SYN)), Reason::Allowed);
        assert_eq!(places(&scene, friend, 999, 80, TCP), EMBRYONIC);
        // It is the peer's: what the pod may do does not keep it.
        scene.kernel.flip(Direction::ToPod, Ruleset::DENY_ALL);
        let later = scene.pod_sends(friend, tcp(80, 999, SYN | ACK));
        assert_eq!(later, Reason::DenyAll);
    }
}

#[test]
fn over_budget_the_flows_of_a_pod_that_hurries_pass_from_where_they_stand() {
    for family in FAMILIES {
        let kernel = Kernel::new(Sizes {
            flows: 64,
            flows_per_attachment: 2,
            pace: 2,
            ..Sizes::default()
        });
        let mut scene = Scene::with_kernel(kernel, family, PolicyOf::to_pod(RULESET));
        let friend = scene.friend;
        for port in 1000..1006 {
            scene.handshake(friend, port, 80, Began::Peer);
        }
        assert_eq!(scene.kernel.flow_count(), 2);
        assert_eq!(places(&scene, friend, 1005, 80, TCP), CROWD);
        for port in 1000..1006 {
            let answer = scene.pod_sends(friend, tcp(80, port, ACK));
            assert_eq!(answer, Reason::Established);
        }
        // Judged again, where it stands.
        scene.kernel.flip(Direction::ToPod, Ruleset::DENY_ALL);
        let cut = scene.peer_sends(friend, tcp(1005, 80, ACK));
        assert_eq!(cut, Reason::DenyAll);
    }
}
