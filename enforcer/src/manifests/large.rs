// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Large files are read on a thread of their own: reading is what takes time, and no other file waits for one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::file::{self, Found, Wrong};

/// From how many bytes on a file is large: one takes a few milliseconds at most to read, ten times that in a debug build.
const LARGE: usize = 1 << 16;

/// A file's content, read.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    pub(super) found: Result<Vec<Found>, Wrong>,
    number: u64,
}

/// Whether the file changed since its reading began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    Unchanged,
    Changed,
}

/// Reads them, one after the other.
#[derive(Debug)]
pub(super) struct LargeFiles {
    jobs: Sender<(u64, PathBuf, Vec<u8>)>,
    /// Those that are being read.
    underway: BTreeMap<PathBuf, (u64, Since)>,
    begun: u64,
}

impl LargeFiles {
    /// Says what was read with `done`, until that says no.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn new(done: impl Fn(Reading) -> bool + Send + 'static) -> io::Result<Self> {
        let (jobs, receiver) = channel();
        std::thread::Builder::new()
            .name("manifests-large".into())
            .spawn(move || read_all(&receiver, done))?;
        Ok(Self {
            jobs,
            underway: BTreeMap::new(),
            begun: 0,
        })
    }

    /// Whether a file is read here.
    pub(super) fn takes(&self, path: &Path, bytes: &[u8]) -> bool {
        bytes.len() >= LARGE || self.underway.contains_key(path)
    }

    /// Begins to read one, or takes note that it changed while it is being read.
    pub(super) fn read(&mut self, path: &Path, bytes: Vec<u8>) {
        if let Some((_, since)) = self.underway.get_mut(path) {
            *since = Since::Changed;
            return;
        }
        self.begun += 1;
        let job = (self.begun, path.to_owned(), bytes);
        self.underway
            .insert(path.to_owned(), (self.begun, Since::Unchanged));
        // It ends with this.
        drop(self.jobs.send(job));
    }

    /// What is being read of a file counts no more.
    pub(super) fn forget(&mut self, path: &Path) {
        self.underway.remove(path);
    }

    /// Takes note that one was read; none if that counts no more.
    pub(super) fn finish(&mut self, reading: &Reading) -> Option<Since> {
        match self.underway.entry(reading.path.clone()) {
            Entry::Occupied(it) if it.get().0 == reading.number => Some(it.remove().1),
            Entry::Occupied(_) | Entry::Vacant(_) => None,
        }
    }
}

fn read_all(jobs: &Receiver<(u64, PathBuf, Vec<u8>)>, done: impl Fn(Reading) -> bool) {
    for (number, path, bytes) in jobs {
        let found = file::read(&path, &bytes);
        let reading = Reading {
            path,
            bytes,
            found,
            number,
        };
        if !done(reading) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was read counts unless the file went, and is read again if the file changed.
    #[test]
    fn a_reading_counts_unless_the_file_went_or_changed() {
        let (done, readings) = channel();
        let mut large = LargeFiles::new(move |reading| done.send(reading).is_ok()).unwrap();
        let [a, b] = ["a.yaml", "b.yaml"].map(Path::new);
        assert!(!large.takes(a, b"{}"));
        assert!(large.takes(a, &[b' '; LARGE]));

        large.read(a, b"{}".to_vec());
        large.read(b, b"{}".to_vec());
        assert!(large.takes(a, b"{}"), "not before what it said earlier");
        large.read(a, b"{}".to_vec());
        large.forget(b);
        large.read(b, b"{}".to_vec());
        let of = |path: &Path| path.to_owned();
        let finished: Vec<_> = (0..3)
            .map(|_| readings.recv().unwrap())
            .map(|reading| (reading.path.clone(), large.finish(&reading)))
            .collect();
        assert_eq!(
            finished,
            [
                (of(a), Some(Since::Changed)),
                (of(b), None),
                (of(b), Some(Since::Unchanged)),
            ]
        );
        assert!(!large.takes(b, b"{}"));
    }
}
