// SPDX-License-Identifier: Apache-2.0 OR MIT
//! No attachment is open while a policy that is known may isolate it and is not in force: its words say "deny" until then.
//!
//! ```text
//! settle: isolate() ──► attempt: compile, plan, write ──► isolate()
//!            │ attachments that are new                      │ all whose policy is still not in force
//!            └───────────── one compare-and-swap a word ◄────┘   no plan, no lock, no room in any table
//! ```
//! An attachment that an older policy isolates already keeps that one. An attachment whose pod is not known wants to be
//! denied wherever a policy of its namespace isolates ([`withheld`]): that is planned like any other policy, and goes
//! when the pod is known or nothing isolates it any more.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use podgate_datapath::record::{PodName, Record, Slot};
use podgate_datapath::tables::Over;
use podgate_handoff::Reply;
use podgate_policy::compile::ruleset::{Ruleset, Tunnels};
use podgate_policy::compile::{SubjectRulesets, isolate};
use podgate_policy::connection::{Baseline, Direction};
use podgate_policy::isolation::Isolation;

use super::Engine;
use super::answer::PodLookup;
use super::dataplane::{Dataplane, Set};
use super::reconcile::{self, LOCK_PATIENCE};
use crate::cluster::{Cluster, View};
use crate::compiled::Compiled;
use crate::plan::Rulesets;
use crate::source::{Answer, Question};

/// How long the lock is waited for before pods are isolated by what is known. An ADD holds it for a millisecond.
const AT_ONCE: Duration = Duration::from_millis(50);

/// When the source is asked again of a pod of which it said more than is known, though it says nothing else.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a pod is held to what isolates it at the source without that becoming known.
const HOLD: Duration = Duration::from_secs(10);

/// What is known to isolate a pod at the source, and is not known here yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) isolation: Isolation,
    until: Instant,
}

/// Whether the policy that is known comes into force by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outlook {
    /// It is being worked out, planned or written.
    Underway,
    /// It waits for something: the lock, another attempt, room.
    Stuck,
}

/// What attachments of unknown pods want: to be isolated where a policy of their namespace isolates, else their
/// baseline. Without a pod's name there is nothing to want.
pub(super) fn withheld(cluster: &Cluster, view: &View, compiled: &Compiled) -> Rulesets {
    let unknown = cluster
        .records()
        .filter(|record| record.pod.is_some() && view.unknown.contains(&record.slot));
    unknown
        .map(|record| {
            let isolation = compiled.selections().isolation_of(record);
            let rulesets = isolate(isolation, record.baseline, compiled.tunnels());
            (record.slot, Arc::new(rulesets))
        })
        .collect()
}

/// What was compiled, and nothing in the directions that the source is known to isolate by what is not known yet.
pub(super) fn narrowed(
    compiled: &SubjectRulesets,
    isolation: Isolation,
    tunnels: &Tunnels,
) -> Arc<SubjectRulesets> {
    let isolated = isolate(isolation, Baseline::Allow, tunnels);
    let of = |direction| match compiled.of(direction) {
        Ruleset::Allowed => isolated.of(direction).clone(),
        narrower @ (Ruleset::Denied | Ruleset::Rules(_)) => narrower.clone(),
    };
    Arc::new(SubjectRulesets {
        ingress: of(Direction::Ingress),
        egress: of(Direction::Egress),
        isolation: compiled.isolation.or(isolation),
    })
}

impl<D: Dataplane> Engine<D> {
    /// Takes note of whether the source knows what it should.
    pub(super) fn take_doubt(&mut self, doubt: Option<String>) {
        if let Some(why) = &doubt {
            tracing::warn!(
                why,
                "what is known may be too old for new pods: each is asked for"
            );
        }
        self.known.doubt = doubt;
    }

