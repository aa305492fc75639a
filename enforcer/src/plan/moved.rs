// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What differs between facts, as what the tables have: addresses and prefixes.

use std::net::IpAddr;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use podgate_policy::compile::facts::Facts;

/// Addresses and prefixes of which something else is to be said than before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) addresses: OrdSet<IpAddr>,
    pub(super) prefixes: OrdSet<IpNet>,
}

impl Moved {
    /// From some facts to others, beside what must be said anyway.
    pub(super) fn between(before: &Facts, after: &Facts, mut anyway: Self) -> Self {
        anyway
            .addresses
            .extend(differing(before.addresses(), after.addresses()));
        anyway
            .prefixes
            .extend(differing(before.prefixes(), after.prefixes()));
        anyway
    }

    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.prefixes.is_empty()
    }

    /// These as well.
    pub(super) fn extend(&mut self, more: Self) {
        self.addresses.extend(more.addresses);
        self.prefixes.extend(more.prefixes);
    }
}

fn differing<'a, K: Ord + Copy, V: PartialEq>(
    before: &'a OrdMap<K, V>,
    after: &'a OrdMap<K, V>,
) -> impl Iterator<Item = K> + 'a {
    before.diff(after).map(|difference| match difference {
        DiffItem::Add(key, _)
        | DiffItem::Remove(key, _)
        | DiffItem::Update { new: (key, _), .. } => *key,
    })
}
