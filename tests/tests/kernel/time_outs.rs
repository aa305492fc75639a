// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How long a flow lasts without a packet, and what counts as one.

use podgate_abi::{Direction, Reason, RulesetId};
use podgate_tests::frame::flag::ACK;
use podgate_tests::frame::{self, tcp, udp};
use podgate_tests::kernel::{HZ, PolicyOf};

use crate::setting::{End, FAMILIES, RULESET, Scene};

#[test]
fn a_flow_that_was_silent_for_too_long_is_none() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
        scene.kernel.flip(Direction::Egress, RulesetId::DENY_ALL);
        let friend = scene.friend;
        // Seconds that the state of the flow allows: one side heard, both heard, TCP established.
        assert_eq!(scene.peer_sends(friend, udp(999, 53)), Reason::Allowed);
        scene.kernel.age_flows(59);
        assert_eq!(scene.pod_sends(friend, udp(53, 999)), Reason::Established);
        scene.kernel.age_flows(61);
        assert_eq!(scene.pod_sends(friend, udp(53, 999)), Reason::Established);
        scene.kernel.age_flows(181);
        assert_eq!(scene.pod_sends(friend, udp(53, 999)), Reason::DenyAll);

        scene.handshake(friend, 999, 80, End::Peer);
        scene.kernel.age_flows(86_300);
        assert_eq!(
            scene.pod_sends(friend, tcp(80, 999, ACK)),
            Reason::Established
        );
        scene.kernel.age_flows(86_401);
        assert_eq!(scene.pod_sends(friend, tcp(80, 999, ACK)), Reason::DenyAll);
    }
}

#[test]
fn packets_that_are_denied_keep_no_flow_alive() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
        let friend = scene.friend;
        assert_eq!(scene.peer_sends(friend, udp(7, 53)), Reason::Allowed);
        let seen = |scene: &Scene| {
            let key = scene.kernel.embryonic.keys().next().unwrap().unwrap();
            let [_, seen] = scene.kernel.embryonic.get(&key, 0).unwrap();
            seen
        };
        let before = seen(&scene);
        scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
        for _ in 0..5 {
            scene.kernel.age_flows(50);
            assert_eq!(scene.peer_sends(friend, udp(7, 53)), Reason::DenyAll);
        }
        let age = before.wrapping_sub(seen(&scene));
        assert_eq!(age, 250 * u64::from(HZ));
    }
}

#[test]
fn errors_keep_no_flow_alive_and_packets_that_pass_do() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::from_pod(RULESET));
        scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
        let (pod, friend) = (scene.pod, scene.friend);
        let question = frame::packet(pod, friend, udp(2000, 53)).frame();
        assert_eq!(scene.sends(&question), Reason::Allowed);
        let mut error_is = |expected, age| {
            scene.kernel.age_flows(age);
            let error = frame::unreachable(pod, &question);
            assert_eq!(scene.peer_sends(friend, error), expected);
        };
        error_is(Reason::Related, 40);
        error_is(Reason::DenyAll, 40);
        assert_eq!(scene.sends(&question), Reason::Allowed);
        for _ in 0..3 {
            scene.kernel.age_flows(40);
            assert_eq!(scene.sends(&question), Reason::Established);
        }
    }
}
