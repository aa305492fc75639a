// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Items 20 to 26: ports.

use std::sync::Arc;

use podgate_policy::connection::Direction::{Egress, Ingress};
use podgate_policy::connection::Transport;
use podgate_policy::connection::Verdict::{self, Allow, Deny};
use podgate_policy::model::{NamedPort, ObjectName, Port, Protocol, Rule, World};

use crate::fixture::*;

/// `x/web` is isolated for ingress, but for these ports.
fn ingress_ports(ports: impl IntoIterator<Item = Port>) -> World {
    world_with([ingress([with_ports(ports)])])
}

#[track_caller]
fn assert_ingress(world: &World, cases: &[(Transport, Verdict)]) {
    for (transport, expected) in cases {
        assert_eq!(
            judge(world, Ingress, STRANGER, *transport),
            *expected,
            "{transport:?}"
        );
    }
}

#[test]
fn a_range_includes_both_ends() {
    let world = ingress_ports([range(Protocol::Tcp, 8000, 8010)]);
    assert_ingress(
        &world,
        &[
            (tcp(7999), Deny),
            (tcp(8000), Allow),
            (tcp(8010), Allow),
            (tcp(8011), Deny),
        ],
    );
    let one = ingress_ports([range(Protocol::Tcp, 65535, 65535)]);
    assert_ingress(
        &one,
        &[(tcp(65534), Deny), (tcp(65535), Allow), (tcp(0), Deny)],
    );
    let wide = ingress_ports([range(Protocol::Tcp, 1, 65535)]);
    assert_ingress(
        &wide,
        &[
            (tcp(1), Allow),
            (tcp(65535), Allow),
            (udp(1), Deny),
            (tcp(0), Deny),
        ],
    );
}

#[test]
fn a_range_that_ends_before_it_begins_is_empty() {
    assert_ingress(
        &ingress_ports([range(Protocol::Tcp, 9, 8)]),
        &[(tcp(8), Deny), (tcp(9), Deny)],
    );
}

#[test]
fn ranges_that_touch_or_overlap_join() {
    let world = ingress_ports([
        range(Protocol::Udp, 5, 9),
        range(Protocol::Udp, 1, 4),
        range(Protocol::Udp, 8, 12),
    ]);
    assert_ingress(
        &world,
        &[
            (udp(1), Allow),
            (udp(4), Allow),
            (udp(5), Allow),
            (udp(12), Allow),
            (udp(13), Deny),
        ],
    );
}

#[test]
fn a_port_without_a_number_is_every_port_of_its_protocol() {
    let world = ingress_ports([Port::All(Protocol::Sctp)]);
    assert_ingress(
        &world,
        &[
            (sctp(1), Allow),
            (sctp(65535), Allow),
            (tcp(1), Deny),
            (udp(1), Deny),
        ],
    );
}

#[test]
fn sctp_is_neither_tcp_nor_udp() {
    let world = ingress_ports([range(Protocol::Sctp, 80, 80)]);
    assert_ingress(
        &world,
        &[(sctp(80), Allow), (tcp(80), Deny), (udp(80), Deny)],
    );
}

#[test]
fn a_protocol_without_ports_needs_a_rule_without_ports() {
    let every_port = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(Port::All);
    assert_ingress(
        &ingress_ports(every_port),
        &[(Transport::Other(1), Deny), (Transport::Other(58), Deny)],
    );
    assert_ingress(
        &world_with([ingress([Rule::default()])]),
        &[(Transport::Other(1), Allow)],
    );
}

#[test]
fn on_ingress_a_name_means_what_the_judged_pod_calls_by_it() {
    let world = ingress_ports([port_called(Protocol::Tcp, "http")]);
    assert_ingress(
        &world,
        &[
            (tcp(80), Allow),
            (tcp(8080), Deny),
            (udp(80), Deny),
            (udp(81), Deny),
        ],
    );
    let to_db = |port| {
        judge_pod(
            &world,
            "db",
            podgate_policy::connection::Baseline::Allow,
            Ingress,
            STRANGER,
            tcp(port),
        )
    };
    assert_eq!((to_db(80), to_db(8080)), (Deny, Allow));
}

