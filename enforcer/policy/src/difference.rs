// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What differs between two versions of a map.

use imbl::ordmap::DiffItem;

/// The key of what differs, what it was, and what it is.
pub fn parts<'a, K, V>(
    difference: DiffItem<'a, 'a, K, V>,
) -> (&'a K, Option<&'a V>, Option<&'a V>) {
    match difference {
        DiffItem::Add(key, new) => (key, None, Some(new)),
        DiffItem::Remove(key, old) => (key, Some(old), None),
        DiffItem::Update {
            old: (_, old),
            new: (key, new),
        } => (key, Some(old), Some(new)),
    }
}
