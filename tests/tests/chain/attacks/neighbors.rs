// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Lies about who is where.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};

use podgate_abi::{Direction, Reason};
use podgate_datapath::guard::{self, Family};
use podgate_tests::node::{Cable, Frames, LOST, Node, Pod, unpoliced, wait_until};
use serde_json::json;

#[test]
fn attack_18_no_router_advertisement_of_a_pod_reaches_a_bridge() {
    let node = Node::new();
    let open = node.bridge(json!({}));
    // The victim itself is not policed: the attacker is.
    let victim = Pod::start(&node, &unpoliced(open.clone()), "victim");
    victim.sh("ip -6 route flush default");
    for setting in ["accept_ra", "accept_ra_defrtr"] {
        victim.sh(&format!(
            "echo 1 > /proc/sys/net/ipv6/conf/eth0/{setting}; echo 0 > /proc/sys/net/ipv6/conf/eth0/forwarding"
        ));
    }
    for chain in [open.clone(), unpoliced(open)] {
        let attacker = Pod::start(&node, &chain, "attacker");
        let mac @ [a, b, c, d, e, f] = attacker.mac();
        let own: Ipv6Addr = [
            0xfe80,
            0,
            0,
            0,
            u16::from_be_bytes([a ^ 2, b]),
            u16::from_be_bytes([c, 0xff]),
            u16::from_be_bytes([0xfe, d]),
            u16::from_be_bytes([e, f]),
        ]
        .into();
        let cable = Cable {
            from: mac,
            to: [0x33, 0x33, 0, 0, 0, 1],
        };
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        // RFC 4861 section 4.2: hop limit 64, no flags, a router for 1,800 s; no other time.
        let advertisement = [64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
        let seen = Frames::on(&victim.netns, "eth0");
        let frames = Frames::on(&attacker.netns, "eth0");
        frames.send(&cable.icmpv6(own, all_nodes, 134, &advertisement));
        let is_advertisement = |frame: &[u8]| {
            frame.get(12..14) == Some(&[0x86, 0xdd])
                && frame.get(6..12) == Some(&mac)
                && frame.get(54) == Some(&134)
        };
        let has_route = || victim.sh("ip -6 route show default").contains("ra");
        if chain.plugins.len() == 2 {
            assert!(!seen.sees(LOST, is_advertisement));
            assert!(!has_route());
            let counted = node.tables().counters(Direction::Egress).unwrap();
            assert_eq!(counted[Reason::ForgedNeighbor as usize], 1);
        } else {
            assert!(seen.sees(25 * LOST, is_advertisement), "the attack is none");
            wait_until("the victim takes the pod for its router", has_route);
        }
    }
}

/// No advertisement or ARP for another pod's address leaves a pod.
#[test]
fn attack_18_no_advertisement_or_arp_for_another_leaves_a_pod() {
    let node = Node::new();
    let open = node.bridge(json!({}));
    let victim = Pod::start(&node, &unpoliced(open.clone()), "victim");
    for chain in [open.clone(), unpoliced(open)] {
        let attacker = Pod::start(&node, &chain, "attacker");
        let mac = attacker.mac();
        let seen = Frames::on(&victim.netns, "eth0");
        let frames = Frames::on(&attacker.netns, "eth0");
        // "10.96.0.1, the gateway, is at the attacker's hardware address."
        let mut arp = podgate_tests::frame::arp(2, [10, 96, 0, 1], [10, 96, 0, 2]);
        arp[..6].copy_from_slice(&[0xff; 6]);
        arp[6..12].copy_from_slice(&mac);
        arp[22..28].copy_from_slice(&mac);
        frames.send(&arp);
        let is_it = |frame: &[u8]| {
            frame.get(6..14) == Some(&[&mac[..], &[8, 6]].concat())
                && frame.get(28..32) == Some(&[10, 96, 0, 1])
        };
        if chain.plugins.len() == 2 {
            assert!(!seen.sees(LOST, is_it));
        } else {
            assert!(seen.sees(25 * LOST, is_it), "the attack is none");
        }
    }
}

/// Neighbor discovery of an isolated pod reaches nothing behind a router. It needs no rule, because it is for the link.
/// With the hop limit that it has, a router takes it on.
#[test]
fn attack_18_neighbor_discovery_stops_at_a_router() {
    let node = Node::new();
    let open = node.ptp(json!({}));
    let outside = node.outside();
    node.sh("ip -6 route add 2001:db8:9::/64 via 2001:db8::2");
    let seen = Frames::on(&outside, "eth0");
    for chain in [
        unpoliced(open),
        node.ptp(json!({"enforcingMode": "strict"})),
    ] {
        let attacker = Pod::start(&node, &chain, "attacker");
        let cable = Cable {
            from: attacker.mac(),
            to: node.mac(&attacker.host_end(&node)),
        };
        let frame = solicitation(cable, ipv6(&attacker), "2001:db8:9::2".parse().unwrap());
        Frames::on(&attacker.netns, "eth0").send(&frame);
        // All but the hardware addresses and the hop limit.
        let is_it = |seen: &[u8]| seen.get(22..) == frame.get(22..);
        if chain.plugins.len() == 2 {
            assert!(!seen.sees(LOST, is_it));
            let counted = node.tables().counters(Direction::Egress).unwrap();
            assert_eq!(counted[Reason::ForgedNeighbor as usize], 1);
        } else {
            assert!(seen.sees(25 * LOST, is_it), "the attack is none");
        }
    }
}

/// An isolated pod asks its neighbors on a bridge by all their addresses, as a host does that checks whether a neighbor
/// is still there.
#[test]
fn an_isolated_pod_asks_its_neighbors_by_all_their_addresses() {
    let node = Node::new();
    let _outside = node.outside();
    node.sh("ip -6 route add default via 2001:db8::2");
    let shut = node.bridge(json!({"enforcingMode": "strict"}));
    let [one, other] = ["one", "other"].map(|name| Pod::start(&node, &shut, name));
    let cable = Cable {
        from: one.mac(),
        to: other.mac(),
    };
    let seen = Frames::on(&other.netns, "eth0");
    let frame = solicitation(cable, ipv6(&one), ipv6(&other));
    Frames::on(&one.netns, "eth0").send(&frame);
    assert!(seen.sees(25 * LOST, |seen| *seen == frame[..]));
}

/// "Who has this address?", asked of who has it.
fn solicitation(cable: Cable, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut rest = vec![0; 4];
    rest.extend(target.octets());
    cable.icmpv6(source, target, 135, &rest)
}

fn ipv6(pod: &Pod) -> Ipv6Addr {
    let address = pod.addresses.iter().find_map(|address| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(*address),
    });
    address.expect("an IPv6 address")
}