#[test]
fn a_name_is_looked_up_under_its_protocol() {
    let world = ingress_ports([port_called(Protocol::Udp, "http")]);
    assert_ingress(
        &world,
        &[
            (udp(81), Allow),
            (udp(80), Deny),
            (tcp(80), Deny),
            (tcp(81), Deny),
        ],
    );
}

#[test]
fn an_unknown_port_name_matches_nothing_and_keeps_isolation() {
    let world = ingress_ports([
        port_called(Protocol::Tcp, "metrics"),
        port_called(Protocol::Sctp, "http"),
    ]);
    assert_ingress(
        &world,
        &[
            (tcp(80), Deny),
            (sctp(80), Deny),
            (Transport::Other(1), Deny),
        ],
    );
}

#[test]
fn a_pod_that_gives_one_name_to_two_ports_means_both() {
    let mut world = ingress_ports([port_called(Protocol::Tcp, "http")]);
    let mut pod = (*world.pods[&ObjectName::new("x", "web")]).clone();
    pod.ports.push(NamedPort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        number: 90,
    });
    world
        .pods
        .insert(ObjectName::new("x", "web"), Arc::new(pod));
    assert_ingress(
        &world,
        &[(tcp(80), Allow), (tcp(90), Allow), (tcp(8080), Deny)],
    );
}

#[test]
fn on_egress_a_name_means_what_each_destination_calls_by_it() {
    let rule = Rule {
        peers: vec![own_pods(podgate_policy::model::Selector::everything())],
        ..named_http()
    };
    let world = world_with([egress([rule])]);
    assert_eq!(judge(&world, Egress, X_DB, tcp(8080)), Allow);
    assert_eq!(judge(&world, Egress, X_DB, tcp(80)), Deny);
    assert_eq!(judge(&world, Egress, X_BARE, tcp(80)), Deny);
}

#[test]
fn on_egress_a_name_works_without_to_and_under_a_block() {
    for peers in [vec![], vec![block("10.0.0.0/24", &[])]] {
        let world = world_with([egress([Rule {
            peers,
            ..named_http()
        }])]);
        assert_eq!(judge(&world, Egress, X_DB, tcp(8080)), Allow);
        assert_eq!(judge(&world, Egress, X_DB, tcp(80)), Deny);
    }
}

#[test]
fn on_egress_a_name_means_nothing_where_no_pod_is() {
    let world = world_with([egress([named_http()])]);
    for peer in [STRANGER, X_HOST, X_DONE] {
        assert_eq!(judge(&world, Egress, peer, tcp(80)), Deny, "{peer}");
    }
}

fn named_http() -> Rule {
    with_ports([port_called(Protocol::Tcp, "http")])
}

/// A named port within bounds is the judged pod's own port of that name, and only if it is within them.
#[test]
fn a_bounded_port_name_is_the_judged_pods_within_bounds() {
    let pod = &world().pods[&ObjectName::new("x", "web")].clone();
    let named = pod.ports.first().expect("x/web has a named port").clone();
    let within = |name: &str, first, last| Port::NamedWithin {
        protocol: named.protocol,
        name: name.into(),
        first,
        last,
    };
    let at = Transport::Port(named.protocol, named.number);
    for (port, expected) in [
        (within(&named.name, named.number, named.number), Allow),
        (within(&named.name, 1, u16::MAX), Allow),
        (within(&named.name, 1, named.number - 1), Deny),
        (within(&named.name, named.number + 1, u16::MAX), Deny),
        (within("other", 1, u16::MAX), Deny),
    ] {
        assert_ingress(&ingress_ports([port.clone()]), &[(at, expected)]);
        let egress = world_with([egress([with_ports([port])])]);
        assert_eq!(judge(&egress, Egress, X_DB, at), Deny);
    }
}
