// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Takes podgate away from a node.
//!
//! ```text
//! 0 no enforcer runs, nor starts
//! 1 out of the chain
//! 2 a stub in the plugin's place, and nobody runs the plugin
//! 3 guard, filters, pins, files
//! 4 the stub, when no sandbox is left that podgate set up
//! ```
//! Each step finds what an earlier run has left of it.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use podgate_conflist::{Cached, Entry, Healing, Mode};
use podgate_datapath::uninstall::{NoEnforcer, uninstall};

use crate::args::Remove;
use crate::chain::Keeper;
use crate::files;
use crate::keep::Wake;

/// How long plugins that were started before may run on. They wait for the enforcer and for locks, with deadlines.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked whether they do.
const PAUSE: Duration = Duration::from_millis(20);

/// How often it is looked whether sandboxes are left.
const LOOK: Duration = Duration::from_secs(1);

/// Takes all of it away, except for the stub where sandboxes are left.
pub(crate) fn remove(args: &Remove) -> Result<()> {
    let paths = args.paths();
    // It would put back what is taken away.
    let alone = NoEnforcer::ensure(&paths)?;
    let names = args.names();
    let conf_dir = &args.directories.conf_dir;
    let entry = Entry::parse(r#"{"type": "podgate"}"#)?;
    let healing = Healing::new(Mode::Remove, entry, names.clone(), false);
    Keeper::new(conf_dir.clone(), healing, &names).heal()?;
    files::remove_unfinished(conf_dir)?;

    let plugin = Plugin::in_dir(&args.directories.bin_dir);
    plugin.replace_by_stub(!sandboxes(&args.cache_dir)?.is_empty())?;
    plugin.wait_until_nobody_runs_the_old_one()?;

    let uninstalled = uninstall(&paths, &alone)?;
    let failed = !uninstalled.errors.is_empty();
    for error in uninstalled.errors {
        tracing::error!(
            error = format!("{:#}", anyhow::Error::from(error)),
            "something is left"
        );
    }
    if failed {
        bail!("not all was taken away: see the lines above, and run it again");
    }
    tracing::info!(
        interfaces = uninstalled.interfaces,
        "filters, tables and files are gone; pods run on, and are open"
    );
    if !remove_unused_stub(args, &plugin)? {
        tracing::warn!(
            stub = %plugin.path.display(),
            "sandboxes that podgate set up are left, and the runtime may call it for their end: a stub stays until then; run this \
             again, or with --wait, once they are gone"
        );
    }
    Ok(())
}

/// Takes the stub away when the last sandbox is gone that podgate has set up, and waits for the end then.
pub(crate) fn outlive_sandboxes(args: &Remove, wakes: &Receiver<Wake>) -> Result<()> {
    let plugin = Plugin::in_dir(&args.directories.bin_dir);
    while !remove_unused_stub(args, &plugin)? {
        match wakes.recv_timeout(LOOK) {
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Ok(Wake::Changed) | Err(RecvTimeoutError::Timeout) => {}
        }
    }
    // A container that ended would be started again.
    drop(wakes.recv());
    Ok(())
}

/// Takes the stub away unless sandboxes are left that podgate set up; whether it is gone.
fn remove_unused_stub(args: &Remove, plugin: &Plugin) -> Result<bool> {
    if !sandboxes(&args.cache_dir)?.is_empty() {
        return Ok(false);
    }
    plugin.remove_stub()?;
    tracing::info!("podgate is gone from this node");
    Ok(true)
}

/// The sandboxes whose chain named podgate, as libcni remembers them.
fn sandboxes(cache_dir: &Path) -> Result<Vec<PathBuf>> {
    let mut left = Vec::new();
    for path in files::list(&cache_dir.join("results"))? {
        let Some(bytes) = files::read_if_there(&path)? else {
            continue;
        };
        match Cached::parse(&bytes) {
            Ok(cached) if cached.names_ours() => left.push(path),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(file = %path.display(), %error, "not what libcni writes");
            }
        }
    }
    Ok(left)
}

/// The plugin's program, and the stub in its place.
struct Plugin {
    path: PathBuf,
    /// What the old one is called until nobody runs it.
    leaving: PathBuf,
}

impl Plugin {
    fn in_dir(bin_dir: &Path) -> Self {
        Self {
            path: bin_dir.join(Entry::TYPE),
            leaving: bin_dir.join(".podgate.leaving"),
        }
    }

    /// This program answers under the plugin's name as well: [`mod@crate::stub`].
    fn replace_by_stub(&self, is_needed: bool) -> Result<()> {
        let stub = fs::read("/proc/self/exe").context("read this program")?;
        let found = files::read_if_there(&self.path)?;
        if found.as_ref() == Some(&stub) || (found.is_none() && !is_needed) {
            return Ok(());
        }
        // Who runs it is asked of the file: it keeps a name until nobody does.
        if found.is_some() && !self.leaving.exists() {
            fs::hard_link(&self.path, &self.leaving)
                .with_context(|| format!("link {}", self.leaving.display()))?;
        }
        files::replace(&self.path, &stub, 0o755)
    }

    /// The kernel refuses to open a program for writing while it runs (`ETXTBSY`), whoever runs it.
    fn wait_until_nobody_runs_the_old_one(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match OpenOptions::new().write(true).open(&self.leaving) {
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) if error.kind() != ErrorKind::ExecutableFileBusy => {
                    return Err(error).with_context(|| format!("open {}", self.leaving.display()));
                }
                Err(_) if Instant::now() < deadline => std::thread::sleep(PAUSE),
                Err(_) => bail!(
                    "a plugin that was started before podgate left the chain still runs after {PATIENCE:?} (its program is {}): \
                     end it, and run this again",
                    self.leaving.display()
                ),
            }
        }
        files::remove_file(&self.leaving)
            .with_context(|| format!("remove {}", self.leaving.display()))
    }

    fn remove_stub(&self) -> Result<()> {
        files::remove_file(&self.path).with_context(|| format!("remove {}", self.path.display()))
    }
}
