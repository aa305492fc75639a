// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The directory: when to read which file.
//!
//! A file is read when a writer closes it or when it is renamed into place, never while it is being written. Because
//! inotify may lose events, and cannot follow symbolic links, the directory is also scanned every [`RESCAN`]; a file
//! that changed without an event is read once two scans in a row saw it the same.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

use super::entry::{Known, Stamp, content, is_editor_file, is_manifest, not_a_file};
use super::file::{self, Found, Wrong};
use super::large::{LargeFiles, Reading, Since};
use super::last_good::LastGood;
use super::{FileError, Manifests, Snapshot};
use crate::stored::Rooms;
use crate::warning::Warning;

/// Time between two scans of the directory.
const RESCAN: Duration = Duration::from_secs(10);
/// The same, while the directory cannot be read.
const RETRY: Duration = Duration::from_secs(1);
/// Time in which events are gathered after the first.
const GATHER: Duration = Duration::from_millis(30);

/// Why the directory cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It is missing, no directory, or not readable.
    #[error(
        "reading the manifest directory {path}: create it, or name another one with --manifests"
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// inotify refused.
    #[error(
        "watching the manifest directory {path}: fs.inotify.max_user_watches or max_user_instances may be too low"
    )]
    Notify {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: notify::Error,
    },
    /// No thread could be started.
    #[error("starting the thread that reads manifests")]
    Thread(#[source] io::Error),
}

/// Reads the directory once and follows it from then on. What its files say is kept in `kept`, for the next start:
/// a file that is wrong by then says what it last said. Its objects may take as much as `rooms` have.
///
/// When this returns, the receiver holds the first snapshot: the source is synced. Every snapshot is complete; a
/// receiver may skip some. The following ends soon after the last receiver is dropped. Blocks while it reads.
///
/// # Errors
/// If the directory cannot be read or watched. Files that are wrong are no error here, they are in the snapshot.
pub fn watch(
    directory: PathBuf,
    kept: PathBuf,
    rooms: Rooms,
) -> Result<watch::Receiver<Snapshot>, WatchError> {
    let (heard_in, heard) = channel();
    let readings_in = heard_in.clone();
    let watcher = notify::recommended_watcher(move |event| {
        // The receiving end goes only when the follower ends.
        drop(heard_in.send(Heard::Event(event)));
    })
    .map_err(|source| WatchError::Notify {
        path: directory.clone(),
        source,
    })?;
    let mut follower = Follower {
        directory: directory.clone(),
        watcher,
        watched: None,
        manifests: Manifests::of(rooms),
        kept: LastGood::new(kept),
        pending: BTreeMap::new(),
        unkept: BTreeMap::new(),
        files: BTreeMap::new(),
        large: None,
        directory_error: None,
    };
    follower.follow_directory().map_err(|error| match error {
        DirectoryError::Read(source) => WatchError::Directory {
            path: directory.clone(),
            source,
        },
        DirectoryError::Watch(source) => WatchError::Notify {
            path: directory.clone(),
            source,
        },
    })?;
    follower.remember();
    follower
        .scan(Read::Changed)
        .map_err(|source| WatchError::Directory {
            path: directory.clone(),
            source,
        })?;
    let first = follower.snapshot();
    report(&[], &first.errors);
    let (snapshots, receiver) = watch::channel(first);
    let done = move |reading| readings_in.send(Heard::Reading(reading)).is_ok();
    follower.large = Some(LargeFiles::new(done).map_err(WatchError::Thread)?);
    std::thread::Builder::new()
        .name("manifests".into())
        .spawn(move || follower.run(&heard, &snapshots))
        .map_err(WatchError::Thread)?;
    Ok(receiver)
}

/// Which files a scan reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// All that changed since they were read.
    Changed,
    /// Links that lead elsewhere by now, and of the files those that were the same at the scan before: an event of
    /// another file is no sign that nobody is writing them.
    Links,
    /// Those of them that were the same at the scan before: nobody is writing them.
    Settled,
}

enum DirectoryError {
    Read(io::Error),
    Watch(notify::Error),
}

