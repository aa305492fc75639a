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
mod taken;
mod unpaired;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use imbl::OrdSet;
use podgate_datapath::record::{AttachmentId, PodName, Record, Slot};
use podgate_datapath::{Sizes, lock};
use podgate_handoff::Reply;
use podgate_policy::compile::SubjectRulesets;
use podgate_policy::isolation::Isolation;
use podgate_policy::model::{ServiceOptions, World};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};

use crate::cluster::{Cluster, ForeignSetting, View};
use crate::compiled::Compiled;
use crate::condition::Condition;
use crate::guard::Guard;
use crate::node::Addresses;
use crate::plan::Rulesets;
use crate::source::{Answer, Objects, Question, SourceStatus};
use answer::{LastError, PodLookup, Progress};
use backoff::Backoff;
use build::Built;
use crowded::Crowded;
use dataplane::Dataplane;
use directory::Directory;
use draft::Draft;
use execute::Execution;
use grace::Grace;
use inbox::{Inbox, Links};
use isolate::Held;
use isolated_file::IsolatedFile;
use own_node::OwnNode;
use portion::Portion;
use report::Counted;
use unpaired::{Half, Unpaired};

pub use dataplane::Kernel;
pub use inbox::{Event, Handoff};

/// How often everything is looked at, whether or not somebody said that it changed.
const UPKEEP: Duration = Duration::from_secs(30);

/// How long an ADD waits for an interface that does not obey: some looks at it.
const PATIENCE: Duration = Duration::from_secs(2);

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
    cluster: Cluster,
    /// What is wrong with the source now.
    source_wrong: SourceStatus,
    /// Files of attachments that cannot be read.
    unreadable: Vec<String>,
    /// Where the others are, as it was when all of them were read.
    directory: Directory,
    built: Built<D::Set>,
    /// How large tables are to be, unless they must be larger.
    sizes: Sizes,
    /// Whether some were larger than they need to be when they were looked at last.
    seen_too_large: bool,
    /// The facts of the last plan of facts.
    facts: World,
    /// Whether `peers` lacks an address, whatever the facts are.
    facts_missing: bool,
    /// When facts that merely went away are written at the latest.
    facts_due: Option<Instant>,
    /// How much of them is planned at once.
    portion: Portion,
    compiled: Compiled,
    /// What the last finished flips put in force.
    in_force: Rulesets,
    unknown: OrdSet<Slot>,
    /// What the plugin finds of the namespaces with policies.
    isolated_file: IsolatedFile,
    /// Why what the source knows is older than it should be, if that is known.
    doubt: Option<String>,
    /// Attachments that the source isolates by more than is known of it, until it is known.
    held: BTreeMap<Slot, Held>,
    /// Attachments that could not be isolated while their policy is not in force, and why.
    open: BTreeMap<Slot, String>,
    /// The plan that is being executed.
    pending: Option<Pending>,
    /// Whether the last turn ended because its time was up.
    more_to_do: bool,
    /// How long this turn waited for the lock.
    waited: Duration,
    /// When figures were last published.
    published: Instant,
    grace: Grace,
    /// The table set that is to take the place of `built`.
    draft: Draft<D>,
    /// Attachments whose policy waits for it, because there is no room for it in `built`; and which policy is known to take
    /// nothing from what stands. Of one that came to nothing they say nothing.
    held_back: BTreeMap<Slot, Option<Arc<SubjectRulesets>>>,
    /// How many came to nothing in a row.
    failed_drafts: u32,
    waiting: Vec<Waiting>,
    questions: Option<UnboundedSender<Question>>,
    trouble: Option<String>,
    backoff: Backoff,
    upkeep_due: Instant,
    /// How many looks in a row left attachments with an older table set.
    vain_looks: u32,
    /// Attachments on whose interface others decide before us, and who.
    shadowed: BTreeMap<Slot, String>,
    /// What is wrong with the guard behind the filters.
    guard: Guard,
    /// What is known of the node's interfaces.
    links: links::Links,
    counted: Counted,
    own_node: OwnNode,
    unattached: Unpaired,
    unheard_of: Unpaired,
    crowded: Crowded,
    condition: watch::Sender<Condition>,
}

/// A plan on its way.
#[derive(Debug)]
struct Pending {
    execution: Execution,
    /// What is in force when it is executed; none unless it changes policy.
    rulesets: Option<Rulesets>,
}

/// An ADD that wants an answer.
#[derive(Debug)]
struct Waiting {
    identity: AttachmentId,
    reply: oneshot::Sender<Reply>,
    /// Whether its pod was asked for.
    inquiry: PodLookup,
    /// Whether it was asked what isolates its pod, because what is known may be too old to say so.
    currency: PodLookup,
    /// Whether attachment files were read since it came. Before, another attachment may have its name.
    files_were_read: bool,
    since: Instant,
}

