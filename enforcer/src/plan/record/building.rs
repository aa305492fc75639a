// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rulesets that come, and those that go, a portion at a time: however much one asks, what is planned at once is bounded.
//!
//! ```text
//! number, own row ──► predicates asked, some at a time ──► rows for classes that there were ──► ready: it may be held
//! nothing has it ──► predicates asked no more, some at a time ──► rows deleted ──► number free
//! ```
//! In between other rulesets, facts and flips come and go as ever: a class that is new has its row for every ruleset that
//! asks about it, ready or not.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};
use podgate_abi::{Class, RowKey, RowWords, RulesetId};
use podgate_policy::compile::predicate::{Predicate, Questions};
use podgate_policy::compile::ruleset::Ruleset;

use super::{Fresh, InstalledMaps, Known};
use crate::plan::id_allocator::Given;
use crate::plan::{PlanError, Write};

/// Rulesets that are not ready yet, and those that are not gone yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Building {
    coming: OrdMap<RulesetId, Coming>,
    /// Those that some attachment is to have.
    wanted: OrdSet<RulesetId>,
    going: OrdMap<RulesetId, Going>,
}

/// How far a ruleset has come.
#[derive(Debug, Clone)]
enum Coming {
    /// It has asked its predicates up to this one.
    RulesetIndex(Option<Arc<Predicate>>),
    /// All is asked, and whatever that moves has moved. It has its rows but for these classes.
    Meeting(Vector<Class>),
}

/// A ruleset that is gone but for its number, some questions and rows.
#[derive(Debug, Clone)]
struct Going {
    questions: Arc<Questions>,
    /// Its predicates up to this one are asked no more.
    until: Option<Arc<Predicate>>,
}

/// So many of the predicates behind one.
fn behind<'a>(
    questions: &'a Questions,
    last: Option<&'a Arc<Predicate>>,
    most: usize,
) -> impl Iterator<Item = &'a Arc<Predicate>> {
    let from: Bound<&Arc<Predicate>> = last.map_or(Bound::Unbounded, Bound::Excluded);
    let behind = questions
        .predicates
        .range((from.cloned(), Bound::Unbounded));
    behind.take(most)
}

impl InstalledMaps {
    /// Whether attachments may have a ruleset.
    pub(in crate::plan) fn is_ready(&self, ruleset: &Ruleset) -> bool {
        self.number_of(ruleset)
            .is_some_and(|number| !self.building.coming.contains_key(&number))
    }

    /// Whether some attachment is to have a ruleset that nobody has.
    pub(in crate::plan) fn is_building(&self) -> bool {
        !self.building.wanted.is_empty()
    }

    /// A ruleset is had by somebody.
    pub(super) fn is_had(&mut self, number: RulesetId) {
        self.building.wanted.remove(&number);
        self.idle_rulesets.remove(&number);
    }

    /// How many classes a ruleset has still to meet.
    pub(super) fn still_to_meet(&self, number: RulesetId) -> usize {
        match self.building.coming.get(&number) {
            Some(Coming::Meeting(classes)) => classes.len(),
            Some(Coming::RulesetIndex(_)) | None => 0,
        }
    }

    /// Whether a ruleset is not gone yet.
    pub(in crate::plan) fn has_remains(&self) -> bool {
        !self.building.going.is_empty()
    }

