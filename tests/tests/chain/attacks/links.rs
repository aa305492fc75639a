// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who a pod is on its link: hardware addresses, duplicate address detection, which link it is.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use podgate_demo::netns::NetNs;
use podgate_tests::node::{Cable, Frames, LOST, Node, Pod, sh, unpoliced, wait_until};
use serde_json::{Value, json};

/// The port of the bridge at which a hardware address was learned.
fn learned(node: &Node, mac: [u8; 6]) -> Option<String> {
    let listed = node.sh("bridge -j fdb show br cni0 dynamic");
    let entries: Vec<Value> = serde_json::from_str(&listed).unwrap_or_default();
    let wanted = mac.map(|byte| format!("{byte:02x}")).join(":");
    let entry = entries
        .iter()
        .find(|entry| entry["mac"] == wanted.as_str())?;
    entry["ifname"].as_str().map(str::to_owned)
}

fn learned_at_all(node: &Node) -> usize {
    let listed = node.sh("bridge -j fdb show br cni0 dynamic");
    serde_json::from_str::<Vec<Value>>(&listed).map_or(0, |entries| entries.len())
}

#[test]
fn attack_31_another_pods_hardware_address_as_source() {
    let node = Node::new();
    let open = node.bridge(json!({}));
    let victim = Pod::start(&node, &unpoliced(open.clone()), "victim");
    let gateway = node.mac("cni0");
    let talks = || {
        let cable = Cable {
            from: victim.mac(),
            to: gateway,
        };
        let (from, to) = (victim.addresses[0], IpAddr::from([10, 96, 0, 1]));
        Frames::on(&victim.netns, "eth0").send(&cable.udp((from, 1), (to, 9), b""));
        let end = victim.host_end(&node);
        wait_until("the bridge knows where the victim is", || {
            learned(&node, victim.mac()).as_ref() == Some(&end)
        });
        end
    };
    for chain in [unpoliced(open.clone()), open] {
        let attacker = Pod::start(&node, &chain, "attacker");
        let sender = Frames::on(&attacker.netns, "eth0");
        let at_victim = talks();
        let cable = Cable {
            from: victim.mac(),
            to: gateway,
        };
        let own = attacker.addresses[0];
        let is_policed = chain.plugins.len() == 2;
        // As IP, as ARP, and with the lie in the ARP message alone.
        let mut arp = podgate_tests::frame::arp(1, octets(own), [10, 96, 0, 1]);
        arp[..6].copy_from_slice(&[0xff; 6]);
        arp[6..12].copy_from_slice(&attacker.mac());
        arp[22..28].copy_from_slice(&victim.mac());
        let seen = Frames::on(&victim.netns, "eth0");
        sender.send(&arp);
        let is_it = |seen: &[u8]| seen == arp;
        if is_policed {
            assert!(!seen.sees(LOST, is_it), "an ARP sender's hardware address");
        } else {
            assert!(seen.sees(25 * LOST, is_it), "the attack is none");
        }
        let frame = cable.udp((own, 1), (IpAddr::from([10, 96, 0, 1]), 9), b"");
        sender.send(&frame);
        if is_policed {
            // What is sent behind it has been judged when it is seen.
            assert!(!seen.sees(LOST, |_| false));
            assert_eq!(learned(&node, victim.mac()), Some(at_victim));
        } else {
            let there = attacker.host_end(&node);
            wait_until("the bridge takes the attacker for the victim", || {
                // The victim may say something meanwhile.
                sender.send(&frame);
                learned(&node, victim.mac()).as_ref() == Some(&there)
            });
        }
        // Random addresses fill the bridge's table.
        let before = learned_at_all(&node);
        for number in 0..200 {
            let cable = Cable {
                from: [6, 0, 0, 0, 0, number],
                to: gateway,
            };
            sender.send(&cable.udp((own, 1), (IpAddr::from([10, 96, 0, 1]), 9), b""));
        }
        if is_policed {
            assert!(!seen.sees(LOST, |_| false));
            assert!(learned_at_all(&node) <= before);
        } else {
            wait_until("the bridge learns them", || {
                learned_at_all(&node) >= before + 200
            });
            node.sh("ip link set cni0 type bridge fdb_flush 2>/dev/null || ip link set cni0 type bridge ageing_time 3000");
        }
    }
}

