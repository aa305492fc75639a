// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a packet is made of: ethertypes and tags, options, extension headers, what is cut short.

use podgate_abi::{Direction, Reason};
use podgate_tests::frame::flag::SYN;
use podgate_tests::frame::{self, packet, sctp, tcp, udp};
use podgate_tests::kernel::{Origin, PolicyOf};

use crate::setting::{FAMILIES, Family, RULESET, Scene};

#[test]
fn a_policed_direction_passes_only_ip_and_arp() {
    for ethertype in [0x88cc, 0x8847, 0x8863, 0x9000, 0xffff] {
        let odd = frame::ethernet(ethertype, &[0; 46]);
        let mut scene = Scene::new(Family::V4, PolicyOf::both(RULESET));
        assert_eq!(scene.receives(&odd), Reason::NotIp);
        assert_eq!(scene.sends(&odd), Reason::NotIp);
        let mut scene = Scene::new(Family::V4, PolicyOf::OPEN);
        assert_eq!(scene.receives(&odd), Reason::Unpoliced);
        assert_eq!(scene.sends(&odd), Reason::NotIp);
    }
}

#[test]
fn attack_02_two_priority_tags_hide_ip_behind_a_tag() {
    for family in FAMILIES {
        for policy in [PolicyOf::OPEN, PolicyOf::both(RULESET), PolicyOf::SHUT] {
            let mut scene = Scene::new(family, policy);
            let plain = packet(scene.pod, scene.friend, tcp(999, 80, SYN)).frame();
            for outer in [frame::VLAN, frame::SERVICE_VLAN] {
                // From a real wire the stack takes one tag out of the data before us, and leaves the second.
                let left_in_the_data = frame::tagged(outer, &plain);
                assert_eq!(scene.sends(&left_in_the_data), Reason::NotIp);
                let both = frame::tagged(outer, &frame::tagged(frame::VLAN, &plain));
                assert_eq!(scene.sends(&both), Reason::NotIp);
            }
        }
    }
}

