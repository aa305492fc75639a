// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From compiled policy and facts to single writes of the kernel's tables, in the order that is safe.
//!
//! ```text
//! attachments and their rulesets ──► Planner::policy_change ──┐
//!                                                             ├──► Plan: Write, Write, … ──► datapath
//! pods, namespaces, node ──────────► Planner::facts_change ───┘
//! ```
//!
//! After every single write each connection is judged as before the change or as after it, and the same where
//! both agree (`docs/adr/0006`):
//!
//! - A change of policy: first classes get finer, so that they tell apart what old and new rulesets ask, and have
//!   their rows for both before an address or a prefix points to them; the new rulesets become complete; one word
//!   for each attachment and direction flips.
//! - A change of facts: rows of new classes, then the one word of each address.
//! - Nobody waits for a grace period. When one is over ([`Planner::after_grace`]), the attachments get new generations
//!   from whose rulesets a change of facts took something away before it began; what nothing has named since then goes;
//!   and classes get coarser.
//!
//! The three never share a plan, by construction: [`Planner::policy_change`] works on the facts of the last
//! [`Planner::facts_change`], which in turn knows no rulesets but those of the last policy change.
//!
//! A plan is executed write by write. Every write may be repeated, so one that fails is tried again, and until
//! it succeeds the planner makes no other plan: under the numbers of a half-executed plan stands what no other
//! plan may meet. If the write never succeeds, drop the planner and build a new table set. Until the flips the old
//! policy is in force, whatever failed.

mod change;
mod classes;
mod deferred;
#[cfg(test)]
pub(crate) mod host;
mod id_allocator;
mod moved;
mod ports;
mod prefix;
mod record;
mod steps;
#[cfg(test)]
mod tests;
mod ways;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use podgate_abi::{
    Address, Chunk, Class, Direction, PeerWord, PortSetChunks, PortSetId, PrefixKey, PrefixWord,
    RowKey, RowWords, RulesetId, Slot, WayKey, WayWord,
};
use podgate_policy::compile::SubjectRulesets;
use podgate_policy::compile::facts::Facts;
use podgate_policy::compile::ruleset::Ruleset;
use podgate_policy::compile::signature::Signature;
use podgate_policy::model::World;

use deferred::Deferred;
use moved::Moved;
use record::InstalledMaps;

/// One write of one kernel table. Each may be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Gives a chunk its ports. Nothing names it yet.
    Chunk {
        /// Its number.
        number: u16,
        /// Its ports.
        chunk: Arc<Chunk>,
    },
    /// Gives a port set its chunks. Nothing names it yet.
    PortSet {
        /// Its number.
        number: PortSetId,
        /// Its chunks.
        chunks: PortSetChunks,
    },
    /// Writes a ruleset's own row. No attachment has the ruleset yet.
    DefaultRow {
        /// The ruleset.
        ruleset: RulesetId,
        /// What it allows with any peer that no other row names.
        row: RowWords,
    },
    /// Adds a row.
    Row {
        /// Ruleset and class.
        key: RowKey,
        /// What the one allows with the other.
        row: RowWords,
    },
    /// Deletes a row that nothing leads to. It is no error if there is none.
    RemoveRow {
        /// Ruleset and class.
        key: RowKey,
    },
    /// Says what an address is.
    Peer {
        /// The address.
        address: Address,
        /// Its class and broad class.
        word: PeerWord,
    },
    /// Leaves an address to the prefixes. It is no error if nothing was said of it.
    RemovePeer {
        /// The address.
        address: Address,
    },
    /// Says what lies under a prefix.
    Prefix {
        /// The prefix, of 128 bits.
        key: PrefixKey,
        /// Its broad class.
        word: PrefixWord,
    },
    /// Leaves what lies under a prefix to the next shorter one. It is no error if there is no such prefix.
    RemovePrefix {
        /// The prefix, of 128 bits.
        key: PrefixKey,
    },
    /// Says whom an address and UDP port are closed to.
    Way {
        /// The address and port.
        key: WayKey,
        /// Whom.
        word: WayWord,
    },
    /// Opens an address and UDP port again. It is no error if they were not closed.
    RemoveWay {
        /// The address and port.
        key: WayKey,
    },
    /// Puts a ruleset in force, with a generation that was never used.
    Flip {
        /// The attachment.
        slot: Slot,
        /// Which of its two words.
        direction: Direction,
        /// The ruleset, complete by now.
        ruleset: RulesetId,
    },
    /// Keeps the ruleset in force, with a generation that was never used: its flows are judged again.
    Renew {
        /// The attachment.
        slot: Slot,
        /// Which of its two words.
        direction: Direction,
    },
}

