// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The attacks of `docs/` that need neither bytes of their own nor a namespace: reused slots, evicted flows,
//! floods. (1 is in `fragments`, 2 in `headers`, 3 in `rulesets` and `torn`, 5 in `node`, 17 in `rulesets`, 18 in
//! `neighbors`.)

use std::net::IpAddr;

use podgate_abi::{Direction, FlowKey, FlowWord, Reason, RulesetId, Slot};
use podgate_tests::frame::flag::{ACK, PSH, RST, SYN};
use podgate_tests::frame::{packet, tcp, udp};
use podgate_tests::kernel::{Kernel, PolicyOf, SLOT, Sizes};

use crate::setting::{End, FAMILIES, Family, RULESET, Scene};

#[test]
fn attack_04_a_flow_of_the_slots_last_pod_is_not_this_pods() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::OPEN);
        let (friend, stranger) = (scene.friend, scene.stranger);
        scene.handshake(stranger, 999, 80, End::Peer);
        scene.handshake(stranger, 443, 2000, End::Pod);
        assert_eq!(scene.peer_sends(stranger, udp(999, 53)), Reason::Allowed);
        scene.handshake(friend, 999, 80, End::Peer);
        // The same slot, perhaps the same interface and address: another pod. Even if its generation were one that
        // the flows carry, they are older than its birth.
        scene.attach(PolicyOf::both(RULESET));
        for payload in [tcp(999, 80, ACK), tcp(443, 2000, ACK), udp(999, 53)] {
            assert_eq!(scene.peer_sends(stranger, payload), Reason::Policy);
        }
        for payload in [tcp(80, 999, ACK), tcp(2000, 443, ACK), udp(53, 999)] {
            assert_eq!(scene.pod_sends(stranger, payload), Reason::Policy);
        }
        // What it may do itself is judged, not found.
        assert_eq!(scene.peer_sends(friend, tcp(999, 80, ACK)), Reason::Allowed);
    }
}

#[test]
fn attack_04_who_began_an_old_pods_flow_is_forgotten_with_it() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::OPEN);
        let node = scene.node;
        assert_eq!(scene.node_sends(node, tcp(999, 80, SYN)), Reason::Node);
        // Flows that the node began need no generation: only the birth ends them.
        scene.kernel.flip(Direction::Egress, RulesetId::DENY_ALL);
        assert_eq!(
            scene.pod_sends(node, tcp(80, 999, ACK)),
            Reason::Established
        );
        scene.attach(PolicyOf::SHUT);
        assert_eq!(scene.pod_sends(node, tcp(80, 999, ACK)), Reason::DenyAll);
    }
}

#[test]
fn attack_16_an_evicted_flow_is_picked_up_from_the_servers_side() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
        let friend = scene.friend;
        scene.handshake(friend, 999, 80, End::Peer);
        scene.kernel.forget_flows();
        // The pod is the server; its next packet looks as if it had begun the connection.
        assert_eq!(scene.pod_sends(friend, tcp(80, 999, ACK)), Reason::Allowed);
        assert_eq!(
            scene.peer_sends(friend, tcp(999, 80, ACK)),
            Reason::Established
        );
        // Ingress is revoked: that must end it, though egress allows everything.
        scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
        assert_eq!(scene.pod_sends(friend, tcp(80, 999, ACK)), Reason::DenyAll);
        assert_eq!(scene.peer_sends(friend, tcp(999, 80, ACK)), Reason::DenyAll);
    }
}

#[test]
fn what_was_picked_up_is_the_pods_own_once_its_syn_is_seen() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::from_pod(RULESET));
        let friend = scene.friend;
        assert_eq!(
            scene.pod_sends(friend, tcp(2000, 443, ACK)),
            Reason::Allowed
        );
        assert_eq!(
            scene.peer_sends(friend, tcp(443, 2000, ACK)),
            Reason::Established
        );
        scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
        assert_eq!(
            scene.peer_sends(friend, tcp(443, 2000, ACK)),
            Reason::DenyAll
        );
        // A new connection with the same ports proves itself.
        assert_eq!(
            scene.pod_sends(friend, tcp(2000, 443, SYN)),
            Reason::Allowed
        );
        assert_eq!(
            scene.peer_sends(friend, tcp(443, 2000, SYN | ACK)),
            Reason::Established
        );
        scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
        assert_eq!(
            scene.peer_sends(friend, tcp(443, 2000, ACK)),
            Reason::Established
        );
    }
}

/// A picked-up flow is judged again when either direction changes.
#[test]
fn a_picked_up_flow_is_judged_again_if_either_side_changes() {
    for family in FAMILIES {
        for changed in Direction::BOTH {
            let mut scene = Scene::new(family, PolicyOf::both(RULESET));
            let friend = scene.friend;
            assert_eq!(scene.pod_sends(friend, tcp(80, 999, ACK)), Reason::Allowed);
            scene.kernel.flip(changed, RULESET);
            assert_eq!(scene.pod_sends(friend, tcp(80, 999, ACK)), Reason::Allowed);
            assert_eq!(
                scene.pod_sends(friend, tcp(80, 999, ACK)),
                Reason::Established
            );
            scene.kernel.flip(changed, RulesetId::DENY_ALL);
            assert_eq!(scene.pod_sends(friend, tcp(80, 999, ACK)), Reason::DenyAll);
        }
    }
}

fn small(flows: u32, embryonic: u32, flows_per_attachment: u64) -> Kernel {
    Kernel::new(Sizes {
        flows,
        embryonic,
        flows_per_attachment,
        ..Sizes::default()
    })
}

