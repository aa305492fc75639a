//! What the API server has of one kind, as far as it was said.

use std::collections::{BTreeMap, BTreeSet};

use podgate_policy::model::ObjectName;

use super::follow::{Failure, Said};
use super::kind::Kind;

/// Every object of a kind.
#[derive(Debug)]
pub struct Store<K: Kind> {
    objects: BTreeMap<ObjectName, Stored<K::Value>>,
    /// What a list has named so far, while one is being read.
    listing: Option<BTreeSet<ObjectName>>,
    synced: bool,
    failure: Option<Failure>,
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
}

/// An object is now so; `None`: it is gone.
pub type Changed<V> = (ObjectName, Option<V>);

impl<K: Kind> Default for Store<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listing: None,
            synced: false,
            failure: None,
        }
    }
}

impl<K: Kind> Store<K> {
    /// Takes note of what was said, and returns what it changes.
    pub fn take(&mut self, said: Said<K>) -> Vec<Changed<K::Value>> {
        match said {
            Said::Listing => {
                self.listing = Some(BTreeSet::new());
                Vec::new()
            }
            Said::Listed => {
                self.failure = None;
                self.synced = true;
                self.forget_unlisted()
            }
            Said::Object(seen) => {
                self.failure = None;
                let name = seen.name();
                if let Some(listed) = &mut self.listing {
                    listed.insert(name.clone());
                }
                let stored = Stored {
                    uid: seen.uid().map(str::to_owned),
                    value: seen.value,
                    complaints: seen.complaints,
                };
                self.put(name, stored).into_iter().collect()
            }
            Said::Gone(name, _) => {
                self.failure = None;
                let gone = self.objects.remove(&name);
                gone.map(|_| (name, None)).into_iter().collect()
            }
            Said::Good => {
                self.failure = None;
                Vec::new()
            }
            Said::Failed(failure) => {
                self.failure = Some(failure);
                Vec::new()
            }
        }
    }

    /// Whether it has been listed once.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Why it is not being followed now.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// The object of this name.
    pub fn get(&self, name: &ObjectName) -> Option<&Stored<K::Value>> {
        self.objects.get(name)
    }

    /// What is wrong with objects, by name.
    pub fn complaints(&self) -> impl Iterator<Item = (&ObjectName, &str)> {
        self.objects.iter().flat_map(|(name, stored)| {
            let complaints = stored.complaints.iter();
            complaints.map(move |complaint| (name, complaint.as_str()))
        })
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
        self.objects.insert(name, new);
        change
    }

    fn forget_unlisted(&mut self) -> Vec<Changed<K::Value>> {
        let Some(listed) = self.listing.take() else {
            return Vec::new();
        };
        let unlisted = |name: &&ObjectName| !listed.contains(name);
        let gone: Vec<ObjectName> = self.objects.keys().filter(unlisted).cloned().collect();
        for name in &gone {
            self.objects.remove(name);
        }
        gone.into_iter().map(|name| (name, None)).collect()
    }
}
