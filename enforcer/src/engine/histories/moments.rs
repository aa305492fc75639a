// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was so since all was in force, and packets that are tried meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use podgate_datapath::record::Record;
use podgate_policy::connection::{Connection, Subject, Verdict};
use podgate_policy::evaluate;
use podgate_policy::isolation::{self, Isolation};
use podgate_policy::model::{NetworkPolicy, ObjectName, Pod, Selector, World};

use crate::cluster::{View, name_of};
use crate::engine::dataplane::model::Model;
use crate::plan::host::frames::{Part, passes};

/// What is known at one time. Facts and policies are written apart.
pub(super) struct Moment {
    facts: Facts,
    policies: Policies,
}

/// Everything of it but policies.
#[derive(PartialEq)]
struct Facts {
    world: World,
    /// The births of attachments.
    births: BTreeSet<u32>,
}

/// Policies, and whom they judge.
#[derive(PartialEq)]
struct Policies {
    policies: OrdMap<ObjectName, Arc<NetworkPolicy>>,
    /// Who the pods of attachments are, by birth.
    subjects: BTreeMap<u32, Arc<Subject>>,
}

/// All moments since the last one of which everything was in force: the facts of each may stand beside the policies of each.
#[derive(Default)]
pub(super) struct Window {
    facts: Vec<Facts>,
    policies: Vec<Policies>,
    /// All facts with all policies.
    mixed: Vec<Mixed>,
    /// Those of the latest moment.
    latest: (FactsAt, PoliciesAt),
    /// The generation that was drawn last when it began: attachments of a later one are new.
    since: u32,
    /// The facts once an ADD will have run, and the addresses that it deletes what is known of.
    foreseen: Option<(FactsAt, Vec<IpAddr>)>,
}

/// Which facts of a window.
type FactsAt = usize;
/// Which policies of a window.
type PoliciesAt = usize;

/// A world made of two.
struct Mixed {
    facts: FactsAt,
    policies: PoliciesAt,
    world: World,
}

/// What may become of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    since: u32,
    /// The latest policies isolate the pod in this direction.
    pub(super) is_isolated: bool,
    /// Some facts and policies of the window allow it.
    pub(super) may_pass: bool,
    /// The same once an ADD has run that is foreseen: what is known of its addresses from before allows nothing.
    may_pass_added: bool,
    /// The birth of the attachment that has the peer's address.
    peer: Option<u32>,
    /// Some facts and policies allow it, those from before the peer's attachment and from after it, too: so it is once a DEL has
    /// run.
    may_pass_removed: bool,
    /// Some facts and policies allow it, of those policies only that isolate the pod in this direction, if the latest do.
    pub(super) may_pass_isolated: bool,
    /// The same, of the latest policies only.
    pub(super) may_pass_latest: bool,
    /// Some facts deny it with the latest policies.
    pub(super) may_drop_latest: bool,
    /// What is known now allows it.
    pub(super) passes_now: bool,
    /// All facts and policies of the window allow it, and the pod was known all the time and did not become isolated.
    pub(super) must_pass: bool,
}

impl Moment {
    pub(super) fn new(view: View, records: &[Record]) -> Self {
        let of_record = |record: &Record| {
            let subject = view.subjects.get(&record.slot)?;
            Some((record.birth.0, Arc::clone(subject)))
        };
        let mut world = view.world;
        Self {
            policies: Policies {
                policies: mem::take(&mut world.policies),
                subjects: records.iter().filter_map(of_record).collect(),
            },
            facts: Facts {
                world,
                births: records.iter().map(|record| record.birth.0).collect(),
            },
        }
    }
}

impl Policies {
    fn subject(&self, record: &Record) -> Option<&Subject> {
        self.subjects.get(&record.birth.0).map(AsRef::as_ref)
    }

    /// Where they isolate an attachment. A pod that is not known: where any of its namespace's does.
    fn isolation_of(&self, record: &Record, subject: Option<&Subject>) -> Isolation {
        let namespace = namespace_of(record);
        let policies = self.policies.iter();
        let policies = policies
            .filter(|(name, _)| name.namespace == namespace)
            .map(|(_, policy)| policy.as_ref());
        match subject {
            Some(subject) => isolation::of_subject(policies, subject),
            None => isolation::of_policies(policies),
        }
    }
}

