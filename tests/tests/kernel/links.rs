// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What passes without a rule because a link needs it, and how much of it: hardware addresses, options of neighbor
//! discovery, group membership, DHCP; and which destinations are a pod's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podgate_abi::Reason;
use podgate_tests::frame::flag::SYN;
use podgate_tests::frame::{
    self, DESTINATION_OPTIONS, Fragment, Payload, SENDER, packet, tcp, udp,
};
use podgate_tests::kernel::{Origin, PolicyOf};

use crate::setting::{FAMILIES, Family, RULESET, Scene};

const ANOTHER: [u8; 6] = [2, 9, 9, 9, 9, 9];

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A message of neighbor discovery about the pod or a neighbor, with options.
fn discovery(kind: u8, target: &str, options: &[u8]) -> Payload {
    let target: Ipv6Addr = target.parse().expect("an address");
    let rest = [&[0; 4], &target.octets()[..], options].concat();
    frame::icmp(target.into(), kind, 0, &rest)
}

fn option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

#[test]
fn attack_29_destinations_that_are_not_the_pods() {
    for family in FAMILIES {
        for policy in [PolicyOf::OPEN, PolicyOf::both(RULESET), PolicyOf::SHUT] {
            let mut scene = Scene::new(family, policy);
            let (pod, friend) = (scene.pod, scene.friend);
            for payload in [tcp(999, 80, SYN), udp(999, 53), frame::other(50)] {
                assert_eq!(scene.pod_sends(pod, payload.clone()), Reason::NotForPod);
                let frame = packet(friend, scene.stranger, payload.clone()).frame();
                assert_eq!(scene.receives(&frame), Reason::NotForPod);
                // Whoever sends it: the node, or the pod itself.
                for origin in [Origin::Node, Origin::SameInterface] {
                    let direction = podgate_abi::Direction::Ingress;
                    let reason = scene.kernel.run(direction, origin, &frame);
                    assert_eq!(reason, Reason::NotForPod);
                }
                // Nor the rest of a datagram.
                let later = Fragment {
                    identification: 7,
                    offset: 100,
                    more: false,
                };
                let frame = packet(friend, scene.stranger, payload).fragment(later);
                assert_eq!(scene.receives(&frame.frame()), Reason::NotForPod);
            }
        }
    }
}

#[test]
fn groups_and_broadcasts_of_the_pods_networks_are_for_it() {
    for (family, groups, others) in [
        (
            Family::V4,
            &["224.0.0.251", "239.1.2.3", "255.255.255.255", "10.1.0.255"][..],
            &["10.2.0.255", "0.0.0.0", "127.0.0.1"][..],
        ),
        (Family::V6, &["ff02::1", "ff0e::5"], &["::1", "fd00:1::"]),
    ] {
        let mut scene = Scene::new(family, PolicyOf::both(RULESET));
        let friend = scene.friend;
        for (port, group) in (999..).zip(groups) {
            let frame = packet(friend, address(group), udp(port, 53)).frame();
            assert_eq!(scene.receives(&frame), Reason::Allowed, "{group}");
        }
        for other in others {
            let frame = packet(friend, address(other), udp(999, 53)).frame();
            assert_eq!(scene.receives(&frame), Reason::NotForPod, "{other}");
        }
    }
}

#[test]
fn attack_31_frames_of_another_hardware_address() {
    for family in FAMILIES {
        for policy in [PolicyOf::OPEN, PolicyOf::both(RULESET), PolicyOf::SHUT] {
            let mut scene = Scene::new(family, policy);
            let frames = [
                packet(scene.pod, scene.friend, tcp(999, 80, SYN)).frame(),
                frame::arp(1, [10, 1, 0, 10], [10, 1, 0, 30]),
                frame::ethernet(0x88cc, &[0; 46]),
            ];
            for mut frame in frames {
                assert_ne!(scene.sends(&frame), Reason::ForeignHardwareAddress);
                for place in 6..12 {
                    frame[place] ^= 1;
                    assert_eq!(scene.sends(&frame), Reason::ForeignHardwareAddress);
                    frame[place] ^= 1;
                }
            }
        }
    }
}