fn octets(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => panic!("{address} is of the other family"),
    }
}

fn ipv6(pod: &Pod) -> Ipv6Addr {
    let address = pod.addresses.iter().find_map(|address| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(*address),
    });
    address.expect("an IPv6 address")
}

/// A solicitation from `source` for `target`, with `data` behind it.
fn solicitation(
    cable: Cable,
    source: Ipv6Addr,
    to: Ipv6Addr,
    target: Ipv6Addr,
    data: &[u8],
) -> Vec<u8> {
    let mut rest = vec![0; 4];
    rest.extend(target.octets());
    rest.extend(data);
    cable.icmpv6(source, to, 135, &rest)
}

/// The option of a hardware address: of the sender of a solicitation (1), of the target of an advertisement (2).
fn option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

#[test]
fn attack_31_another_hardware_address_in_neighbor_discovery() {
    let node = Node::new();
    let open = node.bridge(json!({}));
    let victim = Pod::start(&node, &unpoliced(open.clone()), "victim");
    let seen = Frames::on(&victim.netns, "eth0");
    for chain in [unpoliced(open.clone()), open] {
        let attacker = Pod::start(&node, &chain, "attacker");
        let sender = Frames::on(&attacker.netns, "eth0");
        let own = ipv6(&attacker);
        let cable = Cable {
            from: attacker.mac(),
            to: victim.mac(),
        };
        let asks = |mac| solicitation(cable, own, ipv6(&victim), ipv6(&victim), &option(1, mac));
        let answers = |mac| {
            let mut rest = vec![0x60, 0, 0, 0];
            rest.extend(own.octets());
            rest.extend(option(2, mac));
            cable.icmpv6(own, ipv6(&victim), 136, &rest)
        };
        let another = [2, 9, 9, 9, 9, 9];
        for (lie, truth) in [
            (asks(another), asks(attacker.mac())),
            (answers(another), answers(attacker.mac())),
        ] {
            sender.send(&lie);
            let is_lie = |seen: &[u8]| seen == lie;
            if chain.plugins.len() == 2 {
                assert!(!seen.sees(LOST, is_lie));
            } else {
                assert!(seen.sees(25 * LOST, is_lie), "the attack is none");
            }
            sender.send(&truth);
            assert!(seen.sees(25 * LOST, |seen| seen == truth));
        }
    }
}

/// Sends again and again until the address is the victim's, or given up; whether it is the victim's.
fn takes_address(victim: &NetNs, address: &str, sender: &Frames, frames: &[Vec<u8>]) -> bool {
    sh(victim, &format!("ip -6 addr add {address}/64 dev eth0"));
    let state = |flag: &str| {
        !sh(
            victim,
            &format!("ip -6 addr show dev eth0 to {address} {flag}"),
        )
        .is_empty()
    };
    let begun = Instant::now();
    while state("tentative") && !state("dadfailed") {
        assert!(begun.elapsed() < 100 * LOST, "it stays tentative");
        for frame in frames {
            sender.send(frame);
        }
        std::thread::yield_now();
    }
    !state("dadfailed")
}

/// A pod asks for the address that another one is about to take.
#[test]
fn attack_35_a_pod_asks_for_an_address_about_to_be_taken() {
    let node = Node::new();
    let open = node.bridge(json!({}));
    let victim = Pod::start(&node, &unpoliced(open.clone()), "victim");
    // The plugin `bridge` turns it off.
    victim.sh("for c in all eth0; do echo 1 > /proc/sys/net/ipv6/conf/$c/accept_dad; done");
    for (chain, address) in [(unpoliced(open.clone()), "fd96::a:1"), (open, "fd96::a:2")] {
        let attacker = Pod::start(&node, &chain, "attacker");
        let sender = Frames::on(&attacker.netns, "eth0");
        let cable = Cable {
            from: attacker.mac(),
            to: victim.mac(),
        };
        let target: Ipv6Addr = address.parse().unwrap();
        let [.., d, e, f] = target.octets();
        let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, d, e, f]);
        // The nonce of RFC 7527 is another one than the victim's, so this is somebody else who asks.
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        let frame = solicitation(cable, Ipv6Addr::UNSPECIFIED, group, target, &nonce);
        let is_taken = takes_address(&victim.netns, address, &sender, &[frame]);
        assert_eq!(is_taken, chain.plugins.len() == 2, "{address}");
    }
}

