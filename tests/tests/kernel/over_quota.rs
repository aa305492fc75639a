// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods that have more answered flows than they may: what passes, and what room they leave to themselves.

use std::net::IpAddr;

use podgate_abi::{Direction, FlowKey, FlowState, FlowWord, Initiator, Reason, RulesetId};
use podgate_tests::frame::flag::ACK;
use podgate_tests::frame::{TCP, UDP, packet, tcp, udp};
use podgate_tests::kernel::{Kernel, Origin, PolicyOf, SLOT, Sizes};

use crate::setting::{CROWD, EMBRYONIC, End, FAMILIES, Family, NOWHERE, RULESET, Scene, places};

/// How many entries of `embryonic` a slot may have.
const SHARE: u16 = 8;

/// A pod that may begin what its policy allows, and with which anybody may; and that may have so many answered flows.
fn scene(family: Family, flows_per_attachment: u64) -> Scene {
    let kernel = Kernel::new(Sizes {
        crowd: 1024,
        embryonic_per_attachment: SHARE.into(),
        flows_per_attachment,
        ..Sizes::default()
    });
    let mut scene = Scene::with_kernel(kernel, family, PolicyOf::from_pod(RULESET));
    scene.kernel.flip(Direction::Ingress, RulesetId::ALLOW_ALL);
    scene
}

/// Clients ask the pod, and it asks others; everybody is answered at once.
fn asks_and_answers(scene: &mut Scene) {
    let friend = scene.friend;
    for port in 1..=100 {
        assert!(scene.peer_sends(friend, udp(port, 53)).passes());
        assert_eq!(scene.pod_sends(friend, udp(53, port)), Reason::Established);
    }
    for port in 1..=100 {
        assert!(scene.pod_sends(friend, udp(2000, port)).passes());
        let answer = scene.peer_sends(friend, udp(port, 2000));
        assert_eq!(answer, Reason::Established);
    }
}

#[test]
fn an_answered_flow_goes_to_the_crowd_and_still_passes() {
    for family in FAMILIES {
        let mut scene = scene(family, 2);
        let friend = scene.friend;
        for port in 1000..1000 + 3 * SHARE {
            scene.handshake(friend, port, 80, End::Peer);
        }
        assert_eq!(scene.kernel.flow_count(), 2);
        assert_eq!(scene.kernel.own_budgets(), [2, 0]);
        for port in 1000..1000 + 3 * SHARE {
            for (end, from, to) in [(End::Pod, 80, port), (End::Peer, port, 80)] {
                let passed = scene.end_sends(end, friend, tcp(from, to, ACK));
                assert_eq!(passed, Reason::Established);
            }
        }
        // Once there is room again, the next packet takes it.
        assert_eq!(places(&scene, friend, 1005, 80, TCP), CROWD);
        scene.kernel.set_budgets(SLOT, [1, 0]);
        let promoted = scene.peer_sends(friend, tcp(1005, 80, ACK));
        assert_eq!(promoted, Reason::Established);
        assert_eq!(places(&scene, friend, 1005, 80, TCP), NOWHERE);
        assert_eq!(scene.kernel.flow_count(), 3);
        // Judged again, where it stands.
        scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
        let cut = scene.peer_sends(friend, tcp(1006, 80, ACK));
        assert_eq!(cut, Reason::DenyAll);
    }
}

/// Answered flows over quota leave the share to what waits for an answer.
#[test]
fn answered_flows_over_quota_leave_the_share_to_waiting_ones() {
    for family in FAMILIES {
        let mut scene = scene(family, 4);
        let friend = scene.friend;
        asks_and_answers(&mut scene);
        assert_eq!(scene.kernel.own_budgets(), [4, 0]);
        assert_eq!(places(&scene, friend, 100, 2000, UDP), CROWD);
        // Nobody waits for anything. So there is room in the share.
        assert!(scene.pod_sends(friend, udp(2001, 53)).passes());
        assert_eq!(places(&scene, friend, 53, 2001, UDP), EMBRYONIC);
    }
}

#[test]
fn connections_over_quota_keep_nothing_of_the_share() {
    for family in FAMILIES {
        let mut scene = scene(family, 1);
        let friend = scene.friend;
        for port in 1..=20 {
            scene.handshake(friend, port, 80, End::Peer);
            scene.handshake(friend, 80, 1000 + port, End::Pod);
        }
        assert_eq!(scene.kernel.own_budgets(), [1, 0]);
        assert_eq!(scene.kernel.kernel_embryonic_of_slot(SLOT), 0);
    }
}

/// The answer to a server that was asked much passes. Clients that are answered often use up what a server may have,
/// and then the crowd is flooded.
#[test]
fn attack_06_the_answer_to_a_busy_server_still_passes() {
    let mut scene = scene(Family::V4, 4);
    let friend = scene.friend;
    asks_and_answers(&mut scene);
    scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
    assert!(scene.pod_sends(friend, udp(2001, 53)).passes());
    // Another pod, far above its share.
    for port in 0..20 * 1024_u32 {
        let key = FlowKey {
            peer: IpAddr::from([10, 9, (port >> 16) as u8, 1]).into(),
            peer_port: port as u16,
            pod_port: 1,
            slot: 9,
            protocol: UDP,
            padding: 0,
        };
        let word = FlowWord::new(&key, 1, Initiator::POD, FlowState::HALF);
        let key = bytemuck::cast::<_, [u8; 24]>(key);
        scene.kernel.crowd.insert(key, [word.0, 0], 0).unwrap();
    }
    let answer = packet(friend, scene.pod, udp(53, 2001)).frame();
    let kernel = &scene.kernel;
    assert!(kernel.run_in_kernel(Direction::Ingress, Origin::Elsewhere, &answer));
}
