// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The node itself: what it may send to its pods, and which tunnels may lead to it.

use std::net::IpAddr;

use podgate_abi::{
    Class, Direction, PeerWord, Reason, RowKey, RowSets, RowWords, RulesetId, WayKey, WayWord,
};
use podgate_tests::frame::flag::{ACK, SYN};
use podgate_tests::frame::{self, echo_reply, echo_request, sctp, sctp_ack, tcp, udp};
use podgate_tests::kernel::PolicyOf;

use crate::setting::{ALL, FAMILIES, FRIENDS, Family, NOTHING, RULESET, Scene, on_a_router};

#[test]
fn the_node_may_always_reach_its_pod_and_gets_answers() {
    for family in FAMILIES {
        for policy in [PolicyOf::SHUT, PolicyOf::both(RULESET)] {
            let mut scene = Scene::new(family, policy);
            let node = scene.node;
            for (request, answer) in [
                (tcp(999, 80, SYN), tcp(80, 999, SYN | ACK)),
                (udp(999, 53), udp(53, 999)),
                (sctp(999, 80), sctp_ack(80, 999)),
                (echo_request(node, 7), echo_reply(node, 7)),
            ] {
                assert_eq!(scene.node_sends(node, request.clone()), Reason::Node);
                assert_eq!(scene.pod_sends(node, answer.clone()), Reason::Established);
                scene.kernel.renew();
                assert_eq!(scene.pod_sends(node, answer), Reason::Established);
                assert_eq!(scene.node_sends(node, request), Reason::Node);
            }
            // Without a packet of the node's before, the pod may not.
            assert_ne!(
                scene.pod_sends(node, tcp(80, 998, ACK)),
                Reason::Established
            );
        }
    }
}

/// A packet without an interface that it came from is the node's only by its address.
#[test]
fn without_an_interface_a_packet_is_the_nodes_only_by_address() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::SHUT);
        for source in [scene.friend, scene.stranger] {
            assert_eq!(scene.node_sends(source, tcp(999, 80, SYN)), Reason::DenyAll);
        }
    }
}

#[test]
fn the_nodes_address_alone_makes_no_packet_the_nodes() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::SHUT);
        let node = scene.node;
        assert_eq!(scene.peer_sends(node, tcp(999, 80, SYN)), Reason::DenyAll);
        // Nor does the key of a flow that the node began.
        assert_eq!(scene.node_sends(node, tcp(999, 80, SYN)), Reason::Node);
        assert_eq!(scene.peer_sends(node, tcp(999, 80, ACK)), Reason::DenyAll);
        assert_eq!(scene.pod_sends(node, tcp(80, 999, SYN)), Reason::DenyAll);
        assert_eq!(
            scene.pod_sends(node, tcp(80, 999, ACK)),
            Reason::Established
        );
    }
}

/// Tunnels as a pod would send them to `peer`, with the header that says so.
fn tunnels() -> Vec<frame::Payload> {
    vec![
        udp(2000, 8472),
        udp(2000, 4789),
        udp(2000, 6081),
        frame::other(4),
        frame::other(41),
        frame::other(47),
        // L2TP, GTP-U, GUE; EtherIP, L2TP, MPLS, Ethernet in SRv6.
        udp(2000, 1701),
        udp(2000, 2152),
        udp(2000, 6080),
        frame::other(97),
        frame::other(115),
        frame::other(137),
        frame::other(143),
    ]
}

#[test]
fn attack_05_a_tunnel_from_an_unpoliced_pod_to_the_node() {
    for family in FAMILIES {
        for policy in [PolicyOf::OPEN, PolicyOf::to_pod(RULESET)] {
            let mut scene = Scene::new(family, policy);
            let node = scene.node;
            for tunnel in tunnels() {
                assert_eq!(scene.pod_sends(node, tunnel.clone()), Reason::Tunnel);
                let behind_options = frame::packet(scene.pod, node, tunnel);
                let behind_options = match family {
                    Family::V4 => behind_options.options(&[1, 1, 1, 0]),
                    Family::V6 => behind_options.padding_options(frame::DESTINATION_OPTIONS, 6),
                };
                assert_eq!(scene.sends(&behind_options.frame()), Reason::Tunnel);
            }
            assert_eq!(scene.pod_sends(node, udp(8472, 53)), Reason::Allowed);
            assert_eq!(scene.pod_sends(node, tcp(2000, 8472, SYN)), Reason::Allowed);
            assert_eq!(scene.pod_sends(node, sctp(2000, 8472)), Reason::Allowed);
        }
    }
}

