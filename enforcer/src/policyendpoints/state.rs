// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What PolicyEndpoints mean now: a state machine without client and clock. What is heard goes in, with the time;
//! what the engine is to be told comes out.
//!
//! ```text
//! PolicyEndpoint ──► SliceSet: quiet for 300 ms? ──► Union ─┐
//! NetworkPolicy ───► its own selector and directions ───────┼──► policies, lists ──► Update: what differs
//! Pod of this node ► which UID is meant by a listed name ───┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::networking;
use podgate_policy::model::{ListName, NetworkPolicy, ObjectName, PodUid};

use super::rules::{Union, narrowed};
use super::settle::SliceSet;
use super::slice::{Owner, PolicyKey, Slice};
use super::standing::{Directions, Standing};
use crate::convert::pod::IdentifiedPod;
use crate::source::Change;
use crate::warning::{Matter, Object, Warning};

/// What of a NetworkPolicy matters beside its slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnerPolicy {
    /// Its UID, by which its slices know it.
    pub(crate) uid: String,
    /// It is being deleted, and counts as gone, whatever finalizers still hold it.
    pub(crate) deleting: bool,
    /// What it says itself: its selector and directions, for pods that the controller has not listed yet, and the
    /// names of its ports.
    pub(crate) policy: Arc<NetworkPolicy>,
}

/// One object is now so; `None`: it is gone.
#[derive(Debug, Clone)]
pub(crate) enum Heard {
    /// A PolicyEndpoint.
    Slice(ObjectName, Option<Arc<Slice>>),
    /// A NetworkPolicy.
    Policy(ObjectName, Option<OwnerPolicy>),
    /// A pod of this node.
    Pod(ObjectName, Option<Arc<IdentifiedPod>>),
}

/// Everything that was heard, and what the engine was told of it.
#[derive(Debug, Default)]
pub(crate) struct State {
    policies: BTreeMap<ObjectName, OwnerPolicy>,
    pods: BTreeMap<ObjectName, Arc<IdentifiedPod>>,
    /// Of which policy each PolicyEndpoint is a slice.
    owners: BTreeMap<ObjectName, PolicyKey>,
    sets: BTreeMap<PolicyKey, SliceSet>,
    standings: BTreeMap<PolicyKey, Standing>,
    /// Policies that should have slices and have none, for so long that somebody should know.
    overdue: BTreeSet<PolicyKey>,
    /// Policies of which something has changed.
    changed: BTreeSet<PolicyKey>,
    /// Changes of pods that the engine has not been told.
    pod_changes: Vec<Change>,
    told: BTreeMap<PolicyKey, Told>,
    listed: BTreeMap<IpAddr, BTreeSet<ListName>>,
    /// Lists that no policy has any more.
    leaving: BTreeMap<ListName, Leaving>,
    /// Whether the engine was told anything. What there is before may be from before this enforcer.
    has_begun: bool,
}

/// How long a list outlives its policy: far longer than the engine needs from facts, which it writes first, to policy.
/// An empty list would deny meanwhile what both policies allow.
const FAREWELL: Duration = Duration::from_secs(1);

/// A list that no policy has any more.
#[derive(Debug)]
struct Leaving {
    until: Instant,
    addresses: BTreeSet<IpAddr>,
}

/// What the engine was told of one policy.
#[derive(Debug, Default)]
struct Told {
    policies: BTreeMap<ObjectName, Arc<NetworkPolicy>>,
    union: Arc<Union>,
}

impl State {
    /// Takes note of what was heard.
    pub(crate) fn take(&mut self, heard: Heard, now: Instant) {
        match heard {
            Heard::Slice(name, slice) => self.take_slice(name, slice, now),
            Heard::Policy(name, policy) => {
                let old = match policy {
                    Some(policy) => {
                        self.changed.insert(key_of(&name, &policy));
                        self.policies.insert(name.clone(), policy)
                    }
                    None => self.policies.remove(&name),
                };
                self.changed.extend(old.map(|old| key_of(&name, &old)));
            }
            Heard::Pod(name, pod) => {
                let of_namespace = PolicyKey::first_of(&name.namespace);
                let listing = self.sets.range(of_namespace..);
                let listing = listing
                    .take_while(|(key, _)| key.name.namespace == name.namespace)
                    .filter(|(_, set)| {
                        set.union().is_some_and(|u| u.pods.contains_key(&name.name))
                    });
                self.changed.extend(listing.map(|(key, _)| key.clone()));
                let change = Change::Pod(name.clone(), pod.clone());
                self.pod_changes.push(change);
                match pod {
                    Some(pod) => self.pods.insert(name, pod),
                    None => self.pods.remove(&name),
                };
            }
        }
    }

