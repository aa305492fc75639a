// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table of flows: what timed out goes, and each attachment's flows are counted against its quota. And the memory that
//! was freed, which goes back to the kernel.
//!
//! On a thread of its own: a full table takes tens of milliseconds, for which no ADD should wait. It touches nothing
//! that decides a packet.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_datapath::Paths;
use podgate_datapath::flows::{self, Collected};
use podgate_datapath::memory;
use podgate_datapath::tables::TableSet;
use tokio::sync::oneshot;

/// How often.
const EVERY: Duration = Duration::from_secs(15);

/// Starts the thread. It ends with the process; if it ends before, what is returned is dropped.
///
/// # Errors
/// When there are no threads to be had.
pub fn start(paths: Paths) -> Result<oneshot::Receiver<Infallible>> {
    let (alive_in, alive) = oneshot::channel();
    std::thread::Builder::new()
        .name("flows".into())
        .spawn(move || {
            let _alive = alive_in;
            loop {
                match collect(&paths) {
                    Ok(None) => tracing::trace!("there are no flows yet"),
                    Ok(Some(Collected {
                        kept,
                        waiting,
                        deleted,
                    })) => {
                        tracing::trace!(kept, waiting, deleted, "collected flows");
                        metrics::gauge!("podgate_flows")
                            .set(u32::try_from(kept).unwrap_or(u32::MAX));
                        metrics::counter!("podgate_flows_timed_out_total")
                            .increment(deleted as u64);
                    }
                    Err(error) => {
                        tracing::warn!(
                            error = format!("{error:#}"),
                            "flows could not be collected"
                        );
                    }
                }
                memory::give_back();
                std::thread::sleep(EVERY);
            }
        })
        .context("start the thread that collects flows")?;
    Ok(alive)
}

/// None: there is no table set yet.
fn collect(paths: &Paths) -> Result<Option<Collected>> {
    Ok(TableSet::collect_current(paths, flows::jiffies()?)?)
}
