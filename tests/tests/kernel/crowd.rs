// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods that begin many flows: where these stand, and that nobody else pays for it.

use std::net::IpAddr;

use podgate_abi::{Direction, Reason, RulesetId, Slot};
use podgate_tests::frame::flag::{ACK, SYN};
use podgate_tests::frame::{TCP, UDP, packet, tcp, udp};
use podgate_tests::kernel::{Kernel, Origin, PolicyOf, SLOT, Sizes};

use crate::setting::{CROWD, EMBRYONIC, FAMILIES, Family, NOWHERE, RULESET, Scene, places};

/// How many entries of `embryonic` a slot may have; others may begin half as many.
const SHARE: u16 = 8;

/// A pod with policies in these directions, whose share is small.
fn scene(family: Family, policies: PolicyOf) -> Scene {
    let kernel = Kernel::new(Sizes {
        embryonic_per_attachment: SHARE.into(),
        ..Sizes::default()
    });
    Scene::with_kernel(kernel, family, policies)
}

/// A pod that may begin anything, and to which nobody may.
fn shut_scene(family: Family) -> Scene {
    let mut scene = scene(family, PolicyOf::from_pod(RULESET));
    scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
    scene
}

/// Sends from the pod to so many peers, or again; in the kernel alone.
fn asks(scene: &Scene, peers: u32) {
    for number in 0..peers {
        let address = IpAddr::from([10, 200, (number >> 8) as u8, number as u8]);
        let out = packet(scene.pod, address, udp(2000, 53)).frame();
        let kernel = &scene.kernel;
        assert!(kernel.run_in_kernel(Direction::Egress, Origin::Elsewhere, &out));
    }
}

#[test]
fn attack_06_unanswered_flows_take_no_place_from_other_pods() {
    const ROOM: u32 = 1024;
    // As many pods as a node of this size has shares for, but one.
    const PODS: u16 = 7;
    let kernel = Kernel::new(Sizes {
        embryonic: ROOM,
        crowd: ROOM,
        embryonic_per_attachment: (ROOM / 8).into(),
        ..Sizes::default()
    });
    let mut scene = Scene::with_kernel(kernel, Family::V4, PolicyOf::from_pod(RULESET));
    let friend = scene.friend;
    for port in 1..=16 {
        assert_eq!(scene.pod_sends(friend, udp(2000, port)), Reason::Allowed);
    }
    // What another pod waits for.
    assert_eq!(scene.kernel.move_embryonic_to_slot(1), 16);
    scene.kernel.flip(Direction::Egress, RulesetId::ALLOW_ALL);
    for slot in 2..2 + PODS {
        // Begins more and more, and keeps what it has begun.
        for begun in (0..2 * ROOM).step_by(64) {
            asks(&scene, begun);
        }
        let [_, has] = scene.kernel.quotas(SLOT);
        assert_eq!(has, u64::from(ROOM / 8));
        assert_eq!(scene.kernel.kernel_embryonic_of_slot(SLOT) as u64, has);
        assert_eq!(scene.kernel.kernel_embryonic_of_slot(Slot(1)), 16);
        scene.kernel.move_embryonic_to_slot(slot);
    }
    // And there is room for what one that is quiet begins now.
    asks(&scene, 100);
    assert_eq!(scene.kernel.kernel_embryonic_of_slot(SLOT), 100);
}

#[test]
fn beyond_its_share_the_answers_of_a_pod_pass_all_the_same() {
    for family in FAMILIES {
        let mut scene = shut_scene(family);
        let friend = scene.friend;
        for port in 1..=5 * SHARE {
            assert_eq!(scene.pod_sends(friend, udp(2000, port)), Reason::Allowed);
            let expected = if port <= SHARE { EMBRYONIC } else { CROWD };
            assert_eq!(places(&scene, friend, port, 2000, UDP), expected, "{port}");
        }
        assert_eq!(scene.kernel.own_budgets(), [0, SHARE.into()]);
        for port in 1..=5 * SHARE {
            let answer = scene.peer_sends(friend, udp(port, 2000));
            assert_eq!(answer, Reason::Established, "{port}");
            assert_eq!(places(&scene, friend, port, 2000, UDP), NOWHERE, "{port}");
        }
        let stray = scene.peer_sends(friend, udp(5 * SHARE + 1, 2000));
        assert_eq!(stray, Reason::DenyAll);
        // What was answered is not counted any more.
        assert_eq!(scene.kernel.own_budgets(), [5 * u64::from(SHARE), 0]);
        assert_eq!(scene.pod_sends(friend, udp(3000, 1)), Reason::Allowed);
        assert_eq!(places(&scene, friend, 1, 3000, UDP), EMBRYONIC);
    }
}

/// What others begin leaves half of the share to what the pod begins.
#[test]
fn flows_that_peers_begin_leave_half_the_share_to_the_pods() {
    for family in FAMILIES {
        let mut scene = scene(family, PolicyOf::both(RULESET));
        let friend = scene.friend;
        for port in 1..=5 * SHARE {
            assert_eq!(scene.peer_sends(friend, udp(port, 53)), Reason::Allowed);
            let expected = if port <= SHARE / 2 { EMBRYONIC } else { CROWD };
            assert_eq!(places(&scene, friend, port, 53, UDP), expected, "{port}");
        }
        for port in 1..=SHARE {
            assert_eq!(scene.pod_sends(friend, udp(2000, port)), Reason::Allowed);
            let expected = if port <= SHARE / 2 { EMBRYONIC } else { CROWD };
            assert_eq!(places(&scene, friend, port, 2000, UDP), expected, "{port}");
        }
    }
}

