// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One small cluster, and a vocabulary to put policies on it.

use std::net::IpAddr;
use std::sync::Arc;

use podgate_policy::compile::facts::Facts;
use podgate_policy::compile::{compile_subject, compiled_verdict};
use podgate_policy::connection::{Baseline, Connection, Direction, Subject, Transport, Verdict};
use podgate_policy::evaluate;
use podgate_policy::model::{
    Labels, NamedPort, Namespace, Namespaces, NetworkPolicy, ObjectName, Operator, Peer, Pod,
    PodUid, Port, Protocol, Requirement, Rule, Selector, World,
};

/// Pod `x/web`, app=web: the subject unless a case says otherwise. Calls TCP 80 and UDP 81 "http".
pub(crate) const X_WEB: &str = "10.0.0.1";
/// The IPv6 address of `x/web`.
pub(crate) const X_WEB_V6: &str = "fd00::1";
/// Pod `x/db`, app=db. Calls TCP 8080 "http".
pub(crate) const X_DB: &str = "10.0.0.2";
/// The IPv6 address of `x/db`.
pub(crate) const X_DB_V6: &str = "fd00::2";
/// Pod `x/bare`, without labels.
pub(crate) const X_BARE: &str = "10.0.0.3";
/// Pod `y/web`, app=web.
pub(crate) const Y_WEB: &str = "10.0.0.4";
/// Pod `ghost/web`, app=web, of a namespace that is not known.
pub(crate) const GHOST_WEB: &str = "10.0.0.5";
/// Pod `x/done`, app=web, finished.
pub(crate) const X_DONE: &str = "10.0.0.6";
/// Pod `x/host`, app=web, in the network of another node.
pub(crate) const X_HOST: &str = "192.0.2.9";
/// This node.
pub(crate) const NODE: &str = "192.0.2.1";
/// Nobody that is known.
pub(crate) const STRANGER: &str = "198.51.100.7";

pub(crate) fn world() -> World {
    let namespaces = [("x", "red"), ("y", "blue")];
    let pods = [
        ("x", "web", "app=web", vec![X_WEB, X_WEB_V6]),
        ("x", "db", "app=db", vec![X_DB, X_DB_V6]),
        ("x", "bare", "", vec![X_BARE]),
        ("y", "web", "app=web", vec![Y_WEB]),
        ("ghost", "web", "app=web", vec![GHOST_WEB]),
        ("x", "done", "app=web", vec![X_DONE]),
        ("x", "host", "app=web", vec![X_HOST]),
    ];
    let pod = |namespace, name, text: &str, addresses: Vec<&str>| Pod {
        labels: labels(text),
        addresses: addresses.into_iter().map(address).collect(),
        ports: match (namespace, name) {
            ("x", "web") => vec![
                named("http", Protocol::Tcp, 80),
                named("http", Protocol::Udp, 81),
            ],
            ("x", "db") => vec![named("http", Protocol::Tcp, 8080)],
            (_, _) => Vec::new(),
        },
        host_network: name == "host",
        finished: name == "done",
        ..Pod::default()
    };
    World {
        namespaces: namespaces
            .into_iter()
            .map(|(name, team)| {
                (
                    name.to_owned(),
                    Namespace::new(name, labels(&format!("team={team}"))),
                )
            })
            .collect(),
        pods: pods
            .into_iter()
            .map(|(ns, name, text, at)| {
                (ObjectName::new(ns, name), Arc::new(pod(ns, name, text, at)))
            })
            .collect(),
        node_addresses: vec![address(NODE)],
        ..World::default()
    }
}

/// The world with these policies in namespace `x`.
pub(crate) fn world_with(policies: impl IntoIterator<Item = NetworkPolicy>) -> World {
    let mut world = world();
    for (number, policy) in policies.into_iter().enumerate() {
        world
            .policies
            .insert(ObjectName::new("x", format!("p{number}")), Arc::new(policy));
    }
    world
}

/// The verdict on a connection of `x/web`, on which the oracle and the compiler must agree.
pub(crate) fn judge(
    world: &World,
    direction: Direction,
    peer: &str,
    transport: Transport,
) -> Verdict {
    judge_pod(world, "web", Baseline::Allow, direction, peer, transport)
}

