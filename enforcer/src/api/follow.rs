// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Listing a kind, then watching it, for ever.
//!
//! ```text
//! list: pages ── Listed ──► watch from that version ── ended, cut or broken ──► watch from the last version seen
//!   ▲                                                                            │ 410 Gone, another ERROR in the
//!   │                                                                            │ stream, broken too often, or cut
//!   │                                                                            │ without an event for too long
//!   └────────────────────────────────────────────────────────────────────────────┘
//! ```
//! Written on lists and watches of our own and not on kube's `watcher`, which tells neither of bookmarks nor that a
//! broken watch works again: how old our knowledge is, and whether an error is mended, would stay unknown while a
//! kind is quiet.

use std::io;
use std::marker::PhantomData;
use std::mem;
use std::time::Duration;

use futures::io::AsyncBufRead;
use kube::Client;
use kube::Resource;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Status;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::DefaultBackoff;
use podgate_policy::model::ObjectName;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::kind::{Kind, Missing, Seen};
use super::pulse::{Pulse, Recall, Server};
use super::stream;

/// Objects in a page of a list, as client-go has it.
const PAGE: u32 = 500;
/// How long the server may take for a page of a list, or to begin a watch.
const ANSWER: Duration = Duration::from_secs(60);
/// When the server is to end a watch; the next one goes on where it ended.
const WATCH: Duration = Duration::from_secs(290);
/// A watch in which nothing was said for so long is dead. Bookmarks come about every minute.
const SILENCE: Duration = Duration::from_secs(150);
/// A watch that said something so short a time ago is alive.
const FRESH: Duration = Duration::from_secs(2);
/// How often a kind acts upon what another kind hears, at most.
const WAKES: Duration = Duration::from_secs(15);
/// The status of a server that is asked about a version too long ago.
const GONE: u16 = 410;
/// A watch that ended sooner did not work.
const SHORT: Duration = Duration::from_secs(1);
/// A watch that was cut sooner is no sign of what cuts idle connections.
const IDLE: Duration = Duration::from_secs(10);
/// How long watches stay shortened for what cuts idle connections.
const SHORTENED: Duration = Duration::from_secs(3600);
/// After so many attempts to go on with a watch the kind is listed anew: the server may know nothing of our version,
/// after a restored backup for one.
const ATTEMPTS: u32 = 8;

/// What is said of a kind.
#[derive(Debug)]
pub enum Said<K: Kind> {
    /// A list begins: objects that are not named before [`Said::Listed`] are gone.
    Listing,
    /// The list is complete.
    Listed,
    /// An object is now so.
    Object(Box<Seen<K>>),
    /// An object is gone, or has left the selection.
    Gone(ObjectName, Option<String>),
    /// A watch has begun. What changed before that is still to come.
    Begun,
    /// Nothing changed up to now: a bookmark came, or a watch has ended as it should.
    Good,
    /// The server may have more to say than the watch has: it does not know our version any more, or something cut the watch.
    Behind,
    /// It is not known any more what changes, and it is tried again.
    Failed(Failure),
}

/// Why a kind cannot be followed at the moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server does not have the kind, or not yet.
    #[error("{0}")]
    NoSuchKind(String),
    /// The server answers, and refuses; somebody must do something about that.
    #[error("{0}")]
    Refused(String),
    /// The server does not answer, or not now; that passes.
    #[error("{0}")]
    Unreachable(String),
}

impl Failure {
    /// Statuses of a server that is busy or not up yet say nothing of us.
    fn of_status(status: &Status) -> Self {
        // A proxy may say much.
        let message: String = status.message.chars().take(500).collect();
        let text = format!("{message} (status {})", status.code);
        match status.code {
            404 => Self::NoSuchKind(text),
            408 | GONE | 429 | 500.. => Self::Unreachable(text),
            _ => Self::Refused(text),
        }
    }

    /// What an error of a request means for us.
    pub fn of(error: &kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            return Self::of_status(status);
        }
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        let is_too_large = matches!(error, kube::Error::ReadEvents(error) if error.kind() == io::ErrorKind::InvalidData);
        if is_too_large {
            Self::Refused(text)
        } else {
            Self::Unreachable(text)
        }
    }
}