/// Which rulesets the attachments have.
pub type Rulesets = OrdMap<Slot, Arc<SubjectRulesets>>;

/// What is to be written, in this order, from the first write to the last.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "the planner goes on only after the plan was executed and handed back to `Planner::commit`"]
pub struct Plan {
    writes: Vec<Write>,
    evaluated: usize,
}

impl Plan {
    /// The writes.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// For how many addresses it had to be worked out what they answer to the policies.
    pub fn evaluated(&self) -> usize {
        self.evaluated
    }
}

/// The room of one step of [`Planner::policy_step`] and [`Planner::tidy_step`] that takes a few milliseconds.
pub const STEP: usize = 1_000;

/// A kernel table, or the numbers of what stands in several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `rulesets`, by number.
    Rulesets,
    /// `rows`.
    Rows,
    /// `peers`.
    Peers,
    /// `prefixes`.
    Prefixes,
    /// `portsets`, by number.
    PortSets,
    /// `chunks`, by number.
    Chunks,
    /// The numbers of classes and broad classes; there is no table of them.
    Classes,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Rulesets,
        Self::Rows,
        Self::Peers,
        Self::Prefixes,
        Self::PortSets,
        Self::Chunks,
        Self::Classes,
    ];

    /// Its name, as in the kernel and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rulesets => "rulesets",
            Self::Rows => "rows",
            Self::Peers => "peers",
            Self::Prefixes => "prefixes",
            Self::PortSets => "portsets",
            Self::Chunks => "chunks",
            Self::Classes => "classes",
        }
    }
}

/// How many entries each table of a table set has room for, reserved numbers included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacities {
    /// Elements of `rulesets`; at most 2^14.
    pub rulesets: u32,
    /// Entries of `rows`.
    pub rows: u32,
    /// Entries of `peers`.
    pub peers: u32,
    /// Entries of `prefixes`.
    pub prefixes: u32,
    /// Elements of `portsets`; at most 2^16.
    pub port_sets: u32,
    /// Elements of `chunks`; at most 2^16.
    pub chunks: u32,
}

/// Why there is no plan. The old policy stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The change, while it is being made, needs more room than a table has.
    #[error(
        "planning table writes: table {} needs room for more than its {capacity} entries; a new table set with larger tables is due",
        table.name()
    )]
    Full {
        /// Which table.
        table: Table,
        /// For how many entries it has room.
        capacity: u32,
        /// What each ruleset has of it, or is about to have.
        charges: Charges,
    },
    /// Blocks hold inside each other in too many places.
    #[error("planning table writes: the blocks of all policies overlap in more than {most} places")]
    Overlapping {
        /// In how many they may.
        most: usize,
    },
    /// The plan before this one was not executed to its end.
    #[error(
        "planning table writes: the plan before this one is not finished; go on with it, or build a new table set"
    )]
    Unfinished,
}

/// What rulesets have of a table, in millionths of an entry: what several have, in equal parts.
pub type Charges = HashMap<Arc<Ruleset>, u64>;

impl PlanError {
    /// A table is full, of which it is not known yet who takes how much.
    fn full(table: Table, capacity: u32) -> Self {
        Self::Full {
            table,
            capacity,
            charges: Charges::new(),
        }
    }
}

/// How full a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupancy {
    /// Which table.
    pub table: Table,
    /// Entries in use, reserved numbers included.
    pub used: u32,
    /// Entries that there is room for.
    pub capacity: u32,
}

/// Whether the last plan was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Yes, to its end.
    Idle,
    /// Not known to be.
    Executing,
}

