// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Numbers for contents: the same content has one number while it is in use.

use std::borrow::Borrow;
use std::hash::Hash;

use imbl::{HashMap, OrdMap, Vector};

use super::{PlanError, Table};

/// Which content has which number, and how often it is used.
///
/// A number goes back into the pot when it is freed. Whoever frees it makes sure that by then nothing uses it, and no
/// program can hold it.
#[derive(Debug, Clone)]
pub(super) struct IdAllocator<K> {
    table: Table,
    first: u32,
    /// One more than the highest number that there is.
    limit: u32,
    numbers: HashMap<K, Entry>,
    contents: OrdMap<u32, K>,
    /// Given back, and not in use again.
    free: Vector<u32>,
    /// The lowest number that was never used.
    unused: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    number: u32,
    uses: u32,
}

/// How a content came by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// It had this number already.
    Known(u32),
    /// It has this number from now on, and no use yet.
    New(u32),
}

impl<K: Clone + Eq + Hash> IdAllocator<K> {
    /// Numbers from `first` to below `limit`.
    pub(super) fn new(table: Table, first: u32, limit: u32) -> Self {
        Self {
            table,
            first,
            limit,
            numbers: HashMap::new(),
            contents: OrdMap::new(),
            free: Vector::new(),
            unused: first,
        }
    }

    /// From now on numbers are given below `limit` only. None above it was given yet.
    pub(super) fn limit_to(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// The number of `content`, which has one from now on.
    pub(super) fn give(&mut self, content: &K) -> Result<Given, PlanError> {
        if let Some(entry) = self.numbers.get(content) {
            return Ok(Given::Known(entry.number));
        }
        let number = match self.free.pop_back() {
            Some(number) => number,
            None if self.unused < self.limit => {
                self.unused += 1;
                self.unused - 1
            }
            None => return Err(PlanError::full(self.table, self.limit)),
        };
        let entry = Entry { number, uses: 0 };
        self.numbers.insert(content.clone(), entry);
        self.contents.insert(number, content.clone());
        Ok(Given::New(number))
    }

    /// One more use of a number.
    pub(super) fn hold(&mut self, number: u32) {
        if let Some(entry) = self.entry(number) {
            entry.uses += 1;
        }
    }

    /// One use less of a number. Whether none is left.
    pub(super) fn leave(&mut self, number: u32) -> bool {
        self.entry(number).is_some_and(|entry| {
            entry.uses = entry.uses.saturating_sub(1);
            entry.uses == 0
        })
    }

    /// Takes a number back; what had it.
    pub(super) fn free(&mut self, number: u32) -> Option<K> {
        let content = self.retire(number)?;
        self.put_back(number);
        Some(content)
    }

    /// Nothing has a number any more, and nothing gets it until it is put back; what had it.
    pub(super) fn retire(&mut self, number: u32) -> Option<K> {
        let content = self.contents.remove(&number)?;
        self.numbers.remove(&content);
        Some(content)
    }

    /// A number that was retired goes back into the pot.
    pub(super) fn put_back(&mut self, number: u32) {
        self.free.push_back(number);
    }

    /// The number of `content`.
    pub(super) fn number_of<Q>(&self, content: &Q) -> Option<u32>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.numbers.get(content).map(|entry| entry.number)
    }

    /// How often a number is used.
    pub(super) fn uses_of(&self, number: u32) -> u32 {
        let entry = self.content_of(number).and_then(|it| self.numbers.get(it));
        entry.map_or(0, |entry| entry.uses)
    }

    /// What has a number.
    pub(super) fn content_of(&self, number: u32) -> Option<&K> {
        self.contents.get(&number)
    }

    /// How many numbers are taken, the reserved ones included, of how many.
    pub(super) fn used(&self) -> (u32, u32) {
        let used = u32::try_from(self.contents.len()).unwrap_or(u32::MAX);
        (self.first.saturating_add(used), self.limit)
    }

    fn entry(&mut self, number: u32) -> Option<&mut Entry> {
        self.numbers.get_mut(self.contents.get(&number)?)
    }
}