/// The verdict on a connection of pod `name` of namespace `x`.
pub(crate) fn judge_pod(
    world: &World,
    name: &str,
    baseline: Baseline,
    direction: Direction,
    peer: &str,
    transport: Transport,
) -> Verdict {
    let name = ObjectName::new("x", name);
    let subject = Subject {
        uid: Some(uid(&name.name)),
        ..Subject::new(name.clone(), &world.pods[&name], baseline)
    };
    let connection = Connection {
        direction,
        peer: address(peer),
        transport,
    };
    let rulesets = compile_subject(world, &subject);
    let facts = Facts::of(world, &rulesets.questions());
    let verdict = evaluate(world, &subject, &connection);
    assert_eq!(
        compiled_verdict(&rulesets, &facts, &connection),
        verdict,
        "compiler (left), oracle (right)"
    );
    verdict
}

/// The UID of pod `name` of namespace `x`.
pub(crate) fn uid(name: &str) -> PodUid {
    PodUid(format!("uid of {name}").into())
}

/// Asserts that `x/web` may be reached on TCP 80 by exactly these of all addresses of the fixture.
#[track_caller]
pub(crate) fn assert_ingress_from_exactly(world: &World, allowed: &[&str]) {
    for peer in [
        X_WEB, X_DB, X_DB_V6, X_BARE, Y_WEB, GHOST_WEB, X_DONE, X_HOST, NODE, STRANGER,
    ] {
        let expected = Verdict::when(allowed.contains(&peer));
        assert_eq!(
            judge(world, Direction::Ingress, peer, tcp(80)),
            expected,
            "from {peer}"
        );
    }
}

/// Isolates every pod of the namespace for ingress, but for these rules.
pub(crate) fn ingress(rules: impl IntoIterator<Item = Rule>) -> NetworkPolicy {
    NetworkPolicy {
        members: Selector::everything().into(),
        isolates_ingress: true,
        isolates_egress: false,
        ingress: rules.into_iter().collect(),
        egress: Vec::new(),
    }
}

/// Isolates every pod of the namespace for egress, but for these rules.
pub(crate) fn egress(rules: impl IntoIterator<Item = Rule>) -> NetworkPolicy {
    NetworkPolicy {
        members: Selector::everything().into(),
        isolates_ingress: false,
        isolates_egress: true,
        ingress: Vec::new(),
        egress: rules.into_iter().collect(),
    }
}

/// A rule for these peers on every port.
pub(crate) fn with_peers(peers: impl IntoIterator<Item = Peer>) -> Rule {
    Rule {
        peers: peers.into_iter().collect(),
        ports: Vec::new(),
    }
}

/// A rule for these ports with every peer.
pub(crate) fn with_ports(ports: impl IntoIterator<Item = Port>) -> Rule {
    Rule {
        peers: Vec::new(),
        ports: ports.into_iter().collect(),
    }
}

/// Pods of the policy's own namespace.
pub(crate) fn own_pods(pods: Selector) -> Peer {
    Peer::Pods {
        namespaces: Namespaces::Own,
        pods,
    }
}

/// Pods of other namespaces too.
pub(crate) fn pods_of(namespaces: Selector, pods: Selector) -> Peer {
    Peer::Pods {
        namespaces: Namespaces::Matching(namespaces),
        pods,
    }
}

pub(crate) fn block(cidr: &str, except: &[&str]) -> Peer {
    let net = |text: &str| text.parse().expect("a prefix");
    Peer::Block {
        cidr: net(cidr),
        except: except.iter().map(|text| net(text)).collect(),
    }
}

/// `matchLabels` with one label.
pub(crate) fn label(key: &str, value: &str) -> Selector {
    requirement(key, Operator::In(vec![value.into()]))
}

pub(crate) fn requirement(key: &str, operator: Operator) -> Selector {
    Selector::Requirements(vec![Requirement {
        key: key.into(),
        operator,
    }])
}

pub(crate) fn tcp(port: u16) -> Transport {
    Transport::Port(Protocol::Tcp, port)
}

pub(crate) fn udp(port: u16) -> Transport {
    Transport::Port(Protocol::Udp, port)
}

pub(crate) fn sctp(port: u16) -> Transport {
    Transport::Port(Protocol::Sctp, port)
}

pub(crate) fn range(protocol: Protocol, first: u16, last: u16) -> Port {
    Port::Range {
        protocol,
        first,
        last,
    }
}

/// A port that a rule gives by name.
pub(crate) fn port_called(protocol: Protocol, name: &str) -> Port {
    Port::Named {
        protocol,
        name: name.into(),
    }
}

pub(crate) fn named(name: &str, protocol: Protocol, number: u16) -> NamedPort {
    NamedPort {
        name: name.into(),
        protocol,
        number,
    }
}

/// `key=value`, or nothing.
fn labels(text: &str) -> Labels {
    text.split_once('=')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into_iter()
        .collect()
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