#[test]
fn attack_06_a_flood_evicts_no_established_flow_of_another_pod() {
    let mut scene = Scene::with_kernel(small(256, 256, 64), Family::V4, PolicyOf::both(RULESET));
    scene.kernel.flip(Direction::Egress, RulesetId::DENY_ALL);
    let (pod, friend) = (scene.pod, scene.friend);
    // The victim's connections, and the same under another slot: the victim of the flood that this slot makes.
    for port in 0..32 {
        scene.handshake(friend, 1000 + port, 80, End::Peer);
    }
    let victims = scene.kernel.move_flows_to_slot(3);
    assert_eq!(victims, 32);
    scene.kernel.flip(Direction::Egress, RulesetId::ALLOW_ALL);
    // Far more than both tables have room for. The host's model has no LRU, so this is the kernel's alone.
    for number in 0..20_000_u32 {
        let address = IpAddr::from([10, 200, (number >> 8) as u8, number as u8]);
        let out = packet(pod, address, udp(2000, 53)).frame();
        let back = packet(address, pod, udp(53, 2000)).frame();
        let (out, back) = if number % 2 == 0 {
            (out, back)
        } else {
            let out = packet(pod, address, tcp(2000, 80, SYN)).frame();
            (out, packet(address, pod, tcp(80, 2000, SYN | ACK)).frame())
        };
        use podgate_tests::kernel::Origin::Elsewhere;
        assert!(
            scene
                .kernel
                .run_in_kernel(Direction::Egress, Elsewhere, &out)
        );
        assert!(
            scene
                .kernel
                .run_in_kernel(Direction::Ingress, Elsewhere, &back)
        );
    }
    assert_eq!(scene.kernel.kernel_flows_of_slot(Slot(3)), 32);
    // And the flood itself had no more than its quota.
    assert_eq!(scene.kernel.kernel_flows_of_slot(SLOT), 64);
}

/// Two hundred connections of the friend's that go on like this; none of them enters the flows.
fn begun_and_not_entered(family: Family, steps: &[(End, u8)]) -> Scene {
    let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
    for port in 1000..1200 {
        let mut expected = Reason::Allowed;
        for (end, flags) in steps {
            assert_eq!(scene.segment(*end, port, *flags), expected, "{end:?}");
            expected = Reason::Established;
        }
    }
    assert_eq!(scene.kernel.flow_count(), 0);
    scene
}

#[test]
fn a_syn_flood_that_is_answered_does_not_enter_the_flows() {
    for family in FAMILIES {
        let steps = [
            (End::Peer, SYN),
            (End::Pod, SYN | ACK),
            (End::Pod, SYN | ACK),
            (End::Peer, RST),
        ];
        let mut scene = begun_and_not_entered(family, &steps);
        // The third step, with data or without, enters it.
        assert_eq!(scene.segment(End::Peer, 1300, SYN), Reason::Allowed);
        for (end, flags) in [(End::Pod, SYN | ACK), (End::Peer, ACK | PSH)] {
            assert_eq!(scene.segment(end, 1300, flags), Reason::Established);
        }
        assert_eq!(scene.kernel.flow_count(), 1);
    }
}

#[test]
fn attack_06_segments_answered_by_resets_do_not_enter_flows() {
    for family in FAMILIES {
        let steps = [(End::Peer, ACK), (End::Pod, RST), (End::Peer, ACK)];
        begun_and_not_entered(family, &steps);
    }
}

#[test]
fn a_flow_whose_word_is_another_flows_is_none() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
        let (friend, stranger) = (scene.friend, scene.stranger);
        scene.handshake(friend, 999, 80, End::Peer);
        let key = |peer: IpAddr| FlowKey {
            peer: peer.into(),
            peer_port: 999,
            pod_port: 80,
            slot: SLOT.0 as u16,
            protocol: podgate_tests::frame::TCP,
            padding: 0,
        };
        let word = scene
            .kernel
            .host
            .flows
            .get(&key(friend))
            .expect("a flow")
            .word();
        assert_ne!(word, FlowWord::NONE);
        scene.kernel.put_flow_word(&key(stranger), word);
        assert_eq!(
            scene.peer_sends(stranger, tcp(999, 80, ACK)),
            Reason::Policy
        );
        assert_eq!(
            scene.peer_sends(friend, tcp(999, 80, ACK)),
            Reason::Established
        );
    }
}

#[test]
fn counters_and_events_carry_the_reason() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
        let (pod, friend, stranger) = (scene.pod, scene.friend, scene.stranger);
        scene.kernel.take_events();
        // `Kernel::run` compares the counters with each packet; here, the events.
        scene.handshake(friend, 999, 80, End::Peer);
        assert_eq!(scene.peer_sends(stranger, udp(998, 53)), Reason::Policy);
        let events = scene.kernel.take_events();
        let [allowed, denied] = events[..] else {
            panic!("two verdicts are events, established packets are none: {events:?}");
        };
        assert_eq!(allowed.reason, Reason::Allowed as u8);
        assert_eq!(denied.reason, Reason::Policy as u8);
        for (event, peer, ports) in [(allowed, friend, (999, 80)), (denied, stranger, (998, 53))] {
            assert_eq!(event.pod, pod.into());
            assert_eq!(event.peer, peer.into());
            assert_eq!((event.source_port, event.destination_port), ports);
            assert_eq!(u32::from(event.slot), SLOT.0);
            assert_eq!(event.direction, Direction::Ingress as u8);
            assert!(event.when > 0);
        }
        assert_eq!((allowed.protocol, denied.protocol), (6, 17));
    }
}
