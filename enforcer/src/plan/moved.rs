//! What differs between facts, as what the tables have: addresses and prefixes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use podgate_policy::compile::facts::Facts;

/// Addresses and prefixes of which something else is to be said than before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) prefixes: BTreeSet<IpNet>,
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
