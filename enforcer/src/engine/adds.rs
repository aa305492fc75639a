// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ADDs that wait, and when each is answered.

use std::time::{Duration, Instant};

use podgate_datapath::record::{AttachmentId, PodName, Record, Slot};
use podgate_handoff::Reply;
use tokio::sync::oneshot;

use super::Engine;
use super::answer::{LastError, PodLookup, Progress};
use super::dataplane::Dataplane;
use crate::cluster::name_of;
use crate::source::{Answer, Question};

/// How long an ADD waits for an interface that does not obey: some looks at it.
const PATIENCE: Duration = Duration::from_secs(2);

/// An ADD that wants an answer.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) identity: AttachmentId,
    pub(super) reply: oneshot::Sender<Reply>,
    /// Whether its pod was asked for.
    pub(super) inquiry: PodLookup,
    /// Whether it was asked what isolates its pod, because what is known may be too old to say so.
    pub(super) currency: PodLookup,
    /// Whether attachment files were read since it came. Before, another attachment may have its name.
    pub(super) files_were_read: bool,
    pub(super) since: Instant,
}

impl Waiting {
    pub(super) fn new(
        identity: AttachmentId,
        reply: oneshot::Sender<Reply>,
        since: Instant,
    ) -> Self {
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
    /// Answers every ADD of which the outcome is known. While there is more to come, an unknown pod may still
    /// become known.
    pub(super) fn answer_adds(&mut self, more_to_come: bool) {
        for mut waiting in std::mem::take(&mut self.adds.waiting) {
            if waiting.reply.is_closed() {
                tracing::debug!(attachment = %waiting.identity, "nobody waits for an ADD any more");
                continue;
            }
            match self.outcome(&mut waiting, more_to_come) {
                Some(reply) => {
                    tracing::debug!(attachment = %waiting.identity, ?reply, "answered an ADD");
                    answer(waiting.reply, reply);
                }
                None => self.adds.waiting.push(waiting),
            }
        }
    }

    /// Asks the source for the pod of an attachment.
    fn inquire(&self, identity: &AttachmentId) -> PodLookup {
        let pod = self
            .known
            .cluster
            .record(identity)
            .and_then(|r| r.pod.clone());
        let asked = self.adds.questions.as_ref().zip(pod);
        let asked = asked.is_some_and(|(source, pod)| source.send(Question::Pod(pod)).is_ok());
        if asked {
            PodLookup::Open
        } else {
            PodLookup::Done
        }
    }

    /// Those that wait for this pod need not wait for the source any more.
    pub(super) fn take_answer(&mut self, pod: &PodName, answer: Answer) {
        if let Answer::Isolation(isolation) = answer {
            self.take_isolation(pod, isolation);
            return;
        }
        for waiting in &mut self.adds.waiting {
            let record = self.known.cluster.record(&waiting.identity);
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
        let record = self.known.cluster.record(identity);
        let progress = match record.filter(|_| waiting.files_were_read) {
            None => Progress::NoFile,
            Some(_) if self.standing.facts_missing => Progress::Underway,
            Some(record) if self.compiled.is_due(record.slot) => Progress::Underway,
            Some(record) => {
                let wanted = self.compiled.of(record.slot);
                let hindrance = self.hindrances.of(record.slot);
                if let Some(why) = self.hindrance(record.slot) {
                    let waited = self.node.now().saturating_duration_since(waiting.since);
                    let for_long = waited >= PATIENCE;
                    Progress::Blocked { why, for_long }
                } else if self.standing.unknown.contains(&record.slot) {
                    // Denied where a policy may isolate it, or that is still being tried.
                    match hindrance.is_some_and(|it| it.open.is_some()) {
                        true => Progress::Underway,
                        false => Progress::NotKnown,
                    }
                } else if wanted.is_some()
                    && wanted == self.standing.rulesets.get(&record.slot)
                    && self.is_said(record)
                {
                    if let Some(doubt) = self.known.doubt.as_deref() {
                        return self.in_doubt(record, doubt, &mut waiting.currency);
                    }
                    match hindrance.is_some_and(|it| it.held.is_some()) {
                        true => Progress::Underway,
                        false => Progress::InForce,
                    }
                } else {
                    Progress::Underway
                }
            }
        };
        let trouble = self.pace.trouble.as_deref().map(|why| LastError {
            why,
            attempts: self.pace.backoff.failures(),
        });
        let unasked = waiting.inquiry == PodLookup::None && !more_to_come;
        if progress == Progress::NotKnown && unasked {
            waiting.inquiry = self.inquire(identity);
        }
        progress.reply(identity, &waiting.inquiry, trouble, more_to_come)
    }

    /// Whether the kernel knows who has an attachment's addresses: what others allow its pod waits for that.
    fn is_said(&self, record: &Record) -> bool {
        let pending = self.standing.pending.as_ref();
        let are_written = pending.is_none_or(|pending| pending.rulesets.is_some());
        let name = record.pod.as_ref().map(name_of);
        let is_planned =
            |name| self.standing.facts.pods.get(&name) == self.known.cluster.pod(&name);
        are_written && name.is_none_or(is_planned)
    }

    /// Why an attachment is not judged by what is written for it, if that is so.
    pub(super) fn hindrance(&self, slot: Slot) -> Option<&str> {
        let hindrance = self.hindrances.of(slot)?;
        let why = hindrance.unswapped.as_ref();
        why.or(hindrance.shadowed.as_ref()).map(String::as_str)
    }
}

/// Whoever asked may have gone.
pub(super) fn answer(reply: oneshot::Sender<Reply>, what: Reply) {
    drop(reply.send(what));
}
