// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Many measurements of one thing.

use std::time::Duration;

/// Durations, sorted when asked.
#[derive(Debug, Default, Clone)]
pub(crate) struct Sample(Vec<Duration>);

impl Sample {
    /// One more.
    pub(crate) fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// The smallest one that `percent` of all do not exceed, in microseconds; nought of none.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort();
        let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
        sorted
            .get(rank)
            .map_or(0.0, |took| took.as_secs_f64() * 1e6)
    }

    /// Half of all do not exceed it, in microseconds.
    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_smallest_that_so_many_do_not_exceed() {
        let sample = Sample((1..=200).rev().map(Duration::from_micros).collect());
        assert_eq!(sample.median().round(), 100.0);
        assert_eq!(sample.percentile(99).round(), 198.0);
        assert_eq!(Sample::default().median(), 0.0);
    }
}