#[test]
fn attack_31_messages_that_name_another_hardware_address() {
    let mut scene = Scene::new(Family::V4, PolicyOf::OPEN);
    for operation in [1, 2] {
        let mut arp = frame::arp(operation, [10, 1, 0, 10], [10, 1, 0, 30]);
        assert_eq!(scene.sends(&arp), Reason::Neighbor);
        arp[22..28].copy_from_slice(&ANOTHER);
        assert_eq!(scene.sends(&arp), Reason::ForeignHardwareAddress);
        assert_eq!(scene.receives(&arp), Reason::Neighbor);
    }
    let mut scene = Scene::new(Family::V6, PolicyOf::OPEN);
    let nonce = vec![14, 1, 1, 2, 3, 4, 5, 6];
    for (kind, target, stated) in [(135, "fd00:1::30", 1), (136, "fd00:1::10", 2)] {
        for (options, expected) in [
            (vec![], Reason::Neighbor),
            (option(stated, SENDER), Reason::Neighbor),
            (
                [option(stated, SENDER), nonce.clone()].concat(),
                Reason::Neighbor,
            ),
            (
                [nonce.clone(), option(stated, SENDER)].concat(),
                Reason::Neighbor,
            ),
            (option(stated, ANOTHER), Reason::ForeignHardwareAddress),
            (
                [nonce.clone(), option(stated, ANOTHER)].concat(),
                Reason::ForeignHardwareAddress,
            ),
            (
                [option(stated, SENDER), option(stated, ANOTHER)].concat(),
                Reason::ForgedNeighbor,
            ),
            // Nothing else is known, and there is no room for more.
            (option(5, SENDER), Reason::ForgedNeighbor),
            (vec![stated, 2, 0, 0, 0, 0, 0, 0], Reason::ForgedNeighbor),
            (vec![stated, 0, 0, 0, 0, 0, 0, 0], Reason::ForgedNeighbor),
            (option(stated, SENDER).repeat(3), Reason::ForgedNeighbor),
            (vec![7; 1200], Reason::ForgedNeighbor),
            (vec![stated; 4], Reason::ForgedNeighbor),
        ] {
            let message = discovery(kind, target, &options);
            let out = packet(scene.pod, address("fd00:1::30"), message).hop_limit(255);
            assert_eq!(scene.sends(&out.frame()), expected, "{kind} {options:?}");
        }
    }
}

#[test]
fn attack_36_no_data_rides_on_what_needs_no_rule() {
    let mut scene = Scene::new(Family::V6, PolicyOf::SHUT);
    let (pod, other) = (scene.pod, address("fd00:1::30"));
    let asks = packet(pod, other, discovery(135, "fd00:1::30", &option(1, SENDER))).hop_limit(255);
    assert_eq!(scene.sends(&asks.frame()), Reason::Neighbor);
    // Behind the packet, where only a listener on the link reads it; and in headers before the message.
    let mut longer = asks.frame();
    longer.extend([7; 100]);
    assert_eq!(scene.sends(&longer), Reason::ForgedNeighbor);
    let before = asks.padding_options(frame::DESTINATION_OPTIONS, 2).frame();
    assert_eq!(scene.sends(&before), Reason::ForgedNeighbor);
    // Of a router solicitation, too.
    for (data, expected) in [(0, Reason::Neighbor), (1, Reason::ForgedNeighbor)] {
        let any = Ipv6Addr::UNSPECIFIED;
        let message = frame::icmp(any.into(), 133, 0, &vec![0; 4 + 8 * data]);
        let out = packet(address("fe80::10"), address("ff02::2"), message).hop_limit(255);
        assert_eq!(scene.sends(&out.frame()), expected);
    }
    let mut scene = Scene::new(Family::V4, PolicyOf::SHUT);
    let mut arp = frame::arp(1, [10, 1, 0, 10], [10, 1, 0, 30]);
    arp.resize(60, 0);
    assert_eq!(
        scene.sends(&arp),
        Reason::Neighbor,
        "padding to the shortest frame"
    );
    arp.push(7);
    assert_eq!(scene.sends(&arp), Reason::ForgedNeighbor);
}

