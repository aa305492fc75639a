// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The compiler: from policies to rulesets, and from facts to signatures.
//!
//! ```text
//! policies of a pod ──► compile_subject ──► Ruleset (ingress), Ruleset (egress) ──► Questions
//! pods, namespaces, node addresses, Services ──► Facts::of(world, questions) ──► Signature of an address
//! Ruleset × Signature ──► Row ──► one bit of a port set: the verdict
//! ```
//!
//! A ruleset never depends on facts about peers, and a signature never depends on who is judged, so that the
//! enforcer can write either without the other (`docs/adr/0006`).

pub mod canonical;
pub mod facts;
pub mod partition;
pub mod ports;
pub mod predicate;
pub mod ruleset;
pub mod signature;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use podgate_core::Isolation;

use crate::compile::facts::{Closed, Facts};
use crate::compile::ports::{PortRange, PortSet, Row};
use crate::compile::predicate::{PortName, Predicate, Questions};
use crate::compile::ruleset::{Ports, Ruleset, Tunnels};
use crate::connection::{Baseline, Connection, Direction, Subject, Transport, Verdict};
use crate::isolation;
use crate::model::{NetworkPolicy, ObjectName, Port, Protocol, Rule, Selector, World};

/// The compiled policy of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectRulesets {
    /// Who may open connections to it.
    pub ingress: Ruleset,
    /// To whom it may open connections.
    pub egress: Ruleset,
    /// Where policies isolate it, be it that their rules allow everything.
    pub isolation: Isolation,
}

impl SubjectRulesets {
    /// The ruleset of `direction`.
    pub fn of(&self, direction: Direction) -> &Ruleset {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// What both need to know about peers.
    pub fn questions(&self) -> Questions {
        let mut questions = self.ingress.questions();
        questions.add(&self.egress.questions());
        questions
    }
}

/// Compiles the policies of `world` that select `subject`. Reads nothing else of the world but the node's scopes and the
/// ports of its tunnels.
pub fn compile_subject(world: &World, subject: &Subject) -> SubjectRulesets {
    let selecting: Vec<&NetworkPolicy> = policies_of(world, &subject.name.namespace)
        .filter(|policy| applies(policy, subject))
        .collect();
    let tunnels = Tunnels::with(&world.tunnel_ports);
    compile_selecting(&selecting, subject, &world.node_scopes, &tunnels)
}

/// Compiles these policies, all of which select `subject`.
pub fn compile_selecting(
    selecting: &[&NetworkPolicy],
    subject: &Subject,
    node_scopes: &BTreeSet<IpNet>,
    tunnels: &Tunnels,
) -> SubjectRulesets {
    let of = |direction| compile_direction(direction, selecting, subject, node_scopes, tunnels);
    SubjectRulesets {
        ingress: of(Direction::Ingress),
        egress: of(Direction::Egress),
        isolation: isolation::of_policies(selecting.iter().copied()),
    }
}

/// Isolates in these directions, without anything that a policy allows there; in the others the baseline holds.
pub fn isolate(isolation: Isolation, baseline: Baseline, tunnels: &Tunnels) -> SubjectRulesets {
    let of = |direction| {
        if isolation.of(direction) {
            Ruleset::isolated(direction, Ports::default(), BTreeMap::new(), tunnels)
        } else {
            not_isolated(baseline)
        }
    };
    SubjectRulesets {
        ingress: of(Direction::Ingress),
        egress: of(Direction::Egress),
        isolation,
    }
}

fn not_isolated(baseline: Baseline) -> Ruleset {
    match baseline {
        Baseline::Allow => Ruleset::Allowed,
        Baseline::Deny => Ruleset::Denied,
    }
}

/// All that a set of rulesets asks about peers.
pub fn questions_of<'a>(rulesets: impl IntoIterator<Item = &'a Ruleset>) -> Questions {
    let mut questions = Questions::default();
    for ruleset in rulesets {
        questions.add(&ruleset.questions());
    }
    questions
}

/// The verdict on `connection` by the row of its peer's signature, as the kernel finds it.
/// `facts` must have been asked the questions of these rulesets, and may have been asked more.
pub fn compiled_verdict(
    rulesets: &SubjectRulesets,
    facts: &Facts,
    connection: &Connection,
) -> Verdict {
    let peer = facts.signature_of(connection.peer);
    let ruleset = rulesets.of(connection.direction);
    let is_open = *ruleset == Ruleset::Allowed;
    let tunnel =
        is_open && peer.is_node() && connection.transport.is_tunnel(&facts.world().tunnel_ports);
    let way = match connection.transport {
        Transport::Port(Protocol::Udp, port) => match facts.closed(connection.peer, port) {
            Some(Closed::ToAll) => true,
            Some(Closed::ToOpen) => is_open,
            Some(Closed::Elsewhere) | None => false,
        },
        Transport::Port(Protocol::Tcp | Protocol::Sctp, _) | Transport::Other(_) => false,
    };
    let dropped_by_the_kernel = connection.direction == Direction::Egress && (tunnel || way);
    Verdict::when(!dropped_by_the_kernel && ruleset.row(peer).allows(connection.transport))
}

/// Whether `policy`, of the subject's namespace, isolates it in `direction`: there only what a rule allows passes.
pub fn isolates(policy: &NetworkPolicy, direction: Direction, subject: &Subject) -> bool {
    let isolating = match direction {
        Direction::Ingress => policy.isolates_ingress,
        Direction::Egress => policy.isolates_egress,
    };
    isolating && applies(policy, subject)
}

