// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the sources share that watch the API server: the kinds that both read, direct questions, and the loop.
//!
//! ```text
//! follow::<Kind>, one a kind ── Message ──► Watching: a store a kind ── Update, Answer ──► engine
//!                                              ▲   │                                         │
//!                                       answer │   ▼ one request                             │
//!                                             asking  ◄─────────────── Question ─────────────┘
//! ```
//! One task owns all stores. The engine begins when every kind has been listed.

mod ask;
mod asking;
mod kinds;
mod publisher;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kube::Client;
use podgate_datapath::record::PodName;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::{Changed, Kind, Server, Store};
use crate::gone::EngineGone;
use crate::source::{Answer, Freshness, News, Question};
use crate::stored::Rooms;
pub(crate) use ask::Found;
use asking::Asking;
pub use kinds::{EndpointSlices, Namespaces, Nodes, Pods, Policies, Services};
pub(crate) use publisher::Publisher;

/// How often is looked how old what is known is.
const LOOK: Duration = Duration::from_secs(10);

/// Messages on their way to the source; then the watches wait.
const QUEUE: usize = 1024;

/// Pods that are now so.
pub(crate) type PodChanges = Vec<Changed<<Pods as Kind>::Value>>;

/// A source that makes policy of what its watches say.
pub(crate) trait Watching {
    /// What the watches say.
    type Message: Send + 'static;

    /// The node whose pods it watches; none: all pods.
    fn node(&self) -> Option<&str>;

    /// Begins to follow its kinds.
    fn watch(&self, server: &Server, out: &mpsc::Sender<Self::Message>) -> JoinSet<()>;

    /// Takes note of what was said.
    fn take(&mut self, message: Self::Message, now: Instant);

    /// The pods, of which single ones are asked for.
    fn pods(&mut self) -> &mut Store<Pods>;

    /// Takes note of what an answer changes.
    fn take_answer(&mut self, changed: PodChanges, now: Instant);

    /// When [`Self::news`] has something to say at the latest, if nothing more is heard.
    fn due(&self) -> Option<Instant>;

    /// What the engine has not been told yet. `refused` is what is wrong with direct questions.
    fn news(&mut self, refused: Option<String>, now: Instant) -> Option<News>;

    /// Why what it knows of policies and pods is older than it is at the API server, if that is known; for people.
    fn doubt(&self, now: Instant) -> Option<String>;

    /// Whether all that was found at the API server is known, and no more of that namespace. Never before everything is.
    fn knows(&self, found: &Found) -> bool;

    /// How fresh its knowledge is.
    fn freshness(&self) -> Freshness;
}

/// Tells the engine.
pub type Tell = Box<dyn Fn(News) -> Result<(), EngineGone> + Send>;

/// What connects a source with the rest of the enforcer.
pub struct Ends {
    /// Where news and answers go.
    pub tell: Tell,
    /// What the engine asks.
    pub questions: UnboundedReceiver<Question>,
    /// Where it says how fresh its knowledge is.
    pub freshness: watch::Sender<Freshness>,
    /// What objects may take.
    pub rooms: Rooms,
}

/// Follows the API server, tells the engine, and answers its questions, until it has ended.
///
/// # Errors
/// When a watch ends by itself, which it never should.
pub(crate) async fn run<W: Watching>(mut source: W, client: Client, ends: Ends) -> Result<()> {
    let Ends {
        tell,
        mut questions,
        freshness,
        rooms: _,
    } = ends;
    let (out, mut messages) = mpsc::channel(QUEUE);
    let server = Server::from(client.clone());
    let mut watches = source.watch(&server, &out);
    drop(out);
    let mut told_doubt = false;
    let mut asking = Asking::new(client, source.node().map(str::to_owned));
    let mut batch = Vec::new();
    loop {
        let due = source.due().map(tokio::time::Instant::from);
        let mut answers: Vec<(PodName, Answer)> = Vec::new();
        tokio::select! {
            _ = messages.recv_many(&mut batch, QUEUE) => {
                let now = Instant::now();
                for message in batch.drain(..) {
                    source.take(message, now);
                }
            }
            Some(question) = questions.recv() => {
                answers.extend(asking.ask(question, source.pods()));
            }
            Some(asked) = asking.next() => {
                let (changed, mut answer) = asking.answered(asked, source.pods());
                let found = asking.take_found();
                if let (Some(found), Some((_, answer))) = (found, &mut answer)
                    && source.knows(&found)
                {
                    *answer = Answer::Current;
                }
                let now = Instant::now();
                source.take_answer(changed, now);
                let is_heard = answer.as_ref().is_some_and(|(_, answer)| match answer {
                    Answer::Known | Answer::Current | Answer::NoSuchPod | Answer::Isolation(_) => true,
                    Answer::Failed(_) => false,
                });
                if is_heard && source.doubt(now).is_some() {
                    server.pulse.beat();
                }
                answers.extend(answer);
            }
            () = until(due) => {}
            // A watch that has become too old says nothing of it.
            () = tokio::time::sleep(LOOK) => {}
            Some(ended) = watches.join_next() => bail!("a watch ended by itself: {ended:?}"),
        }
        freshness.send_replace(source.freshness());
        let answers = answers
            .into_iter()
            .map(|(pod, answer)| News::Answer(pod, answer));
        let doubt = source.doubt(Instant::now());
        let is_news = doubt.is_some() != told_doubt;
        told_doubt = doubt.is_some();
        // After what was said: once nothing is in doubt, the engine knows all of it.
        let doubt = is_news.then_some(News::Doubt(doubt));
        for event in source
            .news(asking.error(), Instant::now())
            .into_iter()
            .chain(doubt)
            .chain(answers)
        {
            if tell(event).is_err() {
                tracing::debug!("the engine has ended, and the source with it");
                return Ok(());
            }
        }
    }
}

async fn until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