#[test]
fn attack_35_who_has_no_address_asks_for_its_own_only() {
    let mut scene = Scene::new(Family::V6, PolicyOf::OPEN);
    for (target, expected) in [
        ("fd00:1::10", Reason::Neighbor),
        ("fe80::10", Reason::Neighbor),
        ("fd00:1::30", Reason::ForgedNeighbor),
        ("fe80::30", Reason::ForgedNeighbor),
        ("::", Reason::ForgedNeighbor),
    ] {
        let message = discovery(135, target, &[14, 1, 1, 2, 3, 4, 5, 6]);
        let frame = packet(address("::"), address("ff02::1:ff00:30"), message).hop_limit(255);
        assert_eq!(scene.sends(&frame.frame()), expected, "{target}");
    }
    let mut scene = Scene::new(Family::V4, PolicyOf::OPEN);
    for (target, expected) in [
        ([10, 1, 0, 10], Reason::Neighbor),
        ([10, 1, 0, 30], Reason::ForgedNeighbor),
        ([0; 4], Reason::ForgedNeighbor),
    ] {
        assert_eq!(scene.sends(&frame::arp(1, [0; 4], target)), expected);
    }
    assert_eq!(
        scene.sends(&frame::arp(3, [10, 1, 0, 10], [10, 1, 0, 30])),
        Reason::ForgedNeighbor,
        "reverse ARP"
    );
}

/// An IGMP message of `groups` records of eight bytes, or without any.
fn igmp(kind: u8, groups: u8) -> Payload {
    let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, groups];
    bytes.extend([4, 0, 0, 0, 239, 1, 2, 3].repeat(groups.into()));
    Payload { protocol: 2, bytes }
}

#[test]
fn hosts_report_groups_in_ipv4_and_routers_ask() {
    let alert = [0x94, 4, 0, 0];
    for policy in [PolicyOf::OPEN, PolicyOf::SHUT] {
        let mut scene = Scene::new(Family::V4, policy);
        let report = |kind, to: &str| packet(address("10.1.0.10"), address(to), igmp(kind, 0));
        for (kind, to) in [
            (0x12, "239.1.2.3"),
            (0x16, "239.1.2.3"),
            (0x17, "224.0.0.2"),
            (0x22, "224.0.0.22"),
        ] {
            let frame = report(kind, to).options(&alert).hop_limit(1).frame();
            assert_eq!(scene.sends(&frame), Reason::Neighbor);
            let nobodys = packet(address("0.0.0.0"), address(to), igmp(kind, 0));
            let frame = nobodys.options(&alert).hop_limit(1).frame();
            assert_eq!(scene.sends(&frame), Reason::Neighbor);
            let routed = report(kind, to).options(&alert).hop_limit(2).frame();
            assert_eq!(scene.sends(&routed), Reason::ForgedNeighbor);
            let to_one = report(kind, "10.1.0.30").hop_limit(1).frame();
            assert_eq!(scene.sends(&to_one), Reason::ForgedNeighbor);
            let anothers = packet(address("10.1.0.30"), address(to), igmp(kind, 0));
            assert_eq!(scene.sends(&anothers.hop_limit(1).frame()), Reason::Spoofed);
        }
        // Queries, and what carries packets inside (PIM version 1), are a router's.
        for kind in [0x11, 0x13, 0x14, 0x30] {
            let frame = report(kind, "224.0.0.1").hop_limit(1).frame();
            assert_eq!(scene.sends(&frame), Reason::ForgedNeighbor);
        }
        let query = packet(address("10.1.0.1"), address("224.0.0.1"), igmp(0x11, 0));
        let query = query.options(&alert).hop_limit(1).frame();
        assert_eq!(scene.receives(&query), Reason::Neighbor);
        let routed = packet(address("10.1.0.30"), address("224.0.0.1"), igmp(0x11, 0)).frame();
        let expected = if policy == PolicyOf::OPEN {
            Reason::Allowed
        } else {
            Reason::DenyAll
        };
        assert_eq!(scene.receives(&routed), expected);
    }
}

/// A report of listeners with so many records.
fn listeners(groups: usize) -> Payload {
    let mut rest = vec![0, 0];
    rest.extend(u16::try_from(groups).expect("groups").to_be_bytes());
    rest.extend([&[4, 0, 0, 0][..], &[0xff; 16]].concat().repeat(groups));
    frame::icmp(Ipv6Addr::UNSPECIFIED.into(), 143, 0, &rest)
}