    /// What the source isolates a pod by, while what is known of it is too old. It is held to that until it is known.
    pub(super) fn take_isolation(&mut self, pod: &PodName, isolation: Isolation) {
        for waiting in &mut self.adds.waiting {
            let record = self.known.cluster.record(&waiting.identity);
            let Some(record) = record.filter(|record| record.pod.as_ref() == Some(pod)) else {
                continue;
            };
            // An answer from before the source was synced is of no use any more: everything was said then.
            if waiting.currency == PodLookup::Open {
                let now = self.node.now();
                waiting.currency = PodLookup::Behind(now + AGAIN);
                let until = now + HOLD;
                let held = Held { isolation, until };
                self.hindrances
                    .update(record.slot, |it| it.held = Some(held));
            }
        }
    }

    /// Has those asked for again of whom more may be known by now: all when something was said, and those that are due.
    /// Whether there are any.
    pub(super) fn ask_again_for_those_behind(&mut self, is_due: impl Fn(Instant) -> bool) -> bool {
        let mut are_any = false;
        for waiting in &mut self.adds.waiting {
            if matches!(waiting.currency, PodLookup::Behind(due) if is_due(due)) {
                waiting.currency = PodLookup::None;
                are_any = true;
            }
        }
        are_any
    }

    /// When the next of them is due.
    pub(super) fn ask_due(&self) -> Option<Instant> {
        let waiting = self.adds.waiting.iter();
        let due = waiting.filter_map(|it| match it.currency {
            PodLookup::Behind(due) => Some(due),
            PodLookup::None | PodLookup::Open | PodLookup::Done | PodLookup::Failed(_) => None,
        });
        due.min()
    }

    /// What the source answered about a pod of which more may be than is known.
    pub(super) fn currency_of(answer: Answer) -> PodLookup {
        match answer {
            Answer::NoSuchPod => {
                PodLookup::Failed("the API server has no such pod any more".into())
            }
            // Answers to another question: they say nothing of policies.
            Answer::Known | Answer::Isolation(_) => PodLookup::Open,
            Answer::Current | Answer::Failed(_) => answer.into(),
        }
    }

    /// Lets go of what is known by now; or of what did not come to be known, because it was taken back meanwhile.
    fn let_go(&mut self) {
        let now = self.node.now();
        let selections = self.compiled.selections();
        let (cluster, is_doubtful) = (&self.known.cluster, self.known.doubt.is_some());
        let due = &mut self.pace.upkeep_due;
        self.hindrances.update_each(|slot, hindrance| {
            let Some(held) = hindrance.held else {
                return;
            };
            let record = cluster.records().find(|record| record.slot == slot);
            let is_known = record.is_none_or(|record| {
                let known = selections.isolation_of(record);
                known.or(held.isolation) == known
            });
            if is_known || !is_doubtful && held.until <= now {
                hindrance.held = None;
                return;
            }
            *due = (*due).min(held.until.max(now + super::attachments::RETRY));
        });
    }

    /// The answer to an ADD whose policy is in force as far as it is known, which is not far enough: none until it is
    /// known to be, or that it cannot be known.
    pub(super) fn in_doubt(
        &self,
        record: &Record,
        doubt: &str,
        currency: &mut PodLookup,
    ) -> Option<Reply> {
        let hindrance = self.hindrances.of(record.slot);
        if *currency == PodLookup::None && hindrance.is_none_or(|it| it.held.is_none()) {
            let asked = self.adds.questions.as_ref().zip(record.pod.clone());
            let is_asked =
                asked.is_some_and(|(source, pod)| source.send(Question::Isolation(pod)).is_ok());
            *currency = if is_asked {
                PodLookup::Open
            } else {
                PodLookup::Done
            };
        }
        match currency {
            PodLookup::None | PodLookup::Open | PodLookup::Behind(_) => None,
            // There is no source to ask, or what is known is what there is.
            PodLookup::Done => Some(Reply::InForce),
            PodLookup::Failed(why) => Some(Reply::Failed(format!(
                "the policy that is known is in force, and may be stale: {doubt}; {why}"
            ))),
        }
    }

