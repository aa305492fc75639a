// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lock that only one enforcer of a node has, for life.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use podgate_datapath::Paths;

/// How often the lock is asked for while another enforcer has it.
const PAUSE: Duration = Duration::from_millis(50);

/// How often it is looked whether the lock still has its name.
const LOOK: Duration = Duration::from_secs(1);

/// The lock, held as long as this lives.
#[derive(Debug)]
pub(crate) struct InstanceLock {
    file: File,
    path: PathBuf,
    /// Until it is looked again.
    look: Duration,
}

/// The lock, asked for: it is ours, or another enforcer still has it.
#[derive(Debug)]
pub(crate) struct Asked {
    file: File,
    path: PathBuf,
    is_ours: bool,
}

impl Asked {
    /// Says what is in the way of a start, where that is the other enforcer.
    pub(crate) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        if self.is_ours {
            return error;
        }
        error.context(format!(
            "another enforcer is running, as the lock {} says: stop it first, or start this one with other \
             --metrics-bind-addr and --health-probe-bind-addr; it then waits for the other to stop",
            self.path.display()
        ))
    }

    /// Waits for the other enforcer to end.
    pub(crate) async fn granted(self) -> Result<InstanceLock> {
        let Self {
            file,
            path,
            mut is_ours,
        } = self;
        while !is_ours {
            tokio::time::sleep(PAUSE).await;
            is_ours = try_lock(&file, &path)?;
        }
        Ok(InstanceLock {
            file,
            path,
            look: LOOK,
        })
    }
}

impl InstanceLock {
    /// Asks for the lock, and logs when another enforcer has it.
    pub(crate) fn ask(paths: &Paths) -> Result<Asked> {
        let path = paths.enforcer_lock();
        let file = open(&paths.run, &path)?;
        let is_ours = try_lock(&file, &path)?;
        if !is_ours {
            tracing::warn!(lock = %path.display(), "another enforcer is running; waiting until it has ended");
        }
        Ok(Asked {
            file,
            path,
            is_ours,
        })
    }

    /// Takes the lock under its name again when somebody removed it, and the run directory with it, most likely:
    /// `removed` is told. Ends when another enforcer was quicker.
    pub(crate) async fn keep(&mut self, removed: impl Fn()) -> Result<()> {
        loop {
            tokio::time::sleep(self.look).await;
            if self.has_its_name() {
                continue;
            }
            tracing::warn!(lock = %self.path.display(), "the lock of the enforcer was removed; it is taken again");
            let run_dir = self.path.parent().unwrap_or(Path::new("/"));
            match open(run_dir, &self.path).and_then(|file| {
                let is_ours = try_lock(&file, &self.path)?;
                Ok((file, is_ours))
            }) {
                Ok((file, true)) => self.file = file,
                Ok((_, false)) => bail!(
                    "another enforcer took the lock {} when somebody had removed it",
                    self.path.display()
                ),
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the enforcer has no lock, and it is tried again"
                    );
                    continue;
                }
            }
            removed();
        }
    }

    fn has_its_name(&self) -> bool {
        let of = |found: io::Result<fs::Metadata>| found.map(|found| (found.dev(), found.ino()));
        match (
            of(self.file.metadata()),
            of(fs::symlink_metadata(&self.path)),
        ) {
            (Ok(held), Ok(named)) => held == named,
            (_, _) => false,
        }
    }
}

fn open(run_dir: &Path, path: &Path) -> Result<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run_dir)
        .with_context(|| format!("make the run directory {}", run_dir.display()))?;
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

/// Whether the lock was to be had.
fn try_lock(file: &File, path: &Path) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("lock {}", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lock whose directory is removed is taken again, or the enforcer ends.
    #[tokio::test]
    async fn a_lock_without_its_directory_is_retaken_or_the_process_ends() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let paths = Paths {
            run: run.clone(),
            ..Paths::default()
        };
        let mut life = InstanceLock::ask(&paths).unwrap().granted().await.unwrap();
        life.look = Duration::from_millis(1);
        let (out, mut told) = tokio::sync::mpsc::unbounded_channel();
        fs::remove_dir_all(&run).unwrap();
        tokio::select! {
            ended = life.keep(|| out.send(()).unwrap()) => panic!("{ended:?}"),
            said = told.recv() => said.unwrap(),
        }
        let path = run.join("enforcer.lock");
        let mine = open(&run, &path).unwrap();
        assert!(!try_lock(&mine, &path).unwrap(), "it is held again");
        drop(mine);

        fs::remove_dir_all(&run).unwrap();
        let other = open(&run, &path).unwrap();
        assert!(try_lock(&other, &path).unwrap());
        let ended = life.keep(|| {}).await.unwrap_err();
        assert!(ended.to_string().contains("another enforcer"), "{ended}");
    }
}
