// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The source `manifests`: a directory of Kubernetes YAML and JSON.
//!
//! ```text
//! directory ──► watch ──► bytes ──► Manifests ──► Snapshot (complete) ──► owner task, which compares
//! ```
//! A file counts as a whole: while anything in it is wrong, what it said last stays in force, and the snapshot says
//! what is wrong. Policies that it did not have before isolate their pods all the same, without rules. [`Manifests`] is
//! pure; [`watch()`] feeds it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use podgate_policy::model::{NetworkPolicy, ObjectName};

use crate::source::Objects;
use crate::stored::Rooms;
use crate::warning::Warning;

mod entry;
mod file;
mod large;
mod last_good;
mod node;
mod room;
mod salvage;
mod typed;
mod watch;

#[cfg(test)]
mod tests;

pub use file::FileError;
use file::{Found, Object, ObjectKey, Wrong};
pub use node::Place;
use room::{Room, Takes};
pub use watch::{WatchError, watch};

/// All that the directory says, complete in itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Every object.
    pub objects: Objects,
    /// Namespaces whose objects are not kept whole, and files whose content is not kept for the next start.
    pub warnings: Vec<Warning>,
    /// What is wrong now, by path. Empty: everything in the directory is in this snapshot.
    pub errors: Vec<FileError>,
}

/// How many errors are kept of all files. Of each file that is wrong there is one at least.
const MOST_ERRORS: usize = 1000;

/// What every file last said.
#[derive(Debug, Default)]
pub struct Manifests {
    files: BTreeMap<PathBuf, FileState>,
    room: Room,
    /// How many errors are kept of all files.
    errors: usize,
}

/// One file.
#[derive(Debug, Default)]
struct FileState {
    /// What it last said that could be used.
    in_force: Vec<Found>,
    /// What it says now.
    latest: Latest,
    /// What both take.
    taken: Takes,
}

/// What became of the latest content of a file.
#[derive(Debug, Default)]
enum Latest {
    /// It is in force.
    #[default]
    InForce,
    /// It can be read, and is in force as soon as no other file has an object of the same name.
    Waiting(Vec<Found>),
    /// It is wrong.
    Wrong(Wrong),
}

impl Manifests {
    /// None yet, and their objects may take so much.
    pub fn of(rooms: Rooms) -> Self {
        Self {
            files: BTreeMap::new(),
            room: Room::of(rooms),
            errors: 0,
        }
    }

    /// The content of the file `path` is now `bytes`.
    pub fn apply_file(&mut self, path: &Path, bytes: &[u8]) {
        self.apply(path, file::read(path, bytes));
    }

    /// That is what the file `path` says now.
    fn apply(&mut self, path: &Path, found: Result<Vec<Found>, Wrong>) {
        let latest = match found {
            Ok(found) => Latest::Waiting(found),
            Err(wrong) => Latest::Wrong(wrong),
        };
        self.put(path, latest);
    }

    fn put(&mut self, path: &Path, mut latest: Latest) {
        let file = self.files.entry(path.to_owned()).or_default();
        self.errors -= file.latest.errors();
        if let Latest::Wrong(wrong) = &mut latest {
            wrong.keep(MOST_ERRORS.saturating_sub(self.errors));
        }
        self.errors += latest.errors();
        file.latest = latest;
        self.room.account(&mut self.files, path);
    }

    /// The file `path` cannot be read, for `reason`; what it last said stays.
    pub fn unreadable_file(&mut self, path: &Path, reason: String) {
        let error = FileError {
            path: path.to_owned(),
            document: None,
            place: None,
            field: None,
            reason,
        };
        let file = self.files.entry(path.to_owned()).or_default();
        let isolating = match &file.latest {
            Latest::InForce => Vec::new(),
            Latest::Waiting(found) => policies_of(found),
            Latest::Wrong(wrong) => wrong.isolating.clone(),
        };
        let wrong = Wrong {
            errors: vec![error],
            unlisted: 0,
            isolating,
        };
        self.put(path, Latest::Wrong(wrong));
    }

