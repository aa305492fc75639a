// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The oracle: what NetworkPolicy means, as plainly as it can be said.
//!
//! Linear scans, no index, no cache, and nothing in common with the compiler but the input types. The numbered
//! items are those of `docs/policy-semantics.md`, which also has the choices that Kubernetes leaves open.

mod services;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

pub use services::{is_led_into_tunnel, is_redirected, may_be_redirected, needs_its_address};

use crate::connection::{Baseline, Connection, Direction, Subject, Transport, Verdict};
use services::Closed;

use crate::model::{
    NamedPort, Namespaces, NetworkPolicy, ObjectName, Peer, Pod, PodUid, Port, Rule, SCOPES,
    Selector, World,
};

/// Whether `subject` may take part in `connection`.
///
/// Not asked here, because the kernel answers it by itself: traffic of the pod to its own address, traffic that
/// the node itself sends to the pod (known by where it comes from, not by its address), replies, and what is
/// dropped whoever is policed. One such rule is here all the same, because policy may lift it: a tunnel to an
/// address of a node needs a rule that gives its port as a number: a name means what the owner of a pod calls so.
///
/// Nor does policy lift what a Service leads into such a tunnel at last, by way of another.
pub fn evaluate(world: &World, subject: &Subject, connection: &Connection) -> Verdict {
    let closed = match connection.direction {
        Direction::Ingress => Closed::Never,
        Direction::Egress => services::closed(world, connection),
    };
    if closed == Closed::ToAll {
        return Verdict::Deny;
    }
    let Some(policy) = policy_of(world, subject, connection.direction) else {
        let tunnel = is_tunnel_to_node(world, connection);
        return match subject.baseline {
            Baseline::Allow => Verdict::when(!tunnel && closed == Closed::Never),
            Baseline::Deny => Verdict::Deny,
        };
    };
    Verdict::when(match connection.direction {
        Direction::Ingress => policy.allows_literally(connection),
        Direction::Egress => services::allows(&policy, connection),
    })
}

/// Whether an established flow from `subject` goes on though `world` denies its connection: nothing that is known denies it.
/// `needs_its_address` as [`needs_its_address`] had it when the flow was allowed, if the address stands for nothing now.
pub fn spares(
    world: &World,
    subject: &Subject,
    connection: &Connection,
    needs_its_address: bool,
) -> bool {
    let policy = policy_of(world, subject, connection.direction);
    let mut policy = policy.into_iter();
    policy.any(|policy| services::spares(&policy, connection, needs_its_address))
}

/// What isolates a subject in a direction; none if nothing does.
fn policy_of<'a>(
    world: &'a World,
    subject: &'a Subject,
    direction: Direction,
) -> Option<Policy<'a>> {
    let isolating: Vec<&NetworkPolicy> = world
        .policies
        .iter()
        .filter(|(name, _)| name.namespace == subject.name.namespace)
        .map(|(_, policy)| policy.as_ref())
        .filter(|policy| selects(policy, subject) && isolates(policy, direction))
        .collect();
    let is_isolated = !isolating.is_empty();
    is_isolated.then(|| Policy {
        world,
        subject,
        rules: isolating
            .iter()
            .flat_map(|policy| rules(policy, direction))
            .collect(),
    })
}

/// What isolates a subject in one direction.
struct Policy<'a> {
    world: &'a World,
    subject: &'a Subject,
    rules: Vec<&'a Rule>,
}

impl Policy<'_> {
    /// Whether the connection is allowed, when the address stands for nothing but itself.
    fn allows_literally(&self, connection: &Connection) -> bool {
        let to_own_node = connection.direction == Direction::Egress
            && is_node_address(self.world, connection.peer);
        let tunnel = is_tunnel_to_node(self.world, connection);
        to_own_node && !tunnel
            || self.rules.iter().any(|rule| {
                let peers = rule.peers.is_empty()
                    || rule
                        .peers
                        .iter()
                        .any(|peer| peer_matches(self.world, self.subject, peer, connection.peer));
                peers && (rule.ports.is_empty() && !tunnel || self.ports_match(rule, connection))
            })
    }

    fn ports_match(&self, rule: &Rule, connection: &Connection) -> bool {
        let tunnel = is_tunnel_to_node(self.world, connection);
        rule.ports.iter().any(|port| {
            let by_name = matches!(port, Port::Named { .. } | Port::NamedWithin { .. });
            !(tunnel && by_name) && port_matches(self.world, self.subject, port, connection)
        })
    }
}

/// Whether an address is one of the own node's. The cluster address of a Service is none, whatever interface has it.
fn is_node_address(world: &World, address: IpAddr) -> bool {
    world.node_addresses.contains(&address) && !services::is_cluster_address(world, address)
}