#[test]
fn attack_37_more_reports_than_a_pods_share() {
    for policy in [PolicyOf::OPEN, PolicyOf::SHUT] {
        for family in FAMILIES {
            let mut scene = Scene::new(family, policy);
            let report = |groups: u8| match family {
                Family::V4 => packet(
                    address("10.1.0.10"),
                    address("224.0.0.22"),
                    igmp(0x22, groups),
                ),
                Family::V6 => packet(
                    address("fe80::10"),
                    address("ff02::16"),
                    listeners(groups.into()),
                ),
            };
            let tell =
                |scene: &mut Scene, groups| scene.sends(&report(groups).hop_limit(1).frame());
            // What a server of many groups says, twice, as hosts do.
            assert_eq!(tell(&mut scene, 40), Reason::Neighbor);
            assert_eq!(tell(&mut scene, 40), Reason::Neighbor);
            let mut told = 0;
            while tell(&mut scene, 1) == Reason::Neighbor {
                told += 1;
                assert!(told <= 48);
            }
            assert_eq!(tell(&mut scene, 1), Reason::TooManyReports);
            // Others' answers to a query come every 125 s.
            scene.kernel.age_flows(125);
            assert_eq!(tell(&mut scene, 40), Reason::Neighbor);
            // In the time in which a bridge forgets a group no more than half of its smallest table.
            scene.kernel.age_flows(10_000);
            let mut told = 0;
            for _ in 0..260 {
                for _ in 0..20 {
                    told += usize::from(tell(&mut scene, 1) == Reason::Neighbor);
                }
                scene.kernel.age_flows(1);
            }
            assert!((100..=258).contains(&told), "{told}");
            // A message of its own length is none.
            assert_eq!(tell(&mut scene, 80), Reason::TooManyReports);
            scene.kernel.age_flows(10_000);
            let mut padded = report(1).hop_limit(1).frame();
            padded.extend([7; 200]);
            assert_eq!(scene.sends(&padded), Reason::TooManyReports);
            // Headers in front of it are as good a place for data.
            scene.kernel.age_flows(10_000);
            let room = |packet: frame::Packet| match family {
                Family::V4 => packet.options(&[&[30, 40][..], &[0; 38]].concat()),
                Family::V6 => {
                    let options = [&[171][..], &[0; 1_374]].concat();
                    packet.extension(DESTINATION_OPTIONS, &options)
                }
            };
            let most = match family {
                Family::V4 => 128 / 6,
                Family::V6 => 1,
            };
            let told = (0..200).filter(|_| {
                let report = room(report(1).hop_limit(1)).frame();
                scene.sends(&report) == Reason::Neighbor
            });
            assert_eq!(told.count(), most);
        }
    }
}

/// A request of a DHCP client of this hardware address.
fn request(mac: [u8; 6]) -> Payload {
    datagram(68, 67, &message(1, mac))
}

/// An answer to it.
fn reply(mac: [u8; 6]) -> Payload {
    datagram(67, 68, &message(2, mac))
}

fn message(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    let mut message = vec![kind, 1, 6, 0];
    message.resize(28, 0);
    message.extend(mac);
    message.resize(300, 0);
    message
}

fn datagram(from: u16, to: u16, data: &[u8]) -> Payload {
    let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
    bytes.extend(
        u16::try_from(8 + data.len())
            .expect("a length")
            .to_be_bytes(),
    );
    bytes.extend([0, 0]);
    bytes.extend(data);
    Payload {
        protocol: frame::UDP,
        bytes,
    }
}

