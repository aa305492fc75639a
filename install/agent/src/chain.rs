// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One directory of conflists, brought to what it should be.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use podgate_conflist::{Act, Chain, Healing, Names, Step};

use crate::files;

/// How many acts a directory takes at most: our file, one that sorts before it, and what another mode has left of ours.
const ACTS: usize = 64;

/// The permissions of our files: a runtime reads them as root, and what they repeat may be for root only.
const OURS: u32 = 0o600;

/// Keeps the chain in one directory.
#[derive(Debug)]
pub(crate) struct Keeper {
    directory: PathBuf,
    healing: Healing,
    drop_in: String,
}

impl Keeper {
    pub(crate) fn new(directory: PathBuf, healing: Healing, names: &Names) -> Self {
        Self {
            directory,
            healing,
            drop_in: names.drop_in.clone(),
        }
    }

    /// What is there, and what would be done.
    pub(crate) fn look(&mut self) -> Result<Step> {
        let found = files::read_networks(&self.directory, &self.drop_in)?;
        Ok(self.healing.step(&found, Instant::now()))
    }

    /// Does what is to be done, and says what is there then.
    pub(crate) fn heal(&mut self) -> Result<Step> {
        for _ in 0..ACTS {
            let step = self.look()?;
            let Some(act) = step.act else {
                return Ok(step);
            };
            self.act(&act)?;
        }
        bail!(
            "{} is not as it should be after {ACTS} changes: something else writes there as often",
            self.directory.display()
        );
    }

    fn act(&self, act: &Act) -> Result<()> {
        match act {
            Act::Write { path, text } => {
                let file = self.directory.join(path);
                files::replace(
                    &file,
                    text.as_bytes(),
                    files::mode_of(&file)?.unwrap_or(OURS),
                )?;
                tracing::info!(file = %file.display(), "wrote the conflist");
            }
            Act::Remove { path } => {
                let file = self.directory.join(path);
                files::remove(&self.directory, &file)?;
                tracing::info!(file = %file.display(), "removed the conflist");
            }
        }
        if act_path(act).contains('/') {
            self.have_it_read()?;
        }
        Ok(())
    }

    /// A runtime watches the directory, not those in it.
    fn have_it_read(&self) -> Result<()> {
        let file = self.directory.join(".podgate-changed.podgate-tmp");
        files::replace(&file, b"", OURS)?;
        files::remove(&self.directory, &file)
    }
}

fn act_path(act: &Act) -> &str {
    match act {
        Act::Write { path, .. } | Act::Remove { path } => path,
    }
}

/// Logs whether podgate is in the chain, and what a person should know of it, whenever that changes.
#[derive(Debug, Default)]
pub(crate) struct Report {
    last: Option<String>,
}

impl Report {
    pub(crate) fn say(&mut self, chain: &Chain) {
        let text = describe(chain);
        if self.last.as_ref() == Some(&text) {
            return;
        }
        match chain {
            Chain::Joined { file, notices } => {
                tracing::info!(file, "podgate is in the chain");
                for notice in notices {
                    tracing::warn!("{notice}");
                }
            }
            Chain::Absent(why) => tracing::error!("podgate is not in the chain: {why}"),
        }
        self.last = Some(text);
    }

    /// Logs an error, once until there is another one or none.
    pub(crate) fn fail(&mut self, error: &anyhow::Error) {
        let text = format!("{error:#}");
        if self.last.as_ref() != Some(&text) {
            tracing::error!(
                error = text,
                "the chain cannot be kept; it is tried again every second"
            );
            self.last = Some(text);
        }
    }
}

fn describe(chain: &Chain) -> String {
    match chain {
        Chain::Joined { file, notices } => format!("{file} {notices:?}"),
        Chain::Absent(why) => why.to_string(),
    }
}
