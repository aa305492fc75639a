// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the files' objects take of the enforcer's memory: those of a namespace that takes too much are closed
//! ([`stored`](crate::stored)), and their files are read again when there is room.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::FileState;
use super::file::{Found, Object, ObjectKey};
use crate::stored::{self, Ledger, Rooms};
use crate::warning::Warning;

/// A kind of objects that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Policies,
    EndpointSlices,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Policies => "networkpolicies",
            Self::EndpointSlices => "endpointslices",
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Policies => stored::CLOSED_POLICIES,
            Self::EndpointSlices => stored::CLOSED_ENDPOINT_SLICES,
        }
    }
}

/// What the objects of one file take: of each kind, of each namespace.
pub(super) type Takes = BTreeMap<(Kind, String), usize>;

/// The room that there is.
#[derive(Debug)]
pub(super) struct Room {
    policies: Ledger,
    endpoint_slices: Ledger,
    /// Files that are to be read again.
    again: BTreeSet<PathBuf>,
}

impl Default for Room {
    fn default() -> Self {
        Self::of(Rooms::default())
    }
}

/// Of what kind and namespace an object is, and what it takes; none: it is not counted.
fn counted(found: &Found) -> Option<(Kind, &str, usize)> {
    let (kind, name) = match &found.key {
        ObjectKey::Policy(name) => (Kind::Policies, name),
        ObjectKey::EndpointSlice(name) => (Kind::EndpointSlices, name),
        ObjectKey::Namespace(_)
        | ObjectKey::Pod(_)
        | ObjectKey::Node(_)
        | ObjectKey::Service(_) => return None,
    };
    Some((kind, &name.namespace, found.bytes))
}

impl Room {
    /// So much.
    pub(super) fn of(rooms: Rooms) -> Self {
        Self {
            policies: Ledger::of(rooms.policies),
            endpoint_slices: Ledger::of(rooms.endpoint_slices),
            again: BTreeSet::new(),
        }
    }

    fn ledger(&mut self, kind: Kind) -> &mut Ledger {
        match kind {
            Kind::Policies => &mut self.policies,
            Kind::EndpointSlices => &mut self.endpoint_slices,
        }
    }

    fn of_kind(&self, kind: Kind) -> &Ledger {
        match kind {
            Kind::Policies => &self.policies,
            Kind::EndpointSlices => &self.endpoint_slices,
        }
    }

    /// What the file at `path` has is other than before, or it is gone.
    pub(super) fn account(&mut self, files: &mut BTreeMap<PathBuf, FileState>, path: &Path) {
        let file = files.get(path);
        let now = file.map(FileState::takes).unwrap_or_default();
        self.change(files, path, now);
        let Some(file) = files.get_mut(path) else {
            return;
        };
        for found in file.all() {
            if let Some((kind, namespace, _)) = counted(found)
                && self.ledger(kind).is_too_much(namespace)
            {
                found.close();
            }
        }
    }

    /// The file is gone, and took this.
    pub(super) fn forget(
        &mut self,
        files: &mut BTreeMap<PathBuf, FileState>,
        path: &Path,
        taken: Takes,
    ) {
        self.again.remove(path);
        for ((kind, namespace), bytes) in taken {
            let switched = self.ledger(kind).change(&namespace, bytes, 0);
            self.switch(files, kind, switched);
        }
    }

    fn change(&mut self, files: &mut BTreeMap<PathBuf, FileState>, path: &Path, now: Takes) {
        let Some(file) = files.get_mut(path) else {
            return;
        };
        let before = std::mem::replace(&mut file.taken, now.clone());
        let keys: BTreeSet<_> = before.keys().chain(now.keys()).cloned().collect();
        for key in keys {
            let of = |takes: &Takes| takes.get(&key).copied().unwrap_or(0);
            let ledger = self.ledger(key.0);
            let switched = ledger.change(&key.1, of(&before), of(&now));
            self.switch(files, key.0, switched);
        }
    }

    fn switch(
        &mut self,
        files: &mut BTreeMap<PathBuf, FileState>,
        kind: Kind,
        switched: BTreeSet<String>,
    ) {
        for namespace in switched {
            let too_much = self.ledger(kind).is_too_much(&namespace);
            if too_much {
                let why = self.ledger(kind).why(&namespace, kind.name());
                tracing::warn!(
                    namespace,
                    why,
                    "the objects of a namespace are not kept whole"
                );
            }
            for (path, file) in files.iter_mut() {
                for found in file.all() {
                    if counted(found).is_none_or(|it| (it.0, it.1) != (kind, &namespace)) {
                        continue;
                    }
                    if too_much {
                        found.close();
                    } else if found.is_closed {
                        self.again.insert(path.clone());
                    }
                }
            }
        }
    }