/// The record of what one table set holds, and the maker of plans that change it.
///
/// It begins with a table set that holds nothing but the reserved port sets. What the record says is what the
/// table set holds once the last plan was executed.
#[derive(Debug)]
pub struct Planner {
    installed: Installed,
    progress: Progress,
}

/// What a table set holds, and why. A copy costs next to nothing, so that a plan is made on one.
#[derive(Debug, Clone)]
struct Installed {
    record: InstalledMaps,
    /// The facts of the last change of facts, under the questions of the rulesets in force: what the addresses and
    /// prefixes of the record say.
    facts: Facts,
    /// The rulesets in force.
    attachments: Rulesets,
    /// What an address said before the endpoints that its ports led to went away: flows through them go on, and are
    /// judged again once it is known who takes their place, or that the address stands for nothing any more. At most
    /// [`change::MOST_SPARED`] for each.
    grandfathered: OrdMap<IpAddr, BTreeSet<Arc<Signature>>>,
    /// Whose flows are to be judged again, because a change of facts took something away.
    renewals: Deferred<(Slot, Direction)>,
    /// What is to be pointed to other classes since the questions are others, and was not yet: these tell apart no less than
    /// the rulesets in force ask.
    moving: Moved,
}

impl Installed {
    /// What an attachment has in a direction.
    fn ruleset_of(&self, slot: Slot, direction: Direction) -> Option<&Ruleset> {
        Some(self.attachments.get(&slot)?.of(direction))
    }
}

impl Planner {
    /// The planner of a new table set.
    pub fn new(capacities: Capacities) -> Self {
        Self {
            installed: Installed {
                record: InstalledMaps::new(capacities),
                facts: Facts::default(),
                attachments: Rulesets::new(),
                grandfathered: OrdMap::new(),
                renewals: Deferred::new(),
                moving: Moved::default(),
            },
            progress: Progress::Idle,
        }
    }

    /// The tables are made this large, and what was planned until now fits.
    pub fn limit_to(&mut self, capacities: Capacities) {
        self.installed.record.limit_to(capacities);
    }

    /// Plans that exactly these attachments have exactly these rulesets.
    ///
    /// An attachment that was not there before is flipped in both directions, whatever the plugin wrote. Leave
    /// one out only when its filters are gone.
    ///
    /// # Errors
    /// Nothing is planned, and nothing forgotten: see [`PlanError`].
    pub fn policy_change(&mut self, attachments: &Rulesets) -> Result<Plan, PlanError> {
        self.policy_step(attachments, usize::MAX)
    }

    /// Plans a part of the same, for which there is `room`: in about so many rows, predicates and addresses. What takes
    /// least comes first. It is done when [`Self::is_at`] says so.
    ///
    /// # Errors
    /// Nothing is planned, and nothing forgotten: see [`PlanError`].
    pub fn policy_step(&mut self, attachments: &Rulesets, room: usize) -> Result<Plan, PlanError> {
        self.plan(|after| steps::of_policy(after, attachments, room))
    }

    /// The attachments that wait for rulesets that are still to be made complete.
    pub fn unready(&self, attachments: &Rulesets) -> BTreeSet<Slot> {
        steps::unready(&self.installed, attachments)
    }

    /// The attachments that wait for the ruleset that asks most of those that are still to be made complete.
    pub fn waiting_for_most(&self, attachments: &Rulesets) -> BTreeSet<Slot> {
        steps::waiting_for_most(&self.installed, attachments)
    }

    /// Whether the attachments have exactly these rulesets, and nothing is on its way to others.
    pub fn is_at(&self, attachments: &Rulesets) -> bool {
        self.installed.attachments == *attachments && !self.installed.record.is_building()
    }

    /// What the attachments have once the last plan was executed.
    pub fn attachments(&self) -> &Rulesets {
        &self.installed.attachments
    }

    /// Plans that exactly the facts of `world` hold: its pods, namespaces and node addresses. Its policies are
    /// not looked at.
    ///
    /// # Errors
    /// Nothing is planned, and nothing forgotten: see [`PlanError`].
    pub fn facts_change(&mut self, world: &World) -> Result<Plan, PlanError> {
        self.plan(|after| change::of_facts(after, world))
    }

