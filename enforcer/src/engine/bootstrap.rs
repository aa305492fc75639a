// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The time before the source is synced: what an earlier enforcer put in force stays, and ADDs wait.
//!
//! An ADD is not judged by half of what the source has. But two questions have answers that stay true: which policies
//! of its namespace select the pod, and so in which directions it is isolated. There it is denied everything at once;
//! what is allowed follows when the source is synced. Where nothing isolates it its baseline is final.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_abi::Direction;
use podgate_datapath::record::{AttachmentId, PodName};
use podgate_datapath::tables::Over;
use podgate_handoff::Reply;
use podgate_policy::isolation::Isolation;
use tokio::sync::watch;

use super::adds::{Waiting, answer};
use super::answer::PodLookup;
use super::dataplane::{Dataplane, Set};
use super::inbox::Inbox;
use super::reconcile::LOCK_PATIENCE;
use super::{Engine, EngineConfig, Event};
use crate::condition::Condition;
use crate::source::{Answer, Objects, Question};

/// How often is looked who still waits.
const LOOK: Duration = Duration::from_secs(1);

/// An ADD that waits for the source.
#[derive(Debug)]
struct Early {
    add: Waiting,
    /// Its pod; none if the runtime did not say.
    pod: Option<PodName>,
}

impl<D: Dataplane> Engine<D> {
    /// Waits until the source is synced, then begins with what it says. None: the enforcer stops before that.
    ///
    /// # Errors
    /// When the first table set cannot be put in force.
    pub fn when_synced(
        mut config: EngineConfig<D>,
        condition: watch::Sender<Condition>,
        events: &Receiver<Event>,
    ) -> Result<Option<Self>> {
        judge_again(&config.node);
        let mut early: Vec<Early> = Vec::new();
        let mut reasons = Vec::new();
        let mut doubt = None;
        loop {
            let inbox = Inbox::gather(events, LOOK);
            if inbox.stop {
                return Ok(None);
            }
            // Interfaces that went away are swept at the start, kernel counters are read after it.
            if let Some(addresses) = inbox.heard.node_addresses {
                config.node_addresses = addresses;
            }
            if let Some(guard) = inbox.heard.guard {
                config.guard = guard;
            }
            for reply in inbox.dels {
                answer(reply, Reply::Done);
            }
            if let Some(new) = inbox.heard.doubt {
                doubt = new;
            }
            if let Some(new) = inbox.not_synced {
                reasons = new;
                condition.send_replace(Condition::Starting(reasons.clone()));
            }
            early.retain(|early| !early.add.reply.is_closed());
            early.extend(inbox.adds.into_iter().map(|(id, reply)| Early {
                pod: None,
                add: Waiting::new(id, reply, config.node.now()),
            }));
            let Some(update) = inbox.heard.source else {
                for early in &mut early {
                    early.inquire(&config);
                }
                for (pod, what) in inbox.heard.answers {
                    early = take_answer(early, &pod, &what, &config.node);
                }
                for reply in inbox.statuses {
                    answer(reply, Reply::Failed(not_synced(&reasons)));
                }
                continue;
            };
            let mut source = Objects::default();
            for change in update.changes {
                source.apply(change);
            }
            let mut engine = Self::start(config, source, update.wrong, condition)?;
            tracing::info!("the first table set is in force");
            engine.take_doubt(doubt);
            for reply in inbox.statuses {
                answer(reply, engine.status());
            }
            engine.adds.waiting = early.into_iter().map(Early::into_waiting).collect();
            engine.settle();
            return Ok(Some(engine));
        }
    }
}

/// An enforcer that was killed may have changed facts, and waited for a grace period before those flows are judged
/// again that lost what allowed them. Nobody knows which: all are, by the tables as they stand, and what those allow goes on.
fn judge_again(node: &impl Dataplane) {
    if let Err(error) = node.judge_again() {
        tracing::warn!(
            error = format!("{error:#}"),
            "connections that are not allowed any more may go on until the first table set is in force"
        );
    }
}

impl Early {
    /// Asks the source how the pod is isolated, once.
    fn inquire(&mut self, config: &EngineConfig<impl Dataplane>) {
        let Some(questions) = &config.questions else {
            return;
        };
        if self.add.inquiry != PodLookup::None {
            return;
        }
        self.add.inquiry = PodLookup::Open;
        self.pod = match config.node.record(&self.add.identity) {
            Ok(record) => record.and_then(|record| record.pod),
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the attachment of an ADD cannot be read"
                );
                None
            }
        };
        if let Some(pod) = self.pod.clone() {
            // A source that has ended ends the enforcer.
            drop(questions.send(Question::Isolation(pod)));
        }
    }

    /// The same ADD, for an engine that knows everything.
    fn into_waiting(self) -> Waiting {
        Waiting {
            inquiry: PodLookup::None,
            ..self.add
        }
    }
}

/// Answers the ADDs of this pod if they need not wait any more, and returns all others.
fn take_answer(
    waiting: Vec<Early>,
    pod: &PodName,
    what: &Answer,
    node: &impl Dataplane,
) -> Vec<Early> {
    let (concerned, mut others): (Vec<Early>, Vec<Early>) = waiting
        .into_iter()
        .partition(|early| early.pod.as_ref() == Some(pod));
    for early in concerned {
        let reply = match what {
            Answer::Isolation(isolation) => isolate(node, &early.add.identity, *isolation),
            Answer::NoSuchPod => Some(Reply::Unknown),
            Answer::Failed(why) => Some(Reply::Failed(why.clone())),
            // An answer to another question.
            Answer::Known | Answer::Current => None,
        };
        match reply {
            Some(reply) => {
                tracing::debug!(attachment = %early.add.identity, ?reply, "answered an ADD before the source is synced");
                answer(early.add.reply, reply);
            }
            None => others.push(early),
        }
    }
    others
}

/// Denies everything in the directions in which the pod is isolated, and lets it have its baseline in the others, in which
/// it may have waited closed. None: what is allowed is to come.
fn isolate(node: &impl Dataplane, identity: &AttachmentId, isolation: Isolation) -> Option<Reply> {
    match try_to_isolate(node, identity, isolation) {
        Ok(()) if isolation == Isolation::NONE => Some(Reply::InForce),
        Ok(()) => {
            tracing::info!(attachment = %identity, ?isolation, "isolated a pod before the source is synced");
            None
        }
        Err(error) => Some(Reply::Failed(format!("isolate {identity}: {error:#}"))),
    }
}

fn try_to_isolate(
    node: &impl Dataplane,
    identity: &AttachmentId,
    isolation: Isolation,
) -> Result<()> {
    let _lock = node.lock(node.now() + LOCK_PATIENCE)?;
    let record = node.record(identity)?.context("it has no file any more")?;
    let set = node.current()?.context("find the current table set")?;
    for (side, isolated) in [
        (Direction::Ingress, isolation.ingress),
        (Direction::Egress, isolation.egress),
    ] {
        if isolated {
            set.deny(&record, side, Over::Open)?;
        } else {
            set.open(&record, side)?;
        }
    }
    Ok(())
}

/// For people: why nothing can be put in force yet.
fn not_synced(reasons: &[String]) -> String {
    match reasons {
        [] => "the source is not synced yet".to_owned(),
        reasons => format!("the source is not synced yet: {}", reasons.join("; ")),
    }
}