#[test]
fn a_tunnel_to_whoever_listens_is_one_to_the_node() {
    for (family, group) in [
        (Family::V4, "239.1.1.1"),
        (Family::V4, "255.255.255.255"),
        (Family::V6, "ff05::100"),
    ] {
        let mut scene = Scene::new(family, PolicyOf::OPEN);
        let group: IpAddr = group.parse().expect("an address");
        assert_eq!(scene.pod_sends(group, udp(2000, 4789)), Reason::Tunnel);
    }
}

#[test]
fn a_tunnel_to_anybody_else_is_the_policys_business() {
    on_a_router(|| {
        for family in FAMILIES {
            let mut scene = Scene::new(family, PolicyOf::OPEN);
            scene.kernel.host.forwards = true;
            let stranger = scene.stranger;
            for tunnel in tunnels() {
                assert_eq!(scene.pod_sends(stranger, tunnel), Reason::Allowed);
            }
        }
    });
}

#[test]
fn attack_28_a_tunnel_to_another_node() {
    on_a_router(|| {
        for family in FAMILIES {
            let mut scene = Scene::new(family, PolicyOf::OPEN);
            let other = scene.stranger;
            let word = podgate_abi::PeerWord::new(other.into(), Class::NONE, Class::NONE, false);
            scene
                .kernel
                .put_peer_word(other.into(), word.of_another_node());
            for tunnel in tunnels() {
                assert_eq!(scene.pod_sends(other, tunnel), Reason::Tunnel);
            }
            // It is no own node: what it sends is judged, also when the node seems to have made it.
            scene.kernel.flip(podgate_abi::Direction::Ingress, RULESET);
            assert_eq!(scene.node_sends(other, udp(999, 53)), Reason::Policy);
        }
    });
}

/// Routes change without the plan: the node is asked for every packet of a flow, also of one that a policy allows.
#[test]
fn a_tunnel_to_anybody_else_may_come_to_lead_to_the_node() {
    on_a_router(|| {
        for family in FAMILIES {
            for policy in [PolicyOf::OPEN, PolicyOf::from_pod(RULESET)] {
                let mut scene = Scene::new(family, policy);
                let friend = scene.friend;
                for forwards in [true, false, true] {
                    scene.kernel.host.forwards = forwards;
                    let word = if forwards { "1" } else { "0" };
                    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                        std::fs::write(format!("/proc/sys/net/{setting}"), word)
                            .expect("a setting");
                    }
                    for (at, tunnel) in tunnels().into_iter().enumerate() {
                        let reason = scene.pod_sends(friend, tunnel);
                        assert_eq!(reason == Reason::Tunnel, !forwards, "{at}: {reason:?}");
                    }
                }
            }
        }
    });
}

/// The node may send in a flow of the pod's to what has become an address of the node, and the pod may not.
#[test]
fn a_tunnel_to_anybody_else_is_the_nodes_once_it_is_there() {
    on_a_router(|| {
        for family in FAMILIES {
            let mut scene = Scene::new(family, PolicyOf::OPEN);
            scene.kernel.host.forwards = true;
            let address = scene.stranger;
            assert_eq!(scene.pod_sends(address, udp(2000, 1701)), Reason::Allowed);
            scene.kernel.put_node(address);
            assert_eq!(scene.node_sends(address, udp(1701, 2000)), Reason::Node);
            assert_eq!(scene.pod_sends(address, udp(2000, 1701)), Reason::Tunnel);
        }
    });
}

/// An address that the node had goes to another host: what the node began there is judged as the pod's own, and the other
/// host may begin flows on the same ports.
#[test]
fn the_nodes_flow_ends_with_the_nodes_address() {
    for family in FAMILIES {
        for policy in [PolicyOf::SHUT, PolicyOf::from_pod(RulesetId::DENY_ALL)] {
            let mut scene = Scene::new(family, policy);
            let node = scene.node;
            for (request, answer) in [
                (tcp(999, 80, SYN), tcp(80, 999, SYN | ACK)),
                (udp(999, 53), udp(53, 999)),
            ] {
                assert_eq!(scene.node_sends(node, request.clone()), Reason::Node);
                assert_eq!(scene.pod_sends(node, answer.clone()), Reason::Established);
                let word = scene.kernel.host.peers[&node.into()];
                scene.kernel.remove_peer(node.into());
                assert_eq!(scene.pod_sends(node, answer.clone()), Reason::DenyAll);
                if policy.to_pod == RulesetId::ALLOW_ALL {
                    assert_eq!(scene.peer_sends(node, request), Reason::Allowed);
                    assert_eq!(scene.pod_sends(node, answer), Reason::Established);
                }
                scene.kernel.put_peer_word(node.into(), word);
            }
        }
    }
}

