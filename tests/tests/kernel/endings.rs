// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ends of TCP connections: a segment that the receiver ignores ends nothing, and what has ended is no way in.

use podgate_abi::{Direction, Reason, RulesetId};
use podgate_tests::frame::flag::{ACK, FIN, PSH, RST, SYN};

use crate::setting::{End, FAMILIES, Family, RULESET, Scene};

/// A connection that `began` opened to the pod's port 80, in which only the flow lets the other end answer.
fn connected(family: Family, began: End) -> Scene {
    let mut scene = Scene::new(family, began.policy());
    scene
        .kernel
        .flip(began.other().direction(), RulesetId::DENY_ALL);
    scene.handshake(scene.friend, 999, 80, began);
    scene
}

#[test]
fn attack_38_a_spoofed_reset_or_fin_shortens_no_flow() {
    for family in FAMILIES {
        for began in End::BOTH {
            for spoofed in End::BOTH {
                // The first two are the control. A SYN is judged, as one that may begin another connection.
                for flags in [
                    &[][..],
                    &[SYN | ACK],
                    &[FIN | ACK],
                    &[RST],
                    &[RST | ACK],
                    &[FIN | ACK, FIN | ACK],
                    &[RST, SYN],
                ] {
                    let mut scene = connected(family, began);
                    for flags in flags {
                        let passed = scene.segment(spoofed, 999, *flags);
                        let is_allowed = *flags != SYN || spoofed == began;
                        assert_eq!(passed.passes(), is_allowed, "{passed:?}");
                    }
                    for seconds in [126, 80_000] {
                        scene.kernel.age_flows(seconds);
                        let answer = scene.segment(began.other(), 999, PSH | ACK);
                        assert_eq!(
                            answer,
                            Reason::Established,
                            "{began:?} began, {spoofed:?} sent {flags:?}, {seconds} s later"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_half_closed_connection_lives_until_both_ends_close_it() {
    for family in FAMILIES {
        for closes in End::BOTH {
            let mut scene = connected(family, closes);
            for _ in 0..2 {
                let fin = scene.segment(closes, 999, FIN | ACK);
                assert_eq!(fin, Reason::Established);
            }
            scene.kernel.age_flows(3600);
            for flags in [PSH | ACK, FIN | ACK] {
                let more = scene.segment(closes.other(), 999, flags);
                assert_eq!(more, Reason::Established);
            }
        }
    }
}

#[test]
fn what_has_ended_is_judged_anew_by_a_syn_and_by_another_policy() {
    for family in FAMILIES {
        for ends in [&[FIN | ACK][..], &[RST], &[FIN | ACK, FIN | ACK]] {
            let mut scene = connected(family, End::Peer);
            for (flags, end) in ends.iter().zip(End::BOTH) {
                assert_eq!(scene.segment(end, 999, *flags), Reason::Established);
            }
            scene.kernel.age_flows(126);
            scene.kernel.flip(Direction::Ingress, RulesetId::DENY_ALL);
            for end in End::BOTH {
                assert_eq!(scene.segment(end, 999, ACK), Reason::DenyAll);
            }
            assert_eq!(scene.segment(End::Peer, 999, SYN), Reason::DenyAll);
            scene.kernel.flip(Direction::Ingress, RULESET);
            assert_eq!(scene.segment(End::Peer, 999, SYN), Reason::Allowed);
        }
    }
}

#[test]
fn a_connection_that_the_pod_goes_on_with_has_not_ended() {
    for family in FAMILIES {
        let mut scene = connected(family, End::Peer);
        assert_eq!(scene.segment(End::Peer, 999, RST), Reason::Established);
        assert_eq!(scene.kernel.flow_states(), ["closing"]);
        // What the peer sends may be spoofed as well; a mere acknowledgment ends every connection.
        for (end, flags, expected) in [
            (End::Peer, PSH | ACK, "closing"),
            (End::Pod, ACK, "closing"),
            (End::Pod, PSH | ACK, "established"),
        ] {
            assert_eq!(scene.segment(end, 999, flags), Reason::Established);
            assert_eq!(scene.kernel.flow_states(), [expected]);
        }
    }
}
