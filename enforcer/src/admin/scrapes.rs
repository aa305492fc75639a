// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The text of `/metrics`, within a budget: rendering it asks the engine to read the kernel's counters, and formats some
//! hundreds of figures.
//!
//! One scrape is rendered at a time. Whoever waited meanwhile gets the same text, and so does everybody while the budget
//! is used up: then the figures are older by [`EVERY`] at most.

use std::future::Future;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::Mutex;

/// How many texts may be rendered in a row.
const AT_ONCE: u32 = 8;

/// How often one more may be, in the long run.
const EVERY: Duration = Duration::from_millis(500);

/// The last text, and the budget for others.
#[derive(Debug, Default)]
pub(super) struct Scrapes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// None before the first scrape.
    last: Option<Text>,
    budget: Budget,
}

#[derive(Debug)]
struct Text {
    made: Instant,
    bytes: Bytes,
}

impl Scrapes {
    /// The text: of `render`, or the last one.
    pub(super) async fn text<F: Future<Output = String>>(
        &self,
        render: impl FnOnce() -> F,
    ) -> Bytes {
        let asked = Instant::now();
        let mut state = self.0.lock().await;
        if let Some(last) = &state.last
            && last.made >= asked
        {
            return last.bytes.clone();
        }
        let allowed = state.budget.spend(Instant::now());
        match &state.last {
            Some(last) if !allowed => last.bytes.clone(),
            Some(_) | None => {
                let bytes = Bytes::from(render().await);
                state.last = Some(Text {
                    made: Instant::now(),
                    bytes: bytes.clone(),
                });
                bytes
            }
        }
    }
}

/// What is left to spend.
#[derive(Debug)]
struct Budget {
    left: u32,
    /// As of when.
    since: Option<Instant>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            left: AT_ONCE,
            since: None,
        }
    }
}

impl Budget {
    fn spend(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let due = now.saturating_duration_since(since).as_millis() / EVERY.as_millis();
        if let Ok(more) = u32::try_from(due)
            && self.left.saturating_add(more) < AT_ONCE
        {
            self.left += more;
            self.since = Some(since + EVERY * more);
        } else if due > 0 {
            self.left = AT_ONCE;
            self.since = Some(now);
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_gets_what_the_budget_has_and_no_more() {
        let start = Instant::now();
        let mut budget = Budget::default();
        let mut allowed = 0;
        for millisecond in 0..10_000 {
            allowed += u32::from(budget.spend(start + Duration::from_millis(millisecond)));
        }
        assert_eq!(allowed, AT_ONCE + 19);
        let rested = start + Duration::from_secs(3600);
        let after = (0..100).filter(|_| budget.spend(rested)).count();
        assert_eq!(after, AT_ONCE as usize);
    }

    #[tokio::test]
    async fn scrapes_over_budget_and_waiting_ones_get_the_last_text() {
        let scrapes = Scrapes::default();
        let rendered = std::sync::atomic::AtomicU32::new(0);
        let render = || async {
            // Whoever asks meanwhile waits.
            tokio::task::yield_now().await;
            let number = rendered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            format!("text {number}")
        };
        let together = futures::future::join_all((0..50).map(|_| scrapes.text(render))).await;
        assert!(together.iter().all(|text| text == "text 0"), "{together:?}");
        for _ in 0..1000 {
            scrapes.text(render).await;
        }
        let rendered = rendered.into_inner();
        assert!((AT_ONCE..AT_ONCE + 4).contains(&rendered), "{rendered}");
    }
}