/// Nobody listens any more.
#[derive(Debug)]
struct Unheard;

/// How following goes on.
enum Next {
    /// List everything.
    List,
    /// Watch from this version on.
    Watch(String),
}

/// Why a list or a watch ended.
enum Ended {
    /// As it should: go on.
    Well(Next),
    /// The server does not know our version any more, which is no error.
    Gone,
    /// The connection of a watch was cut between two events, after so long.
    Cut(String, Duration),
    /// It broke; a watch goes on from its last version.
    Broken(Failure, Next),
}

/// Follows a kind, until nobody listens. `wrap` makes one message type of several kinds.
pub async fn follow<K: Kind, M: Send>(
    server: impl Into<Server>,
    out: mpsc::Sender<M>,
    wrap: impl Fn(Said<K>) -> M + Send + Sync,
) where
    <Seen<K> as Resource>::Scope: Send + Sync,
{
    follow_selected(server, K::FIELDS.map(str::to_owned), out, wrap).await;
}

/// Like [`follow`], of objects that match the field selector `fields` and not the kind's own.
pub async fn follow_selected<K: Kind, M: Send>(
    server: impl Into<Server>,
    fields: Option<String>,
    out: mpsc::Sender<M>,
    wrap: impl Fn(Said<K>) -> M + Send + Sync,
) where
    <Seen<K> as Resource>::Scope: Send + Sync,
{
    let Server {
        client,
        pulse,
        recall,
    } = server.into();
    let mut follower = Follower {
        kind: PhantomData,
        client,
        recall,
        is_recalled: false,
        listed: None,
        beats: pulse.subscribe(),
        pulse,
        woken: None,
        fields,
        out: &out,
        wrap: &wrap,
        backoff: DefaultBackoff::default(),
        failures: 0,
        last: None,
        barren: false,
        cut_after: None,
        shortened: None,
        news: Instant::now(),
        in_pages: true,
    };
    match follower.run().await {
        Ok(never) => match never {},
        Err(Unheard) => tracing::debug!(kind = K::NAME, "nobody listens to the watch any more"),
    }
}

struct Follower<'a, K: Kind, M, W> {
    kind: PhantomData<K>,
    client: Client,
    /// Asks that everything be listed again.
    recall: Recall,
    is_recalled: bool,
    /// When that was last begun.
    listed: Option<Instant>,
    /// Wakes the other kinds when this one is heard again, and this one when another is.
    pulse: Pulse,
    beats: watch::Receiver<()>,
    /// When a beat was last acted upon.
    woken: Option<Instant>,
    fields: Option<String>,
    out: &'a mpsc::Sender<M>,
    wrap: &'a W,
    backoff: DefaultBackoff,
    /// Failures since the server was heard.
    failures: u32,
    /// The last of them.
    last: Option<Failure>,
    /// Whether the last watch that began has brought nothing yet. If it breaks so, it means nothing that the next one
    /// begins.
    barren: bool,
    /// After how long the last watch was cut, if it was idle.
    cut_after: Option<Duration>,
    /// How long watches may last instead of [`WATCH`], and since when.
    shortened: Option<(Duration, Instant)>,
    /// When a list was last complete, or a watch last brought something.
    news: Instant,
    /// Whether the next list comes page by page, and not in one answer. The two alternate while lists fail.
    in_pages: bool,
}

