// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From what is known to what is in force.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use podgate_datapath::owed::Owed;

use super::Engine;
use super::build::grow;
use super::change::FactsChange;
use super::dataplane::{Dataplane, Set};
use super::execute::Execution;
use super::grace::Grace;
use super::isolate::Outlook;
use super::portion::Size;
use super::state::{HeldBack, Pending};
use crate::cluster::View;
use crate::compiled::Compiled;
use crate::plan::{Charges, Plan, PlanError, Rulesets, STEP, Table};

/// How long a turn plans and writes. What is left goes on in the next one, after whatever came meanwhile.
const TURN: Duration = Duration::from_millis(15);

/// How long facts that merely go away wait for more of their kind (`docs/adr/0007`).
const GATHER: Duration = Duration::from_millis(75);

/// How long a change waits for the lock before it is reported as not in force, and tried again. Those who hold it
/// longest load the programs, which takes a fraction of that.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// After how many failed attempts a new table set is built instead.
const REBUILD_AFTER: u32 = 5;

/// How far the engine has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// There is more to do.
    Underway,
    /// There is not.
    Settled,
}

impl<D: Dataplane> Engine<D> {
    /// Puts in force what is known, as far as that works now and there is time in this turn; answers and reports; sees to
    /// the next attempt.
    pub(super) fn settle(&mut self) {
        self.note_taken();
        let until = self.node.now() + TURN;
        self.standing.more_to_do = false;
        self.isolate_new();
        if self.pace.backoff.allows(self.node.now()) {
            self.attempt(until);
            // Attachments that were read just now.
            self.isolate_new();
        }
        if self.pace.trouble.is_some() {
            // ADDs are answered by what is known, and not by what was when the last attempt failed.
            self.compile_some(Some(until));
        }
        let is_underway = self.pace.trouble.is_none() && self.standing.more_to_do;
        self.isolate_open(if is_underway {
            Outlook::Underway
        } else {
            Outlook::Stuck
        });
        self.answer_adds(false);
        self.look_soon_if_adds_are_hindered();
        self.publish_in_time();
    }

    fn attempt(&mut self, until: Instant) {
        let mut result = self.try_to_settle(until);
        if result.is_err() && (self.pace.backoff.failures() + 1).is_multiple_of(REBUILD_AFTER) {
            tracing::warn!("a change does not come to its end; a new table set is built");
            result = self.rebuild().map(|()| Progress::Settled);
        }
        match result {
            Ok(progress) => {
                self.standing.more_to_do = progress == Progress::Underway;
                self.pace.trouble = None;
                self.pace.backoff.worked();
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(
                    error,
                    "a change is not in force; what was in force before is, and it is tried again"
                );
                metrics::counter!("podgate_retries_total").increment(1);
                self.pace.trouble = Some(error);
                self.pace.backoff.failed(self.node.now());
            }
        }
    }

    /// Goes on with the set in force, and then with the one that is to take its place.
    fn try_to_settle(&mut self, until: Instant) -> Result<Progress> {
        match (self.go_on(until)?, self.adopt_draft(until)?) {
            (Progress::Settled, Progress::Settled) => Ok(Progress::Settled),
            (Progress::Underway, _) | (_, Progress::Underway) => Ok(Progress::Underway),
        }
    }

    /// Writes under the lock and plans without it, in turn, until all is settled or the time is up.
    fn go_on(&mut self, until: Instant) -> Result<Progress> {
        loop {
            if self.write(until)? == Progress::Underway {
                return Ok(Progress::Underway);
            }
            match self.plan_next(until)? {
                Progress::Settled => return Ok(Progress::Settled),
                Progress::Underway if until <= self.node.now() => return Ok(Progress::Underway),
                Progress::Underway => {}
            }
        }
    }

    /// All that needs the lock. [`Progress::Settled`]: nothing is planned any more that was not written.
    fn write(&mut self, until: Instant) -> Result<Progress> {
        let lock = self.take_lock_or_isolate()?;
        let began = self.node.now();
        let written = self.write_under(&lock, until);
        drop(lock);
        let held = self.node.now().saturating_duration_since(began);
        metrics::histogram!("podgate_lock_seconds").record(held);
        written
    }

