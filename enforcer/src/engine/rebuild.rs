// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A table set in place of the one that is there: because a table is full or much too large, because a process took the pins
//! away, or because nothing else works ([`super::build`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use podgate_datapath::Sizes;
use podgate_datapath::record::Record;
use podgate_policy::compile::isolate;

use super::build::{self, grow};
use super::dataplane::Dataplane;
use super::draft::{Basis, Draft, Drafted};
use super::isolate::narrowed;
use super::reconcile::{LOCK_PATIENCE, Progress, compile, give_way};
use super::{Engine, UPKEEP};
use crate::cluster::{Cluster, View};
use crate::compiled::Compiled;
use crate::plan::{PlanError, Rulesets, STEP};

/// After how many drafts in vain a table set is made at once, in the engine's own turn.
const MOST_DRAFTS: u32 = 3;

/// After how many steps a draft is put in force without what is still to be made complete: some seconds of work.
const MOST_STEPS: u32 = 500;

impl<D: Dataplane> Engine<D> {
    /// There is no plan: a larger table set is due, or a new one. What is in force stays meanwhile, and what has room in it
    /// goes on.
    pub(super) fn make_room(&mut self, error: PlanError) -> Result<()> {
        let mut sizes = self.standing.built.sizes;
        match error {
            PlanError::Full { table, .. } => {
                if !grow(&mut sizes, table) {
                    return Err(error.into());
                }
            }
            PlanError::Overlapping { .. } => return Err(error.into()),
            PlanError::Unfinished => {}
        }
        tracing::info!(%error, "a new table set is due");
        if self.drafts.failed >= MOST_DRAFTS {
            let before = std::mem::replace(&mut self.standing.built.sizes, sizes);
            let rebuilt = self.rebuild();
            if rebuilt.is_err() {
                self.standing.built.sizes = before;
            }
            return rebuilt;
        }
        self.begin_draft(sizes)
    }

    /// Whether another table set is on its way.
    pub(super) fn is_drafting(&self) -> bool {
        match self.drafts.draft {
            Draft::None => false,
            Draft::Underway { .. } | Draft::Here(_) | Draft::Failed(_) => true,
        }
    }

    fn begin_draft(&mut self, sizes: Sizes) -> Result<()> {
        self.hindrances.update_each(|_, it| it.held_back = None);
        let basis = Basis::of(sizes, &self.known.cluster, &self.compiled);
        let number = self.node.begin_draft(basis)?;
        metrics::counter!("podgate_transactions_total", "kind" => "build").increment(1);
        self.drafts.draft = Draft::Underway { number };
        self.drafts.added = Some(BTreeSet::new());
        Ok(())
    }

    /// Takes note of what became of drafts: of the one that is waited for.
    pub(super) fn take_drafts(&mut self) {
        for finished in self.node.finished_drafts() {
            if matches!(self.drafts.draft, Draft::Underway { number } if number == finished.number)
            {
                self.drafts.draft = finished.drafted.map_or_else(Draft::Failed, Draft::Here);
            }
        }
    }

    /// Goes on with a draft that is made, one step at least, and puts it in force. [`Progress::Settled`]: there is none.
    pub(super) fn adopt_draft(&mut self, until: Instant) -> Result<Progress> {
        let progress = self.try_to_adopt(until);
        if !self.is_drafting() {
            self.drafts.added = None;
            // It is lost, whatever stood in its way.
            self.drafts.failed += u32::from(progress.is_err());
        }
        progress
    }

    fn try_to_adopt(&mut self, until: Instant) -> Result<Progress> {
        match std::mem::take(&mut self.drafts.draft) {
            Draft::None => Ok(Progress::Settled),
            Draft::Here(drafted) => self.adopt(drafted, until),
            Draft::Failed(error) => {
                // In tables as large as they can be.
                match error.downcast_ref::<PlanError>() {
                    Some(full) if give_way(&mut self.compiled, full) => {
                        self.drafts.failed += 1;
                        Ok(Progress::Underway)
                    }
                    Some(_) | None => Err(error),
                }
            }
            underway @ Draft::Underway { .. } => {
                self.drafts.draft = underway;
                Ok(Progress::Settled)
            }
        }
    }