/// What the follower hears.
enum Heard {
    /// The directory changed.
    Event(notify::Result<Event>),
    /// A large file was read.
    Reading(Reading),
}

struct Follower {
    directory: PathBuf,
    watcher: RecommendedWatcher,
    /// Device and inode of the directory that is being watched.
    watched: Option<(u64, u64)>,
    manifests: Manifests,
    kept: LastGood,
    /// What files say, and was not in force yet.
    pending: BTreeMap<PathBuf, Vec<u8>>,
    /// What is in force, and is not kept.
    unkept: BTreeMap<PathBuf, Unkept>,
    files: BTreeMap<PathBuf, Known>,
    /// None until the first snapshot, which has all files.
    large: Option<LargeFiles>,
    directory_error: Option<String>,
}

/// What is in force of a file, and is not kept.
#[derive(Default)]
struct Unkept {
    said: Vec<u8>,
    /// Whether it is to be tried now.
    is_due: bool,
    /// What is told of it; none until it was tried to keep it.
    told: Option<String>,
}

/// What a bundle of events asks for.
#[derive(Default)]
struct Wanted {
    paths: BTreeSet<PathBuf>,
    everything: bool,
    readings: Vec<Reading>,
    /// The directory went away or was replaced, and its watch with it, even if its successor has the same inode.
    directory_gone: bool,
}

