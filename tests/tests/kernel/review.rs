//! What an adversarial reading of the datapath found.

use std::net::IpAddr;

use podgate_abi::{Reason, Ruleset};
use podgate_tests::frame::{self, DESTINATION_OPTIONS, Fragment, udp};
use podgate_tests::kernel::PolicyOf;

use crate::setting::{FAMILIES, Family, RULESET, Scene};

/// Headers that the stack reads to their end and the programs do not.
fn hidden(packet: frame::Packet, family: Family) -> frame::Packet {
    match family {
        Family::V4 => packet.options(&[1; 40]),
        Family::V6 => packet.padding_options(DESTINATION_OPTIONS, 7),
    }
}

#[test]
fn a_tunnel_to_the_node_cannot_hide_behind_headers_that_are_not_read() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(Ruleset::ALLOW_ALL));
        let everybody: IpAddr = match family {
            Family::V4 => "224.0.0.1".parse().expect("an address"),
            Family::V6 => "ff02::1".parse().expect("an address"),
        };
        for to in [scene.node, everybody] {
            let packet = hidden(frame::packet(scene.pod, to, udp(999, 8472)), family);
            let reason = scene.sends(&packet.frame());
            assert!(!reason.passes(), "{family:?} to {to}: {reason:?}");
        }
        // To anybody else it is nobody's business.
        let to = scene.stranger;
        let packet = hidden(frame::packet(scene.pod, to, udp(999, 8472)), family);
        assert_eq!(scene.sends(&packet.frame()), Reason::Unpoliced);
        scene.attach(PolicyOf::both(Ruleset::ALLOW_ALL), true);
        let to = scene.node;
        let packet = hidden(frame::packet(scene.pod, to, udp(999, 8472)), family);
        assert_eq!(scene.sends(&packet.frame()), Reason::Unpoliced);
    }
}

#[test]
fn a_tunnel_cannot_lead_to_the_nodes_loopback() {
    let mut scene = Scene::new(Family::V4, PolicyOf::both(Ruleset::ALLOW_ALL));
    let loopback = "127.0.0.2".parse().expect("an address");
    assert_eq!(scene.pod_sends(loopback, udp(999, 8472)), Reason::Tunnel);
    assert_eq!(scene.pod_sends(loopback, udp(999, 53)), Reason::Allowed);
}

#[test]
fn an_error_about_a_first_fragment_reaches_who_sent_it() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::to_pod(RULESET));
        let (pod, friend, stranger) = (scene.pod, scene.friend, scene.stranger);
        assert_eq!(scene.peer_sends(friend, udp(999, 53)), Reason::Allowed);
        let first = Fragment {
            identification: 7,
            offset: 0,
            more: true,
        };
        let answer = frame::packet(pod, friend, udp(53, 999)).fragment(first);
        assert_eq!(scene.sends(&answer.frame()), Reason::Established);
        let error = frame::unreachable(stranger, &answer.frame());
        assert_eq!(scene.peer_sends(stranger, error), Reason::Related);
        let other = frame::packet(pod, friend, udp(53, 998)).fragment(first);
        let error = frame::unreachable(stranger, &other.frame());
        assert_eq!(scene.peer_sends(stranger, error), Reason::Policy);
    }
}