    fn write_under(&mut self, lock: &D::Lock, until: Instant) -> Result<Progress> {
        if !self.node.is_current(&self.standing.built.set)? {
            tracing::warn!(
                "the current table set is not this enforcer's: somebody removed its pins"
            );
            self.rebuild_under(lock)?;
            return Ok(Progress::Settled);
        }
        if self.standing.built.planner.waits_for_grace() && self.grace.is_given_up(self.node.now())
        {
            tracing::warn!(
                "a grace period does not end; a new table set is built, which needs none"
            );
            self.rebuild_under(lock)?;
            self.grace = Grace::Underway {
                since: self.node.now(),
            };
            return Ok(Progress::Settled);
        }
        self.read_attachments(lock)?;
        self.note_taken();
        self.set_foreign_modes(lock);
        self.settle_tunnel_ports(lock)?;
        self.update_isolated_file(lock);
        if self.finish(lock, Some(until))? == Progress::Underway {
            return Ok(Progress::Underway);
        }
        self.tidy(lock)?;
        self.release_taken(lock);
        Ok(Progress::Settled)
    }

    /// Says where the node's devices take tunnels. Flows to a port that is new are judged again, of open pods too, whose
    /// ruleset stays what it is.
    fn settle_tunnel_ports(&mut self, _lock: &D::Lock) -> Result<()> {
        let (built, now) = (&mut self.standing.built, self.known.cluster.tunnel_ports());
        if built.tunnel_ports == *now {
            return Ok(());
        }
        tracing::info!(ports = ?now, "the node's devices take tunnels at these ports beside the usual ones");
        built.set.put_tunnel_ports(now)?;
        if !now.is_subset(&built.tunnel_ports) {
            self.node.grace()?;
            built.set.renew_all()?;
        }
        built.tunnel_ports.clone_from(now);
        Ok(())
    }

    /// Before any policy is reported to be in force: the next plugin may find no enforcer.
    pub(super) fn update_isolated_file(&mut self, lock: &D::Lock) {
        self.compiled.select(&self.known.cluster.view());
        let selections = self.compiled.selections();
        self.standing
            .isolated_file
            .update(&self.node, selections, lock);
    }

    /// Plans what is due next: facts, then policy, then what waited for a grace period. [`Progress::Settled`]: nothing is.
    fn plan_next(&mut self, until: Instant) -> Result<Progress> {
        // Who gave way leaves its room by a change of policy, and so does who waits for another table set.
        let mut policy_first = false;
        loop {
            let view = self.compile_some(Some(until));
            let policy_differs = self.policy_differs();
            let remains = self.grace == Grace::Over && self.standing.built.planner.has_remains();
            let planned = if self.facts_are_due(&view) && !(policy_first && policy_differs) {
                self.plan_facts(&view)
            } else if policy_differs {
                self.plan_policy()
            } else if remains {
                return self.plan_tidying();
            } else if self.compiled.is_behind() {
                return Ok(Progress::Underway);
            } else {
                return Ok(Progress::Settled);
            };
            match planned {
                Ok(()) => return Ok(Progress::Underway),
                // What nothing names any more may take the room: rather tidy than build larger tables.
                Err(PlanError::Full { .. }) if remains => return self.plan_tidying(),
                // The room is there when a grace period is over, or another table set is made.
                Err(PlanError::Full { .. }) if self.standing.built.planner.waits_for_grace() => {
                    self.standing.facts_due = None;
                    return Ok(Progress::Settled);
                }
                Err(_) if self.is_drafting() => {
                    if !self.hold_back() {
                        self.standing.facts_due = None;
                        return Ok(Progress::Settled);
                    }
                    policy_first = true;
                    if until <= self.node.now() {
                        return Ok(Progress::Underway);
                    }
                }
                Err(error) if self.gives_way(&error) => {
                    policy_first = true;
                    if until <= self.node.now() {
                        return Ok(Progress::Underway);
                    }
                }
                Err(error) => self.make_room(error)?,
            }
        }
    }

    /// Whether attachments are to have other policies than they have, or something was begun that nobody wants now.
    fn policy_differs(&self) -> bool {
        let wanted = self.wanted();
        wanted != self.standing.rulesets || !self.standing.built.planner.is_at(&wanted)
    }