/// Where this stands, which is at the end if it is new.
fn place<T: PartialEq>(all: &mut Vec<T>, this: T) -> usize {
    let at = all.iter().position(|it| *it == this);
    at.unwrap_or_else(|| {
        all.push(this);
        all.len() - 1
    })
}

impl Window {
    pub(super) fn push(&mut self, moment: Moment) {
        let known = (self.facts.len(), self.policies.len());
        let facts = place(&mut self.facts, moment.facts);
        let policies = place(&mut self.policies, moment.policies);
        self.latest = (facts, policies);
        if facts == known.0 {
            (0..self.policies.len()).for_each(|policies| self.mix(facts, policies));
        }
        if policies == known.1 {
            (0..known.0).for_each(|facts| self.mix(facts, policies));
        }
    }

    fn mix(&mut self, facts: FactsAt, policies: PoliciesAt) {
        let world = World {
            policies: self.policies[policies].policies.clone(),
            ..self.facts[facts].world.clone()
        };
        self.mixed.push(Mixed {
            facts,
            policies,
            world,
        });
    }

    /// What will be known when a plugin has run.
    pub(super) fn foresee(&mut self, moment: Moment, added: Vec<IpAddr>) {
        self.push(moment);
        self.foreseen = Some((self.latest.0, added));
    }

    /// The addresses of an ADD that is foreseen.
    pub(super) fn added(&self) -> &[IpAddr] {
        self.foreseen.as_ref().map_or(&[], |(_, added)| added)
    }

    /// All of the latest moment is in force.
    pub(super) fn settle(&mut self, since: u32) {
        let (facts, policies) = self.latest;
        let mut window = Self {
            since,
            ..Self::default()
        };
        if !self.facts.is_empty() {
            window.push(Moment {
                facts: self.facts.swap_remove(facts),
                policies: self.policies.swap_remove(policies),
            });
        }
        *self = window;
    }

    pub(super) fn is_settled(&self) -> bool {
        self.mixed.len() == 1
    }

    /// `peer`: the birth of the attachment that has the peer's address. What is known from before it allows nothing.
    pub(super) fn judge(
        &self,
        record: &Record,
        connection: &Connection,
        peer: Option<u32>,
    ) -> Bounds {
        let (facts_now, policies_now) = self.latest;
        let latest = self.policies[policies_now].subject(record);
        // Before an attachment was made, its pod was who it is now.

        let direction = connection.direction;
        let judged: Vec<(Option<&Subject>, bool)> = self
            .policies
            .iter()
            .map(|policies| {
                let subject = policies.subject(record).or(latest);
                let isolation = policies.isolation_of(record, subject);
                (subject, isolation.of(direction))
            })
            .collect();
        let is_isolated = |policies: PoliciesAt| judged[policies].1;
        let verdicts: Vec<(&Mixed, bool)> = self
            .mixed
            .iter()
            .map(|mixed| {
                let verdict = match judged[mixed.policies] {
                    (Some(subject), _) => evaluate(&mixed.world, subject, connection),
                    (None, is_isolated) => {
                        of_unknown(&mixed.world, record, is_isolated, connection)
                    }
                };
                (mixed, verdict == Verdict::Allow)
            })
            .collect();
        let is_of_peer =
            |facts: FactsAt| peer.is_none_or(|peer| self.facts[facts].births.contains(&peer));
        let allowed = || verdicts.iter().filter(|(_, allows)| *allows);
        let any = |of: &dyn Fn(PoliciesAt) -> bool| {
            allowed().any(|(mixed, _)| of(mixed.policies) && is_of_peer(mixed.facts))
        };
        let foreseen = self.foreseen.as_ref();
        let foreseen = foreseen.filter(|(_, added)| added.contains(&connection.peer));
        Bounds {
            since: self.since,
            is_isolated: is_isolated(policies_now),
            may_pass: any(&|_| true),
            may_pass_added: foreseen
                .is_none_or(|(facts, _)| allowed().any(|(mixed, _)| mixed.facts == *facts)),
            peer,
            may_pass_removed: allowed().next().is_some(),
            may_pass_isolated: any(&|at| is_isolated(at) || !is_isolated(policies_now)),
            may_pass_latest: any(&|at| at == policies_now),
            may_drop_latest: verdicts
                .iter()
                .any(|(mixed, allows)| mixed.policies == policies_now && !*allows),
            passes_now: allowed()
                .any(|(mixed, _)| (mixed.facts, mixed.policies) == (facts_now, policies_now)),
            must_pass: verdicts.iter().all(|(_, allows)| *allows)
                && self.policies.iter().all(|it| it.subject(record).is_some())
                && self.facts.iter().all(|it| has_pod(&it.world, record))
                && (0..judged.len()).all(|at| is_isolated(at) == is_isolated(0)),
        }
    }
}