    fn take_slice(&mut self, name: ObjectName, slice: Option<Arc<Slice>>, now: Instant) {
        let key = slice.as_ref().map(|slice| slice.policy.clone());
        let before = match &key {
            Some(key) => self.owners.insert(name.clone(), key.clone()),
            None => self.owners.remove(&name),
        };
        if before != key
            && let Some(set) = before.and_then(|before| self.sets.get_mut(&before))
        {
            set.put(name.clone(), None, now);
        }
        if let Some(key) = key {
            self.sets.entry(key).or_default().put(name, slice, now);
        }
    }

    /// When [`Self::update`] has something to say at the latest, if nothing more is heard.
    pub(crate) fn due(&self) -> Option<Instant> {
        let sets = self.sets.values().filter_map(SliceSet::due);
        let standings = self.standings.values().filter_map(Standing::due);
        let leaving = self.leaving.values().map(|list| list.until);
        sets.chain(standings).chain(leaving).min()
    }

    /// When no policy's slices are being written any more, if nothing more is heard; nothing if none are.
    pub(crate) fn settled_at(&self) -> Option<Instant> {
        self.sets.values().filter_map(SliceSet::due).max()
    }

    /// What the engine is to be told now. Everything must have been listed once.
    pub(crate) fn update(&mut self, now: Instant) -> Vec<Change> {
        for (key, set) in &mut self.sets {
            if set.settle(key, now) {
                self.changed.insert(key.clone());
            }
        }
        self.sets.retain(|_, set| !set.is_empty());
        let due = self
            .standings
            .iter()
            .filter(|(_, s)| s.due().is_some_and(|due| due <= now));
        self.changed.extend(due.map(|(key, _)| key.clone()));
        let changed: Vec<_> = std::mem::take(&mut self.changed).into_iter().collect();
        let mut policies = BTreeMap::new();
        let mut addresses = BTreeSet::new();
        for key in changed {
            self.tell(key, now, &mut policies, &mut addresses);
        }
        for (name, Leaving { addresses: all, .. }) in
            self.leaving.extract_if(.., |_, list| list.until <= now)
        {
            for address in all {
                unlist(&mut self.listed, &name, address);
                addresses.insert(address);
            }
        }
        self.has_begun = true;
        let pods = std::mem::take(&mut self.pod_changes).into_iter();
        let policies = policies
            .into_iter()
            .map(|(name, policy)| Change::Policy(name, policy));
        let lists = addresses.into_iter().map(|address| {
            let lists = self.listed.get(&address);
            Change::Listed(address, lists.map(|lists| Arc::new(lists.clone())))
        });
        pods.chain(policies).chain(lists).collect()
    }

    /// Policies of which somebody should see why they have no slices.
    pub(crate) fn overdue(&self) -> impl Iterator<Item = Warning> {
        self.overdue.iter().map(|PolicyKey { name, owner }| {
            let text = format!(
                "NetworkPolicy {name}: no PolicyEndpoint says what it allows, so its pods are isolated without its rules; see \
                 whether the network policy controller runs"
            );
            let uid = match owner {
                Owner::NetworkPolicy(uid) => Some(uid.clone()),
                Owner::Other(..) | Owner::Nobody => None,
            };
            let object = Object::of::<networking::v1::NetworkPolicy>(name.clone(), uid);
            Warning::about(object, Matter::PolicyEndpointsMissing, text)
        })
    }