/// The node routes nothing by way of this bridge. Between the ports of a bridge the node need not have a way of its
/// own: it sends what is for them elsewhere, were it asked. What a pod says to a neighbor goes past the node, and what
/// it hands to the node for a host behind it does not.
#[test]
fn attack_18_neighbor_discovery_on_a_bridge_without_routes() {
    let node = Node::new();
    let outside = node.outside();
    node.sh("ip -6 route add default via 2001:db8::2");
    let main = json!({"type": "bridge", "bridge": "cni1", "isGateway": false, "ipam": node.ipam()});
    let chain = node.conflist(main.clone(), json!({}));
    let shut = node.conflist(main, json!({"enforcingMode": "strict"}));
    let (one, two) = (
        Pod::start(&node, &chain, "one"),
        Pod::start(&node, &chain, "two"),
    );
    let receiver = super::Receiver::new(&two.netns, ipv6(&two).into());
    let socket = one
        .netns
        .run(|| UdpSocket::bind("[::]:0").unwrap())
        .unwrap();
    socket.send_to(b"hello", receiver.address()).unwrap();
    assert!(receiver.gets(b"hello"), "neighbors cannot be found");
    let asking = Pod::start(&node, &shut, "asking");
    let cable = Cable {
        from: asking.mac(),
        to: one.mac(),
    };
    let frame = solicitation(cable, ipv6(&asking), ipv6(&one));
    let seen = Frames::on(&one.netns, "eth0");
    Frames::on(&asking.netns, "eth0").send(&frame);
    assert!(
        seen.sees(25 * LOST, |seen| seen == frame),
        "an isolated pod's solicitation"
    );
    let counted = node.tables().counters(Direction::Egress).unwrap();
    assert!(counted[Reason::OnLink as usize] > 0);

    // To an address of the pods' network, which the node would send on, and to one elsewhere, as to a router on the bridge.
    let seen = Frames::on(&outside, "eth0");
    let before = node.run(dropped_by_guard);
    for chain in [unpoliced(chain), shut] {
        let attacker = Pod::start(&node, &chain, "attacker");
        for (to, dropped) in [("fd96::99", 1), ("2001:db8:9::2", 1)] {
            let cable = Cable {
                from: attacker.mac(),
                to: node.mac("cni1"),
            };
            let frame = solicitation(cable, ipv6(&attacker), to.parse().unwrap());
            Frames::on(&attacker.netns, "eth0").send(&frame);
            let is_it = |seen: &[u8]| seen.get(22..) == frame.get(22..);
            if chain.plugins.len() == 2 {
                assert!(!seen.sees(LOST, is_it), "{to}");
                assert_eq!(node.run(dropped_by_guard), before + dropped);
            } else {
                assert!(seen.sees(25 * LOST, is_it), "{to}: the attack is none");
            }
        }
    }
    let counted = node.tables().counters(Direction::Egress).unwrap();
    assert_eq!(counted[Reason::ForgedNeighbor as usize], 1);
}