    /// The lock; if it is not to be had at once, no attachment stays open while it is waited for.
    pub(super) fn take_lock_or_isolate(&mut self) -> Result<D::Lock> {
        let at_once = self.wait_for_lock(AT_ONCE);
        if at_once.is_ok() {
            return at_once;
        }
        self.compile_some(Some(self.node.now()));
        self.isolate_open(Outlook::Stuck);
        self.wait_for_lock(LOCK_PATIENCE)
    }

    /// Takes the lock, if it is to be had so soon. How long that took is no work of ours: plugins have it, and the kernel may keep them.
    pub(super) fn wait_for_lock(&mut self, patience: Duration) -> Result<D::Lock> {
        let began = self.node.now();
        let lock = self.node.lock(began + patience);
        let waited = self.node.now().saturating_duration_since(began);
        metrics::histogram!("podgate_lock_wait_seconds").record(waited);
        self.pace.waited += waited;
        lock
    }

    /// Works out what attachments are to have by what is known now: of all of them, or of as many as there is time for.
    pub(super) fn compile_some(&mut self, until: Option<Instant>) -> View {
        let view = self.known.cluster.view();
        reconcile::compile(&self.node, &mut self.compiled, &view, until);
        let mut rulesets = withheld(&self.known.cluster, &view, &self.compiled);
        self.let_go();
        for (slot, hindrance) in self.hindrances.iter() {
            let compiled = self.compiled.what_is_compiled(slot);
            let known = compiled.filter(|_| !rulesets.contains_key(&slot));
            if let Some((known, held)) = known.zip(hindrance.held) {
                let tunnels = self.compiled.tunnels();
                rulesets.insert(slot, narrowed(known, held.isolation, tunnels));
            }
        }
        self.compiled.withhold(rulesets);
        self.standing.unknown.clone_from(&view.unknown);
        view
    }

    /// Brings what isolates whom up to what is known, and isolates those that came since.
    pub(super) fn isolate_new(&mut self) {
        let view = self.known.cluster.view();
        self.compiled.select(&view);
        self.isolate_early();
        let new: Vec<Record> = self
            .known
            .cluster
            .records()
            .filter(|record| !self.standing.rulesets.contains_key(&record.slot))
            .cloned()
            .collect();
        for record in new {
            let isolation = self.compiled.selections().isolation_of(&record);
            self.isolate(&record, isolation);
        }
    }

    /// Isolates the pods of ADDs whose files could not be read in turn yet, because the lock is not to be had or a
    /// change is to be tried again later.
    fn isolate_early(&mut self) {
        let early: Vec<Record> = self
            .adds
            .waiting
            .iter()
            .filter(|waiting| !waiting.files_were_read)
            .filter_map(|waiting| self.node.record(&waiting.identity).ok().flatten())
            .filter(|record| self.known.cluster.record(&record.identity) != Some(record))
            .collect();
        for record in early {
            let isolation = self
                .compiled
                .selections()
                .isolation_of_new(&record, &self.known.cluster);
            for side in sides_of(isolation) {
                if let Err(error) = self.deny(&record, side, Over::Open) {
                    self.complain(&record, &error);
                }
            }
        }
    }