    /// What attachments are to have in this table set: those that wait for another one keep what they have.
    fn wanted(&self) -> Rulesets {
        let mut wanted = self.compiled.rulesets().clone();
        if !self.is_drafting() {
            return wanted;
        }
        for (slot, _) in self
            .hindrances
            .iter()
            .filter(|(_, it)| it.held_back.is_some())
        {
            match self.standing.rulesets.get(&slot) {
                Some(stands) => drop(wanted.insert(slot, Arc::clone(stands))),
                None => drop(wanted.remove(&slot)),
            }
        }
        wanted
    }

    /// While another table set is made, has those wait for it whose policy takes most room, so that the others' comes into
    /// force in this one. Whether there are any.
    fn hold_back(&mut self) -> bool {
        let waiting = self.standing.built.planner.waiting_for_most(&self.wanted());
        let is_one = !waiting.is_empty();
        for slot in waiting {
            let held_back = Some(HeldBack::default());
            self.hindrances.update(slot, |it| it.held_back = held_back);
        }
        self.deny_what_is_revoked();
        is_one
    }

    /// Whether there is no room for an error's change in any table set, and a namespace was found that gives way.
    fn gives_way(&mut self, error: &PlanError) -> bool {
        let may_grow = match error {
            PlanError::Full { table, .. } => grow(&mut self.standing.built.sizes.clone(), *table),
            PlanError::Overlapping { .. } | PlanError::Unfinished => false,
        };
        !may_grow && give_way(&mut self.compiled, error)
    }

    /// Plans a portion of what is known of peers. Those of this node are in the first one: `peers` may lack them.
    fn plan_facts(&mut self, view: &View) -> Result<(), PlanError> {
        let here = self.known.cluster.records();
        let here = here.flat_map(|record| record.addresses.iter().copied());
        let way = (&self.standing.facts, &view.world);
        let planner = &mut self.standing.built.planner;
        let (plan, world, size) =
            self.standing
                .portion
                .plan(&self.node, planner, way, &here.collect())?;
        self.standing.facts = world;
        self.standing.facts_missing = false;
        self.standing.facts_due = match size {
            Size::Whole => None,
            // The rest has waited for more of its kind already.
            Size::Part => Some(self.node.now()),
        };
        self.begin(plan, "facts", None);
        Ok(())
    }

    fn plan_policy(&mut self) -> Result<(), PlanError> {
        let plan = self
            .standing
            .built
            .planner
            .policy_step(&self.wanted(), STEP)?;
        let reached = self.standing.built.planner.attachments().clone();
        self.begin(plan, "policy", Some(reached));
        Ok(())
    }

    fn plan_tidying(&mut self) -> Result<Progress> {
        match self.standing.built.planner.tidy_step(STEP) {
            Ok(plan) => {
                self.begin(plan, "tidy", None);
                Ok(Progress::Underway)
            }
            // In another table set nothing waits for it.
            Err(_) if self.is_drafting() && self.hold_back() => Ok(Progress::Underway),
            Err(error) => {
                self.standing.facts_due = None;
                if !self.is_drafting() {
                    self.make_room(error)?;
                }
                Ok(Progress::Settled)
            }
        }
    }

    /// Whether facts changed and may not wait.
    fn facts_are_due(&mut self, view: &View) -> bool {
        if self.standing.facts_missing {
            return true;
        }
        let now = self.node.now();
        match FactsChange::between(&self.standing.facts, &view.world) {
            FactsChange::None => {
                self.standing.facts_due = None;
                false
            }
            FactsChange::MerelyGone => now >= *self.standing.facts_due.get_or_insert(now + GATHER),
            FactsChange::Now => true,
        }
    }

    fn begin(&mut self, plan: Plan, kind: &'static str, rulesets: Option<Rulesets>) {
        tracing::debug!(kind, writes = plan.writes().len(), "a transaction begins");
        metrics::counter!("podgate_transactions_total", "kind" => kind).increment(1);
        metrics::counter!("podgate_addresses_evaluated_total").increment(plan.evaluated() as u64);
        let execution = Execution::new(plan);
        self.standing.pending = Some(Pending {
            execution,
            rulesets,
        });
    }

    /// Executes the plan that is pending, if there is one. ADDs are answered when it is in force.
    fn finish(&mut self, lock: &D::Lock, until: Option<Instant>) -> Result<Progress> {
        let Some(pending) = &mut self.standing.pending else {
            return Ok(Progress::Settled);
        };
        if !pending
            .execution
            .advance(&self.node, &self.standing.built.set, lock, until)?
        {
            return Ok(Progress::Underway);
        }
        let Some(Pending {
            execution,
            rulesets,
        }) = self.standing.pending.take()
        else {
            return Ok(Progress::Settled);
        };
        if let Some(mut rulesets) = rulesets {
            for slot in execution.overtaken_slots() {
                rulesets.remove(&slot);
            }
            self.standing.rulesets = rulesets;
        }
        execution.commit(&mut self.standing.built.planner);
        self.answer_adds(true);
        Ok(Progress::Settled)
    }

