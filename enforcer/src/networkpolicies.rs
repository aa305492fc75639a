// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The source `networkpolicies`: everything that policies see, from the API server.
//!
//! ```text
//! follow::<Namespaces> ─┐
//! follow::<Pods> ───────┤
//! follow::<Policies> ───┼─ Message ──► Source: a store a kind ── Update ──► engine
//! follow::<Services> ───┤
//! follow::<Nodes> ──────┤
//! follow::<Endpoint…> ──┘
//! ```

use std::time::Instant;
use std::{iter, mem};

use anyhow::Result;
use kube::Client;
use podgate_policy::model::ObjectName;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::api::health::{self, KindHealth};
use crate::api::{Changed, Said, Server, Store, follow};
use crate::source::{Change, Freshness, News};
use crate::watched::{
    self, EndpointSlices, Ends, Found, Namespaces, Nodes, PodChanges, Pods, Policies, Publisher,
    Services, Watching,
};

/// Something for the source.
#[derive(Debug)]
enum Message {
    /// Of namespaces.
    Namespaces(Said<Namespaces>),
    /// Of pods.
    Pods(Said<Pods>),
    /// Of policies.
    Policies(Said<Policies>),
    /// Of nodes.
    Nodes(Said<Nodes>),
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
    nodes: Store<Nodes>,
    services: Store<Services>,
    endpoint_slices: Store<EndpointSlices>,
    /// What the engine has not been told.
    changes: Vec<Change>,
    told: Publisher,
}

/// Follows the API server, tells the engine, and answers its questions, until it has ended.
///
/// # Errors
/// When a watch ends by itself, which it never should.
pub async fn run(client: Client, ends: Ends) -> Result<()> {
    let source = Source {
        policies: Store::of(ends.rooms.policies),
        endpoint_slices: Store::of(ends.rooms.endpoint_slices),
        ..Source::default()
    };
    watched::run(source, client, ends).await
}

impl Watching for Source {
    type Message = Message;

    fn node(&self) -> Option<&str> {
        None
    }

    fn watch(&self, client: &Server, out: &mpsc::Sender<Message>) -> JoinSet<()> {
        let both = || (client.clone(), out.clone());
        let mut watches = JoinSet::new();
        let (client, out) = both();
        watches.spawn(follow(client, out, Message::Namespaces));
        let (client, out) = both();
        watches.spawn(follow(client, out, Message::Pods));
        let (client, out) = both();
        let client = client.recalled_by(self.policies.recall());
        watches.spawn(follow(client, out, Message::Policies));
        let (client, out) = both();
        watches.spawn(follow(client, out, Message::Nodes));
        let (client, out) = both();
        watches.spawn(follow(client, out, Message::Services));
        let (client, out) = both();
        let client = client.recalled_by(self.endpoint_slices.recall());
        watches.spawn(follow(client, out, Message::EndpointSlices));
        watches
    }

    fn take(&mut self, message: Message, _: Instant) {
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
            Message::Nodes(said) => {
                let changed = self.nodes.take(said);
                self.note(changed, |name, addresses| {
                    Change::Node(name.name, addresses)
                });
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

    fn pods(&mut self) -> &mut Store<Pods> {
        &mut self.pods
    }

    fn take_answer(&mut self, changed: PodChanges, _: Instant) {
        self.note(changed, Change::Pod);
    }

    /// Nothing comes of waiting.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// What the engine has not been told yet. What is known is told only once all of it is.
    fn news(&mut self, refused: Option<String>, _: Instant) -> Option<News> {
        let wrong = health::wrong(self.kinds(), refused, iter::empty());
        let synced = self.kinds().iter().all(KindHealth::is_synced);
        let changes = synced.then(|| mem::take(&mut self.changes));
        self.told.news(changes, wrong)
    }

    fn doubt(&self, now: Instant) -> Option<String> {
        self.policies.doubt(now).or_else(|| self.pods.doubt(now))
    }

    fn knows(&self, found: &Found) -> bool {
        let is_synced = self.kinds().iter().all(KindHealth::is_synced);
        let pod = self.pods.get(&found.name);
        let known = self.policies.of_namespace(&found.name.namespace);
        is_synced && pod.is_some_and(|pod| pod.value == found.pod) && found.has(known)
    }

    fn freshness(&self) -> Freshness {
        vec![
            self.namespaces.freshness(),
            self.pods.freshness(),
            self.policies.freshness(),
            self.nodes.freshness(),
            self.services.freshness(),
            self.endpoint_slices.freshness(),
        ]
    }
}

impl Source {
    fn note<V>(
        &mut self,
        changed: Vec<Changed<V>>,
        change: impl Fn(ObjectName, Option<V>) -> Change,
    ) {
        let changes = changed.into_iter();
        self.changes
            .extend(changes.map(|(name, value)| change(name, value)));
    }

    fn kinds(&self) -> [KindHealth<'_>; 6] {
        [
            KindHealth::of(&self.namespaces),
            KindHealth::of(&self.pods),
            KindHealth::of(&self.policies),
            KindHealth::of(&self.nodes),
            KindHealth::of(&self.services),
            KindHealth::of(&self.endpoint_slices),
        ]
    }
}
