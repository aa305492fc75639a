// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The source `policyendpoints`: what a controller of the cluster has worked out of NetworkPolicies already, as EKS's
//! does.
//!
//! ```text
//! follow::<PolicyEndpoints> ──┐
//! follow::<ClusterPolicy…> ───┤
//! follow::<OwnerPolicies> ────┼─ Message ──► Source: a store a kind ──► State ── Update ──► engine
//! follow::<Pods>, this node's ┤                   ▲                      │ ▲                  │
//! follow::<Services>, … ──────┘            answer │                 due ─┘ └─ time            │
//!                                          asking ◄──────────── Question ─────────────────────┘
//! ```
//! The controller lists a pod when it has an address, which is after ADD. So that such a pod starts with its policy
//! too, the policies' own selectors are asked beside the lists. Pods of other nodes are not watched: they are addresses
//! in lists.

mod kinds;
mod object;
mod rules;
mod settle;
mod slice;
mod standing;
mod state;
mod unsupported;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use kube::Client;
use podgate_policy::model::{EndpointSlice, ObjectName};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::api::health::{self, KindHealth};
use crate::api::{Changed, Kind, Said, Server, Store, follow, follow_selected};
use crate::source::{Change, Freshness, News, SourceStatus};
use crate::watched::{
    self, EndpointSlices, Ends, Found, Nodes, PodChanges, Pods, Publisher, Services, Watching,
};
use kinds::{OwnerPolicies, PolicyEndpoints};
use state::{Heard, State};
use unsupported::ClusterPolicyEndpoints;

/// Something for the source.
#[derive(Debug)]
enum Message {
    /// Of PolicyEndpoints.
    Slices(Said<PolicyEndpoints>),
    /// Of ClusterPolicyEndpoints.
    Unsupported(Said<ClusterPolicyEndpoints>),
    /// Of NetworkPolicies.
    Policies(Said<OwnerPolicies>),
    /// Of pods of this node.
    Pods(Said<Pods>),
    /// Of nodes.
    Nodes(Said<Nodes>),
    /// Of Services.
    Services(Said<Services>),
    /// Of EndpointSlices.
    Endpoints(Said<EndpointSlices>),
}

impl Message {
    /// The list of every kind that policy is made of has ended.
    fn listed_all() -> [Self; 6] {
        [
            Self::Slices(Said::Listed),
            Self::Policies(Said::Listed),
            Self::Pods(Said::Listed),
            Self::Nodes(Said::Listed),
            Self::Services(Said::Listed),
            Self::Endpoints(Said::Listed),
        ]
    }
}

/// What the API server has, as far as it was said.
#[derive(Debug, Default)]
struct Source {
    /// The name of this node.
    node: String,
    slices: Store<PolicyEndpoints>,
    unsupported: Store<ClusterPolicyEndpoints>,
    policies: Store<OwnerPolicies>,
    pods: Store<Pods>,
    nodes: Store<Nodes>,
    services: Store<Services>,
    endpoints: Store<EndpointSlices>,
    state: State,
    /// Changes of nodes, Services and EndpointSlices that the engine has not been told.
    changes: Vec<Change>,
    /// When everything had been listed for the first time.
    listed_at: Option<Instant>,
    /// Whether everything has been known once.
    is_synced: bool,
    told: Publisher,
}

/// Follows the API server, tells the engine, and answers its questions, until it has ended.
///
/// # Errors
/// When a watch ends by itself, which it never should.
pub async fn run(client: Client, node: &str, ends: Ends) -> Result<()> {
    let source = Source {
        node: node.to_owned(),
        endpoints: Store::of(ends.rooms.endpoint_slices),
        ..Source::default()
    };
    watched::run(source, client, ends).await
}

/// What is wrong with a PolicyEndpoint of this JSON text, if the source hears of it.
///
/// # Errors
/// When it is no object of Kubernetes.
pub fn check(text: &str) -> serde_json::Result<SourceStatus> {
    let seen = serde_json::from_str(text)?;
    let (mut source, now) = (Source::default(), Instant::now());
    source.take(Message::Slices(Said::Object(Box::new(seen))), now);
    for message in Message::listed_all() {
        source.take(message, now);
    }
    match source.news(None, now + settle::PATIENCE) {
        Some(News::Update(update)) => Ok(update.wrong),
        news @ (Some(News::NotSynced(_) | News::Answer(..) | News::Doubt(_)) | None) => {
            unreachable!("everything is listed: {news:?}")
        }
    }
}

impl Watching for Source {
    type Message = Message;

    fn node(&self) -> Option<&str> {
        Some(&self.node)
    }

    fn watch(&self, client: &Server, out: &mpsc::Sender<Message>) -> JoinSet<()> {
        let both = || (client.clone(), out.clone());
        let of_this_node = [
            Some(format!("spec.nodeName={}", self.node)),
            Pods::FIELDS.map(str::to_owned),
        ];
        let of_this_node: Vec<String> = of_this_node.into_iter().flatten().collect();
        let mut watches = JoinSet::new();
        let (client, out) = both();
        watches.spawn(follow(client, out, Message::Slices));
        let (client, out) = both();
        watches.spawn(follow(client, out, Message::Unsupported));
        let (client, out) = both();
        watches.spawn(follow(client, out, Message::Policies));
        let (client, out) = both();
        watches.spawn(follow(client, out, Message::Nodes));
        let (client, out) = both();
        watches.spawn(follow(client, out, Message::Services));
        let (client, out) = both();
        let client = client.recalled_by(self.endpoints.recall());
        watches.spawn(follow(client, out, Message::Endpoints));
        let (client, out) = both();
        let fields = Some(of_this_node.join(","));
        watches.spawn(follow_selected(client, fields, out, Message::Pods));
        watches
    }

