//! The compiler: from policies to rulesets, and from facts to signatures.
//!
//! ```text
//! policies of a pod ──► compile_subject ──► Ruleset (ingress), Ruleset (egress) ──► Questions
//! pods, namespaces, node addresses, Services ──► Facts::of(world, questions) ──► Signature of an address
//! Ruleset × Signature ──► Row ──► one bit of a port set: the verdict
//! ```
//!
//! A ruleset never depends on facts about peers, and a signature never depends on who is judged, so that the
//! enforcer can write either without the other (DESIGN §4, "Order of writes").

pub mod facts;
pub mod partition;
pub mod ports;
pub mod predicate;
pub mod ruleset;
pub mod translation;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::compile::facts::Facts;
use crate::compile::ports::{PortSet, Row};
use crate::compile::predicate::{PortName, Predicate, Questions};
use crate::compile::ruleset::{Ports, Ruleset};
use crate::connection::{Baseline, Connection, Direction, Subject, Verdict};
use crate::model::{NetworkPolicy, ObjectName, Port, Rule, Selector, World};

/// The compiled policy of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectRulesets {
    /// Who may open connections to it.
    pub ingress: Ruleset,
    /// To whom it may open connections.
    pub egress: Ruleset,
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

/// Compiles the policies of `world` that select `subject`. Reads nothing else of the world.
pub fn compile_subject(world: &World, subject: &Subject) -> SubjectRulesets {
    let selecting: Vec<&NetworkPolicy> = policies_of(world, &subject.name.namespace)
        .filter(|policy| applies(policy, subject))
        .collect();
    SubjectRulesets {
        ingress: compile_direction(Direction::Ingress, &selecting, subject),
        egress: compile_direction(Direction::Egress, &selecting, subject),
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
    let dropped_by_the_kernel = *ruleset == Ruleset::Allowed
        && connection.direction == Direction::Egress
        && peer.is_own_node()
        && connection.transport.is_tunnel();
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
) -> Ruleset {
    let isolating: Vec<&[Rule]> = selecting
        .iter()
        .filter_map(|policy| match direction {
            Direction::Ingress => policy.isolates_ingress.then_some(policy.ingress.as_slice()),
            Direction::Egress => policy.isolates_egress.then_some(policy.egress.as_slice()),
        })
        .collect();
    if isolating.is_empty() {
        return match subject.baseline {
            Baseline::Standard => Ruleset::Allowed,
            Baseline::Strict => Ruleset::Denied,
        };
    }
    let mut any = Ports::default();
    let mut by_predicate: BTreeMap<Arc<Predicate>, Ports> = BTreeMap::new();
    for rule in isolating.into_iter().flatten() {
        let ports = ports_of(direction, rule, subject);
        if rule.peers.is_empty() {
            any.add(&ports);
        }
        for predicate in rule
            .peers
            .iter()
            .filter_map(|peer| Predicate::of_peer(peer, &subject.name.namespace))
        {
            by_predicate
                .entry(Arc::new(predicate))
                .or_default()
                .add(&ports);
        }
    }
    Ruleset::isolated(direction, any, by_predicate)
}

/// What a rule allows with its peers. On ingress a name is resolved here, on the subject; on egress by each peer.
fn ports_of(direction: Direction, rule: &Rule, subject: &Subject) -> Ports {
    if rule.ports.is_empty() {
        return Ports::everything();
    }
    let mut numbered = Row::none();
    let mut named = BTreeSet::new();
    for port in &rule.ports {
        match port {
            Port::All(protocol) => numbered.ports_mut(*protocol).add(&PortSet::all()),
            Port::Range {
                protocol,
                first,
                last,
            } => numbered
                .ports_mut(*protocol)
                .add(&PortSet::range(*first, *last)),
            Port::Named { protocol, name } => {
                let wanted = PortName {
                    protocol: *protocol,
                    name: name.clone(),
                };
                match direction {
                    Direction::Ingress => {
                        let numbers = numbers_called(&wanted, subject);
                        numbered.ports_mut(*protocol).add(&PortSet::of(numbers));
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
                    numbered.ports_mut(*protocol).add(&PortSet::of(within));
                }
                Direction::Egress => {}
            },
            Port::Invalid => {}
        }
    }
    Ports::of(numbered, named)
}

fn numbers_called(wanted: &PortName, subject: &Subject) -> impl Iterator<Item = u16> {
    let named = subject.ports.iter().filter(|port| wanted.names(port));
    named.map(|port| port.number)
}