    /// Works out one policy, and notes what is other than before.
    fn tell(
        &mut self,
        key: PolicyKey,
        now: Instant,
        policies: &mut BTreeMap<ObjectName, Option<Arc<NetworkPolicy>>>,
        addresses: &mut BTreeSet<IpAddr>,
    ) {
        let old = self.told.remove(&key).unwrap_or_default();
        let new = self.work_out(&key, now);
        for name in old
            .policies
            .keys()
            .filter(|name| !new.policies.contains_key(name))
        {
            // A policy of the same name may have come since.
            policies.entry(name.clone()).or_insert(None);
        }
        for (name, policy) in &new.policies {
            if old.policies.get(name) != Some(policy) {
                policies.insert(name.clone(), Some(Arc::clone(policy)));
            }
        }
        let pairs = |union: &Union| -> BTreeSet<(ListName, IpAddr)> {
            let lists = union.lists.iter();
            let pairs = lists
                .flat_map(|(name, listed)| listed.iter().map(|address| (name.clone(), *address)));
            pairs.collect()
        };
        if !Arc::ptr_eq(&old.union, &new.union) {
            let (mut before, after) = (pairs(&old.union), pairs(&new.union));
            for name in new.union.lists.keys() {
                if let Some(Leaving { addresses, .. }) = self.leaving.remove(name) {
                    before.extend(addresses.into_iter().map(|address| (name.clone(), address)));
                }
            }
            for (name, address) in before.difference(&after) {
                if new.union.lists.contains_key(name) {
                    unlist(&mut self.listed, name, *address);
                    addresses.insert(*address);
                } else {
                    let leaving = self.leaving.entry(name.clone());
                    let leaving = leaving.or_insert_with(|| Leaving {
                        until: now + FAREWELL,
                        addresses: BTreeSet::new(),
                    });
                    leaving.addresses.insert(*address);
                }
            }
            for (name, address) in after.difference(&before) {
                self.listed
                    .entry(*address)
                    .or_default()
                    .insert(name.clone());
                addresses.insert(*address);
            }
        }
        if !new.policies.is_empty() {
            self.told.insert(key, new);
        }
    }

    fn work_out(&mut self, key: &PolicyKey, now: Instant) -> Told {
        let union = self.sets.get(key).and_then(SliceSet::union).map(Arc::clone);
        match &key.owner {
            Owner::NetworkPolicy(uid) => {
                let policy = self.policies.get(&key.name);
                match policy.filter(|policy| policy.uid == *uid && !policy.deleting) {
                    Some(policy) => {
                        let policy = Arc::clone(&policy.policy);
                        self.of_network_policy(key, &policy, union, now)
                    }
                    None => {
                        self.standings.remove(key);
                        self.note_overdue(key, false);
                        Told::default()
                    }
                }
            }
            Owner::Other(..) | Owner::Nobody => {
                let Some(union) = union else {
                    return Told::default();
                };
                let mut policy = of_union(&union);
                policy.members.listed = self.listed_pods(&key.name.namespace, &union);
                Told {
                    policies: [(key.told_as(), Arc::new(policy))].into(),
                    union,
                }
            }
        }
    }

    /// A live NetworkPolicy: what its slices say, for the pods that they list and for those that it selects itself;
    /// and the directions that they do not say yet, in which nothing is allowed.
    fn of_network_policy(
        &mut self,
        key: &PolicyKey,
        policy: &NetworkPolicy,
        union: Option<Arc<Union>>,
        now: Instant,
    ) -> Told {
        let said = union
            .as_deref()
            .map(Directions::of_union)
            .unwrap_or_default();
        let wanted = Directions::of_policy(policy);
        let running = || running(&self.pods, &key.name.namespace);
        let standing = self.standings.remove(key);
        let standing = standing.unwrap_or_else(|| match self.has_begun {
            true => Standing::default(),
            false => Standing::found(now),
        });
        let standing = standing.after(wanted, said, now, running);
        let mut told = Told::default();
        let missing = wanted.without(said);
        if missing.any() {
            let mut isolation = NetworkPolicy {
                members: policy.members.clone(),
                isolates_ingress: missing.ingress,
                isolates_egress: missing.egress,
                ingress: Vec::new(),
                egress: Vec::new(),
            };
            isolation.members.except = standing.excused();
            let name = &key.name;
            let name = ObjectName::new(&name.namespace, format!("{} (isolation)", name.name));
            told.policies.insert(name, Arc::new(isolation));
        }
        self.note_overdue(key, standing.is_overdue());
        self.standings.insert(key.clone(), standing);
        if let Some(union) = union {
            let mut of_slices = of_union(&union);
            of_slices.ingress = narrowed(&of_slices.ingress, &policy.ingress);
            of_slices.members = policy.members.clone();
            of_slices.members.listed = self.listed_pods(&key.name.namespace, &union);
            told.policies.insert(key.told_as(), Arc::new(of_slices));
            told.union = union;
        }
        told
    }