#[test]
fn ports_are_found_behind_ipv4_options() {
    let mut scene = Scene::new(Family::V4, PolicyOf::both(RULESET));
    let ports = scene.kernel.ports(&[80..=80]);
    scene
        .kernel
        .put_row(RULESET, crate::setting::FRIENDS, crate::setting::of(ports));
    let (pod, friend) = (scene.pod, scene.friend);
    // Nothing, security, record route, timestamp, the longest option, the most options that are looked at.
    let longest = [[7, 40, 4].as_slice(), &[0; 37]].concat();
    for options in [
        &[0, 0, 0, 0][..],
        &[1, 1, 1, 0],
        &[130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[7, 7, 4, 0, 0, 0, 0],
        &[68, 8, 5, 0, 0, 0, 0, 0],
        &longest,
        &[1; 12],
    ] {
        for (port, expected) in [(80, Reason::Allowed), (81, Reason::Policy)] {
            let to_pod = packet(friend, pod, tcp(999, port, SYN)).options(options);
            assert_eq!(scene.receives(&to_pod.frame()), expected);
            scene.kernel.renew();
            let from_pod = packet(pod, friend, tcp(999, port, SYN)).options(options);
            assert_eq!(scene.sends(&from_pod.frame()), expected);
        }
    }
}

#[test]
fn a_source_route_is_dropped_where_there_is_a_policy() {
    let mut scene = Scene::new(Family::V4, PolicyOf::both(RULESET));
    let (pod, friend) = (scene.pod, scene.friend);
    for options in [
        &[131, 7, 4, 10, 9, 9, 9][..],
        &[137, 7, 4, 10, 9, 9, 9],
        &[1, 1, 1, 137, 7, 4, 10, 9, 9, 9],
        &[7, 7, 4, 0, 0, 0, 0, 131, 7, 4, 10, 9, 9, 9],
        // Cannot be read to its end: nobody knows what another reader finds.
        &[7, 0, 131, 7, 4, 10, 9, 9],
        &[7, 1, 131, 7],
        // More options than are looked at.
        &[1; 16],
    ] {
        let to_pod = packet(friend, pod, tcp(999, 80, SYN)).options(options);
        assert_eq!(scene.receives(&to_pod.frame()), Reason::SourceRoute);
        let from_pod = packet(pod, friend, tcp(999, 80, SYN)).options(options);
        assert_eq!(scene.sends(&from_pod.frame()), Reason::SourceRoute);
    }
    // An option that is not read any more.
    let ended = packet(friend, pod, tcp(999, 80, SYN)).options(&[0, 131, 7, 4, 10, 9, 9, 9]);
    assert_eq!(scene.receives(&ended.frame()), Reason::Allowed);
}

#[test]
fn ports_are_found_behind_six_extension_headers_not_seven() {
    let mut scene = Scene::new(Family::V6, PolicyOf::both(RULESET));
    let ports = scene.kernel.ports(&[80..=80]);
    scene
        .kernel
        .put_row(RULESET, crate::setting::FRIENDS, crate::setting::of(ports));
    let (pod, friend) = (scene.pod, scene.friend);
    for kind in [frame::DESTINATION_OPTIONS, frame::AUTHENTICATION] {
        for times in 1..=7 {
            scene.kernel.renew();
            for (port, expected) in [(80, Reason::Allowed), (81, Reason::Policy)] {
                let expected = if times > 6 {
                    Reason::TooManyHeaders
                } else {
                    expected
                };
                let source_port = 1000 + times as u16 + 100 * u16::from(kind);
                let to_pod = packet(friend, pod, tcp(source_port, port, SYN));
                let to_pod = to_pod.padding_options(kind, times).frame();
                assert_eq!(scene.receives(&to_pod), expected, "{times} of {kind}");
                let from_pod = packet(pod, friend, udp(source_port, port));
                let from_pod = from_pod.padding_options(kind, times).frame();
                assert_eq!(scene.sends(&from_pod), expected, "{times} of {kind}");
            }
        }
    }
}

#[test]
fn extension_headers_have_the_length_that_they_say() {
    let mut scene = Scene::new(Family::V6, PolicyOf::to_pod(RULESET));
    let ports = scene.kernel.ports(&[80..=80]);
    scene
        .kernel
        .put_row(RULESET, crate::setting::FRIENDS, crate::setting::of(ports));
    let (pod, friend) = (scene.pod, scene.friend);
    // Units of eight bytes beyond the first eight; the authentication header's are of four, beyond eight.
    let mut long = vec![2, 1, 20];
    long.resize(23, 0);
    let authentication = [4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]
        .into_iter()
        .chain([0; 12])
        .collect::<Vec<u8>>();
    for (port, expected) in [(80, Reason::Allowed), (81, Reason::Policy)] {
        let frame = packet(friend, pod, tcp(999, port, SYN))
            .extension(frame::DESTINATION_OPTIONS, &long)
            .extension(frame::AUTHENTICATION, &authentication)
            .extension(frame::ROUTING, &[0, 0, 0, 0, 0, 0, 0])
            .frame();
        assert_eq!(scene.receives(&frame), expected);
    }
    let routed = packet(friend, pod, tcp(998, 80, SYN))
        .extension(frame::ROUTING, &[0, 0, 1, 0, 0, 0, 0])
        .frame();
    assert_eq!(scene.receives(&routed), Reason::SourceRoute);
    // A header that is longer than the packet.
    let too_long = packet(friend, pod, tcp(997, 80, SYN))
        .extension(frame::DESTINATION_OPTIONS, &[9, 1, 4, 0, 0, 0, 0])
        .frame();
    assert_eq!(scene.receives(&too_long), Reason::BadTransportHeader);
}

/// IPv6 that carries a mapped address is dropped, whichever policy the pod has.
#[test]
fn ipv6_with_a_mapped_address_is_dropped_for_every_pod() {
    for policy in [PolicyOf::OPEN, PolicyOf::both(RULESET)] {
        let mut scene = Scene::new(Family::V6, policy);
        let mapped = "::ffff:10.1.0.20".parse().expect("an address");
        let (pod, friend) = (scene.pod, scene.friend);
        for (source, destination) in [(mapped, pod), (friend, mapped)] {
            let frame = packet(source, destination, tcp(999, 80, SYN)).frame();
            assert_eq!(scene.receives(&frame), Reason::MappedAddress);
        }
        for (source, destination) in [(pod, mapped), (mapped, friend)] {
            let frame = packet(source, destination, tcp(999, 80, SYN)).frame();
            assert_eq!(scene.sends(&frame), Reason::MappedAddress);
        }
        let frame = packet(mapped, pod, tcp(999, 80, SYN)).frame();
        let reason = scene.kernel.run(Direction::Ingress, Origin::Node, &frame);
        assert_eq!(reason, Reason::MappedAddress);
    }
}

#[test]
fn what_is_cut_short_never_passes_where_there_is_a_policy() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(RULESET));
        let (pod, friend) = (scene.pod, scene.friend);
        for (payload, needed) in [
            (tcp(999, 80, SYN), 20),
            (udp(999, 53), 8),
            (sctp(999, 80), 16),
            (frame::echo_request(friend, 7), 8),
        ] {
            for (source, destination) in [(friend, pod), (pod, friend)] {
                let mut whole = packet(source, destination, payload.clone());
                if family == Family::V6 {
                    whole = whole.padding_options(frame::DESTINATION_OPTIONS, 1);
                }
                let whole = whole.frame();
                let transport = whole.len() - payload.bytes.len();
                let network = if family == Family::V4 { 34 } else { 54 };
                for length in 14..transport + needed {
                    let cut = &whole[..length];
                    let reason = if source == pod {
                        scene.sends(cut)
                    } else {
                        scene.receives(cut)
                    };
                    let expected = if length < network {
                        Reason::BadIpHeader
                    } else {
                        Reason::BadTransportHeader
                    };
                    assert_eq!(reason, expected, "{length} bytes of {whole:02x?}");
                }
            }
        }
    }
}