impl Waiting {
    fn new(identity: AttachmentId, reply: oneshot::Sender<Reply>, since: Instant) -> Self {
        Self {
            identity,
            reply,
            inquiry: PodLookup::None,
            currency: PodLookup::None,
            files_were_read: false,
            since,
        }
    }
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
        let mut files = attachments::read_attachments(&mut node, &cluster)?;
        attachments::bind_hardware(&node, &mut files.records, &lock);
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
        let built = rebuild::draft_from(&node, &lock, sizes, &cluster, &view, &mut compiled)
            .and_then(|drafted| {
                let isolated = |_: &Record| Isolation::default();
                build::put_in_force(&node, &lock, drafted, &cluster, isolated)
            })
            .context("put the first table set in force")?;
        drop(lock);
        let now = node.now();
        let mut engine = Self {
            node,
            cluster,
            source_wrong,
            unreadable: files.unreadable,
            directory: Directory::default(),
            built,
            sizes,
            seen_too_large: false,
            in_force: compiled.rulesets().clone(),
            compiled,
            facts: World::default(),
            facts_missing: false,
            facts_due: None,
            portion: Portion::default(),
            unknown: OrdSet::new(),
            isolated_file,
            doubt: None,
            held: BTreeMap::new(),
            open: BTreeMap::new(),
            pending: None,
            more_to_do: false,
            waited: Duration::ZERO,
            published: now,
            grace: Grace::None,
            draft: Draft::None,
            held_back: BTreeMap::new(),
            failed_drafts: 0,
            waiting: Vec::new(),
            questions,
            trouble: None,
            backoff: Backoff::default(),
            upkeep_due: now,
            vain_looks: 0,
            shadowed: BTreeMap::new(),
            guard,
            links: links::Links::default(),
            counted: Counted::default(),
            own_node: OwnNode::default(),
            unattached: Unpaired::new(Half::Pod),
            unheard_of: Unpaired::new(Half::Attachment),
            crowded: Crowded::default(),
            condition,
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
            let waited = std::mem::take(&mut self.waited);
            let took = self.node.now().saturating_duration_since(began);
            let worked = took.saturating_sub(waited);
            metrics::histogram!("podgate_turn_seconds").record(worked);
        }
    }

    /// How long nothing is due.
    fn pause(&self) -> Duration {
        if self.more_to_do {
            return Duration::ZERO;
        }
        let due = self.backoff.due_or(self.facts_due);
        let next = [due, self.links.due(), self.report_due()]
            .into_iter()
            .flatten()
            .fold(self.upkeep_due, Instant::min);
        next.saturating_duration_since(self.node.now())
    }

    /// When there may be an unpaired pod or attachment to report.
    fn report_due(&self) -> Option<Instant> {
        let both = [&self.unattached, &self.unheard_of];
        both.into_iter().filter_map(Unpaired::due).min()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.backoff
            .due_or(self.facts_due)
            .is_some_and(|due| due <= now)
    }

    /// First what is known: no ADD is answered by less than what was said before it came. Then ADDs, then interfaces.
    fn take(&mut self, inbox: Inbox) {
        let Inbox {
            adds,
            dels,
            statuses,
            source,
            answers,
            doubt,
            node_addresses,
            guard,
            links,
            changed_links,
            grace_is_over,
            grace_was_refused,
            is_drafted,
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
            self.links.look_soon(now);
        }
        let links = self.of_attachments(links);
        let upkeep = self.upkeep_due <= now;
        let mut changed = !dels.is_empty()
            || node_addresses.is_some()
            || guard.is_some()
            || source.is_some()
            || !answers.is_empty()
            || doubt.is_some()
            || grace_is_over
            || grace_was_refused
            || is_drafted
            || self.more_to_do
            || self.is_due(now);
        for reply in dels {
            answer(reply, Reply::Done);
        }
        for reply in statuses {
            answer(reply, self.status());
        }
        if let Some(addresses) = node_addresses {
            changed |= self.cluster.set_node_addresses(addresses);
        }
        if let Some(guard) = guard {
            self.guard = guard;
        }
        if let Some(source) = source {
            self.source_wrong = source.wrong;
            self.cluster.apply(source.changes);
            self.ask_again_for_those_behind();
        }
        if let Some(doubt) = doubt {
            self.take_doubt(doubt);
        }
        for (pod, answer) in answers {
            self.take_answer(&pod, answer);
        }
        if grace_is_over {
            self.grace = Grace::Over;
        }
        if is_drafted {
            self.take_drafts();
        }
        if upkeep {
            self.upkeep_due = now + UPKEEP;
            // Somebody may have changed a file in its place.
            self.directory = Directory::default();
            self.shrink();
            self.links.look_soon(now);
        }
        if !adds.is_empty() {
            let waiting = adds
                .into_iter()
                .map(|(id, reply)| Waiting::new(id, reply, now));
            self.waiting.extend(waiting);
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

    fn status(&self) -> Reply {
        match &self.trouble {
            None => Reply::Done,
            Some(trouble) => Reply::Failed(trouble.clone()),
        }
    }

    /// Answers every ADD of which the outcome is known. While there is more to come, an unknown pod may still
    /// become known.
    fn answer_adds(&mut self, more_to_come: bool) {
        for mut waiting in std::mem::take(&mut self.waiting) {
            if waiting.reply.is_closed() {
                tracing::debug!(attachment = %waiting.identity, "nobody waits for an ADD any more");
                continue;
            }
            match self.outcome(&mut waiting, more_to_come) {
                Some(reply) => {
                    tracing::debug!(attachment = %waiting.identity, ?reply, "answered an ADD");
                    answer(waiting.reply, reply);
                }
                None => self.waiting.push(waiting),
            }
        }
    }

    /// Asks the source for the pod of an attachment.
    fn inquire(&self, identity: &AttachmentId) -> PodLookup {
        let pod = self.cluster.record(identity).and_then(|r| r.pod.clone());
        let asked = self.questions.as_ref().zip(pod);
        let asked = asked.is_some_and(|(source, pod)| source.send(Question::Pod(pod)).is_ok());
        if asked {
            PodLookup::Open
        } else {
            PodLookup::Done
        }
    }

    /// Those that wait for this pod need not wait for the source any more.
    fn take_answer(&mut self, pod: &PodName, answer: Answer) {
        if let Answer::Isolation(isolation) = answer {
            self.take_isolation(pod, isolation);
            return;
        }
        for waiting in &mut self.waiting {
            let record = self.cluster.record(&waiting.identity);
            if record.and_then(|record| record.pod.as_ref()) == Some(pod) {
                waiting.inquiry = answer.clone().into();
                if waiting.currency == PodLookup::Open {
                    waiting.currency = Self::currency_of(answer.clone());
                }
            }
        }
    }

    fn outcome(&self, waiting: &mut Waiting, more_to_come: bool) -> Option<Reply> {
        let identity = &waiting.identity;
        let record = self.cluster.record(identity);
        let progress = match record.filter(|_| waiting.files_were_read) {
            None => Progress::NoFile,
            Some(_) if self.facts_missing => Progress::Underway,
            Some(record) if self.compiled.is_due(record.slot) => Progress::Underway,
            Some(record) => {
                let wanted = self.compiled.of(record.slot);
                if let Some(why) = self.hindrance(record.slot) {
                    let waited = self.node.now().saturating_duration_since(waiting.since);
                    let for_long = waited >= PATIENCE;
                    Progress::Blocked { why, for_long }
                } else if self.unknown.contains(&record.slot) {
                    // Denied where a policy may isolate it, or that is still being tried.
                    match self.open.contains_key(&record.slot) {
                        true => Progress::Underway,
                        false => Progress::NotKnown,
                    }
                } else if wanted.is_some() && wanted == self.in_force.get(&record.slot) {
                    if let Some(doubt) = self.doubt.as_deref() {
                        return self.in_doubt(record, doubt, &mut waiting.currency);
                    }
                    match self.held.contains_key(&record.slot) {
                        true => Progress::Underway,
                        false => Progress::InForce,
                    }
                } else {
                    Progress::Underway
                }
            }
        };
        let trouble = self.trouble.as_deref().map(|why| LastError {
            why,
            attempts: self.backoff.failures(),
        });
        let unasked = waiting.inquiry == PodLookup::None && !more_to_come;
        if progress == Progress::NotKnown && unasked {
            waiting.inquiry = self.inquire(identity);
        }
        progress.reply(identity, &waiting.inquiry, trouble, more_to_come)
    }

    /// Why an attachment is not judged by what is written for it, if that is so.
    fn hindrance(&self, slot: Slot) -> Option<&str> {
        let unswapped = self.built.unswapped.get(&slot);
        unswapped
            .or_else(|| self.shadowed.get(&slot))
            .map(String::as_str)
    }

    fn take_note_of(&mut self, view: View) {
        let View {
            world,
            subjects: _,
            unknown,
        } = view;
        self.facts = world;
        self.unknown = unknown;
    }
}

/// Whoever asked may have gone.
fn answer(reply: oneshot::Sender<Reply>, what: Reply) {
    drop(reply.send(what));
}
