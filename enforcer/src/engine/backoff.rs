// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When something that failed is tried again.

use std::time::{Duration, Instant};

/// The first pause.
const FIRST: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(10);

/// Failures in a row, and when the next attempt is due.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    due: Option<Instant>,
}

impl Backoff {
    /// It failed now.
    pub(super) fn failed(&mut self, now: Instant) {
        let pause = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST);
        self.failures += 1;
        self.due = Some(now + pause);
    }

    /// It worked.
    pub(super) fn worked(&mut self) {
        *self = Self::default();
    }

    /// How often in a row it failed.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether now is a time for an attempt: an event that comes earlier is none.
    pub(super) fn allows(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    /// When to act next: while something fails at its next attempt, whatever else would be due; else `otherwise`.
    pub(super) fn due_or(&self, otherwise: Option<Instant>) -> Option<Instant> {
        self.due.or(otherwise)
    }

    /// When to try again; `None` if nothing failed.
    #[cfg(test)]
    fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_begin_anew_after_a_success() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        let mut pause = || {
            backoff.failed(now);
            backoff.due().unwrap() - now
        };
        assert_eq!([pause(), pause(), pause()], [1, 2, 4].map(|n| FIRST * n));
        let last = (0..100).map(|_| pause()).last().unwrap();
        assert_eq!(last, LONGEST);
        backoff.worked();
        assert_eq!((backoff.due(), backoff.failures()), (None, 0));
        backoff.failed(now);
        assert_eq!(backoff.due(), Some(now + FIRST));
    }

    #[test]
    fn an_event_before_the_next_attempt_is_due_is_no_attempt() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert!(backoff.allows(now));
        backoff.failed(now);
        assert!(!backoff.allows(now));
        assert!(!backoff.allows(now + FIRST / 2));
        assert!(backoff.allows(now + FIRST));
        backoff.worked();
        assert!(backoff.allows(now));
    }

    /// While something fails, what is overdue waits for the next attempt.
    #[test]
    fn after_a_failure_overdue_work_waits_for_the_next_attempt() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.due_or(Some(now)), Some(now));
        backoff.failed(now);
        assert_eq!(backoff.due_or(Some(now)), Some(now + FIRST));
        backoff.worked();
        assert_eq!(backoff.due_or(None), None);
    }
}
