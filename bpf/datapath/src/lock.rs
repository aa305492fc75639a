// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lock under which attachments, pins and the addresses in `peers` change.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::{Failed, Paths};

/// How long somebody waits for the lock. The longest holder loads a table set, which takes about 0.1 s.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How many threads of a process wait for locks. Of podgate's own, two do at once.
const THREADS: usize = 16;

/// How long who asks again and again sleeps in between.
const PAUSE: Duration = Duration::from_millis(1);

/// The lock, held until it is dropped or its process ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Waits for the lock, for at most [`PATIENCE`]. Makes the run directory if there is none.
    ///
    /// # Errors
    /// When the file cannot be made, or somebody holds the lock all the time (`TimedOut`).
    pub fn take(paths: &Paths) -> Result<Self, Failed> {
        Self::take_until(paths, Instant::now() + PATIENCE)
    }

    /// Waits for the lock until `deadline`.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub fn take_until(paths: &Paths, deadline: Instant) -> Result<Self, Failed> {
        loop {
            make_private_dir(&paths.run)?;
            let path = paths.lock();
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)
                .map_err(Failed::at("open lock", &path))?;
            if let Some(lock) = Self::of_file(file, &path, deadline)? {
                return Ok(lock);
            }
        }
    }

    /// Waits for the lock of an open file; none if the file has lost its name meanwhile: who comes later would lock
    /// another one.
    fn of_file(file: File, path: &Path, deadline: Instant) -> Result<Option<Self>, Failed> {
        let locked = attempt(file, FlockArg::LockExclusiveNonblock)
            .and_then(|attempted| attempted.or_else(|file| in_turn(file, deadline)));
        let file = locked.map_err(Failed::at("lock", path))?;
        let is_named = is_named(&file, path).map_err(Failed::at("look at", path))?;
        Ok(is_named.then_some(Self { _file: file }))
    }
}

/// Asks for the lock once; gives the file back if it is to be asked again.
fn attempt(file: File, how: FlockArg) -> io::Result<Result<Flock<File>, File>> {
    match Flock::lock(file, how) {
        Ok(locked) => Ok(Ok(locked)),
        Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) => Ok(Err(file)),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// Waits for the lock in the kernel's queue, where nobody is overtaken by those who come later: of many plugins and an
/// enforcer that ask again and again, some would be unlucky for long. `flock` knows no deadline, so a thread waits, and
/// lets go of what it gets when nobody wants it any more. While somebody hangs with the lock, no more than [`THREADS`]
/// are left behind; who comes then asks again and again.
fn in_turn(mut file: File, deadline: Instant) -> io::Result<Flock<File>> {
    static WAITING: AtomicUsize = AtomicUsize::new(0);
    if Instant::now() >= deadline {
        return Err(late());
    }
    let one_more = |waiting| (waiting < THREADS).then_some(waiting + 1);
    if WAITING.fetch_update(Relaxed, Relaxed, one_more).is_err() {
        return by_asking(file, deadline);
    }
    let (result_in, result) = mpsc::channel();
    let wait = move || {
        let locked = loop {
            match attempt(file, FlockArg::LockExclusive) {
                Ok(Err(again)) => file = again,
                Ok(Ok(locked)) => break Ok(locked),
                Err(error) => break Err(error),
            }
        };
        WAITING.fetch_sub(1, Relaxed);
        drop(result_in.send(locked));
    };
    if let Err(error) = thread::Builder::new().name("lock".into()).spawn(wait) {
        WAITING.fetch_sub(1, Relaxed);
        return Err(error);
    }
    match result.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(locked) => locked,
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(late()),
    }
}

fn by_asking(mut file: File, deadline: Instant) -> io::Result<Flock<File>> {
    while Instant::now() < deadline {
        thread::sleep(PAUSE);
        file = match attempt(file, FlockArg::LockExclusiveNonblock)? {
            Ok(locked) => return Ok(locked),
            Err(again) => again,
        };
    }
    Err(late())
}

fn late() -> io::Error {
    let why = "another podgate process holds it; look for one that hangs";
    io::Error::new(io::ErrorKind::TimedOut, why)
}

/// Whether `path` names this file.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a directory that only root may enter, and those above it, if they are not there.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), Failed> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Failed::at("make directory", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many wait for a lock of this file, as the kernel lists them.
    fn in_the_queue(path: &Path) -> usize {
        let file = format!(":{} ", fs::metadata(path).unwrap().ino());
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let waits = |line: &&str| line.contains("-> FLOCK") && line.contains(&file);
        locks.lines().filter(waits).count()
    }

    #[test]
    fn whoever_waits_longest_is_next() {
        const WAITING: usize = 8;
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        let held = Lock::take(&paths).unwrap();
        let (served_in, served) = mpsc::channel();
        thread::scope(|scope| {
            for number in 0..WAITING {
                let (served, paths) = (served_in.clone(), &paths);
                scope.spawn(move || {
                    let _lock = Lock::take(paths).unwrap();
                    served.send(number).unwrap();
                });
                let deadline = Instant::now() + PATIENCE;
                while in_the_queue(&paths.lock()) <= number {
                    assert!(Instant::now() < deadline, "{number} does not queue");
                    thread::yield_now();
                }
            }
            drop(held);
        });
        let order: Vec<_> = served.try_iter().collect();
        assert_eq!(order, (0..WAITING).collect::<Vec<_>>());
    }

    #[test]
    fn who_gave_up_does_not_get_it() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        let held = Lock::take(&paths).unwrap();
        let soon = Instant::now() + Duration::from_millis(20);
        let error = Lock::take_until(&paths, soon).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::TimedOut);
        drop(held);
        Lock::take(&paths).unwrap();
    }

    #[test]
    fn a_lock_that_somebody_holds_is_a_clear_error() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        let held = Lock::take(&paths).unwrap();
        let error = Lock::take_until(&paths, Instant::now()).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::TimedOut);
        drop(held);
        Lock::take_until(&paths, Instant::now()).unwrap();
    }

    #[test]
    fn a_lock_on_a_file_that_was_replaced_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let deadline = Instant::now() + PATIENCE;
        let lock = |file| Lock::of_file(file, &path, deadline).unwrap();
        let waiting = || OpenOptions::new().write(true).open(&path).unwrap();
        File::create(&path).unwrap();
        assert!(lock(waiting()).is_some());
        let late = waiting();
        fs::remove_file(&path).unwrap();
        assert!(lock(late.try_clone().unwrap()).is_none());
        File::create(&path).unwrap();
        assert!(lock(late).is_none());
        assert!(lock(waiting()).is_some());
    }
}