impl Follower {
    fn run(mut self, heard: &Receiver<Heard>, snapshots: &watch::Sender<Snapshot>) {
        let mut next_scan = Instant::now() + RESCAN;
        while !snapshots.is_closed() {
            let wait = next_scan
                .saturating_duration_since(Instant::now())
                .min(RETRY);
            match heard.recv_timeout(wait) {
                Ok(first) => {
                    let wanted = self.gather(first, heard);
                    self.act_on(wanted);
                }
                Err(RecvTimeoutError::Timeout)
                    if self.directory_error.is_none() && Instant::now() < next_scan =>
                {
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.look_again(Read::Settled);
                    for unkept in self.unkept.values_mut() {
                        unkept.is_due = true;
                    }
                    next_scan = Instant::now() + RESCAN;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let snapshot = self.snapshot();
            report(&snapshots.borrow().errors, &snapshot.errors);
            snapshots.send_if_modified(|current| {
                let changed = *current != snapshot;
                *current = snapshot;
                changed
            });
        }
    }

    /// What is heard first and what comes soon after it.
    fn gather(&self, first: Heard, heard: &Receiver<Heard>) -> Wanted {
        let end = Instant::now() + GATHER;
        let mut wanted = Wanted::default();
        let mut next = Some(first);
        while let Some(heard_now) = next {
            match heard_now {
                Heard::Event(event) => self.note(event, &mut wanted),
                Heard::Reading(reading) => wanted.readings.push(reading),
            }
            let wait = end.saturating_duration_since(Instant::now());
            next = heard.recv_timeout(wait).ok();
        }
        wanted
    }

    fn note(&self, event: notify::Result<Event>, wanted: &mut Wanted) {
        let Ok(event) = event else {
            wanted.everything = true;
            return;
        };
        let interesting = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(_) => true,
            // A new name that nobody has open for writing: a link. A new file still has its close to come.
            EventKind::Create(CreateKind::File | CreateKind::Any | CreateKind::Other) => event
                .paths
                .iter()
                .any(|p| fs::symlink_metadata(p).is_ok_and(|m| m.is_symlink() || m.nlink() > 1)),
            EventKind::Create(CreateKind::Folder)
            | EventKind::Access(_)
            | EventKind::Modify(_)
            | EventKind::Any
            | EventKind::Other => false,
        };
        wanted.everything |= event.need_rescan();
        if interesting {
            for path in event.paths {
                wanted.directory_gone |= path == self.directory;
                // Anything else, such as `..data` of a mounted ConfigMap, may be what links lead to.
                if is_manifest(&path) {
                    wanted.paths.insert(path);
                } else {
                    wanted.everything |= !is_editor_file(&path);
                }
            }
        }
    }

    fn act_on(&mut self, wanted: Wanted) {
        if wanted.directory_gone {
            self.unwatch();
        }
        for reading in wanted.readings {
            self.finish(reading);
        }
        for path in &wanted.paths {
            self.read(path);
        }
        if wanted.everything {
            self.look_again(Read::Links);
        }
    }

    /// Scans the directory; if that is impossible, notes why, and keeps all that is known.
    fn look_again(&mut self, which: Read) {
        let before = self.watched;
        let result = match self.follow_directory() {
            // In a directory that is new to us everything is.
            Ok(()) if self.watched != before => self.scan(Read::Changed).map_err(|e| e.to_string()),
            Ok(()) => self.scan(which).map_err(|e| e.to_string()),
            Err(DirectoryError::Read(e)) => Err(e.to_string()),
            Err(DirectoryError::Watch(e)) => Err(e.to_string()),
        };
        self.directory_error = result.err();
        if self.directory_error.is_some() {
            self.unwatch();
        }
    }

    /// Makes sure that the directory that now has this path is the one being watched.
    fn follow_directory(&mut self) -> Result<(), DirectoryError> {
        let metadata = fs::metadata(&self.directory).map_err(DirectoryError::Read)?;
        let identity = (metadata.dev(), metadata.ino());
        if self.watched != Some(identity) {
            self.unwatch();
            self.watcher
                .watch(&self.directory, RecursiveMode::NonRecursive)
                .map_err(DirectoryError::Watch)?;
            self.watched = Some(identity);
        }
        Ok(())
    }

    fn unwatch(&mut self) {
        if self.watched.take().is_some() {
            // The directory may be gone already, and its watch with it: nothing is left to undo then.
            drop(self.watcher.unwatch(&self.directory));
        }
    }

    /// Begins with what files last said; those that are gone are forgotten by the first scan.
    fn remember(&mut self) {
        for (name, said) in self.kept.all() {
            let path = self.directory.join(name);
            self.manifests.apply_file(&path, &said);
            self.files.insert(path, Known::default());
        }
        // Puts it in force, so that it is what stays.
        self.manifests.snapshot();
    }

    /// Keeps what is in force by now. What cannot be kept is tried again when the directory is scanned, whatever its file says
    /// then.
    fn keep(&mut self) {
        let manifests = &self.manifests;
        let in_force = self
            .pending
            .extract_if(.., |path, _| manifests.is_in_force(path));
        for (path, said) in in_force {
            let unkept = self.unkept.entry(path).or_default();
            unkept.said = said;
            unkept.is_due = true;
        }
        let kept = &self.kept;
        self.unkept.retain(|path, unkept| {
            if !std::mem::take(&mut unkept.is_due) {
                return true;
            }
            let Err(error) = kept.keep(path, &unkept.said) else {
                if unkept.told.is_some() {
                    tracing::info!(path = %path.display(), "what a manifest says is kept for the next start");
                }
                return false;
            };
            let text = format!(
                "what {} says is not kept for the next start of the enforcer, because {} cannot be written: {error}; if the \
                 file is wrong by then, what it says now is not in force: make room there, or make it writable",
                path.display(),
                kept.directory().display(),
            );
            if unkept.told.as_ref() != Some(&text) {
                tracing::warn!("{text}");
                unkept.told = Some(text);
            }
            true
        });
    }

    fn scan(&mut self, which: Read) -> io::Result<()> {
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if is_manifest(&path) {
                present.insert(path);
            }
        }
        let known: Vec<PathBuf> = self
            .files
            .keys()
            .filter(|p| !present.contains(*p))
            .cloned()
            .collect();
        for path in known {
            self.forget(&path);
        }
        for path in present {
            let stamp = fs::metadata(&path).ok().map(|m| Stamp::of(&m));
            let known = self.files.entry(path.clone()).or_default();
            let settled = known.scanned == stamp;
            known.scanned = stamp;
            let may_be_read = match which {
                Read::Changed => true,
                Read::Links => settled || path.is_symlink(),
                Read::Settled => settled,
            };
            if (stamp.is_none() || known.read != stamp) && may_be_read {
                self.read(&path);
            }
        }
        Ok(())
    }