    fn take(&mut self, message: Message, now: Instant) {
        match message {
            Message::Slices(said) => {
                let changed = self.slices.take(said);
                self.hear(changed, Heard::Slice, now);
            }
            Message::Unsupported(said) => {
                self.unsupported.take(said);
            }
            Message::Policies(said) => {
                let changed = self.policies.take(said);
                self.hear(changed, Heard::Policy, now);
            }
            Message::Pods(said) => {
                let changed = self.pods.take(said);
                self.hear(changed, Heard::Pod, now);
            }
            Message::Nodes(said) => {
                let changed = self.nodes.take(said).into_iter();
                let changes = changed.map(|(name, value)| Change::Node(name.name, value));
                self.changes.extend(changes);
            }
            Message::Services(said) => {
                let changed = self.services.take(said).into_iter();
                let changes = changed.map(|(name, value)| Change::Service(name, value));
                self.changes.extend(changes);
            }
            Message::Endpoints(said) => {
                let changed = self.endpoints.take(said).into_iter();
                let changes = changed.map(|(name, value)| {
                    let value = value.map(|slice| known_here(slice, &self.node));
                    Change::EndpointSlice(name, value)
                });
                self.changes.extend(changes);
            }
        }
        if self.listed_at.is_none() && self.is_listed() {
            self.listed_at = Some(now);
        }
    }

    fn pods(&mut self) -> &mut Store<Pods> {
        &mut self.pods
    }

    fn take_answer(&mut self, changed: PodChanges, now: Instant) {
        self.hear(changed, Heard::Pod, now);
    }

    /// When [`Self::news`] has something to say at the latest, if nothing more is heard. Without every list that is
    /// never.
    fn due(&self) -> Option<Instant> {
        if self.is_synced {
            self.state.due()
        } else {
            let settled_at = self.state.settled_at()?;
            Some(settled_at.min(self.listed_at? + settle::PATIENCE))
        }
    }

    /// What the engine has not been told yet. It begins when every kind has been listed, and no slices are just being
    /// written; but whoever may write new ones all the time cannot keep it from that.
    fn news(&mut self, refused: Option<String>, now: Instant) -> Option<News> {
        self.is_synced |= self.listed_at.is_some() && self.due().is_none_or(|due| due <= now);
        let changes = self.is_synced.then(|| {
            let mut changes = self.state.update(now);
            changes.append(&mut self.changes);
            changes
        });
        let wrong = health::wrong(self.kinds(), refused, self.state.overdue());
        self.told.news(changes, wrong)
    }

    fn doubt(&self, now: Instant) -> Option<String> {
        let policies = self.policies.doubt(now);
        policies
            .or_else(|| self.slices.doubt(now))
            .or_else(|| self.pods.doubt(now))
    }

    /// What slices say is not among what is asked for: while they are in doubt, nothing is known.
    fn knows(&self, found: &Found) -> bool {
        let pod = self.pods.get(&found.name);
        let known = self.policies.of_namespace(&found.name.namespace);
        let known = known.map(|(name, owner)| (name, &owner.policy));
        self.is_synced
            && self.slices.doubt(Instant::now()).is_none()
            && pod.is_some_and(|pod| pod.value == found.pod)
            && found.has(known)
    }

    fn freshness(&self) -> Freshness {
        vec![
            self.slices.freshness(),
            self.unsupported.freshness(),
            self.policies.freshness(),
            self.pods.freshness(),
            self.nodes.freshness(),
            self.services.freshness(),
            self.endpoints.freshness(),
        ]
    }
}

impl Source {
    /// Whether everything is known that policy is made of.
    fn is_listed(&self) -> bool {
        self.slices.is_synced()
            && self.policies.is_synced()
            && self.pods.is_synced()
            && self.nodes.is_synced()
            && self.services.is_synced()
            && self.endpoints.is_synced()
    }

    fn hear<V>(
        &mut self,
        changed: Vec<Changed<V>>,
        heard: impl Fn(ObjectName, Option<V>) -> Heard,
        now: Instant,
    ) {
        for (name, value) in changed {
            self.state.take(heard(name, value), now);
        }
    }

    fn kinds(&self) -> [KindHealth<'_>; 7] {
        [
            KindHealth::of(&self.slices),
            KindHealth::of(&self.unsupported),
            KindHealth::of(&self.policies),
            KindHealth::of(&self.pods),
            KindHealth::of(&self.nodes),
            KindHealth::of(&self.services),
            KindHealth::of(&self.endpoints),
        ]
    }
}

/// The slice as this node knows it. Pods of other nodes are not watched, so which one an endpoint says it is can never be
/// seen: it is an address, which is in lists or not.
fn known_here(mut slice: Arc<EndpointSlice>, node: &str) -> Arc<EndpointSlice> {
    let elsewhere = |on: Option<&str>| on != Some(node);
    let mut endpoints = slice.endpoints.iter();
    if endpoints.any(|endpoint| endpoint.pod.is_some() && elsewhere(endpoint.node.as_deref())) {
        for endpoint in &mut Arc::make_mut(&mut slice).endpoints {
            if elsewhere(endpoint.node.as_deref()) {
                endpoint.pod = None;
            }
        }
    }
    slice
}
