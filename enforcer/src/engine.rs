// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The one owner of what is known and of what is in force. Whatever happens comes here as an [`Event`].
//!
//! ```text
//! Event ──► Cluster ──► View: what changed? ──► Planner ──► Execution ──► tables
//!              ▲                                                            │
//!   attachment files, read under the lock                          answers to ADD, Condition
//! ```
//! It runs on a thread of its own, because every write is a short blocking call. Facts and policies never share a
//! plan (`docs/adr/0006`).

mod adds;
mod answer;
mod attachments;
mod backoff;
mod bootstrap;
mod build;
mod change;
mod crowded;
pub mod dataplane;
mod directory;
mod draft;
mod execute;
mod grace;
#[cfg(test)]
mod histories;
mod inbox;
mod isolate;
mod isolated_file;
mod links;
mod own_node;
mod portion;
mod rebuild;
mod reconcile;
mod report;
mod state;
mod taken;
mod unpaired;

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use podgate_datapath::record::Record;
use podgate_datapath::{Sizes, lock};
use podgate_handoff::Reply;
use podgate_policy::isolation::Isolation;
use podgate_policy::model::ServiceOptions;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::cluster::{Cluster, ForeignSetting, View};
use crate::compiled::Compiled;
use crate::condition::Condition;
use crate::guard::Guard;
use crate::node::Addresses;
use crate::source::{Objects, Question, SourceStatus};
use adds::{Waiting, answer};
use dataplane::Dataplane;
use directory::Directory;
use grace::Grace;
use inbox::{Heard, Inbox, Links};
use isolated_file::IsolatedFile;
use state::{Adds, Drafts, Hindrances, Known, Pace, Reports, Standing, Surroundings};
use unpaired::Unpaired;

pub use dataplane::Kernel;
pub use inbox::{Event, Handoff};

/// How often everything is looked at, whether or not somebody said that it changed.
const UPKEEP: Duration = Duration::from_secs(30);

/// What an engine begins with.
#[derive(Debug)]
pub struct EngineConfig<D> {
    /// The node.
    pub node: D,
    /// How large the tables are, unless they must be larger.
    pub sizes: Sizes,
    /// The node's name, as pods and endpoints have it.
    pub node_name: String,
    /// What Services mean.
    pub services: ServiceOptions,
    /// What becomes of foreign addresses.
    pub foreign: ForeignSetting,
    /// What is wrong with the guard behind the filters.
    pub guard: Guard,
    /// What the node takes for itself.
    pub node_addresses: Addresses,
    /// Where the source takes questions; none if it tells all that it knows anyway.
    pub questions: Option<UnboundedSender<Question>>,
}

/// The owner.
#[derive(Debug)]
pub struct Engine<D: Dataplane> {
    node: D,
    known: Known,
    /// What attachments are to have by it.
    compiled: Compiled,
    standing: Standing<D::Set>,
    hindrances: Hindrances,
    grace: Grace,
    drafts: Drafts<D>,
    adds: Adds,
    pace: Pace,
    surroundings: Surroundings,
    reports: Reports,
}

impl<D: Dataplane> Engine<D> {
    /// Builds the first table set of this run and puts it in force, for all attachments that there are.
    ///
    /// # Errors
    /// When that is impossible. What was in force before, if anything, still is.
    fn start(
        config: EngineConfig<D>,
        source: Objects,
        source_wrong: SourceStatus,
        condition: watch::Sender<Condition>,
    ) -> Result<Self> {
        let EngineConfig {
            mut node,
            sizes,
            node_name,
            services,
            foreign,
            node_addresses,
            guard,
            questions,
        } = config;
        let mut cluster = Cluster::default();
        cluster.set_node(node_name, services);
        cluster.set_foreign(foreign);
        cluster.set_source(source);
        cluster.set_node_addresses(node_addresses);
        let lock = node.lock(node.now() + lock::PATIENCE)?;
        attachments::sweep_attachments(&node, &lock)?;
        let files = attachments::read_attachments(&mut node, &cluster)?;
        cluster.set_attachments(files.records);
        let view = cluster.view();
        let mut compiled = Compiled::default();
        let mut isolated_file = IsolatedFile::default();
        compiled.select(&view);
        isolated_file.update(&node, compiled.selections(), &lock);
        reconcile::compile(&node, &mut compiled, &view, None);
        let withheld = isolate::withheld(&cluster, &view, &compiled);
        compiled.withhold(withheld);
        // Until its filters are swapped, each is judged by the set before.
        isolate::isolate_standing(&node, &cluster, &compiled);
        let (built, unswapped) =
            rebuild::draft_from(&node, &lock, sizes, &cluster, &view, &mut compiled)
                .and_then(|drafted| {
                    let isolated = |_: &Record| Isolation::default();
                    build::put_in_force(&node, &lock, drafted, &cluster, isolated)
                })
                .context("put the first table set in force")?;
        drop(lock);
        let now = node.now();
        let rulesets = compiled.rulesets().clone();
        let mut hindrances = Hindrances::default();
        hindrances.not_swapped(unswapped);
        let mut engine = Self {
            node,
            known: Known::new(cluster, source_wrong, files.unreadable),
            compiled,
            standing: Standing::new(built, rulesets, isolated_file),
            hindrances,
            grace: Grace::None,
            drafts: Drafts::new(sizes, now),
            adds: Adds {
                waiting: Vec::new(),
                questions,
            },
            pace: Pace::new(now),
            surroundings: Surroundings::new(guard),
            reports: Reports::new(condition, now),
        };
        engine.take_note_of(view);
        engine.publish();
        Ok(engine)
    }

