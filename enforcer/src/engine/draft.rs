// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A table set that is made beside the one in force: because tables must be larger, or may be smaller.
//!
//! ```text
//! engine: what is known ──► thread: plan everything, load programs, fill tables ──► Event::Drafted
//!    │ goes on with the set in force                                                    │
//!    └──► what changed meanwhile, in steps ──► under the lock: attachments, words, name, filters
//! ```
//! The thread needs the lock only to make a directory and to name it. Until the set is named nobody is judged by it, so what is
//! written to it needs no order.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Sender;

use anyhow::{Context, Result, bail};
use podgate_abi::{Direction, RulesetId};
use podgate_datapath::lock::Lock;
use podgate_datapath::record::{Record, Slot};
use podgate_datapath::tables::{TableSet, Unnamed};
use podgate_datapath::{LoadError, Paths, Sizes};
use podgate_policy::model::World;

use super::Event;
use super::build::{check, fit, unpin_others};
use super::change::FactsChange;
use super::execute::{Target, write};
use super::portion::{Portion, Size};
use super::taken::Taken;
use crate::cluster::Cluster;
use crate::compiled::Compiled;
use crate::plan::{Plan, Planner, Rulesets, Write};

/// What a table set is made from.
#[derive(Debug)]
pub(super) struct Basis {
    pub(super) sizes: Sizes,
    pub(super) records: Vec<Record>,
    pub(super) world: World,
    pub(super) rulesets: Rulesets,
}

impl Basis {
    /// What is known, and what is compiled of it.
    pub(super) fn of(sizes: Sizes, cluster: &Cluster, compiled: &Compiled) -> Self {
        Self {
            sizes,
            records: cluster.records().cloned().collect(),
            world: cluster.view().world,
            rulesets: compiled.rulesets().clone(),
        }
    }
}

/// A table set with everything but attachments, and its planner.
#[derive(Debug)]
pub(super) struct Drafted {
    pub(super) set: Unnamed,
    pub(super) planner: Planner,
    pub(super) sizes: Sizes,
    pub(super) taken: Taken,
    /// The facts that it says.
    pub(super) world: World,
    /// Which attachments the planner knows.
    pub(super) records: BTreeMap<Slot, Record>,
    /// Whether the table may lack the address of one that came since.
    lacks_addresses: bool,
    /// How much of the facts is planned at once.
    portion: Portion,
    /// How often it was brought up to what changed.
    pub(super) steps: u32,
    /// What their words are to say.
    pub(super) words: BTreeMap<(Slot, Direction), RulesetId>,
}

impl Drafted {
    /// Plans everything, and makes and fills a set. Who has the lock gives it.
    pub(super) fn make(paths: &Paths, basis: Basis, lock: Option<&Lock>) -> Result<Self> {
        let (planner, writes, sizes) = fit(&basis)?;
        let set = match lock {
            Some(lock) => TableSet::create(paths, lock, &sizes),
            None => create_beside(paths, &sizes),
        };
        let set = set.context("make a new table set")?;
        let taken = Taken::of(&basis.world, &basis.records);
        let mut drafted = Self {
            set,
            planner,
            sizes,
            taken,
            world: basis.world,
            records: by_slot(basis.records),
            lacks_addresses: false,
            portion: Portion::default(),
            steps: 0,
            words: BTreeMap::new(),
        };
        drafted.fill(&writes)?;
        check(&drafted.set, &drafted.planner)?;
        drafted.taken.write_to(&drafted.set);
        Ok(drafted)
    }

    fn fill(&mut self, writes: &[Write]) -> Result<()> {
        for one in writes {
            if let Write::Flip {
                slot,
                direction,
                ruleset,
            } = one
            {
                self.words.insert((*slot, *direction), *ruleset);
            } else {
                write(one, Target::Unnamed(&self.set)).context("fill the new table set")?;
            }
        }
        Ok(())
    }

    fn execute(&mut self, plan: Plan) -> Result<()> {
        self.fill(plan.writes())?;
        self.planner.commit(plan);
        Ok(())
    }