    /// Isolates each attachment that is open in a direction in which it is to have a policy that is not in force.
    pub(super) fn isolate_open(&mut self, outlook: Outlook) {
        let records: Vec<(Record, Isolation)> = self
            .known
            .cluster
            .records()
            .filter_map(|record| {
                let slot = record.slot;
                // What is not compiled yet isolates where a policy selects it.
                let selected = self
                    .compiled
                    .is_due(record.slot)
                    .then(|| self.compiled.selections().isolation_of(record));
                let wanted = self.compiled.rulesets().get(&slot);
                if wanted.is_none() && selected.is_none() {
                    return None;
                }
                let stands = self.standing.rulesets.get(&slot);
                // A plan that was not executed to its end may have come so far.
                let pending = self.standing.pending.as_ref();
                let comes = pending.and_then(|it| it.rulesets.as_ref()?.get(&slot));
                let is_open = |direction| {
                    let is_wanted = match selected {
                        Some(isolation) => isolation.of(direction),
                        None => wanted.is_some_and(|it| *it.of(direction) != Ruleset::Allowed),
                    };
                    // What isolates, and allows everything, stays in force while what is newer is on its way.
                    let stays = |it: &SubjectRulesets| match outlook {
                        Outlook::Underway => it.isolation.of(direction),
                        Outlook::Stuck => false,
                    };
                    let is_open = |it: &Arc<SubjectRulesets>| {
                        *it.of(direction) == Ruleset::Allowed && !stays(it)
                    };
                    is_wanted && (stands.is_none_or(is_open) || comes.is_some_and(is_open))
                };
                let open = Isolation {
                    ingress: is_open(Direction::Ingress),
                    egress: is_open(Direction::Egress),
                };
                open.any().then(|| (record.clone(), open))
            })
            .collect();
        self.forget_open(&records);
        for (record, open) in records {
            self.isolate(&record, open);
        }
        self.deny_what_is_revoked();
    }

    /// Of the others, the policy is in force, or none isolates them any more; unless one is revoked that waits for another table set,
    /// or their file has not been read in turn.
    fn forget_open(&mut self, open: &[(Record, Isolation)]) {
        if self.hindrances.iter().all(|(_, it)| it.open.is_none()) {
            return;
        }
        let open: BTreeSet<Slot> = open.iter().map(|(record, _)| record.slot).collect();
        let known: BTreeSet<Slot> = self.known.cluster.records().map(|it| it.slot).collect();
        let (standing, compiled) = (&self.standing.rulesets, &self.compiled);
        self.hindrances.update_each(|slot, hindrance| {
            let is_behind = || standing.get(&slot) != compiled.of(slot);
            let is_revoked = hindrance.held_back.is_some() && is_behind();
            if known.contains(&slot) && !open.contains(&slot) && !is_revoked {
                hindrance.open = None;
            }
        });
    }

