//! Numbers for contents: the same content has one number while it is in use.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use super::{PlanError, Table};

/// Which content has which number, and how often it is used.
///
/// A number goes back into the pot with its last use. Whoever releases it makes sure that by then no program can
/// hold it.
#[derive(Debug, Clone)]
pub(super) struct Numbers<K> {
    table: Table,
    first: u32,
    /// One more than the highest number that there is.
    limit: u32,
    numbers: HashMap<K, Entry>,
    contents: BTreeMap<u32, K>,
    /// Given back, and not in use again.
    free: Vec<u32>,
    /// The lowest number that was never used.
    unused: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    number: u32,
    uses: u32,
}

/// What became of a content that was acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acquired {
    /// It had this number already.
    Known(u32),
    /// It has this number from now on.
    New(u32),
}

impl<K: Clone + Eq + Hash> Numbers<K> {
    /// Numbers from `first` to below `limit`.
    pub(super) fn new(table: Table, first: u32, limit: u32) -> Self {
        Self {
            table,
            first,
            limit,
            numbers: HashMap::new(),
            contents: BTreeMap::new(),
            free: Vec::new(),
            unused: first,
        }
    }

    /// The number of `content`, with one more use of it.
    pub(super) fn acquire(&mut self, content: &K) -> Result<Acquired, PlanError> {
        if let Some(entry) = self.numbers.get_mut(content) {
            entry.uses += 1;
            return Ok(Acquired::Known(entry.number));
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.unused < self.limit => {
                self.unused += 1;
                self.unused - 1
            }
            None => {
                return Err(PlanError::Full {
                    table: self.table,
                    capacity: self.limit,
                });
            }
        };
        let entry = Entry { number, uses: 1 };
        self.numbers.insert(content.clone(), entry);
        self.contents.insert(number, content.clone());
        Ok(Acquired::New(number))
    }

    /// Takes one use back; the content, if that was the last.
    pub(super) fn release(&mut self, number: u32) -> Option<K> {
        let content = self.contents.get(&number)?;
        let entry = self.numbers.get_mut(content)?;
        entry.uses -= 1;
        if entry.uses > 0 {
            return None;
        }
        self.numbers.remove(content);
        self.free.push(number);
        self.contents.remove(&number)
    }

    /// The number of `content`.
    pub(super) fn number_of<Q>(&self, content: &Q) -> Option<u32>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.numbers.get(content).map(|entry| entry.number)
    }

    /// Every number in use, with its content.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &K)> {
        self.contents
            .iter()
            .map(|(number, content)| (*number, content))
    }

    /// How many numbers are taken, the reserved ones included, of how many.
    pub(super) fn used(&self) -> (u32, u32) {
        let used = u32::try_from(self.contents.len()).unwrap_or(u32::MAX);
        (self.first.saturating_add(used), self.limit)
    }
}
