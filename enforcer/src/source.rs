// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a source says, whichever it is: objects that are now so, or gone.
//!
//! ```text
//! manifests ───────┐
//! networkpolicies ─┼──► Update { changes, wrong } ──► engine ──► Cluster, which compares with what it knew
//! policyendpoints ─┘
//! ```
//! A source that lists anew says what differs ([`Objects::differences`]), so that the engine sees single changes only.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use podgate_datapath::record::PodName;
use podgate_policy::isolation::Isolation;
use podgate_policy::model::{
    EndpointSlice, ListName, Namespace, NetworkPolicy, ObjectName, Service,
};

use crate::convert::pod::IdentifiedPod;
use crate::warning::Warning;

/// One object is now so; `None`: it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A namespace, by name.
    Namespace(String, Option<Namespace>),
    /// A pod, with the addresses of its `status`.
    Pod(ObjectName, Option<Arc<IdentifiedPod>>),
    /// A policy.
    Policy(ObjectName, Option<Arc<NetworkPolicy>>),
    /// The lists that an address is in.
    Listed(IpAddr, Option<Arc<BTreeSet<ListName>>>),
    /// A node, by name: its addresses.
    Node(String, Option<Arc<BTreeSet<IpAddr>>>),
    /// A Service.
    Service(ObjectName, Option<Arc<Service>>),
    /// An EndpointSlice.
    EndpointSlice(ObjectName, Option<Arc<EndpointSlice>>),
}

/// What a source has to say at one time. Changes that belong together are in one update.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// What changed, in order.
    pub changes: Vec<Change>,
    /// All that is wrong with the source now.
    pub wrong: SourceStatus,
}

/// What a source tells the engine.
#[derive(Debug)]
pub enum News {
    /// It changed. The first time, it says everything that it has.
    Update(Update),
    /// It has not said everything that it has yet, for these reasons.
    NotSynced(Vec<String>),
    /// It answers a question about a pod.
    Answer(PodName, Answer),
    /// Why what it knows is older than it is where it comes from; none: it is not known to be.
    Doubt(Option<String>),
}

/// What is wrong with a source, each with what a person can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// What keeps the node from being policed as the source says: something cannot be known or put in force.
    pub errors: Vec<String>,
    /// What somebody should mend though the node is policed by all that is known: an object with invalid fields, or
    /// that has not come. Who may write objects can cause it, so it makes no node unready.
    pub warnings: Vec<Warning>,
}

/// How fresh a source's knowledge is: for each kind of objects when it was last heard that everything of it is known;
/// none before that. Empty for a source that has no such notion.
pub type Freshness = Vec<(&'static str, Option<Instant>)>;

/// What the engine asks a source about the pod of an ADD. Every question gets one [`Answer`], within about the time
/// that a plugin waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Whether there is this pod, which the synced source has not told of.
    Pod(PodName),
    /// In which directions this pod is isolated; asked of a source that is not synced, or whose knowledge may be too old.
    Isolation(PodName),
}

/// What a source answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// There is the pod; an update before this answer told of it.
    Known,
    /// There is no such pod.
    NoSuchPod,
    /// There is the pod, and so it is isolated, whatever else the source has to say.
    Isolation(Isolation),
    /// There is the pod, and what updates before this answer said of it and of the policies of its namespace is what there
    /// is.
    Current,
    /// The answer is not to be had now. Says why.
    Failed(String),
}

/// All objects that a source has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// Namespaces by name.
    pub namespaces: OrdMap<String, Namespace>,
    /// Pods, with the addresses of their `status`.
    pub pods: OrdMap<ObjectName, Arc<IdentifiedPod>>,
    /// Policies.
    pub policies: OrdMap<ObjectName, Arc<NetworkPolicy>>,
    /// Addresses that are in lists.
    pub listed: OrdMap<IpAddr, Arc<BTreeSet<ListName>>>,
    /// Addresses of nodes, this one included.
    pub nodes: OrdMap<String, Arc<BTreeSet<IpAddr>>>,
    /// Services.
    pub services: OrdMap<ObjectName, Arc<Service>>,
    /// EndpointSlices.
    pub endpoint_slices: OrdMap<ObjectName, Arc<EndpointSlice>>,
}

impl Objects {
    /// Takes note of a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Namespace(name, object) => put(&mut self.namespaces, name, object),
            Change::Pod(name, object) => put(&mut self.pods, name, object),
            Change::Policy(name, object) => put(&mut self.policies, name, object),
            Change::Listed(address, lists) => put(&mut self.listed, address, lists),
            Change::Node(name, addresses) => put(&mut self.nodes, name, addresses),
            Change::Service(name, object) => put(&mut self.services, name, object),
            Change::EndpointSlice(name, object) => put(&mut self.endpoint_slices, name, object),
        }
    }

    /// The changes that lead from here to `new`.
    pub fn differences(&self, new: &Self) -> Vec<Change> {
        let namespaces = differing(&self.namespaces, &new.namespaces)
            .map(|(name, object)| Change::Namespace(name, object));
        let pods = differing(&self.pods, &new.pods).map(|(name, object)| Change::Pod(name, object));
        let policies = differing(&self.policies, &new.policies)
            .map(|(name, object)| Change::Policy(name, object));
        let listed = differing(&self.listed, &new.listed)
            .map(|(address, lists)| Change::Listed(address, lists));
        let services = differing(&self.services, &new.services)
            .map(|(name, object)| Change::Service(name, object));
        let slices = differing(&self.endpoint_slices, &new.endpoint_slices)
            .map(|(name, object)| Change::EndpointSlice(name, object));
        let nodes = differing(&self.nodes, &new.nodes)
            .map(|(name, addresses)| Change::Node(name, addresses));
        let facts = namespaces.chain(pods).chain(listed).chain(nodes);
        facts
            .chain(policies)
            .chain(services)
            .chain(slices)
            .collect()
    }
}

fn put<K: Ord + Clone, V: Clone>(objects: &mut OrdMap<K, V>, name: K, object: Option<V>) {
    match object {
        Some(object) => objects.insert(name, object),
        None => objects.remove(&name),
    };
}

fn differing<K: Ord + Clone, V: PartialEq + Clone>(
    old: &OrdMap<K, V>,
    new: &OrdMap<K, V>,
) -> impl Iterator<Item = (K, Option<V>)> {
    old.diff(new).map(|difference| match difference {
        DiffItem::Add(name, object)
        | DiffItem::Update {
            new: (name, object),
            ..
        } => (name.clone(), Some(object.clone())),
        DiffItem::Remove(name, _) => (name.clone(), None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(namespaces: &[(&str, &str)]) -> Objects {
        let namespace = |(name, team): &(&str, &str)| {
            let labels = [("team".to_owned(), (*team).to_owned())].into();
            ((*name).to_owned(), Namespace::new(name, labels))
        };
        Objects {
            namespaces: namespaces.iter().map(namespace).collect(),
            ..Objects::default()
        }
    }

    /// Differences lead from the old objects to the new ones, and are no more than needed.
    #[test]
    fn differences_lead_from_old_to_new_and_are_minimal() {
        let old = objects(&[("gone", "a"), ("same", "a"), ("other", "a")]);
        let new = objects(&[("same", "a"), ("other", "b"), ("new", "a")]);
        let changes = old.differences(&new);
        assert_eq!(changes.len(), 3);
        let mut followed = old.clone();
        for change in changes {
            followed.apply(change);
        }
        assert_eq!(followed, new);
        assert_eq!(new.differences(&new), []);
    }
}