    /// Takes note if all is done that waited for a grace period that is over; and if something waits for another, that
    /// begins.
    fn tidy(&mut self, lock: &D::Lock) -> Result<()> {
        if self.grace == Grace::Over && !self.standing.built.planner.has_remains() {
            self.node.paid(Owed::InGrace, lock)?;
            self.grace = Grace::None;
        }
        if self.grace == Grace::None && self.standing.built.planner.waits_for_grace() {
            self.node.owed_waits(lock)?;
            self.standing.built.planner.grace_begins();
            self.grace = Grace::Underway {
                since: self.node.now(),
            };
            self.node.begin_grace();
        }
        if !self.standing.built.planner.waits_for_grace() {
            for owed in [Owed::ByEnforcer, Owed::InGrace] {
                self.node.paid(owed, lock)?;
            }
        }
        Ok(())
    }

    /// Does what waits for a grace period, which nobody else knows of: flows that lost what allowed them are to be
    /// judged again.
    pub(super) fn end(&mut self) {
        if let Err(error) = self.try_to_end() {
            tracing::warn!(
                error = format!("{error:#}"),
                "connections may go on that are not allowed any more, until the next start"
            );
        }
    }

    fn try_to_end(&mut self) -> Result<()> {
        if !self.standing.built.planner.waits_for_grace() && self.standing.pending.is_none() {
            return Ok(());
        }
        let lock = self.wait_for_lock(LOCK_PATIENCE)?;
        // What is left to be written says nothing of the addresses of pods that were added meanwhile.
        match self.read_attachments(&lock) {
            Err(error) if self.standing.pending.is_none() => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "attachments that came last are not known at the end"
                );
            }
            read => read?,
        }
        self.finish(&lock, None)?;
        // What came to wait since one began waits for the next.
        for grace in [std::mem::take(&mut self.grace), Grace::None] {
            if grace == Grace::None {
                self.standing.built.planner.grace_begins();
            }
            self.node.grace()?;
            self.after_grace(&lock)?;
        }
        Ok(())
    }

    fn after_grace(&mut self, lock: &D::Lock) -> Result<()> {
        match self.standing.built.planner.after_grace() {
            Ok(plan) => {
                self.begin(plan, "tidy", None);
                self.finish(lock, None).map(drop)
            }
            // In a new table set nothing waits for it.
            Err(error) => {
                tracing::info!(%error, "nothing can be tidied: a new table set is due");
                self.rebuild_under(lock)
            }
        }
    }
}

/// Whether a namespace was found that gives way to the others. It is suspended when policies are compiled next.
pub(super) fn give_way(compiled: &mut Compiled, error: &PlanError) -> bool {
    let why = error.to_string();
    match error {
        // Pods and Services fill this one, whatever the policies are.
        PlanError::Full {
            table: Table::Peers,
            ..
        } => false,
        PlanError::Full { charges, .. } => compiled.refuse(&why, charges),
        PlanError::Overlapping { .. } => compiled.refuse(&why, &Charges::new()),
        PlanError::Unfinished => false,
    }
}

/// Compiles what may be other than before, until then.
pub(super) fn compile(
    node: &impl Dataplane,
    compiled: &mut Compiled,
    view: &View,
    until: Option<Instant>,
) {
    let before: Vec<String> = compiled.suspended().keys().cloned().collect();
    let compiles = compiled.update_until(view, until, || node.now());
    metrics::counter!("podgate_compiles_total").increment(compiles as u64);
    let now = compiled.suspended();
    for namespace in before.iter().filter(|it| !now.contains_key(*it)) {
        tracing::info!(
            namespace,
            "its policies are in force again: there is room for them"
        );
    }
    for (namespace, why) in now.iter().filter(|(it, _)| !before.contains(it)) {
        tracing::warn!(
            namespace,
            why,
            "its policies are suspended, as they exceed capacity: its pods are denied in each direction that they isolate"
        );
    }
}