    /// Files that are to be read again, because there is room for what was not kept of them.
    pub(super) fn take_again(&mut self) -> BTreeSet<PathBuf> {
        std::mem::take(&mut self.again)
    }

    /// Files that say something by now that is not in force, while of what is in force not all was kept, for which there is
    /// room: reading them again does not bring it back.
    pub(super) fn lacking(&self, files: &BTreeMap<PathBuf, FileState>) -> BTreeSet<PathBuf> {
        let lacking = files.iter().filter(|(_, file)| {
            let mut closed = file.closed();
            closed.any(|(kind, namespace)| self.lacks(file, kind, namespace))
        });
        lacking.map(|(path, _)| path.clone()).collect()
    }

    fn lacks(&self, file: &FileState, kind: Kind, namespace: &str) -> bool {
        !file.latest.is_in_force() && !self.of_kind(kind).is_too_much(namespace)
    }

    /// What is said of the namespaces whose objects are closed.
    pub(super) fn warnings(&self, files: &BTreeMap<PathBuf, FileState>) -> Vec<Warning> {
        let mut closed: BTreeMap<(Kind, &str), Option<&Path>> = BTreeMap::new();
        for (path, file) in files {
            for (kind, namespace) in file.closed() {
                let lacking = closed.entry((kind, namespace)).or_default();
                if self.lacks(file, kind, namespace) {
                    *lacking = Some(path);
                }
            }
        }
        let warning = |((kind, namespace), lacking): (&(Kind, &str), &Option<&Path>)| {
            let why = match lacking {
                None => self.of_kind(*kind).why(namespace, kind.name()),
                Some(path) => format!(
                    "there is room for its {} again, but {} says something now that is not in force, and no copy of \
                     what it said before can be read: mend the file",
                    kind.name(),
                    path.display()
                ),
            };
            Warning::suspended(namespace, &why, kind.meaning())
        };
        closed.iter().map(warning).collect()
    }
}

impl FileState {
    /// What its objects take: those in force, or those that are to be, whichever is more.
    fn takes(&self) -> Takes {
        let sum = |found: &[Found]| {
            let mut takes = Takes::new();
            for (kind, namespace, bytes) in found.iter().filter_map(counted) {
                *takes.entry((kind, namespace.to_owned())).or_default() += bytes;
            }
            takes
        };
        let mut takes = sum(&self.in_force);
        for (key, bytes) in sum(self.latest.waiting()) {
            let taken = takes.entry(key).or_default();
            *taken = bytes.max(*taken);
        }
        takes
    }

    /// Of what kinds and namespaces there are objects in force that are not kept whole.
    fn closed(&self) -> impl Iterator<Item = (Kind, &str)> {
        let closed = self.in_force.iter().filter(|found| found.is_closed);
        let closed = closed.filter_map(counted);
        closed.map(|(kind, namespace, _)| (kind, namespace))
    }

    /// Has whole again what is in force, if that is what `said` has whole.
    pub(super) fn restore(&mut self, said: Vec<Found>) {
        let mut said: BTreeMap<ObjectKey, Found> = said
            .into_iter()
            .map(|found| (found.key.clone(), found))
            .collect();
        for found in self.in_force.iter_mut().filter(|found| found.is_closed) {
            if let Some(whole) = said.remove(&found.key)
                && whole.bytes == found.bytes
                && whole.object.closed() == found.object
            {
                *found = whole;
            }
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Found> {
        let waiting = self.latest.waiting_mut();
        self.in_force.iter_mut().chain(waiting)
    }
}

impl Found {
    /// Keeps no more of it than what allows nothing.
    fn close(&mut self) {
        if self.is_closed {
            return;
        }
        self.is_closed = true;
        self.object = self.object.closed();
    }

    /// What it takes.
    pub(super) fn bytes_of(object: &Object) -> usize {
        match object {
            Object::Policy(policy) => stored::of_policy(policy),
            Object::EndpointSlice(slice) => stored::of_slice(slice),
            Object::Namespace(_) | Object::Pod(_) | Object::Node(_) | Object::Service(_) => 0,
        }
    }
}

impl Object {
    fn closed(&self) -> Self {
        match self {
            Self::Policy(policy) => Self::Policy(stored::closed_policy(policy)),
            Self::EndpointSlice(slice) => Self::EndpointSlice(stored::closed_slice(slice)),
            Self::Namespace(_) | Self::Pod(_) | Self::Node(_) | Self::Service(_) => self.clone(),
        }
    }
}