#[test]
fn a_pod_asks_for_its_address_by_dhcp_and_hears_the_answer() {
    let (nobody, everybody) = (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into());
    for policy in [PolicyOf::OPEN, PolicyOf::SHUT] {
        let mut scene = Scene::new(Family::V4, policy);
        let (pod, server) = (scene.pod, scene.stranger);
        let is_open = policy == PolicyOf::OPEN;
        let answer = |to| packet(server, to, reply(SENDER)).frame();
        let unasked = if is_open {
            Reason::Allowed
        } else {
            Reason::DenyAll
        };
        assert_eq!(scene.receives(&answer(pod)), unasked);
        for (source, payload, to, expected) in [
            (nobody, request(SENDER), everybody, Reason::Neighbor),
            (
                nobody,
                request(ANOTHER),
                everybody,
                Reason::ForeignHardwareAddress,
            ),
            (nobody, request(SENDER), server, Reason::Spoofed),
            (
                nobody,
                datagram(68, 67, &[7; 200]),
                everybody,
                Reason::Spoofed,
            ),
            (
                nobody,
                datagram(68, 53, &[7; 300]),
                everybody,
                Reason::Spoofed,
            ),
            (server, request(SENDER), everybody, Reason::Spoofed),
            (pod, request(SENDER), everybody, Reason::Neighbor),
        ] {
            let frame = packet(source, to, payload).frame();
            assert_eq!(scene.sends(&frame), expected, "{source} to {to}");
        }
        // To the server alone it is an ordinary packet.
        let renewal = packet(pod, server, request(SENDER)).frame();
        let judged = if is_open {
            Reason::Established
        } else {
            Reason::DenyAll
        };
        assert_eq!(scene.sends(&renewal), judged);
        let late = if is_open {
            Reason::Established
        } else {
            Reason::DenyAll
        };
        for (no_answer, why) in [
            (reply(ANOTHER), "another's"),
            (datagram(67, 68, &message(1, SENDER)), "a request"),
            (datagram(67, 68, &[2; 300]), "no message"),
            (datagram(67, 68, &message(2, SENDER)[..200]), "cut short"),
        ] {
            let frame = packet(server, pod, no_answer).frame();
            assert_eq!(scene.receives(&frame), late, "{why}");
        }
        for to in [pod, everybody].into_iter().cycle().take(8) {
            assert_eq!(scene.receives(&answer(to)), Reason::Neighbor);
        }
        // More than a few are none.
        assert_eq!(scene.receives(&answer(pod)), late);
        let again = packet(pod, everybody, request(SENDER)).frame();
        assert_eq!(scene.sends(&again), Reason::Neighbor);
        assert_eq!(scene.receives(&answer(pod)), Reason::Neighbor);
        scene.kernel.age_flows(61);
        assert_eq!(scene.receives(&answer(everybody)), late);
        // Its share ends, and with it the way past the policy.
        let frame = packet(nobody, everybody, request(SENDER)).frame();
        let told = (0..100).filter(|_| scene.sends(&frame) == Reason::Neighbor);
        assert!((2..=8).contains(&told.count()));
        assert_eq!(scene.sends(&frame), Reason::TooManyReports);
    }
}

#[test]
fn a_pod_asks_by_dhcpv6_on_its_link() {
    for policy in [PolicyOf::OPEN, PolicyOf::SHUT] {
        let mut scene = Scene::new(Family::V6, policy);
        let judged = if policy == PolicyOf::OPEN {
            Reason::Allowed
        } else {
            Reason::DenyAll
        };
        let servers = address("ff02::1:2");
        let solicit = datagram(546, 547, &[1; 60]);
        for (source, to, expected) in [
            ("fe80::10", servers, Reason::Neighbor),
            ("fd00:1::10", servers, judged),
            ("fe80::10", address("fe80::1"), judged),
            ("fe80::30", servers, Reason::Spoofed),
            ("::", servers, Reason::Spoofed),
        ] {
            let frame = packet(address(source), to, solicit.clone()).frame();
            assert_eq!(scene.sends(&frame), expected, "{source} to {to}");
        }
        let answer = packet(
            address("fe80::1"),
            address("fe80::10"),
            datagram(547, 546, &[2; 60]),
        );
        let other = datagram(547, 546, &[1; 60]);
        let other = packet(address("fe80::2"), address("fe80::10"), other);
        assert_eq!(scene.receives(&other.frame()), judged, "no answer");
        assert_eq!(scene.receives(&answer.frame()), Reason::Neighbor);
        let routed = packet(
            scene.stranger,
            address("fe80::10"),
            datagram(547, 546, &[2; 60]),
        );
        assert_eq!(scene.receives(&routed.frame()), judged);
    }
}