/// The address may come back to the node, and its connection go on.
#[test]
fn an_open_pods_segment_takes_no_place_of_the_nodes_flow() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::OPEN);
        let node = scene.node;
        assert_eq!(scene.node_sends(node, tcp(999, 80, SYN)), Reason::Node);
        assert_eq!(
            scene.pod_sends(node, tcp(80, 999, SYN | ACK)),
            Reason::Established
        );
        let word = scene.kernel.host.peers[&node.into()];
        scene.kernel.remove_peer(node.into());
        assert_eq!(scene.pod_sends(node, tcp(80, 999, ACK)), Reason::Allowed);
        scene.kernel.put_peer_word(node.into(), word);
        scene
            .kernel
            .flip(podgate_abi::Direction::Egress, RulesetId::DENY_ALL);
        assert_eq!(
            scene.pod_sends(node, tcp(80, 999, ACK)),
            Reason::Established
        );
    }
}

/// Attack 5: what the node began opens no tunnel's port: another makes it send, or it sends to a group, and each pod of that
/// has a flow.
#[test]
fn attack_05_the_nodes_own_datagram_opens_no_tunnel() {
    for family in FAMILIES {
        for tunnel in [4789, 2152] {
            let mut scene = Scene::new(family, PolicyOf::OPEN);
            let node = scene.node;
            let (to_pod, from_pod) = (udp(tunnel, 2000), udp(2000, tunnel));
            assert_eq!(scene.node_sends(node, to_pod.clone()), Reason::Node);
            assert_eq!(scene.pod_sends(node, from_pod.clone()), Reason::Tunnel);
            assert_eq!(scene.node_sends(node, to_pod.clone()), Reason::Node);
            let row = RowWords::new(RowKey(0), NOTHING);
            scene.kernel.put_default_row(RULESET, row);
            scene.kernel.flip(Direction::Egress, RULESET);
            assert_eq!(scene.pod_sends(node, from_pod.clone()), Reason::Policy);
            // A rule that names it opens it.
            let class = Class(77);
            let word = PeerWord::new(node.into(), class, Class::NONE, true);
            scene.kernel.put_peer_word(node.into(), word);
            let named = RowSets {
                udp: scene.kernel.ports(&[tunnel..=tunnel]),
                ..NOTHING
            };
            scene.kernel.put_row(RULESET, class, named);
            assert_eq!(scene.pod_sends(node, from_pod), Reason::Allowed);
        }
        let mut scene = Scene::new(family, PolicyOf::OPEN);
        let node = scene.node;
        assert_eq!(scene.node_sends(node, frame::other(103)), Reason::Node);
        assert_eq!(scene.pod_sends(node, frame::other(103)), Reason::Tunnel);
        // Other answers go on.
        assert_eq!(scene.node_sends(node, udp(53, 2000)), Reason::Node);
        assert_eq!(scene.pod_sends(node, udp(2000, 53)), Reason::Established);
    }
}