impl<K: Kind, M: Send, W: Fn(Said<K>) -> M + Send + Sync> Follower<'_, K, M, W> {
    async fn run(&mut self) -> Result<std::convert::Infallible, Unheard> {
        let mut next = Next::List;
        loop {
            // What is heard of the server from now on is newer than what this attempt says.
            self.beats.borrow_and_update();
            let (doing, ended) = match next {
                Next::List => ("list", self.list().await?),
                Next::Watch(version) => ("watch", self.watch(version).await?),
            };
            next = match ended {
                Ended::Well(then) => then,
                Ended::Gone => {
                    tracing::info!(
                        kind = K::NAME,
                        "the watch fell behind; the kind is listed anew"
                    );
                    self.say(Said::Behind).await?;
                    self.pause().await;
                    Next::List
                }
                Ended::Cut(version, _) if !self.barren => Next::Watch(version),
                Ended::Cut(version, lived) => {
                    // What cuts connections before the first bookmark comes may hold back all else, too.
                    self.say(Said::Behind).await?;
                    if lived < IDLE {
                        self.pause().await;
                    } else {
                        self.note_cut(lived);
                    }
                    if self.news.elapsed() < SILENCE {
                        Next::Watch(version)
                    } else {
                        tracing::info!(
                            kind = K::NAME,
                            "every watch is cut before its first event; the kind is listed again"
                        );
                        Next::List
                    }
                }
                Ended::Broken(Failure::NoSuchKind(_), _) if K::MISSING == Missing::Empty => {
                    self.heard();
                    self.say(Said::Listing).await?;
                    self.say(Said::Listed).await?;
                    self.pause().await;
                    Next::List
                }
                Ended::Broken(failure, then) => {
                    self.failed(doing, failure).await?;
                    if self.failures.is_multiple_of(ATTEMPTS) {
                        Next::List
                    } else {
                        then
                    }
                }
            };
        }
    }

    /// Takes note of a failure, logs it if it is another than the one before, and waits.
    async fn failed(&mut self, doing: &'static str, failure: Failure) -> Result<(), Unheard> {
        let is_same =
            self.last.as_ref().map(mem::discriminant) == Some(mem::discriminant(&failure));
        if is_same {
            tracing::debug!(kind = K::NAME, doing, %failure, self.failures, "list or watch failed again; retrying");
        } else {
            tracing::warn!(kind = K::NAME, doing, %failure, "list or watch failed; retrying");
        }
        metrics::counter!("podgate_watch_failures_total", "kind" => K::NAME, "doing" => doing)
            .increment(1);
        self.failures += 1;
        self.last = Some(failure.clone());
        self.say(Said::Failed(failure)).await?;
        self.pause().await;
        Ok(())
    }

    /// Not all nodes at once, and less often each time; but at once when another kind hears the server that was away.
    async fn pause(&mut self) {
        // It has no greatest number of times.
        let pause = tokio::time::sleep(self.backoff.next().unwrap_or(ANSWER));
        if !matches!(self.last, Some(Failure::Unreachable(_))) || !self.may_be_woken() {
            return pause.await;
        }
        tokio::select! {
            () = pause => {}
            Ok(()) = self.beats.changed() => self.woken = Some(Instant::now()),
        }
    }

    /// Two idle watches in a row that were cut after about the same time met an idle timeout: the server is to end the next ones
    /// before that, for some time. A watch that the server ends has lost nothing.
    fn note_cut(&mut self, lived: Duration) {
        let before = self.cut_after.replace(lived);
        let is_alike = before.is_some_and(|before| before.abs_diff(lived) <= lived / 5);
        if is_alike {
            self.shortened = Some((lived * 4 / 5, Instant::now()));
        }
    }

    /// A server that breaks one watch after the other would wake each by the next for ever.
    fn may_be_woken(&self) -> bool {
        self.woken.is_none_or(|woken| woken.elapsed() >= WAKES)
    }

    /// A watch has brought something. Until then attempts become less frequent, however well a list goes: lists of
    /// everything are what costs the server most.
    fn brought(&mut self) {
        self.barren = false;
        self.cut_after = None;
        self.news = Instant::now();
        self.backoff.reset();
        self.heard();
    }

    /// The server tells again what changes.
    fn heard(&mut self) {
        if self.last.take().is_some() {
            tracing::info!(kind = K::NAME, self.failures, "list or watch works again");
            self.pulse.beat();
            // It wakes others, not this one.
            self.beats.borrow_and_update();
        }
        self.failures = 0;
    }

    async fn say(&self, said: Said<K>) -> Result<(), Unheard> {
        self.out.send((self.wrap)(said)).await.map_err(|_| Unheard)
    }

    async fn list(&mut self) -> Result<Ended, Unheard> {
        metrics::counter!("podgate_watch_lists_total", "kind" => K::NAME).increment(1);
        self.is_recalled = false;
        self.shortened = None;
        self.listed = Some(Instant::now());
        self.say(Said::Listing).await?;
        let mut params = ListParams {
            limit: mem::replace(&mut self.in_pages, true).then_some(PAGE),
            field_selector: self.fields.clone(),
            ..ListParams::default()
        };
        loop {
            let page = stream::list::<K>(&self.client, None, &params);
            let mut page = match timeout(ANSWER, page).await {
                Ok(Ok(page)) => page,
                // The version of the first page is too old for the next one: the pages take too long.
                Ok(Err(error)) if is_gone(&error) => {
                    self.in_pages = false;
                    return Ok(Ended::Broken(Failure::of(&error), Next::List));
                }
                Ok(Err(error)) => return Ok(Ended::Broken(Failure::of(&error), Next::List)),
                Err(_) => return Ok(Ended::Broken(late(), Next::List)),
            };
            let metadata = loop {
                match timeout(ANSWER, page.next()).await {
                    Ok(Ok(Ok(object))) => self.say(Said::Object(Box::new(object))).await?,
                    Ok(Ok(Err(metadata))) => break metadata,
                    Ok(Err(error)) => return Ok(Ended::Broken(Failure::of(&error), Next::List)),
                    Err(_) => return Ok(Ended::Broken(late(), Next::List)),
                }
            };
            let token = metadata.continue_.filter(|token| !token.is_empty());
            if token.is_some() {
                if params.continue_token == token {
                    let failure =
                        Failure::Refused("a page of the list is followed by itself".into());
                    return Ok(Ended::Broken(failure, Next::List));
                }
                params.continue_token = token;
                continue;
            }
            let Some(version) = metadata.resource_version.filter(|v| !v.is_empty()) else {
                let failure = Failure::Refused("the list has no resourceVersion".into());
                return Ok(Ended::Broken(failure, Next::List));
            };
            self.barren = false;
            self.news = Instant::now();
            self.heard();
            self.say(Said::Listed).await?;
            return Ok(Ended::Well(Next::Watch(version)));
        }
    }

    async fn begin_watch(
        &self,
        version: &str,
    ) -> Result<stream::Events<impl AsyncBufRead + use<K, M, W>>, Ended> {
        let shortened = self
            .shortened
            .filter(|(_, since)| since.elapsed() < SHORTENED);
        let lasts = shortened.map_or(WATCH, |(lasts, _)| lasts);
        let params = WatchParams {
            timeout: Some(u32::try_from(lasts.as_secs()).unwrap_or(u32::MAX)),
            field_selector: self.fields.clone(),
            ..WatchParams::default()
        };
        let events = stream::watch::<K>(&self.client, &params, version);
        let again = || Next::Watch(version.to_owned());
        match timeout(ANSWER, events).await {
            Ok(Ok(events)) => Ok(events),
            Ok(Err(error)) if is_gone(&error) => Err(Ended::Gone),
            Ok(Err(error)) => Err(Ended::Broken(Failure::of(&error), again())),
            Err(_) => Err(Ended::Broken(late(), again())),
        }
    }

    async fn watch(&mut self, mut version: String) -> Result<Ended, Unheard> {
        let mut events = match self.begin_watch(&version).await {
            Ok(events) => events,
            Err(ended) => return Ok(ended),
        };
        metrics::counter!("podgate_watch_starts_total", "kind" => K::NAME).increment(1);
        if !mem::replace(&mut self.barren, true) {
            self.heard();
            self.say(Said::Begun).await?;
        }
        let began = Instant::now();
        let mut news = began;
        let mut due = began;
        loop {
            let event = tokio::select! {
                event = timeout(SILENCE, events.next()) => event,
                () = self.recall.asked(), if !self.is_recalled => {
                    self.is_recalled = true;
                    // Every node's enforcer has come to the same at the same moment.
                    let spread = self.backoff.next().unwrap_or(ANSWER);
                    let soonest = self.listed.map(|listed| listed + self.recall.pause());
                    due = soonest.into_iter().fold(Instant::now() + spread, Instant::max);
                    continue;
                }
                () = sleep_until(due), if self.is_recalled => {
                    tracing::info!(kind = K::NAME, "there is room for what was not kept; the kind is listed anew");
                    return Ok(Ended::Well(Next::List));
                }
                // The server was away: a connection of before may be dead, and would say nothing for long.
                Ok(()) = self.beats.changed() => {
                    if news.elapsed() < FRESH || !self.may_be_woken() {
                        continue;
                    }
                    self.woken = Some(Instant::now());
                    tracing::debug!(kind = K::NAME, "the API server was away; the watch is begun again");
                    return Ok(Ended::Well(Next::Watch(version)));
                }
            };
            let event = match event {
                Ok(Ok(stream::Next::Event(event))) => event,
                Ok(Err(error)) => {
                    let then = if matches!(error, kube::Error::ReadEvents(_)) {
                        Next::Watch(version)
                    } else {
                        // What could not be read would come again.
                        Next::List
                    };
                    return Ok(Ended::Broken(Failure::of(&error), then));
                }
                Ok(Ok(stream::Next::Ended | stream::Next::Cut)) if began.elapsed() < SHORT => {
                    let failure = Failure::Unreachable("the watch ended at once".into());
                    return Ok(Ended::Broken(failure, Next::Watch(version)));
                }
                Ok(Ok(stream::Next::Cut)) => return Ok(Ended::Cut(version, began.elapsed())),
                Ok(Ok(stream::Next::Ended)) => {
                    self.brought();
                    self.say(Said::Good).await?;
                    return Ok(Ended::Well(Next::Watch(version)));
                }
                Err(_) => {
                    let failure = Failure::Unreachable("the watch fell silent".into());
                    return Ok(Ended::Broken(failure, Next::Watch(version)));
                }
            };
            let said = match said_of(*event, &mut version) {
                Ok(said) => said,
                Err(ended) => return Ok(ended),
            };
            self.brought();
            news = Instant::now();
            self.say(said).await?;
        }
    }
}

