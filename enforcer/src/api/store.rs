// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the API server has of one kind, as far as it was said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use podgate_policy::model::ObjectName;

use super::follow::{Failure, Said};
use super::kind::{Kind, Seen};
use super::pulse::Recall;
use crate::stored::Ledger;

/// A watch that works says something every minute or so.
const SILENT: Duration = Duration::from_secs(100);

/// Every object of a kind.
#[derive(Debug)]
pub struct Store<K: Kind> {
    objects: BTreeMap<ObjectName, Stored<K::Value>>,
    /// Those of them with which something is wrong: few, and looked at with each update.
    wrong: BTreeSet<ObjectName>,
    /// The list that is being read, if one is.
    listing: Option<Listing>,
    synced: bool,
    failure: Option<Failure>,
    /// Whether the server was away, or has more to say than the watch, and nothing has been said since that was not
    /// known.
    is_behind: bool,
    /// When it was last heard that everything is known.
    heard: Option<Instant>,
    /// What the objects of each namespace take, whole.
    ledger: Ledger,
    /// Those that are kept closed.
    closed: BTreeSet<ObjectName>,
    /// Has all of them listed anew.
    recall: Recall,
    /// Questions that have no answer yet, and whose objects nobody has said anything newer of meanwhile.
    asked: BTreeMap<Ticket, ObjectName>,
    /// The next question.
    next: Ticket,
}

/// One question for an object, which tells its answer from those to other questions of the same name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A list of which the end has not come yet. All its pages are of one moment, before the first of them arrived.
#[derive(Debug, Default)]
struct Listing {
    /// What it has named so far.
    named: BTreeSet<ObjectName>,
    /// Once it has named something: the first question that was asked later. It and all after it are answered from a
    /// later moment than the list's.
    newer_from: Option<Ticket>,
    /// What answers to such questions said.
    answered: BTreeSet<ObjectName>,
}

impl Listing {
    /// Whether the answer to a question is newer than all that the list says.
    fn is_before(&self, ticket: Ticket) -> bool {
        self.newer_from.is_some_and(|newer| newer <= ticket)
    }
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<V> {
    /// Its UID.
    pub uid: Option<String>,
    /// What is kept of it.
    pub value: V,
    /// What is wrong with it.
    pub errors: Vec<String>,
    /// Whether it was asked for, and the watch has not brought it yet.
    early: bool,
    /// What it takes, or would if there were room.
    bytes: usize,
}

impl<V> Stored<V> {
    fn of<K: Kind<Value = V>>(seen: Seen<K>, early: bool) -> Self {
        Self {
            uid: seen.uid().map(str::to_owned),
            bytes: K::bytes(&seen.value),
            value: seen.value,
            errors: seen.errors,
            early,
        }
    }

    /// Whether what the watch says of an object with this UID is older: it has yet to bring the one asked for.
    fn is_newer_than(&self, uid: Option<&str>) -> bool {
        self.early && self.uid.as_deref() != uid
    }
}

/// An object is now so; `None`: it is gone.
pub type Changed<V> = (ObjectName, Option<V>);

impl<K: Kind> Default for Store<K> {
    fn default() -> Self {
        Self::of(usize::MAX)
    }
}

impl<K: Kind> Store<K> {
    /// One whose objects may take so many bytes.
    pub fn of(room: usize) -> Self {
        Self {
            objects: BTreeMap::new(),
            wrong: BTreeSet::new(),
            listing: None,
            synced: false,
            failure: None,
            is_behind: false,
            heard: None,
            ledger: Ledger::of(room),
            closed: BTreeSet::new(),
            recall: Recall::default(),
            asked: BTreeMap::new(),
            next: Ticket::default(),
        }
    }