    /// Denies each attachment whose policy waits for another table set, in each direction in which that is not known to allow
    /// all that the one in force does: what was revoked is in force for no longer.
    pub(super) fn deny_what_is_revoked(&mut self) {
        if !self.is_drafting() {
            return;
        }
        let mut revoked = Vec::new();
        // Pods share rulesets, and to compare two takes what they are made of.
        let mut compared: HashMap<[*const SubjectRulesets; 2], Isolation> = HashMap::new();
        let (standing, compiled) = (&self.standing.rulesets, &self.compiled);
        self.hindrances.update_each(|slot, hindrance| {
            let Some(held_back) = &mut hindrance.held_back else {
                return;
            };
            let Some((stands, wanted)) = standing.get(&slot).zip(compiled.of(slot)) else {
                return;
            };
            let kept = &mut held_back.compared;
            if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, wanted)) {
                return;
            }
            let pair = [stands, wanted].map(Arc::as_ptr);
            let isolation = *compared.entry(pair).or_insert_with(|| {
                let is_revoked =
                    |direction| !wanted.of(direction).surely_allows(stands.of(direction));
                Isolation {
                    ingress: is_revoked(Direction::Ingress),
                    egress: is_revoked(Direction::Egress),
                }
            });
            if isolation.any() {
                revoked.push((slot, isolation));
            } else {
                *kept = Some(Arc::clone(wanted));
            }
        });
        for (slot, isolation) in revoked {
            let of_slot = |record: &&Record| record.slot == slot;
            let record = self.known.cluster.records().find(of_slot).cloned();
            if let Some(record) = record {
                self.deny_in_place_of(&record, isolation, Over::Anything);
            }
        }
    }

    fn isolate(&mut self, record: &Record, isolation: Isolation) {
        self.deny_in_place_of(record, isolation, Over::Open);
    }

    fn deny_in_place_of(&mut self, record: &Record, isolation: Isolation, over: Over) {
        let slot = record.slot;
        let mut failed = None;
        for direction in Direction::BOTH.into_iter().filter(|it| isolation.of(*it)) {
            let stood = match over {
                Over::Open => Ruleset::Allowed,
                Over::Anything => match self.standing.rulesets.get(&slot) {
                    Some(stands) => stands.of(direction).clone(),
                    None => Ruleset::Allowed,
                },
            };
            match self.deny(record, direction, over) {
                Ok(was_open) => {
                    if was_open {
                        tracing::info!(attachment = %record.identity, ?direction, "isolated until its policy is in force");
                    }
                    self.standing
                        .built
                        .planner
                        .attachment_was_denied(slot, direction, &stood);
                    deny_in(&mut self.standing.rulesets, slot, direction, &stood);
                    if let Some(pending) = &mut self.standing.pending {
                        pending.execution.deny(slot, direction);
                        if let Some(rulesets) = &mut pending.rulesets {
                            deny_in(rulesets, slot, direction, &stood);
                        }
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => self.complain(record, &error),
            None => self.hindrances.update(slot, |it| it.open = None),
        }
    }

    /// In the set that has the attachment: the engine's, or the one that has been put in its place.
    fn deny(&self, record: &Record, direction: Direction, over: Over) -> Result<bool> {
        match self.standing.built.set.deny(record, direction, over) {
            Err(error) => match self.node.current() {
                Ok(Some(current)) => current.deny(record, direction, over),
                Ok(None) | Err(_) => Err(error),
            },
            done => done,
        }
    }

    fn complain(&mut self, record: &Record, error: &anyhow::Error) {
        let why = format!("{error:#}");
        tracing::error!(attachment = %record.identity, why, "a pod cannot be isolated while its policy is not in force");
        self.hindrances
            .update(record.slot, |it| it.open = Some(why));
        self.pace.upkeep_due = self
            .pace
            .upkeep_due
            .min(self.node.now() + super::attachments::RETRY);
    }
}

/// Takes note that an attachment that had this ruleset in a direction is denied.
fn deny_in(rulesets: &mut Rulesets, slot: Slot, direction: Direction, stood: &Ruleset) {
    let Some(stands) = rulesets.get_mut(&slot) else {
        return;
    };
    if stands.of(direction) == stood {
        let stands = Arc::make_mut(stands);
        *match direction {
            Direction::Ingress => &mut stands.ingress,
            Direction::Egress => &mut stands.egress,
        } = Ruleset::Denied;
    }
}

/// Isolates, in the set that is current, each attachment that is open there and is to have a policy: what came
/// while no enforcer ran. The next set may take long, or fail.
pub(super) fn isolate_standing(node: &impl Dataplane, cluster: &Cluster, compiled: &Compiled) {
    let Ok(Some(current)) = node.current() else {
        // None, or another layout's: the next set is the first to say anything.
        return;
    };
    for record in cluster.records() {
        let Some(wanted) = compiled.of(record.slot) else {
            continue;
        };
        let isolated = |direction: &Direction| *wanted.of(*direction) != Ruleset::Allowed;
        for direction in Direction::BOTH.into_iter().filter(isolated) {
            match current.deny(record, direction, Over::Open) {
                Ok(true) => {
                    tracing::info!(attachment = %record.identity, ?direction, "isolated until its policy is in force");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(attachment = %record.identity, error = format!("{error:#}"), "it is not in the current table set");
                }
            }
        }
    }
}

fn sides_of(isolation: Isolation) -> impl Iterator<Item = Direction> {
    Direction::BOTH
        .into_iter()
        .filter(move |direction| isolation.of(*direction))
}