    /// Attachments are to have these rulesets, which they do not have yet: those of them that have a number keep it.
    pub(in crate::plan) fn want<'a>(&mut self, rulesets: impl Iterator<Item = &'a Ruleset>) {
        let numbers = rulesets.filter_map(|ruleset| self.number_of(ruleset));
        let wanted: OrdSet<RulesetId> = numbers.collect();
        for number in &wanted {
            self.idle_rulesets.remove(number);
        }
        let before = std::mem::replace(&mut self.building.wanted, wanted);
        for number in before {
            self.leave_if_idle(number);
        }
    }

    /// Takes note if a ruleset has a number and nobody has it or is to have it.
    pub(super) fn leave_if_idle(&mut self, number: RulesetId) {
        let is_idle = self.known.contains_key(&number)
            && !self.building.wanted.contains(&number)
            && self.holders_of(number).next().is_none();
        if is_idle {
            self.idle_rulesets.insert(number, self.now);
        }
    }

    /// Gives a ruleset a number, if it has none, and its own row. Nobody has it yet, and somebody is to have it.
    pub(in crate::plan) fn begin_ruleset(
        &mut self,
        ruleset: &Ruleset,
        writes: &mut Vec<Write>,
    ) -> Result<Option<RulesetId>, PlanError> {
        if let Some(number) = self.number_of(ruleset) {
            return Ok(Some(number));
        }
        let compiled = Arc::new(ruleset.clone());
        let (Given::Known(number) | Given::New(number)) = self.rulesets.give(&compiled)?;
        let number = RulesetId(number);
        let default_row = self.ports.acquire(&ruleset.default_row(), writes)?;
        let questions = Arc::new(ruleset.questions());
        self.asking.begin(number, &questions);
        let known = Known {
            compiled,
            questions,
            default_row,
        };
        self.known.insert(number, known);
        self.building.wanted.insert(number);
        self.building
            .coming
            .insert(number, Coming::RulesetIndex(None));
        writes.push(Write::DefaultRow {
            ruleset: number,
            row: RowWords::new(RowKey(0), default_row),
        });
        Ok(Some(number))
    }

    /// What these rulesets have to ask next, `room` predicates at most, each with its ruleset; and what they ask beside.
    pub(in crate::plan) fn to_ask(
        &self,
        rulesets: &[RulesetId],
        room: usize,
    ) -> (Vec<(RulesetId, Arc<Predicate>)>, Questions) {
        let (mut predicates, mut beside) = (Vec::new(), Questions::default());
        for number in rulesets {
            let coming = self.building.coming.get(number);
            let Some((known, Coming::RulesetIndex(last))) = self.known.get(number).zip(coming)
            else {
                continue;
            };
            let room = room.saturating_sub(predicates.len());
            let next = behind(&known.questions, last.as_ref(), room);
            predicates.extend(next.map(|predicate| (*number, Arc::clone(predicate))));
            beside
                .port_names
                .extend(known.questions.port_names.iter().cloned());
            beside.translations |= known.questions.translations;
        }
        (predicates, beside)
    }

    /// These are asked from now on.
    pub(in crate::plan) fn ask(&mut self, asked: &[(RulesetId, Arc<Predicate>)]) {
        for (number, predicate) in asked {
            self.asking.add(*number, predicate);
            let last = Coming::RulesetIndex(Some(Arc::clone(predicate)));
            self.building.coming.insert(*number, last);
        }
    }

    /// Whatever moves has moved: those of these rulesets that have asked everything are to meet the classes that there are,
    /// but for the fresh ones, which have met them.
    pub(in crate::plan) fn have_moved(&mut self, rulesets: &[RulesetId], fresh: &Fresh) {
        for number in rulesets {
            let coming = self.building.coming.get(number);
            let Some((known, Coming::RulesetIndex(last))) = self.known.get(number).zip(coming)
            else {
                continue;
            };
            if known.questions.predicates.get_max() == last.as_ref() {
                let classes = self.classes.under(&known.questions);
                let old = classes.difference(&fresh.0).copied();
                let meeting = Coming::Meeting(old.collect());
                self.building.coming.insert(*number, meeting);
            }
        }
    }

    /// Writes rows of these rulesets, those for `room` classes at most. Who has all of them is ready.
    pub(in crate::plan) fn meet(
        &mut self,
        rulesets: &[RulesetId],
        mut room: usize,
        writes: &mut Vec<Write>,
    ) -> Result<(), PlanError> {
        let mut pairs = 0;
        for number in rulesets {
            let Some(Coming::Meeting(mut classes)) = self.building.coming.get(number).cloned()
            else {
                continue;
            };
            pairs += classes.len().min(room);
            self.bounded(pairs)?;
            let rest = classes.split_off(classes.len().min(room));
            let met = std::mem::replace(&mut classes, rest);
            room -= met.len();
            self.add_rows(*number, met, writes)?;
            if classes.is_empty() {
                self.building.coming.remove(number);
            } else {
                let meeting = Coming::Meeting(classes);
                self.building.coming.insert(*number, meeting);
            }
        }
        Ok(())
    }

    /// The rulesets that nobody has had since before the last grace period began are gone: what they ask, and their rows,
    /// `room` of each at most, go at once; their numbers with the last of these.
    pub(in crate::plan) fn discard_rulesets(&mut self, room: usize, writes: &mut Vec<Write>) {
        for number in self.idle_rulesets.take_before(self.now, usize::MAX) {
            self.building.coming.remove(&number);
            if let Some(known) = self.known.remove(&number) {
                self.rulesets.retire(number.0);
                self.ports.release(known.default_row);
                self.asking.end(number, &known.questions);
                let questions = known.questions;
                let going = Going {
                    questions,
                    until: None,
                };
                self.building.going.insert(number, going);
            }
        }
        let mut room = room;
        let going: Vec<RulesetId> = self.building.going.keys().copied().collect();
        for number in going {
            room = self.discard(number, room, writes);
            if room == 0 {
                break;
            }
        }
    }

    /// What room is left.
    fn discard(&mut self, number: RulesetId, room: usize, writes: &mut Vec<Write>) -> usize {
        let Some(mut going) = self.building.going.get(&number).cloned() else {
            return room;
        };
        let asked: Vec<Arc<Predicate>> = behind(&going.questions, going.until.as_ref(), room)
            .cloned()
            .collect();
        for predicate in &asked {
            self.asking.remove(number, predicate);
        }
        let room = room - asked.len();
        going.until = asked.last().cloned().or(going.until);
        let rows = self.rows_of(number).take(room);
        let dead: BTreeSet<RowKey> = rows.map(|(key, _)| *key).collect();
        let left = room - dead.len();
        for key in dead {
            self.discard_row(key, writes);
        }
        if left > 0 {
            self.building.going.remove(&number);
            self.rulesets.put_back(number.0);
        } else {
            self.building.going.insert(number, going);
        }
        left
    }
}
