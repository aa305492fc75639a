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
        scene.attach(PolicyOf::both(Ruleset::ALLOW_ALL), true);
        let to = scene.node;
        let packet = hidden(frame::packet(scene.pod, to, udp(999, 8472)), family);
        assert_eq!(scene.sends(&packet.frame()), Reason::Unpoliced);
    }
}

/// Two pods agree on it: the one sends from a tunnel's port by way of a NodePort, and the other answers later, when
/// the node has forgotten the first packet.
#[test]
fn a_tunnel_to_the_node_is_no_answer_either() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(Ruleset::ALLOW_ALL));
        let node = scene.node;
        assert_eq!(scene.peer_sends(node, udp(8472, 5000)), Reason::Tunnel);
        assert_eq!(scene.pod_sends(node, udp(5000, 8472)), Reason::Tunnel);
        assert_eq!(scene.node_sends(node, udp(8472, 5001)), Reason::Node);
        let friend = scene.friend;
        assert_eq!(scene.peer_sends(friend, udp(8472, 5000)), Reason::Allowed);
        // IPIP, 6in4, GRE. Nothing stops an outside host from sending with an IPv6 address of the node's.
        for protocol in [4, 41, 47] {
            let tunnel = || frame::other(protocol);
            assert_eq!(scene.peer_sends(node, tunnel()), Reason::Tunnel);
            assert_eq!(scene.pod_sends(node, tunnel()), Reason::Tunnel);
            assert_eq!(scene.peer_sends(friend, tunnel()), Reason::Allowed);
        }
    }
}

#[test]
fn attack_18_a_pod_redirects_others_over_ipv4() {
    let mut scene = Scene::new(Family::V4, PolicyOf::both(Ruleset::ALLOW_ALL));
    let stranger = scene.stranger;
    let redirect = frame::Payload {
        protocol: 1,
        bytes: vec![5, 1, 0, 0, 10, 0, 0, 1, 0, 0, 0, 0],
    };
    assert_eq!(
        scene.pod_sends(stranger, redirect.clone()),
        Reason::ForgedNeighbour
    );
    assert_eq!(scene.peer_sends(stranger, redirect), Reason::Allowed);
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

/// The packet inside is one of a connection that is allowed; what the pod has to say goes to somebody else.
#[test]
fn a_pod_sends_no_error_to_anybody_but_the_sender_of_what_it_is_about() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(RULESET));
        let (pod, friend, stranger, node) = (scene.pod, scene.friend, scene.stranger, scene.node);
        assert_eq!(scene.peer_sends(friend, udp(999, 53)), Reason::Allowed);
        assert_eq!(scene.node_sends(node, udp(999, 53)), Reason::Node);
        for peer in [friend, node] {
            let received = frame::packet(peer, pod, udp(999, 53)).frame();
            let error = frame::unreachable(peer, &received);
            assert_eq!(scene.pod_sends(peer, error.clone()), Reason::Related);
            assert_eq!(scene.pod_sends(stranger, error), Reason::Policy);
        }
    }
}
