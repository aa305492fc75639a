// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Nothing that a packet can come to is ever rewritten, and nothing is stored that no packet can come to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use podgate_abi::{
    Address, Class, Direction, PeerWord, PortSetChunks, PortSetId, PrefixKey, PrefixWord, RowKey,
    RowWords, RulesetId, Slot,
};
use podgate_policy::arbitrary::{self, Edit};
use podgate_policy::compile::compile_subject;
use podgate_policy::connection::Baseline;
use podgate_policy::model::World;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::bench::{AMPLE, Dice, slot_of};
use crate::plan::host::Step;
use crate::plan::{Plan, Planner, Rulesets, Write};

/// What names what. Rulesets and classes that were named when the grace period that ended last had not begun, or since,
/// still count: a program may hold them.
#[derive(Default)]
struct Names {
    words: BTreeMap<(Slot, Direction), RulesetId>,
    peers: HashMap<Address, PeerWord>,
    prefixes: HashMap<PrefixKey, PrefixWord>,
    rows: BTreeMap<RowKey, RowWords>,
    default_rows: HashMap<RulesetId, RowWords>,
    port_sets: HashMap<PortSetId, PortSetChunks>,
    /// Left since the last grace period began.
    left: Held,
    /// Left before that.
    leaving: Held,
}

/// What a program may hold.
#[derive(Default)]
struct Held {
    rulesets: BTreeSet<RulesetId>,
    classes: BTreeSet<Class>,
}

impl Names {
    fn rulesets(&self) -> BTreeSet<RulesetId> {
        self.words
            .values()
            .chain(&self.left.rulesets)
            .chain(&self.leaving.rulesets)
            .copied()
            .collect()
    }

    fn classes(&self) -> BTreeSet<Class> {
        let peers = self
            .peers
            .values()
            .flat_map(|word| [word.class(), word.broad()]);
        let prefixes = self.prefixes.values().map(|word| word.broad());
        peers
            .chain(prefixes)
            .chain(self.left.classes.iter().copied())
            .chain(self.leaving.classes.iter().copied())
            .collect()
    }

    fn is_named(&self, key: RowKey) -> bool {
        let (ruleset, class) = ends_of(key);
        self.rulesets().contains(&ruleset) && self.classes().contains(&class)
    }

    /// The port sets of all rows that a packet can come to.
    fn port_sets(&self) -> BTreeSet<PortSetId> {
        let rulesets = self.rulesets();
        let rows = self
            .rows
            .iter()
            .filter(|(key, _)| self.is_named(**key))
            .map(|(_, row)| row);
        let default_rows = self
            .default_rows
            .iter()
            .filter(|(ruleset, _)| rulesets.contains(ruleset));
        rows.chain(default_rows.map(|(_, row)| row))
            .flat_map(sets_of)
            .collect()
    }

    fn execute(&mut self, step: &Step) {
        let write = match step {
            Step::GraceBegins => {
                let left = std::mem::take(&mut self.left);
                self.leaving.rulesets.extend(left.rulesets);
                self.leaving.classes.extend(left.classes);
                return;
            }
            Step::GraceOver => {
                self.leaving = Held::default();
                return;
            }
            Step::Write(write) => write,
        };
        match write {
            Write::Chunk { number, .. } => {
                let sets = self.port_sets();
                let mut named = sets.iter().filter_map(|set| self.port_sets.get(set));
                assert!(
                    !named.any(|chunks| chunks.0.contains(number)),
                    "{write:?} is named"
                );
            }
            Write::PortSet { number, chunks } => {
                assert!(!self.port_sets().contains(number), "{write:?} is named");
                self.port_sets.insert(*number, *chunks);
            }
            Write::DefaultRow { ruleset, row } => {
                assert!(!self.rulesets().contains(ruleset), "{write:?} is named");
                assert!(
                    self.rows.keys().all(|key| ends_of(*key).0 != *ruleset),
                    "{write:?} while rows stand under its number"
                );
                self.default_rows.insert(*ruleset, *row);
            }
            Write::Row { key, row } => {
                assert!(!self.is_named(*key), "{write:?} is named");
                let known = self.rows.insert(*key, *row);
                assert_eq!(known, None, "{write:?} replaces a row");
            }
            Write::RemoveRow { key } => {
                assert!(!self.is_named(*key), "{write:?} is named");
                assert!(self.rows.remove(key).is_some(), "{write:?} of nothing");
            }
            Write::Peer { address, word } => {
                let old = self.peers.insert(*address, *word);
                self.left
                    .classes
                    .extend(old.into_iter().flat_map(|old| [old.class(), old.broad()]));
            }
            Write::RemovePeer { address } => {
                let old = self.peers.remove(address);
                self.left
                    .classes
                    .extend(old.into_iter().flat_map(|old| [old.class(), old.broad()]));
            }
            Write::Prefix { key, word } => {
                let old = self.prefixes.insert(*key, *word);
                self.left.classes.extend(old.map(|old| old.broad()));
            }
            Write::RemovePrefix { key } => {
                let old = self.prefixes.remove(key);
                self.left.classes.extend(old.map(|old| old.broad()));
            }
            // They name nothing.
            Write::Way { .. } | Write::RemoveWay { .. } => {}
            Write::Flip {
                slot,
                direction,
                ruleset,
            } => {
                let old = self.words.insert((*slot, *direction), *ruleset);
                self.left.rulesets.extend(old);
            }
            Write::Renew { slot, direction } => {
                assert!(
                    self.words.contains_key(&(*slot, *direction)),
                    "{write:?} of nothing"
                );
            }
        }
    }