    /// Takes note of what was said, and returns what it changes.
    pub fn take(&mut self, said: Said<K>) -> Vec<Changed<K::Value>> {
        let is_news = match &said {
            // Half a list says nothing of what it has yet to name.
            Said::Object(_) => self.listing.is_none(),
            Said::Listed | Said::Gone(..) | Said::Begun | Said::Good => true,
            Said::Listing | Said::Behind | Said::Failed(_) => false,
        };
        match &said {
            Said::Behind | Said::Failed(_) => self.is_behind = true,
            Said::Object(_) if self.listing.is_some() => {}
            Said::Object(_) | Said::Listed | Said::Gone(..) | Said::Good => self.is_behind = false,
            Said::Listing | Said::Begun => {}
        }
        if is_news {
            self.failure = None;
            self.heard = Some(Instant::now());
        }
        match said {
            Said::Listing => {
                self.listing = Some(Listing::default());
                Vec::new()
            }
            Said::Listed => {
                self.synced = true;
                let list = self.listing.take();
                self.asked
                    .retain(|ticket, _| list.as_ref().is_some_and(|list| list.is_before(*ticket)));
                list.map_or_else(Vec::new, |list| self.forget_unlisted(&list))
            }
            Said::Object(seen) => {
                let name = seen.name();
                let is_older = if let Some(list) = &mut self.listing {
                    list.newer_from.get_or_insert(self.next);
                    list.named.insert(name.clone());
                    self.asked
                        .retain(|ticket, asked| *asked != name || list.is_before(*ticket));
                    list.answered.contains(&name)
                } else {
                    self.overtake(&name);
                    self.is_older(&name, seen.uid())
                };
                if is_older {
                    return Vec::new();
                }
                self.put(name, Stored::of(*seen, false))
            }
            Said::Gone(name, uid) => {
                self.overtake(&name);
                if self.is_older(&name, uid.as_deref()) {
                    return Vec::new();
                }
                self.remove(&name)
            }
            Said::Begun | Said::Good | Said::Behind => Vec::new(),
            Said::Failed(failure) => {
                self.failure = Some(failure);
                Vec::new()
            }
        }
    }

    /// An object is being asked for, beside the watch.
    pub fn ask(&mut self, name: ObjectName) -> Ticket {
        let ticket = self.next;
        self.next = Ticket(ticket.0 + 1);
        self.asked.insert(ticket, name);
        ticket
    }

    /// What was answered. None: the watch, or the answer to another question, said something meanwhile that may be
    /// newer, so this one is worth nothing. Otherwise it is newer than all that was said, as it was asked for after that.
    pub fn answered(
        &mut self,
        ticket: Ticket,
        found: Option<Seen<K>>,
    ) -> Option<Vec<Changed<K::Value>>> {
        let name = self.asked.remove(&ticket)?;
        let Some(seen) = found else {
            return Some(Vec::new());
        };
        self.overtake(&name);
        if let Some(list) = &mut self.listing
            && list.is_before(ticket)
        {
            list.answered.insert(name.clone());
        }
        Some(self.put(name, Stored::of(seen, true)))
    }

    /// Whether it has been listed once.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Why it is not being followed now.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// The kind, and when it was last heard that everything of it is known; none if it never was.
    pub fn freshness(&self) -> (&'static str, Option<Instant>) {
        (K::NAME, self.heard.filter(|_| self.synced))
    }

    /// Why what is known of the kind is older than it is at the server, if that is known; for people.
    pub fn doubt(&self, now: Instant) -> Option<String> {
        if !self.synced {
            return None;
        }
        let age = now.saturating_duration_since(self.heard?);
        let why = match &self.failure {
            Some(failure) => failure.to_string(),
            None if age > SILENT => "nothing is heard of them".to_owned(),
            None if self.is_behind => "the watch has a gap, and has not caught up yet".to_owned(),
            None => return None,
        };
        Some(format!(
            "what is known of {} may be older than it is at the API server: {why}",
            K::NAME
        ))
    }

    /// The object of this name.
    pub fn get(&self, name: &ObjectName) -> Option<&Stored<K::Value>> {
        self.objects.get(name)
    }

    /// The objects of a namespace, by name.
    pub fn of_namespace<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a ObjectName, &'a K::Value)> {
        self.objects
            .range(ObjectName::new(namespace, "")..)
            .take_while(move |(name, _)| name.namespace == namespace)
            .map(|(name, stored)| (name, &stored.value))
    }

    /// What is wrong with objects: name, UID, error.
    pub fn errors(&self) -> impl Iterator<Item = (&ObjectName, Option<&str>, &str)> {
        let wrong = self.wrong.iter();
        let stored = wrong.filter_map(|name| self.objects.get_key_value(name));
        stored.flat_map(|(name, stored)| {
            let errors = stored.errors.iter();
            errors.map(move |error| (name, stored.uid.as_deref(), error.as_str()))
        })
    }

    fn overtake(&mut self, name: &ObjectName) {
        self.asked.retain(|_, asked| asked != name);
    }