    /// Takes note of which attachments there are now. An ADD deletes its addresses from every set that has a name.
    pub(super) fn follow<'a>(&mut self, records: impl Iterator<Item = &'a Record>) {
        let now = by_slot(records.cloned().collect());
        for slot in now
            .keys()
            .filter(|slot| self.records.get(slot) != now.get(slot))
        {
            self.planner.attachment_was_replaced(*slot);
            for address in &now[slot].addresses {
                self.planner.address_was_deleted(*address);
                self.lacks_addresses = true;
            }
        }
        self.records = now;
    }

    /// Brings it a step further to these facts, and then to these rulesets. Whether that is all.
    pub(super) fn catch_up(
        &mut self,
        world: &World,
        wanted: &Rulesets,
        room: usize,
    ) -> Result<bool> {
        self.taken.follow(world, self.records.values());
        self.taken.write_to(&self.set);
        self.steps += 1;
        if self.lacks_addresses || FactsChange::between(&self.world, world) != FactsChange::None {
            let (facts, now, size) = if room == usize::MAX {
                let facts = self.planner.facts_change(world)?;
                (facts, world.clone(), Size::Whole)
            } else {
                let way = (&self.world, world);
                self.portion
                    .plan(&mut self.planner, way, &BTreeSet::new())?
            };
            self.execute(facts)?;
            self.lacks_addresses = false;
            self.world = now;
            if size == Size::Part {
                return Ok(false);
            }
        }
        self.world.clone_from(world);
        if !self.planner.is_at(wanted) {
            let policy = self.planner.policy_step(wanted, room)?;
            self.execute(policy)?;
        }
        Ok(self.planner.is_at(wanted))
    }
}

/// Holds the lock for its place and its name, and lets go of it while the programs are loaded.
fn create_beside(paths: &Paths, sizes: &Sizes) -> Result<Unnamed, LoadError> {
    let lock = Lock::take(paths)?;
    // Those of drafts that came to nothing.
    unpin_others(paths, &lock);
    let begun = TableSet::begin(paths, &lock, sizes)?;
    drop(lock);
    let loaded = begun.load()?;
    let lock = Lock::take(paths)?;
    loaded.finish(&lock)
}

fn by_slot(records: Vec<Record>) -> BTreeMap<Slot, Record> {
    let by_slot = records.into_iter().map(|record| (record.slot, record));
    by_slot.collect()
}

/// How far a draft has come.
#[derive(Debug, Default)]
pub(super) enum Draft {
    /// There is none.
    #[default]
    None,
    /// A thread makes it.
    Underway {
        /// Which.
        number: u64,
    },
    /// It is made.
    Here(Box<Drafted>),
    /// It could not be made.
    Failed(anyhow::Error),
}

/// What became of a draft.
#[derive(Debug)]
pub struct Finished {
    pub(super) number: u64,
    pub(super) drafted: Result<Box<Drafted>>,
}

/// Makes drafts, each on a thread of its own, of which the engine is told.
#[derive(Debug)]
pub struct Drafts {
    engine: Sender<Event>,
    begun: u64,
}

impl Drafts {
    /// Those of the engine that hears of these events.
    pub fn new(engine: Sender<Event>) -> Self {
        Self { engine, begun: 0 }
    }

    /// Begins one. Its number, by which the engine is told of it.
    pub(super) fn begin(&mut self, paths: Paths, basis: Basis) -> Result<u64> {
        let engine = self.engine.clone();
        self.begun += 1;
        let number = self.begun;
        std::thread::Builder::new()
            .name("draft".into())
            .spawn(move || {
                // A bug there is an error like any other: the engine makes its next attempt.
                let made = catch_unwind(AssertUnwindSafe(|| Drafted::make(&paths, basis, None)));
                let drafted =
                    made.unwrap_or_else(|_| bail!("the thread that makes a table set panicked"));
                // Without an engine, the next start unpins it.
                let drafted = drafted.map(Box::new);
                drop(engine.send(Event::Drafted(Finished { number, drafted })));
            })
            .context("start a thread that makes a table set")?;
        Ok(number)
    }
}