#[test]
fn a_contradictory_ip_header_is_dropped_under_a_policy() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::both(RULESET));
        let whole = packet(scene.friend, scene.pod, tcp(999, 80, SYN)).frame();
        let mut wrong = vec![];
        for version in [0, 4, 5, 6, 15] {
            if (version == 4) != (family == Family::V4) || version % 5 == 0 {
                let mut frame = whole.clone();
                frame[14] = version << 4 | frame[14] & 0xf;
                wrong.push(frame);
            }
        }
        if family == Family::V4 {
            // A header of less than 20 bytes; a packet that is shorter than its header.
            for (place, value) in [(14, 0x44), (14, 0x40), (17, 19)] {
                let mut frame = whole.clone();
                frame[place] = value;
                wrong.push(frame);
            }
        }
        wrong.retain(|frame| *frame != whole);
        for frame in wrong {
            assert_eq!(scene.receives(&frame), Reason::BadIpHeader, "{frame:02x?}");
        }
    }
}

#[test]
fn an_unpoliced_direction_to_the_pod_passes_what_cannot_be_read() {
    for family in FAMILIES {
        let mut scene = Scene::new(family, PolicyOf::OPEN);
        let whole = packet(scene.friend, scene.pod, tcp(999, 80, SYN)).frame();
        for length in [20, whole.len() - 1] {
            assert_eq!(scene.receives(&whole[..length]), Reason::Unpoliced);
        }
        // From the pod, not even the source would be known.
        let whole = packet(scene.pod, scene.friend, tcp(999, 80, SYN)).frame();
        assert_eq!(scene.sends(&whole[..20]), Reason::BadIpHeader);
    }
}
