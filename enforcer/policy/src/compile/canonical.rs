// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A value in one form only, which may be long and is compared and hashed often.

use std::cmp::Ordering;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::ops::Deref;
use std::sync::LazyLock;

/// Keyed once for each process, so that no tenant can make contents collide.
pub(super) static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The value, and its hash, so that it costs no more to be hashed than a number.
#[derive(Debug, Clone)]
pub struct Canonical<T> {
    hash: u64,
    value: T,
}

impl<T: Hash> From<T> for Canonical<T> {
    fn from(value: T) -> Self {
        let hash = HASHER.hash_one(&value);
        Self { hash, value }
    }
}

impl<T> Deref for Canonical<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Eq> PartialEq for Canonical<T> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || (self.hash == other.hash && self.value == other.value)
    }
}

impl<T: Eq> Eq for Canonical<T> {}

impl<T: Ord> PartialOrd for Canonical<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> Ord for Canonical<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        // Most look-ups compare a value with itself.
        if std::ptr::eq(self, other) {
            return Ordering::Equal;
        }
        self.value.cmp(&other.value)
    }
}

impl<T> Hash for Canonical<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}
