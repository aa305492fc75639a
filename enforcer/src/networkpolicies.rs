//! The source `networkpolicies`: everything that policies see, from the API server.
//!
//! ```text
//! follow::<Namespaces> ─┐
//! follow::<Pods> ───────┤
//! follow::<Policies> ───┼─ Message ──► Source: a store a kind ── Update, Answer ──► engine
//! follow::<Services> ───┤                 ▲   │                                        │
//! follow::<Endpoint…> ──┘          answer │   ▼ one GET                                │
//!                                        asking  ◄────────────── Question ─────────────┘
//! ```
//! One task owns all stores. The engine begins when every kind has been listed.

mod ask;
mod asking;
mod kinds;
#[cfg(test)]
mod tests;

use std::sync::mpsc::Sender;

use anyhow::{Result, bail};
use kube::Client;
use podgate_datapath::record::PodName;
use podgate_policy::model::ObjectName;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::health::{self, KindHealth};
use crate::api::{Changed, Said, Store, follow};
use crate::engine::Event;
use crate::source::{Answer, Change, Freshness, Question, Update, Wrong};
pub(crate) use asking::Asking;
pub use kinds::{EndpointSlices, Namespaces, Pods, Policies, Services};

/// Messages on their way to the source; then the watches wait.
const QUEUE: usize = 1024;

/// Something for the source.
#[derive(Debug)]
enum Message {
    /// Of namespaces.
    Namespaces(Said<Namespaces>),
    /// Of pods.
    Pods(Said<Pods>),
    /// Of policies.
    Policies(Said<Policies>),
    /// Of Services.
    Services(Said<Services>),
    /// Of EndpointSlices.
    EndpointSlices(Said<EndpointSlices>),
}

/// What the API server has, as far as it was said.
#[derive(Debug, Default)]
struct Source {
    namespaces: Store<Namespaces>,
    pods: Store<Pods>,
    policies: Store<Policies>,
    services: Store<Services>,
    endpoint_slices: Store<EndpointSlices>,
    /// What the engine has not been told.
    changes: Vec<Change>,
    /// Whether everything was known, and what was wrong, when the engine was told last.
    told: Option<(bool, Wrong)>,
}

/// Follows the API server, tells the engine, and answers its questions, until it has ended.
///
/// # Errors
/// When a watch ends by itself, which it never should.
pub async fn run(
    client: Client,
    engine: Sender<Event>,
    mut questions: UnboundedReceiver<Question>,
    freshness: watch::Sender<Freshness>,
) -> Result<()> {
    let (out, mut messages) = mpsc::channel(QUEUE);
    let mut watches = JoinSet::new();
    watches.spawn(follow(client.clone(), out.clone(), Message::Namespaces));
    watches.spawn(follow(client.clone(), out.clone(), Message::Pods));
    watches.spawn(follow(client.clone(), out.clone(), Message::Policies));
    watches.spawn(follow(client.clone(), out.clone(), Message::Services));
    watches.spawn(follow(client.clone(), out, Message::EndpointSlices));
    let mut source = Source::default();
    let mut asking = Asking::new(client);
    let mut batch = Vec::new();
    loop {
        let mut answers: Vec<(PodName, Answer)> = Vec::new();
        tokio::select! {
            _ = messages.recv_many(&mut batch, QUEUE) => {
                for message in batch.drain(..) {
                    source.take(message);
                }
            }
            Some(question) = questions.recv() => {
                answers.extend(asking.ask(question, &mut source.pods));
            }
            Some(asked) = asking.next() => {
                let (changes, answer) = asking.answered(asked, &mut source.pods);
                source.note(changes, Change::Pod);
                answers.extend(answer);
            }
            Some(ended) = watches.join_next() => bail!("a watch ended by itself: {ended:?}"),
        }
        freshness.send_replace(source.freshness());
        let answers = answers
            .into_iter()
            .map(|(pod, answer)| Event::Answer(pod, answer));
        for event in source.news().into_iter().chain(answers) {
            if engine.send(event).is_err() {
                tracing::debug!("the engine has ended, and the source with it");
                return Ok(());
            }
        }
    }
}

impl Source {
    fn take(&mut self, message: Message) {
        match message {
            Message::Namespaces(said) => {
                let changed = self.namespaces.take(said);
                self.note(changed, |name, value| {
                    Change::Namespace(name.name, value.flatten())
                });
            }
            Message::Pods(said) => {
                let changed = self.pods.take(said);
                self.note(changed, Change::Pod);
            }
            Message::Policies(said) => {
                let changed = self.policies.take(said);
                self.note(changed, Change::Policy);
            }
            Message::Services(said) => {
                let changed = self.services.take(said);
                self.note(changed, Change::Service);
            }
            Message::EndpointSlices(said) => {
                let changed = self.endpoint_slices.take(said);
                self.note(changed, Change::EndpointSlice);
            }
        }
    }

    fn note<V>(
        &mut self,
        changed: Vec<Changed<V>>,
        change: impl Fn(ObjectName, Option<V>) -> Change,
    ) {
        let changes = changed.into_iter();
        self.changes
            .extend(changes.map(|(name, value)| change(name, value)));
    }

    /// What the engine has not been told yet. What is known is told only once all of it is.
    fn news(&mut self) -> Option<Event> {
        let wrong = self.wrong();
        let synced = self.kinds().iter().all(KindHealth::is_synced);
        let same = self.told.as_ref() == Some(&(synced, wrong.clone()));
        if same && (!synced || self.changes.is_empty()) {
            return None;
        }
        self.told = Some((synced, wrong.clone()));
        Some(if synced {
            Event::Source(Update {
                changes: std::mem::take(&mut self.changes),
                wrong,
            })
        } else {
            Event::NotSynced(wrong.errors)
        })
    }

    fn freshness(&self) -> Freshness {
        vec![
            self.namespaces.freshness(),
            self.pods.freshness(),
            self.policies.freshness(),
            self.services.freshness(),
            self.endpoint_slices.freshness(),
        ]
    }

    fn kinds(&self) -> [KindHealth<'_>; 5] {
        [
            KindHealth::of(&self.namespaces),
            KindHealth::of(&self.pods),
            KindHealth::of(&self.policies),
            KindHealth::of(&self.services),
            KindHealth::of(&self.endpoint_slices),
        ]
    }

    fn wrong(&self) -> Wrong {
        Wrong {
            errors: health::errors(self.kinds()),
            warnings: health::first_of(health::complaints(self.kinds())),
        }
    }
}