    /// The file `path` is gone, and what it said with it.
    pub fn remove_file(&mut self, path: &Path) {
        if let Some(gone) = self.files.remove(path) {
            self.errors -= gone.latest.errors();
            self.room.forget(&mut self.files, path, gone.taken);
        }
    }

    /// Files of which not all was kept, and for all of which there is room now: they are to be read again.
    pub(crate) fn take_again(&mut self) -> BTreeSet<PathBuf> {
        self.room.take_again()
    }

    /// Files of which what is in force was not kept whole, for which there is room now, and that say something else by now,
    /// which is not in force: what they said before is to be [restored](Self::restore).
    pub(crate) fn lacking(&self) -> BTreeSet<PathBuf> {
        self.room.lacking(&self.files)
    }

    /// What is in force of the file `path` is whole again, as far as it is what `said` says.
    pub(crate) fn restore(&mut self, path: &Path, said: &[u8]) {
        if let (Some(file), Ok(said)) = (self.files.get_mut(path), file::read(path, said)) {
            file.restore(said);
            self.room.account(&mut self.files, path);
        }
    }

    /// Whether what the file `path` says now is in force.
    pub(crate) fn is_in_force(&self, path: &Path) -> bool {
        let file = self.files.get(path);
        file.is_some_and(|file| file.latest.is_in_force())
    }

    /// Puts in force what can be, and says what is in force. Objects may move between files when both files are
    /// applied before this is called.
    pub fn snapshot(&mut self) -> Snapshot {
        let conflicts = self.settle();
        let mut snapshot = Snapshot {
            warnings: self.room.warnings(&self.files),
            ..Snapshot::default()
        };
        for (path, file) in &self.files {
            for found in &file.in_force {
                match (&found.key, &found.object) {
                    (ObjectKey::Namespace(name), Object::Namespace(namespace)) => {
                        snapshot
                            .objects
                            .namespaces
                            .insert(name.clone(), namespace.clone());
                    }
                    (ObjectKey::Pod(name), Object::Pod(pod)) => {
                        snapshot.objects.pods.insert(name.clone(), pod.clone());
                    }
                    (ObjectKey::Policy(name), Object::Policy(policy)) => {
                        snapshot
                            .objects
                            .policies
                            .insert(name.clone(), policy.clone());
                    }
                    (ObjectKey::Service(name), Object::Service(service)) => {
                        snapshot
                            .objects
                            .services
                            .insert(name.clone(), service.clone());
                    }
                    (ObjectKey::Node(name), Object::Node(addresses)) => {
                        snapshot
                            .objects
                            .nodes
                            .insert(name.clone(), addresses.clone());
                    }
                    (ObjectKey::EndpointSlice(name), Object::EndpointSlice(slice)) => {
                        snapshot
                            .objects
                            .endpoint_slices
                            .insert(name.clone(), slice.clone());
                    }
                    (
                        ObjectKey::Namespace(_)
                        | ObjectKey::Pod(_)
                        | ObjectKey::Policy(_)
                        | ObjectKey::Service(_)
                        | ObjectKey::Node(_)
                        | ObjectKey::EndpointSlice(_),
                        _,
                    ) => unreachable!("an object's key is made with the object"),
                }
            }
            match &file.latest {
                Latest::InForce => {}
                Latest::Waiting(found) => {
                    snapshot.errors.extend(conflicts.get(path).cloned());
                    file.isolate(path, policies_of(found), &mut snapshot);
                }
                Latest::Wrong(wrong) => {
                    snapshot.errors.extend(wrong.listed(path));
                    file.isolate(path, wrong.isolating.iter().cloned(), &mut snapshot);
                }
            }
        }
        snapshot
    }