/// A router on the bridge forwards what the node does not: whatever the node's own routes are, an isolated pod hands it nothing for
/// anybody else.
#[test]
fn attack_18_no_neighbor_discovery_by_a_router_on_the_bridge() {
    for is_gateway in [true, false] {
        let node = Node::new();
        let _outside = node.outside();
        let main = json!({"type": "bridge", "bridge": "cni1", "isGateway": is_gateway, "ipam": node.ipam()});
        let open = unpoliced(node.conflist(main.clone(), json!({})));
        let shut = node.conflist(main, json!({"enforcingMode": "strict"}));
        let router = Pod::start(&node, &open, "router");
        let seen = Frames::on(&router.netns, "eth0");
        let elsewhere: Ipv6Addr = "2001:db8:9::2".parse().unwrap();
        let pods = [open, shut].map(|chain| Pod::start(&node, &chain, "attacker"));
        for (forwards, has_route) in [("1", false), ("1", true), ("0", true), ("0", false)] {
            node.sysctl("ipv6/conf/all/forwarding", forwards);
            let verb = if has_route { "replace" } else { "flush" };
            let via = if has_route { "via 2001:db8::2" } else { "" };
            node.sh(&format!("ip -6 route {verb} default {via}"));
            let arrives = pods.each_ref().map(|pod| {
                let cable = Cable {
                    from: pod.mac(),
                    to: router.mac(),
                };
                let frame = solicitation(cable, ipv6(pod), elsewhere);
                Frames::on(&pod.netns, "eth0").send(&frame);
                seen.sees(LOST, |seen| seen == frame)
            });
            assert_eq!(
                arrives,
                [true, false],
                "gateway {is_gateway}, forwarding {forwards}, default route {has_route}"
            );
        }
    }
}

/// What the guard has dropped of what bridges have received and handed to the node.
fn dropped_by_guard() -> u64 {
    guard::dropped(Family::Bridge).unwrap()
}