/// Whether an address is any node's.
fn is_node(world: &World, address: IpAddr) -> bool {
    is_node_address(world, address)
        || (world.cluster_nodes.contains(&address) && !services::is_cluster_address(world, address))
}

fn is_tunnel_to_node(world: &World, connection: &Connection) -> bool {
    let is_nodes = is_node(world, connection.peer);
    connection.direction == Direction::Egress
        && connection.transport.is_tunnel(&world.tunnel_ports)
        && is_nodes
}

/// The pod that an address stands for: the selectable pod that has it, unless it is an address of the own node.
///
/// When several pods claim one address, the one that started last has it, never all of them (item 32); of those that
/// started together, the first by (namespace, name).
pub fn pod_at(world: &World, address: IpAddr) -> Option<(&ObjectName, &Pod)> {
    if is_node_address(world, address) {
        return None;
    }
    world
        .pods
        .iter()
        .map(|(name, pod)| (name, pod.as_ref()))
        .filter(|(_, pod)| pod.is_selectable() && pod.addresses.contains(&address))
        .min_by_key(|(name, pod)| (Reverse(pod.started), *name))
}

/// A selector that cannot be read selects every pod of the namespace: isolation stays.
fn selects(policy: &NetworkPolicy, subject: &Subject) -> bool {
    let is_in =
        |pods: &BTreeSet<PodUid>| subject.uid.as_ref().is_some_and(|uid| pods.contains(uid));
    let matches = match &policy.members.matching {
        None => false,
        Some(Selector::Invalid) => true,
        Some(readable @ Selector::Requirements(_)) => readable.matches(&subject.labels),
    };
    matches && !is_in(&policy.members.except) || is_in(&policy.members.listed)
}

fn isolates(policy: &NetworkPolicy, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => policy.isolates_ingress,
        Direction::Egress => policy.isolates_egress,
    }
}

fn rules(policy: &NetworkPolicy, direction: Direction) -> &[Rule] {
    match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

/// Items 14 to 19, 28 to 30. A policy that isolates the subject is of the subject's namespace, so "own" is that one.
fn peer_matches(world: &World, subject: &Subject, peer: &Peer, address: IpAddr) -> bool {
    match peer {
        Peer::Block { cidr, except } => {
            cidr.contains(&address)
                && !except.iter().any(|hole| hole.contains(&address))
                && is_within_scope(world, cidr, except, address)
        }
        Peer::Pods { namespaces, pods } => pod_at(world, address).is_some_and(|(name, pod)| {
            let in_namespace = match namespaces {
                Namespaces::Own => name.namespace == subject.name.namespace,
                Namespaces::Matching(selector) => world
                    .namespaces
                    .get(&name.namespace)
                    .is_some_and(|namespace| selector.matches(&namespace.labels)),
            };
            in_namespace && pods.matches(&pod.labels)
        }),
        Peer::Listed(list) => world
            .listed
            .get(&address)
            .is_some_and(|lists| lists.contains(list)),
        Peer::Invalid => false,
    }
}

/// Whether a block may speak of an address that it holds: that is in no scope, or in scopes around the whole block. A
/// block of everything speaks of everything; an exception outside of it takes nothing away.
fn is_within_scope(world: &World, cidr: &IpNet, except: &[IpNet], address: IpAddr) -> bool {
    let is_everything = cidr.prefix_len() == 0 && !except.iter().any(|hole| cidr.contains(hole));
    let scopes = SCOPES.iter().chain(&world.node_scopes);
    let mut around = scopes.filter(|scope| scope.contains(&address));
    is_everything || around.all(|scope| scope.contains(cidr))
}

/// Items 20 to 26. A name means what the destination calls by it: the subject on ingress, the peer on egress.
fn port_matches(world: &World, subject: &Subject, port: &Port, connection: &Connection) -> bool {
    let Transport::Port(protocol, number) = connection.transport else {
        return false;
    };
    match port {
        Port::All(wanted) => *wanted == protocol,
        Port::Range {
            protocol: wanted,
            first,
            last,
        } => *wanted == protocol && (*first..=*last).contains(&number),
        Port::Named {
            protocol: wanted,
            name,
        } => {
            let called: &[NamedPort] = match connection.direction {
                Direction::Ingress => &subject.ports,
                Direction::Egress => {
                    pod_at(world, connection.peer).map_or(&[], |(_, pod)| &pod.ports)
                }
            };
            called.contains(&NamedPort {
                name: name.clone(),
                protocol,
                number,
            }) && *wanted == protocol
        }
        Port::NamedWithin {
            protocol: wanted,
            name,
            first,
            last,
        } => {
            let called = NamedPort {
                name: name.clone(),
                protocol,
                number,
            };
            connection.direction == Direction::Ingress
                && subject.ports.contains(&called)
                && *wanted == protocol
                && (*first..=*last).contains(&number)
        }
        Port::Invalid => false,
    }
}
