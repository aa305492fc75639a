//! The lock under which attachments, pins and the addresses in `peers` change.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
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

/// How long the waiting one sleeps between two attempts.
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
    fn of_file(mut file: File, path: &Path, deadline: Instant) -> Result<Option<Self>, Failed> {
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => {
                    let is_named = is_named(&file, path).map_err(Failed::at("look at", path))?;
                    return Ok(is_named.then_some(Self { _file: file }));
                }
                Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) => file,
                Err((_, errno)) => return Err(Failed::at("lock", path)(errno.into())),
            };
            if Instant::now() >= deadline {
                let why = "another podgate process holds it; look for one that hangs";
                return Err(Failed::at("lock", path)(io::Error::new(
                    io::ErrorKind::TimedOut,
                    why,
                )));
            }
            thread::sleep(PAUSE);
        }
    }
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

    #[test]
    fn a_lock_that_somebody_holds_is_a_clear_error() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            run: dir.path().join("run"),
            bpffs: dir.path().join("bpffs"),
        };
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