    /// Without the lock, brings a draft up to what is known by now; with it, puts it in force.
    fn adopt(&mut self, mut drafted: Box<Drafted<D>>, until: Instant) -> Result<Progress> {
        self.follow_attachments(&mut drafted)?;
        loop {
            let view = self.compile_some(Some(until));
            let wanted = self.wanted_of(&drafted);
            match drafted.catch_up(&self.node, &view.world, &wanted, STEP) {
                Ok(true) => break,
                Ok(false) if until <= self.node.now() => {
                    self.drafts.draft = Draft::Here(drafted);
                    return Ok(Progress::Underway);
                }
                Ok(false) => {}
                Err(error) if error.is::<PlanError>() => {
                    // Another one has room for twice what there is by now.
                    if self.drafts.failed + 1 >= MOST_DRAFTS {
                        return Err(error);
                    }
                    self.begin_draft(drafted.sizes)?;
                    self.drafts.failed += 1;
                    return Ok(Progress::Settled);
                }
                Err(error) => return Err(error),
            }
        }
        let locked = self.take_lock_or_isolate().and_then(|lock| {
            self.read_attachments(&lock)?;
            Ok(lock)
        });
        let lock = match locked {
            Ok(lock) => lock,
            Err(error) => {
                self.drafts.draft = Draft::Here(drafted);
                return Err(error);
            }
        };
        self.update_isolated_file(&lock);
        let view = self.known.cluster.view();
        let mut wanted = self.wanted_of(&drafted);
        // What was compiled is of those before.
        for record in self.known.cluster.records() {
            if drafted.records.get(&record.slot) != Some(record) {
                wanted.remove(&record.slot);
            }
        }
        self.follow_attachments(&mut drafted)?;
        drafted.catch_up(&self.node, &view.world, &wanted, usize::MAX)?;
        self.put_in_force(*drafted, view, &lock)?;
        Ok(Progress::Underway)
    }

    /// Tells a draft which attachments there are, and which addresses came with those that are new.
    fn follow_attachments(&mut self, drafted: &mut Drafted<D>) -> Result<()> {
        let added = self.drafts.added.replace(BTreeSet::new());
        drafted.follow(self.known.cluster.records(), added.unwrap_or_default())
    }

    /// What attachments are to have in a draft: what is compiled, and nothing where a policy isolates that is not. When it does
    /// not come to an end, because policies change faster than they are made complete, nothing is allowed to those whose are
    /// not either; that follows when it is in force.
    fn wanted_of(&self, drafted: &Drafted<D>) -> Rulesets {
        let mut wanted = self.surely_closed();
        if drafted.steps < MOST_STEPS {
            return wanted;
        }
        let unready = drafted.planner.unready(&wanted);
        for record in self
            .known
            .cluster
            .records()
            .filter(|it| unready.contains(&it.slot))
        {
            let isolation = self.compiled.selections().isolation_of(record);
            let isolated = isolate(isolation, record.baseline, self.compiled.tunnels());
            wanted.insert(record.slot, Arc::new(isolated));
        }
        wanted
    }

    /// What attachments are to have as far as it is compiled, and nothing where a policy isolates that is not.
    fn surely_closed(&self) -> Rulesets {
        let mut rulesets = self.compiled.rulesets().clone();
        for record in self
            .known
            .cluster
            .records()
            .filter(|it| self.compiled.is_due(it.slot))
        {
            let isolation = self.compiled.selections().isolation_of(record);
            if let Some(known) = rulesets.get(&record.slot) {
                let narrowed = narrowed(known, isolation, self.compiled.tunnels());
                rulesets.insert(record.slot, narrowed);
            }
        }
        rulesets
    }