    /// Runs until it is told to stop, or nobody is left to tell it anything.
    pub fn run(mut self, events: &Receiver<Event>) {
        loop {
            let inbox = Inbox::gather(events, self.pause());
            if inbox.stop {
                self.end();
                tracing::info!("stopping; filters, rules and flows stay in force");
                return;
            }
            let began = self.node.now();
            self.take(inbox);
            let waited = std::mem::take(&mut self.pace.waited);
            let took = self.node.now().saturating_duration_since(began);
            let worked = took.saturating_sub(waited);
            metrics::histogram!("podgate_turn_seconds").record(worked);
        }
    }

    /// How long nothing is due.
    fn pause(&self) -> Duration {
        if self.standing.more_to_do {
            return Duration::ZERO;
        }
        let due = self.pace.backoff.due_or(self.standing.facts_due);
        let dues = [
            due,
            self.surroundings.links.due(),
            self.report_due(),
            self.ask_due(),
        ];
        let dues = dues.into_iter().flatten();
        let next = dues.fold(self.pace.upkeep_due, Instant::min);
        next.saturating_duration_since(self.node.now())
    }

    /// When there may be an unpaired pod or attachment to report.
    fn report_due(&self) -> Option<Instant> {
        let both = [&self.surroundings.unattached, &self.surroundings.unheard_of];
        both.into_iter().filter_map(Unpaired::due).min()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.pace
            .backoff
            .due_or(self.standing.facts_due)
            .is_some_and(|due| due <= now)
    }

    /// First what is known: no ADD is answered by less than what was said before it came. Then ADDs, then interfaces.
    fn take(&mut self, inbox: Inbox) {
        let Inbox {
            heard,
            adds,
            dels,
            statuses,
            links,
            changed_links,
            counts,
            // A source that has once been synced stays so.
            not_synced: _,
            stop: _,
        } = inbox;
        for done in counts {
            self.count();
            if done.send(()).is_err() {
                tracing::debug!("the kernel was counted too late for a scrape");
            }
        }
        let now = self.node.now();
        if !changed_links.is_empty() || links != Links::None {
            self.surroundings.links.look_soon(now);
        }
        let links = self.of_attachments(links);
        let upkeep = self.pace.upkeep_due <= now;
        let mut changed =
            !dels.is_empty() || heard.is_anything() || self.standing.more_to_do || self.is_due(now);
        changed |= self.ask_again_for_those_behind(|due| due <= now);
        for reply in dels {
            answer(reply, Reply::Done);
        }
        for reply in statuses {
            answer(reply, self.status());
        }
        self.hear(heard);
        if upkeep {
            self.pace.upkeep_due = now + UPKEEP;
            // Somebody may have changed a file in its place.
            self.known.directory = Directory::default();
            self.shrink(now);
            self.surroundings.links.look_soon(now);
        }
        if !adds.is_empty() {
            let waiting = adds
                .into_iter()
                .map(|(id, reply)| Waiting::new(id, reply, now));
            self.adds.waiting.extend(waiting);
            self.settle();
            changed = false;
        }
        changed |= upkeep || links != Links::None;
        match links {
            Links::All => self.look_after_interfaces(None),
            Links::None | Links::Some(_) if upkeep => self.look_after_interfaces(None),
            Links::Some(interfaces) => self.look_after_interfaces(Some(&interfaces)),
            Links::None => {}
        }
        // What is no longer in its group is marked again.
        let unmarked = self.unmarked(&changed_links);
        if !unmarked.is_empty() {
            self.look_after_interfaces(Some(&unmarked));
            changed = true;
        }
        // After ADDs and sweeps, so that it is known what explains an interface.
        changed |= self.look_at_links(now);
        if changed {
            self.settle();
        }
        if self.report_due().is_some_and(|due| due <= now) {
            self.publish();
        }
    }

    fn hear(&mut self, heard: Heard) {
        let Heard {
            source,
            answers,
            doubt,
            node_addresses,
            guard,
            grace_is_over,
            // What waits for one goes on waiting, and another is begun.
            grace_was_refused: _,
            is_drafted,
        } = heard;
        if let Some(addresses) = node_addresses {
            self.known.cluster.set_node_addresses(addresses);
        }
        if let Some(guard) = guard {
            self.surroundings.guard = guard;
        }
        // Some of what the source said may have come after its answers: before it, so that those behind are asked for again.
        for (pod, answer) in answers {
            self.take_answer(&pod, answer);
        }
        if let Some(source) = source {
            self.known.source = source.wrong;
            self.known.cluster.apply(source.changes);
            self.ask_again_for_those_behind(|_| true);
        }
        if let Some(doubt) = doubt {
            self.take_doubt(doubt);
        }
        if grace_is_over {
            self.grace = Grace::Over;
        }
        if is_drafted {
            self.take_drafts();
        }
    }

    fn status(&self) -> Reply {
        match &self.pace.trouble {
            None => Reply::Done,
            Some(trouble) => Reply::Failed(trouble.clone()),
        }
    }

    fn take_note_of(&mut self, view: View) {
        let View {
            world,
            subjects: _,
            unknown,
        } = view;
        self.standing.facts = world;
        self.standing.unknown = unknown;
    }
}