    fn read(&mut self, path: &Path) {
        let stamp = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => Stamp::of(&metadata),
            // What the file said that had this name stays: whoever removes it takes the name away.
            Ok(_) => return self.unreadable(path, &not_a_file()),
            Err(_) if fs::symlink_metadata(path).is_err() => return self.forget(path),
            Err(error) => return self.unreadable(path, &error),
        };
        match content(path) {
            Ok(bytes) => match &mut self.large {
                Some(large) if large.takes(path, &bytes) => large.read(path, bytes),
                Some(_) | None => {
                    let found = file::read(path, &bytes);
                    self.apply(path, bytes, found);
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.forget(path),
            Err(error) => return self.unreadable(path, &error),
        }
        self.files.insert(
            path.to_owned(),
            Known {
                read: Some(stamp),
                scanned: Some(stamp),
            },
        );
    }

    fn apply(&mut self, path: &Path, bytes: Vec<u8>, found: Result<Vec<Found>, Wrong>) {
        self.manifests.apply(path, found);
        self.pending.insert(path.to_owned(), bytes);
    }

    /// A large file was read; it is read again if it has changed meanwhile.
    fn finish(&mut self, reading: Reading) {
        let since = self.large.as_mut().and_then(|it| it.finish(&reading));
        let Some(since) = since else { return };
        let Reading {
            path, bytes, found, ..
        } = reading;
        self.apply(&path, bytes, found);
        match since {
            Since::Unchanged => {}
            Since::Changed => self.read(&path),
        }
    }

    fn unreadable(&mut self, path: &Path, error: &io::Error) {
        self.files.entry(path.to_owned()).or_default().read = None;
        if let Some(large) = &mut self.large {
            large.forget(path);
        }
        self.manifests
            .unreadable_file(path, format!("cannot be read: {error}"));
    }

    fn forget(&mut self, path: &Path) {
        // While the directory itself is gone, what its files said stays.
        if self.directory.is_dir() {
            self.files.remove(path);
            if let Some(large) = &mut self.large {
                large.forget(path);
            }
            self.pending.remove(path);
            self.unkept.remove(path);
            self.manifests.remove_file(path);
            self.kept.forget(path);
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let mut snapshot = self.manifests.snapshot();
        self.keep();
        for path in self.manifests.take_again() {
            // A large one is read on its own thread, and asks for another snapshot then.
            self.read(&path);
            snapshot = self.manifests.snapshot();
            self.keep();
        }
        let mut is_restored = false;
        for path in self.manifests.lacking() {
            let unkept = self.unkept.get(&path).map(|unkept| unkept.said.clone());
            if let Some(said) = unkept.or_else(|| self.kept.said(&path)) {
                self.manifests.restore(&path, &said);
                is_restored = true;
            }
        }
        if is_restored {
            snapshot = self.manifests.snapshot();
        }
        let told = self.unkept.values().filter_map(|it| it.told.clone());
        snapshot.warnings.extend(told.map(Warning::from));
        if let Some(reason) = &self.directory_error {
            let reason =
                format!("the directory cannot be read, what it last said stays in force: {reason}");
            let error = FileError {
                path: self.directory.clone(),
                document: None,
                place: None,
                field: None,
                reason,
            };
            snapshot.errors.insert(0, error);
        }
        snapshot
    }
}

/// Logs what is newly wrong and what is right again, once, and sets the gauge.
fn report(before: &[FileError], now: &[FileError]) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a gauge is a float, and files are few"
    )]
    metrics::gauge!("podgate_manifest_errors").set(now.len() as f64);
    let [known, standing] = [before, now].map(|errors| errors.iter().collect::<HashSet<_>>());
    for error in now.iter().filter(|error| !known.contains(error)) {
        tracing::error!(%error, "a manifest is wrong; what it last said stays in force, and policies that are new in it isolate without rules");
    }
    for error in before.iter().filter(|error| !standing.contains(error)) {
        tracing::info!(%error, "a manifest's error is gone");
    }
}