    /// Puts another table set in the place of this one, and forgets what was pending there.
    fn put_in_force(&mut self, drafted: Drafted<D>, view: View, lock: &D::Lock) -> Result<()> {
        let began = self.node.now();
        // Now, because the pins of the old one's tables go; what is open stays readable.
        self.count_packets();
        let isolated = |record: &Record| self.isolated(record);
        let (built, unswapped) =
            build::put_in_force(&self.node, lock, drafted, &self.known.cluster, isolated)?;
        self.count_packets();
        self.standing.rulesets = built.planner.attachments().clone();
        self.standing.built = built;
        self.drafts.draft = Draft::None;
        self.drafts.failed = 0;
        self.standing.pending = None;
        self.standing.facts_missing = false;
        self.standing.facts_due = None;
        self.reports.counted.forget();
        self.take_note_of(view);
        if !unswapped.is_empty() {
            self.look_soon();
        }
        self.hindrances.not_swapped(unswapped);
        tracing::debug!(took = ?self.node.now().saturating_duration_since(began), "put a table set in force");
        Ok(())
    }

    /// Builds smaller tables when some have grown and were nearly empty at two looks, half a minute apart. They get room
    /// for twice what they hold, so that what comes next does not make them grow again.
    pub(super) fn shrink(&mut self, now: Instant) {
        if now < self.drafts.shrink_due {
            return;
        }
        self.drafts.shrink_due = now + UPKEEP;
        let occupancy = self.standing.built.planner.occupancy();
        let is_calm =
            self.pace.trouble.is_none() && self.standing.pending.is_none() && !self.is_drafting();
        let too_large =
            build::is_too_large(&self.drafts.sizes, &self.standing.built.sizes, &occupancy);
        if !(is_calm && too_large) {
            self.drafts.seen_too_large = false;
            return;
        }
        if !std::mem::replace(&mut self.drafts.seen_too_large, true) {
            return;
        }
        self.drafts.seen_too_large = false;
        tracing::info!("tables have become larger than what they hold: smaller ones are built");
        if let Err(error) = self.begin_draft(self.drafts.sizes) {
            tracing::warn!(
                error = format!("{error:#}"),
                "tables stay larger than they need to be"
            );
        }
    }

    pub(super) fn rebuild(&mut self) -> Result<()> {
        let lock = self.wait_for_lock(LOCK_PATIENCE)?;
        self.rebuild_under(&lock)
    }

    /// Builds a table set from everything that is known, at once: what is there is of no use any more.
    pub(super) fn rebuild_under(&mut self, lock: &D::Lock) -> Result<()> {
        self.read_attachments(lock)?;
        let mut addresses = self.node.addresses().context("read the node's addresses")?;
        // Who listens to the kernel knows more: devices that went to another namespace.
        addresses
            .tunnel_ports
            .extend(self.known.cluster.tunnel_ports());
        self.known.cluster.set_node_addresses(addresses);
        let view = self.compile_some(None);
        self.update_isolated_file(lock);
        let sizes = self.standing.built.sizes;
        let (node, cluster, compiled) = (&self.node, &self.known.cluster, &mut self.compiled);
        let drafted = draft_from(node, lock, sizes, cluster, &view, compiled)?;
        self.put_in_force(drafted, view, lock)
    }
}

/// Makes a table set for everything that is known.
pub(super) fn draft_from<D: Dataplane>(
    node: &D,
    lock: &D::Lock,
    sizes: Sizes,
    cluster: &Cluster,
    view: &View,
    compiled: &mut Compiled,
) -> Result<Drafted<D>> {
    metrics::counter!("podgate_transactions_total", "kind" => "build").increment(1);
    loop {
        let basis = Basis::of(sizes, cluster, compiled);
        let error = match Drafted::make(basis, |sizes| node.create(sizes, lock)) {
            Ok(drafted) => return Ok(drafted),
            Err(error) => error,
        };
        // Tables have grown as far as they do.
        match error.downcast_ref::<PlanError>() {
            Some(full) if give_way(compiled, full) => compile(node, compiled, view, None),
            Some(_) | None => return Err(error),
        }
    }
}