    /// Puts every waiting file in force that shares no object with another one, and returns why the others wait.
    /// Of two that want the same object the one in force keeps it; of two new ones the first by path gets it.
    fn settle(&mut self) -> BTreeMap<PathBuf, FileError> {
        let mut conflicts: BTreeMap<PathBuf, FileError> = BTreeMap::new();
        loop {
            let held: BTreeSet<PathBuf> = conflicts.keys().cloned().collect();
            let mut owners: BTreeMap<&ObjectKey, (&Path, &Found)> = BTreeMap::new();
            let wants = |path: &Path, file: &FileState| {
                matches!(file.latest, Latest::Waiting(_)) && !held.contains(path)
            };
            for (path, file) in self.files.iter().filter(|(p, f)| !wants(p, f)) {
                owners.extend(file.in_force.iter().map(|f| (&f.key, (path.as_path(), f))));
            }
            for (path, file) in self.files.iter().filter(|(p, f)| wants(p, f)) {
                let Latest::Waiting(found) = &file.latest else {
                    continue;
                };
                match found
                    .iter()
                    .find_map(|f| owners.get(&f.key).map(|owner| (f, *owner)))
                {
                    Some((mine, owner)) => {
                        conflicts.insert(path.clone(), conflict(path, mine, owner));
                    }
                    None => owners.extend(found.iter().map(|f| (&f.key, (path.as_path(), f)))),
                }
            }
            if conflicts.len() == held.len() {
                break;
            }
        }
        let mut settled = Vec::new();
        for (path, file) in &mut self.files {
            if conflicts.contains_key(path) {
                continue;
            }
            match std::mem::take(&mut file.latest) {
                Latest::InForce => {}
                Latest::Waiting(found) => {
                    file.in_force = found;
                    settled.push(path.clone());
                }
                wrong @ Latest::Wrong(_) => file.latest = wrong,
            }
        }
        for path in settled {
            self.room.account(&mut self.files, &path);
        }
        conflicts
    }
}

impl Latest {
    fn is_in_force(&self) -> bool {
        match self {
            Self::InForce => true,
            Self::Waiting(_) | Self::Wrong(_) => false,
        }
    }

    /// How many errors are kept of it.
    fn errors(&self) -> usize {
        match self {
            Self::InForce | Self::Waiting(_) => 0,
            Self::Wrong(wrong) => wrong.errors.len(),
        }
    }

    /// What waits.
    fn waiting(&self) -> &[Found] {
        match self {
            Self::Waiting(found) => found,
            Self::InForce | Self::Wrong(_) => &[],
        }
    }

    fn waiting_mut(&mut self) -> &mut [Found] {
        match self {
            Self::Waiting(found) => found,
            Self::InForce | Self::Wrong(_) => &mut [],
        }
    }
}

impl FileState {
    /// Isolates whom the policies select that this file has not had before.
    fn isolate(
        &self,
        path: &Path,
        policies: impl IntoIterator<Item = (ObjectName, Arc<NetworkPolicy>)>,
        snapshot: &mut Snapshot,
    ) {
        let file = path.file_name().unwrap_or_default().display();
        for (number, (name, policy)) in policies.into_iter().enumerate() {
            let key = ObjectKey::Policy(name);
            if self.in_force.iter().any(|found| found.key == key) {
                continue;
            }
            let ObjectKey::Policy(ObjectName { namespace, name }) = key else {
                continue;
            };
            // No object has such a name, so it is nobody else's.
            let name = format!("{name} ({number} of {file}, not in force)");
            let policies = &mut snapshot.objects.policies;
            policies.insert(ObjectName { namespace, name }, policy);
        }
    }
}

/// The policies among these objects, without their rules.
fn policies_of(found: &[Found]) -> Vec<(ObjectName, Arc<NetworkPolicy>)> {
    let policies = found
        .iter()
        .filter_map(|found| match (&found.key, &found.object) {
            (ObjectKey::Policy(name), Object::Policy(policy)) => {
                let isolating = NetworkPolicy {
                    ingress: Vec::new(),
                    egress: Vec::new(),
                    ..policy.as_ref().clone()
                };
                Some((name.clone(), Arc::new(isolating)))
            }
            (_, _) => None,
        });
    policies.collect()
}

fn conflict(path: &Path, mine: &Found, (other, theirs): (&Path, &Found)) -> FileError {
    FileError {
        path: path.to_owned(),
        document: Some(mine.document),
        place: Some(mine.place),
        field: None,
        reason: format!(
            "{} is also in {}, document {}, line {}, which stays in force: remove one of the two",
            mine.key,
            other.display(),
            theirs.document,
            theirs.place.line
        ),
    }
}