    /// The pods of this node that a union lists. A pod that has had the name before had another address.
    fn listed_pods(&self, namespace: &str, union: &Union) -> BTreeSet<PodUid> {
        let pods = of_namespace(&self.pods, namespace);
        let listed = pods.filter(|(name, pod)| {
            let listed = union.pods.get(&name.name);
            let addresses = &pod.pod.addresses;
            listed.is_some_and(|listed| addresses.iter().any(|address| listed.contains(address)))
        });
        listed.filter_map(|(_, pod)| pod.pod.uid.clone()).collect()
    }

    fn note_overdue(&mut self, key: &PolicyKey, is_overdue: bool) {
        let gauge = metrics::gauge!("podgate_networkpolicies_without_policyendpoints");
        if is_overdue && self.overdue.insert(key.clone()) {
            gauge.increment(1);
            tracing::warn!(policy = %key, "no PolicyEndpoint says what a policy allows; its pods are isolated without its rules");
        } else if !is_overdue && self.overdue.remove(key) {
            gauge.decrement(1);
            tracing::info!(policy = %key, "a policy has its PolicyEndpoints, or is gone");
        }
    }
}

/// An address is in a list no more.
fn unlist(listed: &mut BTreeMap<IpAddr, BTreeSet<ListName>>, name: &ListName, address: IpAddr) {
    if let Some(lists) = listed.get_mut(&address) {
        lists.remove(name);
        if lists.is_empty() {
            listed.remove(&address);
        }
    }
}

impl PolicyKey {
    /// Not after any policy of this namespace.
    fn first_of(namespace: &str) -> Self {
        Self {
            name: ObjectName::new(namespace, ""),
            owner: Owner::NetworkPolicy(String::new()),
        }
    }

    /// Under which name the engine knows it. Names of Kubernetes have no space, so no two policies share one.
    fn told_as(&self) -> ObjectName {
        let ObjectName { namespace, name } = &self.name;
        match &self.owner {
            Owner::NetworkPolicy(_) => self.name.clone(),
            Owner::Other(kind, uid) => ObjectName::new(namespace, format!("{name} ({kind} {uid})")),
            Owner::Nobody => ObjectName::new(namespace, format!("{name} (no owner)")),
        }
    }
}

fn key_of(name: &ObjectName, policy: &OwnerPolicy) -> PolicyKey {
    PolicyKey {
        name: name.clone(),
        owner: Owner::NetworkPolicy(policy.uid.clone()),
    }
}

fn of_union(union: &Union) -> NetworkPolicy {
    NetworkPolicy {
        members: Default::default(),
        isolates_ingress: union.isolates_ingress,
        isolates_egress: union.isolates_egress,
        ingress: union.ingress.clone(),
        egress: union.egress.clone(),
    }
}

fn of_namespace<'a>(
    pods: &'a BTreeMap<ObjectName, Arc<IdentifiedPod>>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a ObjectName, &'a Arc<IdentifiedPod>)> {
    pods.range(ObjectName::new(namespace, "")..)
        .take_while(move |(name, _)| name.namespace == namespace)
}

/// The pods of a namespace that have an address: their containers may be running.
fn running(pods: &BTreeMap<ObjectName, Arc<IdentifiedPod>>, namespace: &str) -> BTreeSet<PodUid> {
    of_namespace(pods, namespace)
        .filter(|(_, pod)| !pod.pod.addresses.is_empty())
        .filter_map(|(_, pod)| pod.pod.uid.clone())
        .collect()
}