/// The same in IPv4: the probe of RFC 5227, at which a careful host gives its own address up.
#[test]
fn attack_35_a_pod_probes_by_arp_for_anothers_address() {
    let node = Node::new();
    let open = node.bridge(json!({}));
    let victim = Pod::start(&node, &unpoliced(open.clone()), "victim");
    let seen = Frames::on(&victim.netns, "eth0");
    for chain in [unpoliced(open.clone()), open] {
        let attacker = Pod::start(&node, &chain, "attacker");
        let sender = Frames::on(&attacker.netns, "eth0");
        let probe = |target| {
            let mut arp = podgate_tests::frame::arp(1, [0; 4], target);
            arp[..6].copy_from_slice(&[0xff; 6]);
            arp[6..12].copy_from_slice(&attacker.mac());
            arp[22..28].copy_from_slice(&attacker.mac());
            arp
        };
        let lie = probe([10, 96, 0, 99]);
        sender.send(&lie);
        if chain.plugins.len() == 2 {
            assert!(!seen.sees(LOST, |seen| seen == lie));
        } else {
            assert!(
                seen.sees(25 * LOST, |seen| seen == lie),
                "the attack is none"
            );
        }
        let honest = probe(octets(attacker.addresses[0]));
        sender.send(&honest);
        assert!(seen.sees(25 * LOST, |seen| seen == honest));
    }
}

/// A route without a gateway, as VPN devices have it: the next hop is the destination itself, and no neighbor.
#[test]
fn attack_36_neighbor_discovery_leaves_by_no_other_link() {
    let node = Node::new();
    let outside = node.outside();
    node.sh("ip -6 route add 2001:db8:9::/64 dev wan");
    sh(&outside, "ip -6 addr add 2001:db8:9::2/64 dev eth0 nodad");
    let far: Ipv6Addr = "2001:db8:9::2".parse().unwrap();
    let seen = Frames::on(&outside, "eth0");
    for shut in [
        node.ptp(json!({"enforcingMode": "strict"})),
        node.bridge(json!({"enforcingMode": "strict"})),
    ] {
        for chain in [unpoliced(shut.clone()), shut] {
            let attacker = Pod::start(&node, &chain, "attacker");
            let is_policed = chain.plugins.len() == 2;
            let sender = Frames::on(&attacker.netns, "eth0");
            let gateway = if chain.plugins[0]["type"] == "ptp" {
                node.mac(&attacker.host_end(&node))
            } else {
                node.mac("cni0")
            };
            let cable = Cable {
                from: attacker.mac(),
                to: gateway,
            };
            for data in [&[][..], &[7; 1200]] {
                let frame = solicitation(cable, ipv6(&attacker), far, far, data);
                sender.send(&frame);
                // All but the hardware addresses and the hop limit.
                let is_it = |seen: &[u8]| seen.get(22..) == frame.get(22..);
                if is_policed {
                    assert!(!seen.sees(LOST, is_it), "{} bytes", data.len());
                } else {
                    assert!(seen.sees(25 * LOST, is_it), "the attack is none");
                }
            }
        }
    }
}

/// What stays on the link has no room for a message of its own either.
#[test]
fn attack_36_neighbor_discovery_on_the_link_carries_no_data() {
    let node = Node::new();
    let shut = node.bridge(json!({"enforcingMode": "strict"}));
    let other = Pod::start(&node, &unpoliced(shut.clone()), "other");
    let seen = Frames::on(&other.netns, "eth0");
    for chain in [unpoliced(shut.clone()), shut] {
        let attacker = Pod::start(&node, &chain, "attacker");
        let sender = Frames::on(&attacker.netns, "eth0");
        let cable = Cable {
            from: attacker.mac(),
            to: other.mac(),
        };
        let (from, to) = (ipv6(&attacker), ipv6(&other));
        for data in [vec![7; 1200], [14, 2].into_iter().chain([7; 14]).collect()] {
            let frame = solicitation(cable, from, to, to, &data);
            sender.send(&frame);
            let is_it = |seen: &[u8]| seen == frame;
            if chain.plugins.len() == 2 {
                assert!(!seen.sees(LOST, is_it), "{} bytes", data.len());
            } else {
                assert!(seen.sees(25 * LOST, is_it), "the attack is none");
            }
        }
    }
}