/// What a Service leads into a tunnel at a node; and its NodePort, which other nodes have as well.
#[test]
fn attack_05_a_service_that_leads_into_a_tunnel() {
    on_a_router(|| {
        for family in FAMILIES {
            let mut scene = Scene::new(family, PolicyOf::OPEN);
            scene.kernel.host.forwards = true;
            let (node, other, service) = (scene.node, scene.friend, scene.stranger);
            let word = PeerWord::new(other.into(), Class::NONE, Class::NONE, false);
            let word = word.of_another_node();
            scene.kernel.put_peer_word(other.into(), word);
            let unspecified: IpAddr = match family {
                Family::V4 => [0, 0, 0, 0].into(),
                Family::V6 => [0_u16; 8].into(),
            };
            let way = WayKey::new(service.into(), 53);
            let at_nodes = WayKey::new(unspecified.into(), 53);
            assert_eq!(scene.pod_sends(service, udp(2000, 53)), Reason::Allowed);
            scene.kernel.put_way(way, WayWord::TO_OPEN);
            // What is under way goes on until it is judged again.
            assert_eq!(scene.pod_sends(service, udp(2000, 53)), Reason::Established);
            scene.kernel.renew();
            assert_eq!(scene.pod_sends(service, udp(2000, 53)), Reason::Tunnel);
            assert_eq!(scene.pod_sends(service, udp(2000, 54)), Reason::Allowed);
            assert_eq!(
                scene.pod_sends(service, tcp(2000, 53, SYN)),
                Reason::Allowed
            );
            assert_eq!(scene.pod_sends(other, udp(2000, 53)), Reason::Allowed);
            // What has the Service's address and port may come. It is not answered: that could be translated.
            assert_eq!(scene.peer_sends(service, udp(53, 2001)), Reason::Allowed);
            assert_eq!(scene.pod_sends(service, udp(2001, 53)), Reason::Tunnel);
            scene.kernel.put_way(at_nodes, WayWord::ELSEWHERE);
            assert_eq!(scene.pod_sends(node, udp(2006, 53)), Reason::Allowed);
            assert_eq!(scene.pod_sends(other, udp(2006, 53)), Reason::Tunnel);
            scene.kernel.put_way(at_nodes, WayWord::TO_OPEN);
            assert_eq!(scene.pod_sends(node, udp(2001, 53)), Reason::Tunnel);
            assert_eq!(scene.pod_sends(other, udp(2001, 53)), Reason::Tunnel);
            // Rulesets say themselves what leads where, but at other nodes.
            scene
                .kernel
                .put_default_row(RULESET, RowWords::new(RowKey(0), ALL));
            scene.kernel.put_row(RULESET, FRIENDS, ALL);
            scene.kernel.flip(Direction::Egress, RULESET);
            assert_eq!(scene.pod_sends(service, udp(2002, 53)), Reason::Allowed);
            assert_eq!(scene.pod_sends(node, udp(2002, 53)), Reason::Allowed);
            assert_eq!(scene.pod_sends(other, udp(2002, 53)), Reason::Tunnel);
            scene.kernel.put_way(way, WayWord::TO_ALL);
            assert_eq!(scene.pod_sends(service, udp(2003, 53)), Reason::Tunnel);
            scene.kernel.remove_way(way);
            scene.kernel.remove_way(at_nodes);
            assert_eq!(scene.pod_sends(service, udp(2004, 53)), Reason::Allowed);
            scene.kernel.put_way(WayKey::ALL, WayWord::TO_OPEN);
            scene.kernel.flip(Direction::Egress, RulesetId::ALLOW_ALL);
            assert_eq!(scene.pod_sends(service, udp(2005, 53)), Reason::Tunnel);
            assert_eq!(scene.pod_sends(service, sctp(2005, 53)), Reason::Allowed);
        }
    });
}

#[test]
fn a_policed_pods_tunnel_to_the_node_needs_a_rule_that_names_it() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::from_pod(RULESET));
        let node = scene.node;
        let class = Class(77);
        let word = podgate_abi::PeerWord::new(node.into(), class, Class::NONE, true);
        scene.kernel.put_peer_word(node.into(), word);
        scene.kernel.put_row(RULESET, class, NOTHING);
        for tunnel in tunnels() {
            assert_eq!(scene.pod_sends(node, tunnel), Reason::Policy);
        }
        let udp_ports = scene.kernel.ports(&[8472..=8472]);
        let named = RowSets {
            udp: udp_ports,
            ..NOTHING
        };
        scene.kernel.put_row(RULESET, class, named);
        assert_eq!(scene.pod_sends(node, udp(2000, 8472)), Reason::Allowed);
        assert_eq!(scene.pod_sends(node, udp(2000, 4789)), Reason::Policy);
        assert_eq!(scene.pod_sends(node, frame::other(47)), Reason::Policy);
    }
}

#[test]
fn the_nodes_word_torn_twice_drops_what_seems_to_be_its() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::SHUT);
        let node = scene.node;
        let foreign =
            podgate_abi::PeerWord::new(scene.stranger.into(), Class::NONE, Class::NONE, true);
        scene.kernel.put_peer_word(node.into(), foreign);
        assert_eq!(scene.node_sends(node, tcp(999, 80, SYN)), Reason::Torn);
        scene.kernel.flip(Direction::Egress, RulesetId::ALLOW_ALL);
        assert_eq!(scene.pod_sends(node, udp(2000, 8472)), Reason::Tunnel);
    }
}

#[test]
fn attack_05_a_tunnel_behind_more_headers_than_are_followed() {
    let mut scene = Scene::new(Family::V6, PolicyOf::OPEN);
    for tunnel in tunnels() {
        let frame = frame::packet(scene.pod, scene.node, tunnel)
            .padding_options(frame::DESTINATION_OPTIONS, 7)
            .frame();
        assert_eq!(scene.sends(&frame), Reason::TooManyHeaders);
    }
}
