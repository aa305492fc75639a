//! Grace periods, waited for on a thread of their own: each takes 8 to 20 ms, for which no ADD should wait.

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_datapath::tables::TableSet;

use super::Event;

/// When a grace period is begun again that the kernel refused.
const RETRY: Duration = Duration::from_secs(1);

/// How it stands with the planner's grace period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Grace {
    /// None was begun.
    #[default]
    None,
    /// One was, and is not over.
    Underway,
    /// One is over; what waited for it is still to be done.
    Over,
}

/// The thread.
#[derive(Debug)]
pub struct Graces(Sender<()>);

impl Graces {
    /// Starts it. It ends with the engine that it tells of each grace period that is over.
    ///
    /// # Errors
    /// When there are no threads to be had.
    pub fn start(engine: Sender<Event>) -> Result<Self> {
        let (begin, begun) = channel();
        std::thread::Builder::new()
            .name("grace".into())
            .spawn(move || {
                for () in begun {
                    wait();
                    if engine.send(Event::GraceOver).is_err() {
                        return;
                    }
                }
            })
            .context("start the thread that waits for grace periods")?;
        Ok(Self(begin))
    }

    /// Begins one. The engine is told when it is over.
    pub(super) fn begin(&self) {
        // The thread ends with whoever is to be told.
        self.0.send(()).ok();
    }
}

fn wait() {
    while let Err(error) = TableSet::grace() {
        let error = anyhow::Error::from(error);
        tracing::error!(
            error = format!("{error:#}"),
            "what was changed cannot be tidied up yet; it is tried again"
        );
        metrics::counter!("podgate_retries_total").increment(1);
        std::thread::sleep(RETRY);
    }
}