    fn is_older(&self, name: &ObjectName, uid: Option<&str>) -> bool {
        let known = self.objects.get(name);
        known.is_some_and(|known| known.is_newer_than(uid))
    }

    fn put(&mut self, name: ObjectName, mut new: Stored<K::Value>) -> Vec<Changed<K::Value>> {
        let taken = self.objects.get(&name).map_or(0, |old| old.bytes);
        let switched = self.ledger.change(&name.namespace, taken, new.bytes);
        if self.ledger.is_too_much(&name.namespace) {
            new.value = K::closed(&new.value);
            self.closed.insert(name.clone());
        } else {
            self.closed.remove(&name);
        }
        let old = self.objects.get(&name);
        if old.map(|old| &old.errors) != Some(&new.errors) {
            for error in &new.errors {
                tracing::warn!(kind = K::NAME, object = %name, error, "object has invalid fields");
            }
        }
        let changed = old.map(|old| &old.value) != Some(&new.value);
        let change = changed.then(|| (name.clone(), Some(new.value.clone())));
        if new.errors.is_empty() {
            self.right(&name);
        } else if self.wrong.insert(name.clone()) {
            metrics::gauge!("podgate_objects_wrong", "kind" => K::NAME).increment(1);
        }
        self.objects.insert(name, new);
        let mut changes = self.switch(switched);
        changes.extend(change);
        changes
    }

    /// Closes the objects of those of these namespaces that do not fit, and has those of the others listed anew.
    fn switch(&mut self, switched: BTreeSet<String>) -> Vec<Changed<K::Value>> {
        let mut changes = Vec::new();
        for namespace in switched {
            if !self.ledger.is_too_much(&namespace) {
                tracing::info!(
                    namespace,
                    kind = K::NAME,
                    "there is room for the objects of a namespace again"
                );
                self.recall.ask();
                continue;
            }
            let why = self.ledger.why(&namespace, K::NAME);
            tracing::warn!(
                namespace,
                kind = K::NAME,
                why,
                "the objects of a namespace are not kept whole"
            );
            let first = ObjectName::new(namespace.as_str(), "");
            let objects = self.objects.range_mut(first..);
            for (name, stored) in objects.take_while(|(name, _)| name.namespace == namespace) {
                self.closed.insert(name.clone());
                let closed = K::closed(&stored.value);
                if closed != stored.value {
                    stored.value = closed.clone();
                    changes.push((name.clone(), Some(closed)));
                }
            }
        }
        changes
    }

    /// Has everything listed anew when there is room again for what was not kept.
    pub fn recall(&self) -> Recall {
        self.recall.clone()
    }

    /// The namespaces of which objects are kept closed, and why.
    pub fn closed(&self) -> BTreeMap<&str, String> {
        let mut closed = BTreeMap::new();
        let mut next = self.closed.first();
        while let Some(name) = next {
            let namespace = name.namespace.as_str();
            closed.insert(namespace, self.ledger.why(namespace, K::NAME));
            // The first name of the next namespace that there could be.
            let after = ObjectName::new(format!("{namespace}\0"), "");
            next = self.closed.range(after..).next();
        }
        closed
    }

    fn remove(&mut self, name: &ObjectName) -> Vec<Changed<K::Value>> {
        self.right(name);
        self.closed.remove(name);
        let Some(gone) = self.objects.remove(name) else {
            return Vec::new();
        };
        let switched = self.ledger.change(&name.namespace, gone.bytes, 0);
        let mut changes = self.switch(switched);
        changes.push((name.clone(), None));
        changes
    }

    /// Nothing is wrong with it, or not any more.
    fn right(&mut self, name: &ObjectName) {
        if self.wrong.remove(name) {
            metrics::gauge!("podgate_objects_wrong", "kind" => K::NAME).decrement(1);
        }
    }

    fn forget_unlisted(&mut self, list: &Listing) -> Vec<Changed<K::Value>> {
        // Any of them may be the one whose name cannot be read.
        if list.named.iter().any(|name| name.name.is_empty()) {
            return Vec::new();
        }
        let is_gone =
            |name: &&ObjectName| !list.named.contains(name) && !list.answered.contains(name);
        let gone: Vec<ObjectName> = self.objects.keys().filter(is_gone).cloned().collect();
        gone.iter().flat_map(|name| self.remove(name)).collect()
    }
}
