// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Keeps plugin and chain as they should be.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use notify::{RecursiveMode, Watcher};
use podgate_conflist::Step;
use sd_notify::NotifyState;

use crate::chain::{Keeper, Report};
use crate::files;
use crate::plugin::Program;

/// How long a change goes unseen where the kernel does not tell of it: overlays, directories that were replaced.
const LOOK: Duration = Duration::from_millis(500);

/// Why to look.
#[derive(Debug)]
pub(crate) enum Wake {
    /// Something happened in a directory.
    Changed,
    /// It is over.
    Stop,
}

/// What is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) program: Program,
    pub(crate) chain: Keeper,
    /// Both directories.
    pub(crate) watched: [PathBuf; 2],
}

impl Kept {
    /// Puts all in place, once: first the program, then the chain that names it.
    pub(crate) fn heal(&mut self) -> Result<Step> {
        self.program.heal()?;
        self.chain.heal()
    }

    /// Does so again whenever something changes, until `wakes` says stop.
    pub(crate) fn keep(&mut self, waker: &Sender<Wake>, wakes: &Receiver<Wake>) -> Result<()> {
        for directory in &self.watched {
            files::remove_unfinished(directory)?;
        }
        let mut report = Report::default();
        let mut watch = Watch::default();
        let mut is_told = false;
        loop {
            watch.renew(&self.watched, waker);
            let again = match self.heal() {
                Ok(step) => {
                    report.say(&step.chain);
                    step.again
                }
                Err(error) => {
                    report.fail(&error);
                    None
                }
            };
            if !is_told {
                // Also where it failed: a node without a network has no pods, and the log says what is wrong.
                if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
                    tracing::warn!(%error, "systemd does not hear that podgate is in the chain, and ends this after TimeoutStartSec");
                }
                is_told = true;
            }
            let until_again = again.map(|it| it.saturating_duration_since(Instant::now()));
            match wakes.recv_timeout(until_again.map_or(LOOK, |it| it.min(LOOK))) {
                Ok(Wake::Changed) => {
                    // One look for all that happened so far.
                    while let Ok(wake) = wakes.try_recv() {
                        if let Wake::Stop = wake {
                            return Ok(());
                        }
                    }
                }
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// The kernel's news of directories, which end when a directory is replaced.
#[derive(Default)]
struct Watch {
    watcher: Option<notify::RecommendedWatcher>,
    identities: Vec<Option<(u64, u64)>>,
    failing: bool,
}

impl Watch {
    /// Watches the directories that are there now.
    fn renew(&mut self, directories: &[PathBuf], waker: &Sender<Wake>) {
        let identities: Vec<_> = directories.iter().map(|it| identity(it)).collect();
        if self.watcher.is_some() && self.identities == identities {
            return;
        }
        match watch(directories, waker) {
            Ok(watcher) => {
                (self.watcher, self.failing) = (Some(watcher), false);
            }
            Err(error) if !self.failing => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the directories are not watched, and looked at every {LOOK:?}"
                );
                self.failing = true;
            }
            Err(_) => {}
        }
        self.identities = identities;
    }
}

fn identity(directory: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(directory).ok()?;
    Some((found.dev(), found.ino()))
}

fn watch(directories: &[PathBuf], waker: &Sender<Wake>) -> Result<notify::RecommendedWatcher> {
    let waker = waker.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Looking is no change; an error may hide one.
        if event.is_ok_and(|it| it.kind.is_access()) {
            return;
        }
        drop(waker.send(Wake::Changed));
    })
    .context("watch directories")?;
    for directory in directories.iter().filter(|it| it.is_dir()) {
        watcher
            .watch(directory, RecursiveMode::NonRecursive)
            .with_context(|| format!("watch {}", directory.display()))?;
    }
    Ok(watcher)
}

/// A channel on which SIGTERM and SIGINT say stop. To be called before any thread is started: they inherit the mask.
pub(crate) fn wakes() -> Result<(Sender<Wake>, Receiver<Wake>)> {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("block signals")?;
    let (waker, wakes) = mpsc::channel();
    let stop = waker.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            // It fails for an empty set only.
            let _signal = signals.wait();
            drop(stop.send(Wake::Stop));
        })
        .context("start the thread that waits for signals")?;
    Ok((waker, wakes))
}