/// Whether a policy of the subject's namespace applies to it.
pub fn applies(policy: &NetworkPolicy, subject: &Subject) -> bool {
    let members = &policy.members;
    let uid = subject.uid.as_ref();
    if uid.is_some_and(|uid| members.listed.contains(uid)) {
        return true;
    }
    if uid.is_some_and(|uid| members.except.contains(uid)) {
        return false;
    }
    match &members.matching {
        None => false,
        Some(Selector::Invalid) => true,
        Some(readable @ Selector::Requirements(_)) => readable.matches(&subject.labels),
    }
}

fn policies_of<'a>(
    world: &'a World,
    namespace: &'a str,
) -> impl Iterator<Item = &'a NetworkPolicy> {
    world
        .policies
        .range(ObjectName::new(namespace, "")..)
        .take_while(move |(name, _)| name.namespace == namespace)
        .map(|(_, policy)| policy.as_ref())
}

fn compile_direction(
    direction: Direction,
    selecting: &[&NetworkPolicy],
    subject: &Subject,
    node_scopes: &BTreeSet<IpNet>,
    tunnels: &Tunnels,
) -> Ruleset {
    let isolating: Vec<&[Rule]> = selecting
        .iter()
        .filter_map(|policy| match direction {
            Direction::Ingress => policy.isolates_ingress.then_some(policy.ingress.as_slice()),
            Direction::Egress => policy.isolates_egress.then_some(policy.egress.as_slice()),
        })
        .collect();
    if isolating.is_empty() {
        return not_isolated(subject.baseline);
    }
    // Ports that several rules have are worked out once.
    let mut lists: HashMap<&[Port], Arc<Ports>> = HashMap::new();
    let rules: Vec<(&Rule, Arc<Ports>)> = isolating
        .into_iter()
        .flatten()
        .map(|rule| {
            let ports = lists.entry(&rule.ports);
            let ports =
                ports.or_insert_with_key(|list| Arc::new(ports_of(direction, list, subject)));
            (rule, Arc::clone(ports))
        })
        .collect();
    drop(lists);
    let any = rules.iter().enumerate();
    let any = any.filter(|(_, (rule, _))| rule.peers.is_empty());
    let any: Vec<usize> = any.map(|(number, _)| number).collect();
    let mut by_predicate: BTreeMap<Predicate, Vec<usize>> = BTreeMap::new();
    for (number, (rule, _)) in rules.iter().enumerate() {
        for predicate in rule
            .peers
            .iter()
            .filter_map(|peer| Predicate::of_peer(peer, &subject.name.namespace, node_scopes))
        {
            let of_predicate = by_predicate.entry(predicate).or_default();
            if of_predicate.last() != Some(&number) {
                of_predicate.push(number);
            }
        }
    }
    // The ports of rules that go together are put together once, however many peers have them.
    let mut together: HashMap<Vec<usize>, Arc<Ports>> = HashMap::new();
    let mut union = |numbers: Vec<usize>| {
        let known = together.entry(numbers);
        let known = known.or_insert_with_key(|numbers| {
            if let [number] = numbers.as_slice() {
                return Arc::clone(&rules[*number].1);
            }
            let parts = numbers.iter().map(|number| rules[*number].1.as_ref());
            Arc::new(Ports::union(&parts.collect::<Vec<_>>()))
        });
        Arc::clone(known)
    };
    let any = union(any).as_ref().clone();
    let by_predicate = by_predicate
        .into_iter()
        .map(|(predicate, numbers)| (Arc::new(predicate), union(numbers)))
        .collect();
    Ruleset::isolated(direction, any, by_predicate, tunnels)
}

/// What a rule with these ports allows with its peers. On ingress a name is resolved here, on the subject; on egress by each peer.
fn ports_of(direction: Direction, ports: &[Port], subject: &Subject) -> Ports {
    if ports.is_empty() {
        return Ports::everything();
    }
    let mut numbered: [Vec<PortRange>; 3] = Default::default();
    let mut number = |protocol: Protocol, first, last| {
        numbered[protocol as usize].push(PortRange { first, last });
    };
    let mut named = BTreeSet::new();
    for port in ports {
        match port {
            Port::All(protocol) => number(*protocol, 0, u16::MAX),
            Port::Range {
                protocol,
                first,
                last,
            } => number(*protocol, *first, *last),
            Port::Named { protocol, name } => {
                let wanted = PortName {
                    protocol: *protocol,
                    name: name.clone(),
                };
                match direction {
                    Direction::Ingress => {
                        for called in numbers_called(&wanted, subject) {
                            number(*protocol, called, called);
                        }
                    }
                    Direction::Egress => {
                        named.insert(wanted);
                    }
                }
            }
            Port::NamedWithin {
                protocol,
                name,
                first,
                last,
            } => match direction {
                Direction::Ingress => {
                    let wanted = PortName {
                        protocol: *protocol,
                        name: name.clone(),
                    };
                    let within = numbers_called(&wanted, subject)
                        .filter(|number| (*first..=*last).contains(number));
                    for called in within {
                        number(*protocol, called, called);
                    }
                }
                Direction::Egress => {}
            },
            Port::Invalid => {}
        }
    }
    let mut row = Row::none();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let ranges = std::mem::take(&mut numbered[protocol as usize]);
        *row.ports_mut(protocol) = PortSet::from_ranges(ranges);
    }
    Ports::of(row, named)
}

fn numbers_called(wanted: &PortName, subject: &Subject) -> impl Iterator<Item = u16> {
    let named = subject.ports.iter().filter(|port| wanted.names(port));
    named.map(|port| port.number)
}
