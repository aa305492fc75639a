//! What the API server has of one kind, as far as it was said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use podgate_policy::model::ObjectName;

use super::follow::{Failure, Said};
use super::kind::{Kind, Seen};

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
    /// Whether the server was away, and nothing has been said since that was not known.
    is_behind: bool,
    /// When it was last heard that everything is known.
    heard: Option<Instant>,
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
    pub complaints: Vec<String>,
    /// Whether it was asked for, and the watch has not brought it yet.
    early: bool,
}

impl<V> Stored<V> {
    fn of<K: Kind<Value = V>>(seen: Seen<K>, early: bool) -> Self {
        Self {
            uid: seen.uid().map(str::to_owned),
            value: seen.value,
            complaints: seen.complaints,
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
        Self {
            objects: BTreeMap::new(),
            wrong: BTreeSet::new(),
            listing: None,
            synced: false,
            failure: None,
            is_behind: false,
            heard: None,
            asked: BTreeMap::new(),
            next: Ticket::default(),
        }
    }
}

impl<K: Kind> Store<K> {
    /// Takes note of what was said, and returns what it changes.
    pub fn take(&mut self, said: Said<K>) -> Vec<Changed<K::Value>> {
        let is_news = match &said {
            // Half a list says nothing of what it has yet to name.
            Said::Object(_) => self.listing.is_none(),
            Said::Listed | Said::Gone(..) | Said::Begun | Said::Good => true,
            Said::Listing | Said::Failed(_) => false,
        };
        match &said {
            Said::Failed(_) => self.is_behind = true,
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
                    .into_iter()
                    .collect()
            }
            Said::Gone(name, uid) => {
                self.overtake(&name);
                if self.is_older(&name, uid.as_deref()) {
                    return Vec::new();
                }
                let gone = self.remove(&name);
                gone.map(|_| (name, None)).into_iter().collect()
            }
            Said::Begun | Said::Good => Vec::new(),
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
        let change = self.put(name, Stored::of(seen, true));
        Some(change.into_iter().collect())
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
            None if self.is_behind => "their watch has only begun again".to_owned(),
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

    /// What is wrong with objects: name, UID, complaint.
    pub fn complaints(&self) -> impl Iterator<Item = (&ObjectName, Option<&str>, &str)> {
        let wrong = self.wrong.iter();
        let stored = wrong.filter_map(|name| self.objects.get_key_value(name));
        stored.flat_map(|(name, stored)| {
            let complaints = stored.complaints.iter();
            complaints.map(move |complaint| (name, stored.uid.as_deref(), complaint.as_str()))
        })
    }

    fn overtake(&mut self, name: &ObjectName) {
        self.asked.retain(|_, asked| asked != name);
    }

    fn is_older(&self, name: &ObjectName, uid: Option<&str>) -> bool {
        let known = self.objects.get(name);
        known.is_some_and(|known| known.is_newer_than(uid))
    }

    fn put(&mut self, name: ObjectName, new: Stored<K::Value>) -> Option<Changed<K::Value>> {
        let old = self.objects.get(&name);
        if old.map(|old| &old.complaints) != Some(&new.complaints) {
            for complaint in &new.complaints {
                tracing::warn!(kind = K::NAME, object = %name, complaint, "an object is wrong in part");
            }
        }
        let changed = old.map(|old| &old.value) != Some(&new.value);
        let change = changed.then(|| (name.clone(), Some(new.value.clone())));
        if new.complaints.is_empty() {
            self.right(&name);
        } else if self.wrong.insert(name.clone()) {
            metrics::gauge!("podgate_objects_wrong", "kind" => K::NAME).increment(1);
        }
        self.objects.insert(name, new);
        change
    }

    fn remove(&mut self, name: &ObjectName) -> Option<Stored<K::Value>> {
        self.right(name);
        self.objects.remove(name)
    }

    /// Nothing is wrong with it, or not any more.
    fn right(&mut self, name: &ObjectName) {
        if self.wrong.remove(name) {
            metrics::gauge!("podgate_objects_wrong", "kind" => K::NAME).decrement(1);
        }
    }

    fn forget_unlisted(&mut self, list: &Listing) -> Vec<Changed<K::Value>> {
        let is_gone =
            |name: &&ObjectName| !list.named.contains(name) && !list.answered.contains(name);
        let gone: Vec<ObjectName> = self.objects.keys().filter(is_gone).cloned().collect();
        for name in &gone {
            self.remove(name);
        }
        gone.into_iter().map(|name| (name, None)).collect()
    }
}
