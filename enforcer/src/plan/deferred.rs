// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What nothing names any more. A program may hold it until a grace period is over that began later.

use imbl::OrdMap;

/// How many grace periods have begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GraceEpoch(u64);

impl GraceEpoch {
    /// A grace period begins.
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Things that were left, each in the era in which that came about last.
#[derive(Debug, Clone)]
pub(super) struct Deferred<T: Ord>(OrdMap<T, GraceEpoch>);

impl<T: Ord + Clone> Deferred<T> {
    /// None.
    pub(super) fn new() -> Self {
        Self(OrdMap::new())
    }

    /// One was left, now.
    pub(super) fn insert(&mut self, one: T, now: GraceEpoch) {
        self.0.insert(one, now);
    }

    /// One is taken up again.
    pub(super) fn remove(&mut self, one: &T) {
        self.0.remove(one);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether some were left before the last grace period began.
    pub(super) fn has_before(&self, now: GraceEpoch) -> bool {
        self.0.values().any(|era| *era < now)
    }

    /// Takes out those that were left before the last grace period began, `most` of them.
    pub(super) fn take_before(&mut self, now: GraceEpoch, most: usize) -> Vec<T> {
        let before = self.0.iter().filter(|(_, era)| **era < now).take(most);
        let before: Vec<T> = before.map(|(one, _)| one.clone()).collect();
        for one in &before {
            self.0.remove(one);
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_again_waits_for_a_later_grace_period() {
        let (first, second) = (
            GraceEpoch::default().next(),
            GraceEpoch::default().next().next(),
        );
        let mut left = Deferred::new();
        left.insert('a', GraceEpoch::default());
        left.insert('b', GraceEpoch::default());
        left.remove(&'b');
        left.insert('b', first);
        left.insert('c', first);
        left.remove(&'c');
        assert_eq!(left.take_before(first, 9), ['a']);
        assert_eq!(left.take_before(first, 9), []);
        assert_eq!(left.take_before(second, 9), ['b']);
        assert!(left.is_empty());
    }
}
