// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Changes of policy, and what is tidied after them, as the order of their writes: a portion at a time.
//!
//! ```text
//! rulesets that are wanted, those that ask least first ──► asked ──► classes get finer ──► rows ──► ready ──► flips
//! ```
//! What is planned at once is bounded by a room: in predicates that are asked, addresses and boundaries that move, pairs of
//! a ruleset and a class. So a ruleset that asks much comes about over many plans, and others overtake it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use podgate_abi::{RulesetId, Slot};
use podgate_policy::compile::SubjectRulesets;
use podgate_policy::compile::facts::Facts;
use podgate_policy::compile::ruleset::Ruleset;
use podgate_policy::connection::Direction;
use podgate_policy::difference::parts;

use super::moved::Moved;
use super::record::Fresh;
use super::{Installed, Plan, PlanError, Rulesets, Write};

/// How many blocks may hold at all boundaries together; the blocks of one namespace are weighed before they come here.
const MOST_OVERLAPS: usize = 600_000;

/// Towards other rulesets under the same facts: what of it has room.
pub(super) fn of_policy(
    after: &mut Installed,
    wanted: &Rulesets,
    room: usize,
) -> Result<Plan, PlanError> {
    let before = after.attachments.clone();
    let mut writes = Vec::new();
    let mut differing = differing(&before, wanted);
    let becoming = differing.iter().flat_map(Differing::becoming);
    after.record.want(becoming);
    let mut evaluated = 0;
    let some_are_ready = differing.iter().any(|it| it.is_ready(after));
    if !some_are_ready || room == usize::MAX {
        evaluated = after.build(&differing, room, &mut writes)?;
    }
    differing.retain(|it| it.is_ready(after));
    for differing in &differing {
        after.flip(differing, &mut writes);
    }
    Ok(Plan { writes, evaluated })
}

/// The attachments that wait for rulesets that are not ready.
pub(super) fn unready(before: &Installed, wanted: &Rulesets) -> BTreeSet<Slot> {
    let awaited = awaited(before, wanted).into_iter();
    awaited.map(|(slot, _)| slot).collect()
}

/// The attachments that wait for the ruleset that asks most of those that are not ready.
pub(super) fn waiting_for_most(before: &Installed, wanted: &Rulesets) -> BTreeSet<Slot> {
    let awaited = awaited(before, wanted);
    let most = awaited.iter().map(|(_, ruleset)| ruleset.asks()).max();
    let waiting = awaited
        .iter()
        .filter(|(_, ruleset)| Some(ruleset.asks()) == most);
    waiting.map(|(slot, _)| *slot).collect()
}

/// The rulesets that are not ready, by who waits for them.
fn awaited<'a>(before: &'a Installed, wanted: &'a Rulesets) -> Vec<(Slot, &'a Ruleset)> {
    let mut awaited = Vec::new();
    for it in differing(&before.attachments, wanted) {
        let unready = it.becoming().filter(|it| !before.record.is_ready(it));
        awaited.extend(unready.map(|ruleset| (it.slot, ruleset)));
    }
    awaited
}

/// What waited for the grace period that is over: established flows are judged again by what may allow less, what
/// nothing names goes, and classes get coarser. What of it has room.
pub(super) fn after_grace(after: &mut Installed, room: usize) -> Result<Plan, PlanError> {
    let mut writes = Vec::new();
    let renewals = after.renewals.take_before(after.record.now(), usize::MAX);
    for (slot, direction) in renewals {
        if after.attachments.contains_key(&slot) {
            writes.push(Write::Renew { slot, direction });
        }
    }
    after.record.discard_rulesets(room, &mut writes);
    let evaluated = after.coarsen(room, &mut writes)?;
    after.record.discard_classes(room, &mut writes);
    Ok(Plan { writes, evaluated })
}

impl Installed {
    /// Whether [`after_grace`] has something to do that no grace period is waited for any more.
    pub(super) fn has_remains(&self) -> bool {
        self.record.has_dead()
            || self.record.has_remains()
            || self.renewals.has_before(self.record.now())
            || self.asks_too_much()
            || !self.moving.is_empty()
    }

    /// Whether more is asked than any ruleset asks.
    fn asks_too_much(&self) -> bool {
        let (asked, beside) = (self.facts.questions(), self.record.beside());
        !self.record.surplus().is_empty()
            || asked.translations != beside.translations
            || asked.port_names.len() != beside.port_names.len()
    }

