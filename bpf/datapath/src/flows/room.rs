// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What pods have of `flows` beyond what they are sure of, and which flows go first where there is no room.

use std::sync::atomic::{AtomicU64, Ordering};

use podgate_abi::Limit;

use super::{Counted, Tracked};
use crate::{Failed, sys::MappedArray, tables::TableSet};

/// The time of a walk, in jiffies, and a second in jiffies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) now: u64,
    pub(super) second: u32,
}

impl Now {
    fn is_silent_for(self, flow: &Tracked, seconds: u32) -> bool {
        self.now.saturating_sub(flow.seen) > u64::from(seconds) * u64::from(self.second)
    }

    /// Whether the flow has timed out.
    pub(super) fn is_after(self, flow: &Tracked) -> bool {
        self.is_silent_for(flow, flow.word.state().timeout(flow.key.protocol))
    }

    /// Whether its connection seems to have ended, so long ago that it goes when there is no room.
    pub(super) fn lets_go(self, flow: &Tracked) -> bool {
        let linger = flow.word.state().linger();
        linger.is_some_and(|seconds| self.is_silent_for(flow, seconds))
    }
}

/// The limits of `flows` that a set has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    of_one: u64,
    guarantee: u64,
    common: u64,
}

impl Limits {
    pub(super) fn of(set: &TableSet) -> Result<Self, Failed> {
        Ok(Self {
            of_one: set.limit(Limit::Flows)?,
            guarantee: set.limit(Limit::Guarantee)?,
            common: set.limit(Limit::Common)?,
        })
    }

    fn beyond(&self, kept: impl Iterator<Item = u64>) -> u64 {
        kept.map(|kept| kept.saturating_sub(self.guarantee)).sum()
    }

    /// Of flows that may go, those that go: of each attachment those that were silent for longest, until it has half
    /// of what it may have; half of its guarantee, while half of what all have in common is used up.
    ///
    /// An end that the receiver ignored leaves a flow among these that goes on. So none goes before there is need.
    pub(super) fn in_excess(
        &self,
        slots: &[Counted<'_>],
        mut lingering: Vec<Tracked>,
    ) -> Vec<Tracked> {
        let is_scarce = self.beyond(slots.iter().map(|slot| slot.kept)) > self.common / 2;
        let most = if is_scarce {
            self.guarantee
        } else {
            self.of_one
        } / 2;
        let mut kept: Vec<u64> = slots.iter().map(|slot| slot.kept).collect();
        lingering.sort_unstable_by_key(|flow| flow.seen);
        lingering.retain(|flow| {
            let kept = kept.get_mut(usize::from(flow.key.slot));
            kept.filter(|kept| **kept > most)
                .map(|kept| *kept -= 1)
                .is_some()
        });
        lingering
    }
}

/// The count of what all attachments have beyond their guarantees.
pub(super) struct Shared<'a> {
    count: Option<&'a AtomicU64>,
    before: u64,
    pub(super) limits: Limits,
}

impl<'a> Shared<'a> {
    pub(super) fn new(table: &'a MappedArray, limits: Limits) -> Self {
        let count = table.element(0).and_then(|words| words.first());
        Self {
            count,
            before: count.map_or(0, |count| count.load(Ordering::Acquire)),
            limits,
        }
    }

    /// Sets the count to what these flows of each slot make it. What the programs added meanwhile they may have added
    /// for flows that were seen; it is counted twice until the next walk, so that nobody gets more than there is.
    pub(super) fn mend(&self, kept: impl Iterator<Item = u64>) {
        let found = self.limits.beyond(kept);
        if let Some(count) = self.count {
            let mended = |now: u64| Some(found.wrapping_add(now.wrapping_sub(self.before)));
            let _ = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, mended);
        }
    }
}

#[cfg(test)]
mod tests {
    use podgate_abi::{FlowKey, FlowState, FlowWord, Initiator};

    use super::*;

    const LIMITS: Limits = Limits {
        of_one: 40,
        guarantee: 4,
        common: 100,
    };

    fn closing(slot: u16, seen: u64) -> Tracked {
        let key = FlowKey {
            slot,
            protocol: 6,
            ..FlowKey::default()
        };
        let word = FlowWord::new(&key, 1, Initiator::PEER, FlowState::CLOSING);
        Tracked { key, word, seen }
    }

    /// Which of 30 flows of slot 1 go, when slots 0 to 2 have so many.
    fn going(kept: [u64; 3]) -> Vec<u64> {
        let counts = kept.map(AtomicU64::new);
        let slots: Vec<_> = (counts.iter().zip(kept))
            .map(|(count, kept)| {
                let mut slot = Counted::new(count);
                slot.kept = kept;
                slot
            })
            .collect();
        let flows = (0..30).rev().map(|seen| closing(1, seen)).collect();
        let going = LIMITS.in_excess(&slots, flows).into_iter();
        going.map(|flow| flow.seen).collect()
    }

    /// What may have ended goes when there is a need for room, and the oldest goes first.
    #[test]
    fn flows_that_may_have_ended_go_oldest_first_when_needed() {
        assert_eq!(going([0, 20, 0]), [0_u64; 0]);
        assert_eq!(going([0, 23, 0]), [0, 1, 2]);
        assert_eq!(going([54, 20, 0]).len(), 18);
        assert_eq!(going([54, 2, 0]), [0_u64; 0]);
    }

    #[test]
    fn flows_that_may_have_ended_linger_and_others_time_out() {
        let now = Now {
            now: 86_500,
            second: 1,
        };
        let mut flow = closing(1, 86_500 - 120);
        assert!(!now.lets_go(&flow) && !now.is_after(&flow));
        flow.seen -= 1;
        assert!(now.lets_go(&flow) && !now.is_after(&flow));
        flow.seen = 99;
        assert!(now.is_after(&flow));
        let half = FlowWord::new(&flow.key, 1, Initiator::PEER, FlowState::POD_CLOSED);
        let half = Tracked {
            word: half,
            seen: 86_500 - 3600,
            ..flow
        };
        assert!(!now.lets_go(&half));
    }

    /// What all attachments have beyond their guarantees is set right, and is never too low.
    #[test]
    fn the_common_count_is_corrected_and_is_never_too_low() {
        for (before, is_now, expected) in [(7, 7, 9), (7, 9, 11), (u64::MAX, u64::MAX, 9)] {
            let count = AtomicU64::new(before);
            let shared = Shared {
                count: Some(&count),
                before,
                limits: LIMITS,
            };
            count.store(is_now, Ordering::Relaxed);
            shared.mend([13, 4, 0].into_iter());
            assert_eq!(count.load(Ordering::Relaxed), expected);
        }
    }
}
