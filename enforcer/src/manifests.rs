//! The source `manifests`: a directory of Kubernetes YAML and JSON.
//!
//! ```text
//! directory ──► watch ──► bytes ──► Manifests ──► Snapshot (complete) ──► owner task, which compares
//! ```
//! A file counts as a whole: while anything in it is wrong, what it said last stays in force, and the snapshot says
//! what is wrong. [`Manifests`] is pure; [`watch()`] feeds it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::source::Objects;

mod entry;
mod file;
mod kept;
mod node;
mod typed;
mod watch;

#[cfg(test)]
mod tests;

pub use file::FileError;
use file::{Found, Object, ObjectKey};
pub use node::Place;
pub use watch::{WatchError, watch};

/// All that the directory says, complete in itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Every object.
    pub objects: Objects,
    /// What is wrong now, by path. Empty: everything in the directory is in this snapshot.
    pub errors: Vec<FileError>,
}

/// What every file last said.
#[derive(Debug, Default)]
pub struct Manifests {
    files: BTreeMap<PathBuf, FileState>,
}

/// One file.
#[derive(Debug, Default)]
struct FileState {
    /// What it last said that could be used.
    in_force: Vec<Found>,
    /// What it says now.
    latest: Latest,
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
    Wrong(Vec<FileError>),
}

impl Manifests {
    /// The content of the file `path` is now `bytes`.
    pub fn apply_file(&mut self, path: &Path, bytes: &[u8]) {
        let latest = match file::read(path, bytes) {
            Ok(found) => Latest::Waiting(found),
            Err(errors) => Latest::Wrong(errors),
        };
        self.files.entry(path.to_owned()).or_default().latest = latest;
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
        self.files.entry(path.to_owned()).or_default().latest = Latest::Wrong(vec![error]);
    }

    /// The file `path` is gone, and what it said with it.
    pub fn remove_file(&mut self, path: &Path) {
        self.files.remove(path);
    }

    /// Whether what the file `path` says now is in force.
    pub(crate) fn is_in_force(&self, path: &Path) -> bool {
        matches!(
            self.files.get(path).map(|file| &file.latest),
            Some(Latest::InForce)
        )
    }

    /// Puts in force what can be, and says what is in force. Objects may move between files when both files are
    /// applied before this is called.
    pub fn snapshot(&mut self) -> Snapshot {
        let conflicts = self.settle();
        let mut snapshot = Snapshot::default();
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
                        | ObjectKey::EndpointSlice(_),
                        _,
                    ) => unreachable!("an object's key is made with the object"),
                }
            }
            match &file.latest {
                Latest::InForce => {}
                Latest::Waiting(_) => snapshot.errors.extend(conflicts.get(path).cloned()),
                Latest::Wrong(errors) => snapshot.errors.extend(errors.iter().cloned()),
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
        for (path, file) in &mut self.files {
            if conflicts.contains_key(path) {
                continue;
            }
            match std::mem::take(&mut file.latest) {
                Latest::InForce => {}
                Latest::Waiting(found) => file.in_force = found,
                wrong @ Latest::Wrong(_) => file.latest = wrong,
            }
        }
        conflicts
    }
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
