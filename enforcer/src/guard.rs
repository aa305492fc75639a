// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Keeps the guard behind the filters standing ([`podgate_datapath::guard`]).
//!
//! `nft flush ruleset` takes away everybody's tables. The kernel would tell of every change of every rule, and where a
//! proxy rewrites thousands of them it would do so in as many messages; one number says as well that something changed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_datapath::guard::{self, Family, Stood};
use tokio::sync::oneshot;

use crate::gone::EngineGone;

/// How often the number is asked for.
const EVERY: Duration = Duration::from_millis(200);

/// After how many of these a guard that does not stand is tried again.
const RETRY: u32 = 25;

/// What is wrong with the guard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    /// The kernel does not have what it needs: nobody but who changes the kernel can mend it.
    pub unsupported: Vec<String>,
    /// It should stand, and does not.
    pub failed: Vec<String>,
}

/// What is known when the following begins.
#[derive(Debug)]
pub struct Followed {
    /// What is wrong.
    pub guard: Guard,
    /// Dropped when nobody follows any more.
    pub alive: oneshot::Receiver<Infallible>,
}

/// Has the guard stand in the namespace of the calling thread from now on, and tells what is wrong with it whenever that
/// changes.
///
/// # Errors
/// When there are no threads to be had.
pub fn follow(
    notice: impl Fn(Guard) -> Result<(), EngineGone> + Send + 'static,
) -> Result<Followed> {
    let mut keeper = Keeper::default();
    let first = keeper.look();
    let (alive_in, alive) = oneshot::channel();
    let mut told = first.clone();
    std::thread::Builder::new()
        .name("guard".into())
        .spawn(move || {
            let _alive = alive_in;
            loop {
                std::thread::sleep(EVERY);
                let now = keeper.look_if_changed().unwrap_or_else(|| told.clone());
                if now != told && notice(now.clone()).is_err() {
                    return;
                }
                told = now;
            }
        })
        .context("start the thread that keeps the guard")?;
    Ok(Followed {
        guard: first,
        alive,
    })
}

#[derive(Debug, Default)]
struct Keeper {
    /// The number that the ruleset had when it was looked at.
    generation: Option<u32>,
    /// Looks until what does not stand is tried again.
    patience: u32,
    has_stood: BTreeMap<Family, bool>,
    failing: bool,
}

impl Keeper {
    fn look_if_changed(&mut self) -> Option<Guard> {
        self.patience = self.patience.saturating_sub(1);
        let is_due = self.failing && self.patience == 0;
        let unchanged = guard::generation().ok() == self.generation;
        (is_due || !unchanged).then(|| self.look())
    }

    fn look(&mut self) -> Guard {
        // Before the tables are: what changes while they are read is seen the next time.
        self.generation = guard::generation().ok();
        let mut found = Guard::default();
        for (family, stood) in guard::stand() {
            let stands = self.take_note_of(family, stood, &mut found);
            let name = family.name();
            metrics::gauge!("podgate_guard", "family" => name).set(u8::from(stands));
        }
        self.failing = found != Guard::default();
        self.patience = RETRY;
        found
    }

    fn take_note_of(&mut self, family: Family, stood: Stood, found: &mut Guard) -> bool {
        let name = family.name();
        let stood_before = self.has_stood.get(&family).copied();
        match stood {
            Stood::Whole => {}
            Stood::Put if stood_before == Some(true) => {
                tracing::warn!(family = name, "somebody removed the guard; it stands again");
                metrics::counter!("podgate_guard_restored_total", "family" => name).increment(1);
            }
            Stood::Put => tracing::info!(family = name, "the guard stands"),
            Stood::Failed(error) => {
                let is_unsupported = error.is_unsupported();
                let error = anyhow::Error::from(error);
                let why = format!(
                    "packets of a pod with CAP_NET_ADMIN that skip tc are not dropped: table {name} podgate of nftables does \
                     not stand: {error:#}"
                );
                if stood_before != Some(false) {
                    tracing::warn!("{why}");
                }
                if is_unsupported {
                    found.unsupported.push(why);
                } else {
                    found.failed.push(why);
                }
                self.has_stood.insert(family, false);
                return false;
            }
        }
        self.has_stood.insert(family, true);
        true
    }
}