    /// Whether something is to be done once a grace period is over, or could be.
    pub fn waits_for_grace(&self) -> bool {
        !self.installed.renewals.is_empty() || self.installed.record.has_idle()
    }

    /// Takes note that a grace period begins, none while a plan is being executed; or that one is over since whose
    /// beginning nothing was planned.
    pub fn grace_begins(&mut self) {
        self.installed.record.grace_begins();
    }

    /// Plans what waited for the grace period that began last and is over now. What came to wait since then goes on
    /// waiting, for the next one.
    ///
    /// # Errors
    /// Nothing is planned, and nothing forgotten: see [`PlanError`].
    pub fn after_grace(&mut self) -> Result<Plan, PlanError> {
        self.tidy_step(usize::MAX)
    }

    /// Plans a part of the same, for which there is `room`. It is done when [`Self::has_remains`] says no.
    ///
    /// # Errors
    /// Nothing is planned, and nothing forgotten: see [`PlanError`].
    pub fn tidy_step(&mut self, room: usize) -> Result<Plan, PlanError> {
        self.plan(|after| steps::after_grace(after, room))
    }

    /// Whether something is left to be done of what waited for the grace period that began last, which is over.
    pub fn has_remains(&self) -> bool {
        self.installed.has_remains()
    }

    /// Takes note that every write of the last plan was executed.
    pub fn commit(&mut self, plan: Plan) {
        let Plan { .. } = plan;
        self.progress = Progress::Idle;
    }

    /// Takes note that the plugin deleted what was said of an address. The next change of facts says whose it is; no
    /// other plan does, as the facts that it knows are of the one before.
    pub fn address_was_deleted(&mut self, address: IpAddr) {
        self.installed.record.forget_address(address);
    }

    /// Takes note that a slot went to another attachment, whose words the plugin wrote. The next change of
    /// policy flips both.
    pub fn attachment_was_replaced(&mut self, slot: Slot) {
        let Installed {
            record,
            attachments,
            ..
        } = &mut self.installed;
        if let Some(known) = attachments.remove(&slot) {
            for direction in Direction::BOTH {
                record.give_up(known.of(direction), slot, direction);
            }
        }
    }

    /// Takes note that the word of an attachment says "deny" now, if it had this ruleset. What it is to have follows with the
    /// next change of policy, also where that is the same.
    pub fn attachment_was_denied(&mut self, slot: Slot, direction: Direction, stood: &Ruleset) {
        let Installed {
            record,
            attachments,
            ..
        } = &mut self.installed;
        let Some(known) = attachments.get_mut(&slot) else {
            return;
        };
        if known.of(direction) != stood {
            return;
        }
        let known = Arc::make_mut(known);
        *match direction {
            Direction::Ingress => &mut known.ingress,
            Direction::Egress => &mut known.egress,
        } = Ruleset::Denied;
        record.give_up(stood, slot, direction);
        record.take_up(&Ruleset::Denied, slot, direction);
    }

    /// How full the tables are once the last plan was executed.
    pub fn occupancy(&self) -> [Occupancy; 7] {
        self.installed.record.occupancy()
    }

    /// What fails is forgotten, but for who has how much of a table that is full.
    fn plan(
        &mut self,
        make: impl FnOnce(&mut Installed) -> Result<Plan, PlanError>,
    ) -> Result<Plan, PlanError> {
        match self.progress {
            Progress::Idle => {}
            Progress::Executing => return Err(PlanError::Unfinished),
        }
        let mut after = self.installed.clone();
        let plan = make(&mut after).map_err(|error| match error {
            PlanError::Full {
                table, capacity, ..
            } => PlanError::Full {
                table,
                capacity,
                charges: after.record.charges(table),
            },
            PlanError::Overlapping { .. } | PlanError::Unfinished => error,
        })?;
        self.installed = after;
        self.progress = Progress::Executing;
        Ok(plan)
    }
}

/// The number of a class that has none when nothing holds.
const fn class_or_none(number: Option<u32>) -> Class {
    match number {
        Some(number) => Class(number),
        None => Class::NONE,
    }
}