/// Whether a world has the pod of an attachment.
pub(super) fn has_pod(world: &World, record: &Record) -> bool {
    let name = record.pod.as_ref().map(name_of);
    name.is_some_and(|name| world.pods.contains_key(&name))
}

/// A pod that the source does not know is isolated where a policy of its namespace isolates any.
fn of_unknown(
    world: &World,
    record: &Record,
    is_isolated: bool,
    connection: &Connection,
) -> Verdict {
    let isolating = NetworkPolicy {
        members: Selector::everything().into(),
        isolates_ingress: is_isolated,
        isolates_egress: is_isolated,
        ingress: Vec::new(),
        egress: Vec::new(),
    };
    let name = ObjectName::new(namespace_of(record), "");
    let unknown = Subject::new(name.clone(), &Pod::default(), record.baseline);
    let world = World {
        policies: OrdMap::unit(name, Arc::new(isolating)),
        ..world.clone()
    };
    evaluate(&world, &unknown, connection)
}

fn namespace_of(record: &Record) -> &str {
    record.pod.as_ref().map_or("", |pod| &pod.namespace)
}

/// A packet that is tried again and again.
pub(super) struct Probe {
    pub(super) record: Record,
    pub(super) connection: Connection,
    pub(super) bounds: Bounds,
    /// The generation that was drawn last when it was judged.
    pub(super) drawn: u32,
}

impl Probe {
    /// Whether it passes; none if nothing of the attachment judges it.
    pub(super) fn passes(&self, node: &Model) -> Option<bool> {
        let slot = self.record.slot;
        let tables = node.tables_of(slot)?;
        let tables = tables.try_borrow().ok()?;
        if tables.birth(slot) != self.record.birth.0 {
            return None;
        }
        self.has_family()
            .then(|| passes(&tables, slot, &self.connection, Part::Opening))
    }

    /// Whether the pod has packets of this family.
    pub(super) fn has_family(&self) -> bool {
        let mut own = self.record.addresses.iter();
        own.any(|own| own.is_ipv4() == self.connection.peer.is_ipv4())
    }

    /// Whether the peer's address was a new pod's since all was in force: an ADD deletes what is known of it.
    pub(super) fn has_new_peer(&self, node: &Model) -> bool {
        let added = node.added(self.connection.peer);
        added.is_some_and(|birth| birth > self.bounds.since)
    }

    /// What is wrong with this while writes are executed.
    pub(super) fn on_the_way(&self, node: &Model) -> Option<String> {
        let passed = self.passes(node)?;
        let Bounds {
            mut may_pass,
            may_pass_added,
            peer,
            may_pass_removed,
            must_pass,
            ..
        } = self.bounds;
        if node.added(self.connection.peer) > Some(self.drawn) {
            may_pass = may_pass_added;
        }
        let is_removed = || peer.is_some_and(|peer| !node.has_birth(peer));
        let what = match passed {
            true if !may_pass && may_pass_removed && is_removed() => return None,
            true if !may_pass => "passes that nothing known allows",
            false if must_pass && !self.has_new_peer(node) => {
                "is dropped that all that is known allows"
            }
            true | false => return None,
        };
        let Self {
            record, connection, ..
        } = self;
        Some(format!("on the way: {connection:?} of {record:?} {what}"))
    }
}

/// What is tried after each write, and what was wrong first.
#[derive(Default)]
pub(super) struct Probes {
    pub(super) probes: Vec<Probe>,
    pub(super) wrong: Option<String>,
}