#[test]
fn a_flow_that_timed_out_in_the_table_is_counted_once() {
    for family in FAMILIES {
        let mut scene = shut_scene(family);
        let friend = scene.friend;
        for _ in 0..3 {
            assert_eq!(scene.pod_sends(friend, udp(2000, 53)), Reason::Allowed);
            assert_eq!(places(&scene, friend, 53, 2000, UDP), EMBRYONIC);
            assert_eq!(scene.kernel.own_budgets(), [0, 1]);
            scene.kernel.age_flows(61);
            assert_eq!(scene.peer_sends(friend, udp(53, 2000)), Reason::DenyAll);
        }
    }
}

#[test]
fn a_count_that_strayed_below_zero_stops_nobody() {
    let mut scene = shut_scene(Family::V4);
    let friend = scene.friend;
    scene.kernel.set_budgets(SLOT, [u64::MAX, u64::MAX]);
    assert_eq!(scene.pod_sends(friend, udp(2000, 53)), Reason::Allowed);
    assert_eq!(places(&scene, friend, 53, 2000, UDP), EMBRYONIC);
    assert_eq!(scene.peer_sends(friend, udp(53, 2000)), Reason::Established);
    assert_eq!(scene.kernel.flow_count(), 1);
    assert_eq!(scene.kernel.own_budgets(), [0, u64::MAX]);
}

#[test]
fn an_unanswered_flow_stays_in_the_table_it_began_in() {
    for family in FAMILIES {
        let mut scene = shut_scene(family);
        let friend = scene.friend;
        for port in 1..=2 * SHARE {
            let begun = scene.pod_sends(friend, tcp(2000, port, SYN));
            assert_eq!(begun, Reason::Allowed);
        }
        // Sent again, answered and begun anew, while the share is used up and while it is not.
        for used in [SHARE, 0] {
            scene.kernel.set_budgets(SLOT, [0, used.into()]);
            for (port, expected) in [(1, EMBRYONIC), (2 * SHARE, CROWD)] {
                let again = scene.pod_sends(friend, tcp(2000, port, SYN));
                assert_eq!(again, Reason::Established);
                assert_eq!(places(&scene, friend, port, 2000, TCP), expected);
                let answer = scene.peer_sends(friend, tcp(port, 2000, SYN | ACK));
                assert_eq!(answer, Reason::Established);
                assert_eq!(places(&scene, friend, port, 2000, TCP), expected);
            }
        }
        assert_eq!(scene.kernel.flow_count(), 0);
        // The third step moves it to the flows, from either.
        for port in [1, 2 * SHARE] {
            let third = scene.pod_sends(friend, tcp(2000, port, ACK));
            assert_eq!(third, Reason::Established);
            assert_eq!(places(&scene, friend, port, 2000, TCP), NOWHERE);
        }
        assert_eq!(scene.kernel.flow_count(), 2);
    }
}

/// A connection that the other end begins again is not found as it was before.
#[test]
fn a_connection_begun_again_by_the_peer_is_not_the_old_one() {
    for family in FAMILIES {
        let mut scene = scene(family, PolicyOf::both(RULESET));
        let friend = scene.friend;
        // The pod's own, begun in peace.
        assert_eq!(scene.pod_sends(friend, tcp(80, 999, SYN)), Reason::Allowed);
        for port in 1..=2 * SHARE {
            let begun = scene.peer_sends(friend, tcp(port, 81, SYN));
            assert_eq!(begun, Reason::Allowed);
        }
        // Now the peer begins one with the same ports, with the share used up: it takes the place of the pod's.
        assert_eq!(scene.peer_sends(friend, tcp(999, 80, SYN)), Reason::Allowed);
        assert_eq!(places(&scene, friend, 999, 80, TCP), EMBRYONIC);
        // It is the peer's: what the pod may do does not keep it.
        scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
        let later = scene.pod_sends(friend, tcp(80, 999, SYN | ACK));
        assert_eq!(later, Reason::DenyAll);
    }
}

/// A flood of clients leaves the pod its half when the crowd forgets them.
#[test]
fn a_flood_of_clients_leaves_the_pods_half() {
    for family in FAMILIES {
        let mut scene = scene(family, PolicyOf::OPEN);
        let friend = scene.friend;
        for port in 1..=5 * SHARE {
            let begun = scene.peer_sends(friend, tcp(port, 80, SYN));
            assert_eq!(begun, Reason::Allowed);
        }
        scene.kernel.forget_crowd();
        // A second later the pod sends its SYN-ACKs again, of which those that the crowd has lost begin a flow.
        for port in 1..=5 * SHARE {
            let again = scene.pod_sends(friend, tcp(80, port, SYN | ACK));
            assert!(again.passes(), "{again:?}");
        }
        assert_eq!(scene.pod_sends(friend, udp(2000, 53)), Reason::Allowed);
        assert_eq!(places(&scene, friend, 53, 2000, UDP), EMBRYONIC);
    }
}
