// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ways into tunnels at nodes, as writes of `ways`.
//!
//! No class tells of them, so they are written beside the words of addresses, in an order that opens nothing on the way:
//! what closes an address and port comes before what opens it by another name. A NodePort is closed at what is a node's
//! address, so it is opened before other addresses become a node's, and closed after they ceased to be.

use std::collections::BTreeSet;

use imbl::OrdMap;
use podgate_abi::{Direction, MAX_WAYS, Slot, WayKey, WayWord};
use podgate_policy::compile::facts::{Closed, Facts, Way};
use podgate_policy::compile::ruleset::Ruleset;
use podgate_policy::difference::parts;

use super::{Rulesets, Write};

/// What becomes of the ways.
#[derive(Debug, Default)]
pub(super) struct Ways {
    before: Vec<Write>,
    after: Vec<Write>,
    /// Whom some are closed to that were not.
    closed: Option<Closed>,
}

impl Ways {
    /// What leads from some facts to others.
    pub(super) fn between(old: &Facts, new: &Facts) -> Self {
        // So it is with almost every change of facts.
        if old.ways() == new.ways() {
            return Self::default();
        }
        let [old, new] = [old, new].map(|facts| table_of(facts, MAX_WAYS));
        let (mut ways, mut last) = (Self::default(), Vec::new());
        for difference in old.diff(&new) {
            let (way, was, is) = parts(difference);
            let is_nodes = way.is_some_and(|(address, _)| address.is_unspecified());
            if let Some(is) = is.filter(|is| was < Some(is)) {
                // A NodePort is closed to all at other nodes.
                let is = if is_nodes { Closed::ToAll } else { *is };
                ways.closed = ways.closed.max(Some(is));
            }
            match is {
                Some(is) if is_nodes => ways.after.push(close(*way, *is)),
                Some(is) => ways.before.push(close(*way, *is)),
                None if is_nodes => ways.before.push(Write::RemoveWay { key: key_of(*way) }),
                None => last.push(Write::RemoveWay { key: key_of(*way) }),
            }
        }
        // What closes an address comes first.
        ways.before
            .sort_by_key(|write| matches!(write, Write::RemoveWay { .. }));
        ways.after.append(&mut last);
        ways
    }

    /// Before addresses become anything else.
    pub(super) fn write_before(&self, writes: &mut Vec<Write>) {
        writes.extend(self.before.iter().cloned());
    }

    /// After that.
    pub(super) fn write_after(&self, writes: &mut Vec<Write>) {
        writes.extend(self.after.iter().cloned());
    }

    /// Whose flows may go on where they may not begin any more. One that the peer began counts: its answers may be all that is left
    /// of it.
    pub(super) fn revoked(&self, attachments: &Rulesets) -> BTreeSet<(Slot, Direction)> {
        let Some(closed) = self.closed else {
            return BTreeSet::new();
        };
        let mut revoked = BTreeSet::new();
        for (slot, both) in attachments {
            revoked.insert((*slot, Direction::Ingress));
            let is_concerned = match closed {
                Closed::ToOpen => both.egress == Ruleset::Allowed,
                Closed::Elsewhere | Closed::ToAll => true,
            };
            if is_concerned {
                revoked.insert((*slot, Direction::Egress));
            }
        }
        revoked
    }
}

/// What the table holds: every way, or, where there are more than there is room for, that all are closed. It takes
/// more objects than a node has memory for.
fn table_of(facts: &Facts, most: u32) -> OrdMap<Option<Way>, Closed> {
    let ways = facts.ways();
    if ways.len() > most as usize {
        return OrdMap::unit(None, Closed::ToOpen);
    }
    let each = ways.iter();
    each.map(|(way, closed)| (Some(*way), *closed)).collect()
}

fn close(way: Option<Way>, to: Closed) -> Write {
    let word = match to {
        Closed::Elsewhere => WayWord::ELSEWHERE,
        Closed::ToOpen => WayWord::TO_OPEN,
        Closed::ToAll => WayWord::TO_ALL,
    };
    let key = key_of(way);
    Write::Way { key, word }
}

fn key_of(way: Option<Way>) -> WayKey {
    match way {
        Some((address, port)) => WayKey::new(address.into(), port),
        None => WayKey::ALL,
    }
}
