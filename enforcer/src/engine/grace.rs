// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Grace periods, waited for on a thread of their own: each takes 8 to 20 ms, for which no ADD should wait.

use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use podgate_datapath::tables::TableSet;

use super::Event;

/// When a grace period is begun again that the kernel refused.
const RETRY: Duration = Duration::from_secs(1);

/// A hundred times what one takes.
const LATE: Duration = Duration::from_secs(2);

/// After which a new table set is built, which needs none.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// How it stands with the planner's grace period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Grace {
    /// None was begun.
    #[default]
    None,
    /// One was, and is not over.
    Underway {
        /// When.
        since: Instant,
    },
    /// One is over; what waited for it is still to be done.
    Over,
}

impl Grace {
    /// Whether it takes so long that somebody should know.
    pub(super) fn is_late(self, now: Instant) -> bool {
        self.takes(LATE, now)
    }

    /// Whether it is not to be waited for any more.
    pub(super) fn is_given_up(self, now: Instant) -> bool {
        self.takes(GIVEN_UP, now)
    }

    fn takes(self, so_long: Duration, now: Instant) -> bool {
        match self {
            Self::None | Self::Over => false,
            Self::Underway { since } => now.saturating_duration_since(since) >= so_long,
        }
    }
}

/// The thread.
#[derive(Debug)]
pub(super) struct Graces(Sender<()>);

impl Graces {
    /// Starts it. It ends with the engine that it tells of each grace period that is over.
    ///
    /// # Errors
    /// When there are no threads to be had.
    pub(super) fn start(engine: Sender<Event>) -> Result<Self> {
        let (begin, begun) = channel();
        std::thread::Builder::new()
            .name("grace".into())
            .spawn(move || {
                // The thread ends with whoever is to be told.
                wait_for_each(&begun, &engine, TableSet::grace, RETRY).ok();
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

fn wait_for_each<E: Into<anyhow::Error>>(
    begun: &Receiver<()>,
    engine: &Sender<Event>,
    mut grace: impl FnMut() -> Result<(), E>,
    retry: Duration,
) -> Result<(), SendError<Event>> {
    for () in begun {
        while let Err(error) = grace() {
            let error: anyhow::Error = error.into();
            tracing::error!(
                error = format!("{error:#}"),
                "what was changed cannot be tidied up yet; it is tried again"
            );
            metrics::counter!("podgate_retries_total").increment(1);
            engine.send(Event::GraceRefused)?;
            std::thread::sleep(retry);
        }
        engine.send(Event::GraceOver)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The engine hears of every grace period that is refused, before it is over.
    #[test]
    fn the_engine_hears_of_every_refused_grace_period() {
        let (begin, begun) = channel();
        let (engine, events) = channel();
        begin.send(()).unwrap();
        drop(begin);
        let mut answers = [Err(anyhow::anyhow!("no memory")), Ok(())].into_iter();
        let grace = || answers.next().unwrap();
        wait_for_each(&begun, &engine, grace, Duration::ZERO).unwrap();
        drop(engine);
        let events: Vec<Event> = events.iter().collect();
        assert!(matches!(
            events[..],
            [Event::GraceRefused, Event::GraceOver]
        ));
    }

    #[test]
    fn a_grace_period_that_does_not_end_is_late_and_then_given_up() {
        let since = Instant::now();
        let underway = Grace::Underway { since };
        for (grace, after, late, given_up) in [
            (underway, Duration::ZERO, false, false),
            (underway, LATE, true, false),
            (underway, GIVEN_UP, true, true),
            (Grace::None, GIVEN_UP, false, false),
            (Grace::Over, GIVEN_UP, false, false),
        ] {
            let now = since + after;
            let found = (grace.is_late(now), grace.is_given_up(now));
            assert_eq!(found, (late, given_up), "{grace:?} after {after:?}");
        }
    }
}