    /// Each row is of a ruleset in force and a class in use, and says something else than the next look-up step.
    fn assert_minimal(&self) {
        let words: BTreeSet<(Class, Class)> = self
            .peers
            .values()
            .map(|word| (word.class(), word.broad()))
            .collect();
        let prefixes = self
            .prefixes
            .values()
            .map(|word| (Class::NONE, word.broad()));
        let in_use: BTreeSet<(Class, Class)> = words.into_iter().chain(prefixes).collect();
        for (key, row) in &self.rows {
            let (ruleset, class) = ends_of(*key);
            assert!(
                self.words.values().any(|known| *known == ruleset),
                "{ruleset:?} is dead"
            );
            let default = &self.default_rows[&ruleset];
            let mut uses = 0;
            for (narrow, broad) in &in_use {
                let next = if class == *narrow {
                    self.rows
                        .get(&RowKey::new(ruleset, *broad))
                        .unwrap_or(default)
                } else if class == *broad {
                    default
                } else {
                    continue;
                };
                uses += 1;
                assert_ne!(sets_of(row), sets_of(next), "{key:?} says nothing new");
            }
            assert!(uses > 0, "{class:?} is dead");
        }
    }
}

fn ends_of(key: RowKey) -> (RulesetId, Class) {
    (RulesetId(key.0 >> 18), Class(key.0 & Class::MAX.0))
}

fn sets_of(row: &RowWords) -> [PortSetId; 4] {
    let set = |word: u64, shift: u32| PortSetId((word >> shift & 0xffff) as u16);
    let [first, second] = row.0;
    [
        set(first, 16),
        set(first, 0),
        set(second, 16),
        set(second, 0),
    ]
}

/// Which steps are executed.
type Kept = fn(&Step) -> bool;

fn execute(names: &mut Names, planner: &mut Planner, plan: Plan) {
    for write in plan.writes() {
        names.execute(&Step::Write(write.clone()));
    }
    planner.commit(plan);
}

/// A grace period that begins and ends while plans are made and executed.
struct Graces {
    dice: Dice,
    underway: bool,
    kept: Kept,
}

impl Graces {
    fn step(&self, names: &mut Names, step: Step) {
        if (self.kept)(&step) {
            names.execute(&step);
        }
    }

    fn begin(&mut self, names: &mut Names, planner: &mut Planner) {
        planner.grace_begins();
        self.step(names, Step::GraceBegins);
        self.underway = true;
    }

    fn end(&mut self, names: &mut Names, planner: &mut Planner) {
        self.underway = false;
        self.step(names, Step::GraceOver);
        let plan = planner.after_grace().expect("room");
        execute(names, planner, plan);
    }

    /// Time goes by.
    fn go_on(&mut self, names: &mut Names, planner: &mut Planner) {
        if self.dice.below(3) == 0 && self.underway {
            self.end(names, planner);
        }
        if self.dice.below(2) == 0 && !self.underway {
            self.begin(names, planner);
        }
    }

    /// Until nothing waits for one.
    fn calm(&mut self, names: &mut Names, planner: &mut Planner) {
        while self.underway || planner.waits_for_grace() {
            if !self.underway {
                self.begin(names, planner);
            }
            self.end(names, planner);
        }
        names.assert_minimal();
    }
}

fn edit_one_after_another(
    edits: impl IntoIterator<Item = Edit>,
    baseline: Baseline,
    seed: u64,
    kept: Kept,
) {
    let (mut planner, mut names) = (Planner::new(AMPLE), Names::default());
    let mut graces = Graces {
        dice: Dice(seed),
        underway: false,
        kept,
    };
    let mut world = World::default();
    for edit in edits {
        edit.apply(&mut world);
        let plan = planner.facts_change(&world).expect("room");
        execute(&mut names, &mut planner, plan);
        graces.go_on(&mut names, &mut planner);

        let rulesets: Rulesets = arbitrary::subjects(&world, baseline)
            .iter()
            .map(|subject| {
                let compiled = Arc::new(compile_subject(&world, subject));
                (slot_of(&subject.name), compiled)
            })
            .collect();
        let gone = |slot: &Slot| !rulesets.contains_key(slot);
        let left = names.words.extract_if(.., |(slot, _), _| gone(slot));
        names.left.rulesets.extend(left.map(|(_, ruleset)| ruleset));
        let plan = planner.policy_change(&rulesets).expect("room");
        execute(&mut names, &mut planner, plan);
        graces.go_on(&mut names, &mut planner);
        if graces.dice.below(4) == 0 {
            graces.calm(&mut names, &mut planner);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn numbers_are_used_again_only_when_no_packet_can_hold_them(
        baseline in arbitrary::baseline(),
        edits in vec(arbitrary::edit(), 60),
        seed in any::<u64>(),
    ) {
        edit_one_after_another(edits, baseline, seed, |_| true);
    }
}

#[test]
#[should_panic(expected = "is named")]
fn without_grace_periods_they_are_used_again_too_early() {
    let edits = vec(arbitrary::edit(), 500)
        .new_tree(&mut TestRunner::deterministic())
        .expect("nothing is filtered");
    edit_one_after_another(edits.current(), Baseline::Allow, 0, |step| {
        *step != Step::GraceOver
    });
}
