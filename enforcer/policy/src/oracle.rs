//! The oracle: what NetworkPolicy means, as plainly as it can be said.
//!
//! Linear scans, no index, no cache, and nothing in common with the compiler but the input types. "Item" numbers
//! are those of the specification's checklist; the choices that it leaves open are DESIGN §5's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::connection::{Baseline, Connection, Direction, Subject, Transport, Verdict};
use crate::model::{
    NamedPort, Namespaces, NetworkPolicy, ObjectName, Peer, Pod, PodUid, Port, Rule, Selector,
    World,
};

/// Whether `subject` may take part in `connection`.
///
/// Not asked here, because the kernel answers it by itself: traffic of the pod to its own address, traffic that
/// the node itself sends to the pod (known by where it comes from, not by its address), replies, and what is
/// dropped whoever is policed. One such rule is here all the same, because policy may lift it: a tunnel to an
/// address of the own node needs a rule that names its port.
pub fn evaluate(world: &World, subject: &Subject, connection: &Connection) -> Verdict {
    let isolating: Vec<&NetworkPolicy> = world
        .policies
        .iter()
        .filter(|(name, _)| name.namespace == subject.name.namespace)
        .map(|(_, policy)| policy.as_ref())
        .filter(|policy| selects(policy, subject) && isolates(policy, connection.direction))
        .collect();

    let to_own_node = connection.direction == Direction::Egress
        && world.node_addresses.contains(&connection.peer);
    let tunnel_to_own_node = to_own_node && connection.transport.is_tunnel();

    if isolating.is_empty() {
        return match subject.baseline {
            Baseline::Standard => Verdict::when(!tunnel_to_own_node),
            Baseline::Strict => Verdict::Deny,
        };
    }
    if to_own_node && !tunnel_to_own_node {
        return Verdict::Allow;
    }
    let allowed = isolating
        .iter()
        .flat_map(|policy| rules(policy, connection.direction))
        .any(|rule| {
            (rule.peers.is_empty()
                || rule
                    .peers
                    .iter()
                    .any(|peer| peer_matches(world, subject, peer, connection.peer)))
                && (rule.ports.is_empty() && !tunnel_to_own_node
                    || rule
                        .ports
                        .iter()
                        .any(|port| port_matches(world, subject, port, connection)))
        });
    Verdict::when(allowed)
}

/// The pod that an address stands for: the selectable pod that has it, unless it is an address of the own node.
///
/// When several pods claim one address, the first of them by (namespace, name) has it, never all of them (item 32).
pub fn pod_at(world: &World, address: IpAddr) -> Option<(&ObjectName, &Pod)> {
    if world.node_addresses.contains(&address) {
        return None;
    }
    world
        .pods
        .iter()
        .map(|(name, pod)| (name, pod.as_ref()))
        .find(|(_, pod)| pod.is_selectable() && pod.addresses.contains(&address))
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
            cidr.contains(&address) && !except.iter().any(|hole| hole.contains(&address))
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