/// What an event says; the watch goes on from its version.
///
/// # Errors
/// How the watch ends with it.
fn said_of<K: Kind>(event: WatchEvent<Seen<K>>, version: &mut String) -> Result<Said<K>, Ended> {
    Ok(match event {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => {
            count::<K>("apply");
            if !step(version, object.version()) {
                return Err(no_version());
            }
            Said::Object(Box::new(object))
        }
        WatchEvent::Deleted(object) => {
            count::<K>("delete");
            if !step(version, object.version()) {
                return Err(no_version());
            }
            Said::Gone(object.name(), object.uid().map(str::to_owned))
        }
        WatchEvent::Bookmark(bookmark) => {
            count::<K>("bookmark");
            let to = bookmark.metadata.resource_version;
            if !step(version, Some(to.as_str()).filter(|to| !to.is_empty())) {
                return Err(no_version());
            }
            Said::Good
        }
        WatchEvent::Error(status) if status.code == GONE => return Err(Ended::Gone),
        WatchEvent::Error(status) => {
            return Err(Ended::Broken(Failure::of_status(&status), Next::List));
        }
    })
}

fn count<K: Kind>(event: &'static str) {
    metrics::counter!("podgate_watch_events_total", "kind" => K::NAME, "type" => event)
        .increment(1);
}

/// Whether the version is one; then it is the one from which a watch goes on.
fn step(version: &mut String, to: Option<&str>) -> bool {
    match to {
        Some(to) => {
            to.clone_into(version);
            true
        }
        None => false,
    }
}

fn no_version() -> Ended {
    let failure = Failure::Refused("an object or a bookmark has no resourceVersion".into());
    Ended::Broken(failure, Next::List)
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == GONE)
}

fn late() -> Failure {
    Failure::Unreachable(format!("no answer within {} s", ANSWER.as_secs()))
}