    /// Goes on with the rulesets that some attachment is to have and that are not ready. How many addresses were looked at.
    fn build(
        &mut self,
        differing: &[Differing<'_>],
        room: usize,
        writes: &mut Vec<Write>,
    ) -> Result<usize, PlanError> {
        let becoming = differing.iter().flat_map(Differing::becoming);
        let mut known = HashSet::new();
        let mut unready: Vec<&Ruleset> = becoming
            .filter(|ruleset| known.insert(*ruleset) && !self.record.is_ready(ruleset))
            .collect();
        if unready.is_empty() {
            return Ok(0);
        }
        unready.sort_by_key(|ruleset| ruleset.asks());
        let (mut batch, mut asks) = (Vec::new(), 0);
        for ruleset in unready {
            batch.extend(self.record.begin_ruleset(ruleset, writes)?);
            asks += 1 + ruleset.asks();
            if asks >= room {
                break;
            }
        }
        let mut fresh = Fresh::default();
        let evaluated = self.refine(&batch, room, &mut fresh, writes)?;
        if self.moving.is_empty() {
            self.record.have_moved(&batch, &fresh);
        }
        self.record.meet(&batch, room, writes)?;
        Ok(evaluated)
    }

    /// Moves addresses and prefixes to the classes that these rulesets tell apart.
    fn refine(
        &mut self,
        batch: &[RulesetId],
        room: usize,
        fresh: &mut Fresh,
        writes: &mut Vec<Write>,
    ) -> Result<usize, PlanError> {
        let (mut predicates, beside) = self.record.to_ask(batch, room);
        let facts = self.facts.asked(
            predicates.iter().map(|(_, predicate)| predicate),
            &beside,
            room,
            MOST_OVERLAPS,
        );
        let (facts, asked, evaluated) = facts.ok_or(PlanError::Overlapping {
            most: MOST_OVERLAPS,
        })?;
        predicates.truncate(asked);
        self.record.ask(&predicates);
        self.follow(facts, room, fresh, writes)?;
        Ok(evaluated)
    }

    /// Moves them to the classes that are told apart without what no ruleset asks any more, once all of that is forgotten:
    /// finer ones may need more room than there is.
    fn coarsen(&mut self, room: usize, writes: &mut Vec<Write>) -> Result<usize, PlanError> {
        if !self.asks_too_much() && self.moving.is_empty() {
            return Ok(0);
        }
        let surplus = self.record.surplus();
        let (facts, forgotten, evaluated) =
            self.facts.forgetting(&surplus, self.record.beside(), room);
        let is_all = forgotten == surplus.len() && !self.record.has_remains();
        let forgotten: Vec<_> = surplus.into_iter().take(forgotten).collect();
        self.record.forget(&forgotten);
        let room = if is_all { room } else { 0 };
        self.follow(facts, room, &mut Fresh::default(), writes)?;
        Ok(evaluated)
    }

    /// Other questions of the same world: moves what they move, and what has not been moved yet.
    fn follow(
        &mut self,
        facts: Facts,
        room: usize,
        fresh: &mut Fresh,
        writes: &mut Vec<Write>,
    ) -> Result<(), PlanError> {
        let moved = Moved::between(&self.facts, &facts, self.record.lacking());
        self.facts = facts;
        let mut moving = std::mem::take(&mut self.moving);
        moving.extend(moved);
        // Of whose these are now only new facts know.
        for address in self.record.forgotten() {
            moving.addresses.remove(&address);
        }
        self.move_some(&mut moving, room, fresh, writes)?;
        self.moving = moving;
        Ok(())
    }

    /// Moves what has room, once everything is complete that it comes to.
    pub(super) fn move_some(
        &mut self,
        moving: &mut Moved,
        room: usize,
        fresh: &mut Fresh,
        writes: &mut Vec<Write>,
    ) -> Result<(), PlanError> {
        let now = self.record.add_classes(&self.facts, moving, room, fresh)?;
        self.record.complete(fresh, writes)?;
        self.record.point(&self.facts, &now, writes)
    }

    /// Puts in force what an attachment is to have, which is ready.
    fn flip(&mut self, differing: &Differing<'_>, writes: &mut Vec<Write>) {
        for direction in Direction::BOTH {
            if let Some(ruleset) = differing.becomes(direction) {
                let number = self.record.take_up(ruleset, differing.slot, direction);
                writes.push(Write::Flip {
                    slot: differing.slot,
                    direction,
                    ruleset: number.expect("a ruleset is ready before it is put in force"),
                });
            }
            if let Some(ruleset) = differing.was(direction) {
                self.record.give_up(ruleset, differing.slot, direction);
            }
        }
        match differing.new {
            Some(new) => drop(self.attachments.insert(differing.slot, Arc::clone(new))),
            None => drop(self.attachments.remove(&differing.slot)),
        }
    }
}

/// An attachment that is to have another ruleset than before.
struct Differing<'a> {
    slot: Slot,
    old: Option<&'a Arc<SubjectRulesets>>,
    new: Option<&'a Arc<SubjectRulesets>>,
}

impl<'a> Differing<'a> {
    /// The ruleset that it is to have in a direction, if it had another one.
    fn becomes(&self, direction: Direction) -> Option<&'a Ruleset> {
        let (old, new) = self.of(direction);
        new.filter(|_| new != old)
    }

    /// The same in both directions.
    fn becoming(&self) -> impl Iterator<Item = &'a Ruleset> {
        Direction::BOTH
            .into_iter()
            .filter_map(|direction| self.becomes(direction))
    }

    /// Whether it may have what it is to have.
    fn is_ready(&self, installed: &Installed) -> bool {
        self.becoming().all(|it| installed.record.is_ready(it))
    }

    /// The ruleset that it had in a direction, if it is to have another one.
    fn was(&self, direction: Direction) -> Option<&'a Ruleset> {
        let (old, new) = self.of(direction);
        old.filter(|_| new != old)
    }

    fn of(&self, direction: Direction) -> (Option<&'a Ruleset>, Option<&'a Ruleset>) {
        let in_direction = |both: &'a Arc<SubjectRulesets>| both.of(direction);
        (self.old.map(in_direction), self.new.map(in_direction))
    }
}

fn differing<'a>(before: &'a Rulesets, wanted: &'a Rulesets) -> Vec<Differing<'a>> {
    let differences = before.diff(wanted);
    differences
        .map(parts)
        .map(|(slot, old, new)| Differing {
            slot: *slot,
            old,
            new,
        })
        .collect()
}
