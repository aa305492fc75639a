//! A table set in place of the one that is there: because a table is full or much too large, because a process took the pins
//! away, or because nothing else works ([`super::build`]).

use anyhow::{Context, Result};
use podgate_abi::Direction;
use podgate_datapath::lock::Lock;
use podgate_datapath::record::Record;
use podgate_datapath::tables::TableSet;
use podgate_datapath::{Paths, Sizes};

use super::Engine;
use super::build::{self, Built, Plans, grow};
use super::settle::{compile, give_way, take_lock};
use crate::cluster::{Cluster, View};
use crate::compiled::Compiled;
use crate::node;
use crate::plan::PlanError;

impl Engine {
    /// Whether plugins attach to another table set than ours. Names are used again, programs are not.
    pub(super) fn set_was_replaced(&self) -> bool {
        let current = TableSet::open_current(&self.paths).and_then(|set| {
            set.map(|set| set.program_id(Direction::FromPod))
                .transpose()
        });
        !matches!(current, Ok(Some(program)) if program == self.built.program)
    }

    /// There is no plan: a larger table set is due, or a new one.
    pub(super) fn make_room(&mut self, lock: &Lock, error: PlanError) -> Result<()> {
        tracing::info!(%error, "a new table set is due");
        match error {
            PlanError::Full { table, .. } => {
                if !grow(&mut self.built.sizes, table) {
                    return Err(error.into());
                }
            }
            PlanError::Overlapping { .. } => return Err(error.into()),
            PlanError::Unfinished => {}
        }
        self.rebuild_under(lock)
    }

    /// Where changes were made in part, there may be no room to tidy. In a new table set nothing waits for it.
    pub(super) fn rebuild_untidy(&mut self, lock: &Lock, error: &PlanError) -> Result<()> {
        tracing::info!(%error, "nothing can be tidied: a new table set is due");
        self.rebuild_under(lock)
    }

    /// Builds smaller tables when some have grown and were nearly empty at two looks, half a minute apart. They get room
    /// for twice what they hold, so that what comes next does not make them grow again.
    pub(super) fn shrink(&mut self) {
        let occupancy = self.built.planner.occupancy();
        let is_calm = self.trouble.is_none() && self.pending.is_none();
        let too_large = build::is_too_large(&self.sizes, &self.built.sizes, &occupancy);
        if !(is_calm && too_large) {
            self.seen_too_large = false;
            return;
        }
        if !std::mem::replace(&mut self.seen_too_large, true) {
            return;
        }
        self.seen_too_large = false;
        tracing::info!("tables have become larger than what they hold: smaller ones are built");
        let large = std::mem::replace(&mut self.built.sizes, self.sizes);
        if let Err(error) = self.rebuild() {
            self.built.sizes = large;
            tracing::warn!(
                error = format!("{error:#}"),
                "tables stay larger than they need to be"
            );
        }
    }

    pub(super) fn rebuild(&mut self) -> Result<()> {
        let lock = take_lock(&self.paths)?;
        self.rebuild_under(&lock)
    }

    /// Builds a table set from everything that is known, and forgets what was pending in the old one.
    pub(super) fn rebuild_under(&mut self, lock: &Lock) -> Result<()> {
        self.read_attachments(lock)?;
        let mut addresses = node::addresses_now().context("read the node's addresses")?;
        // Who listens to the kernel knows more: devices that went to another namespace.
        addresses.tunnel_ports.extend(self.cluster.tunnel_ports());
        self.cluster.set_node_addresses(addresses);
        let view = self.compile_some(None);
        self.update_isolated_file(lock);
        // Now, because the pins of the old one's tables go; what is open stays readable.
        self.count_packets();
        let sizes = self.built.sizes;
        let (paths, cluster, compiled) = (&self.paths, &self.cluster, &mut self.compiled);
        let built = build_from(paths, lock, sizes, cluster, &view, compiled)?;
        self.count_packets();
        self.built = built;
        self.pending = None;
        self.in_force = self.compiled.rulesets().clone();
        self.facts_missing = false;
        self.facts_due = None;
        self.counted.forget();
        self.take_note_of(view);
        if !self.built.unswapped.is_empty() {
            self.look_soon();
        }
        Ok(())
    }
}

/// Builds a table set for everything that is known.
pub(super) fn build_from(
    paths: &Paths,
    lock: &Lock,
    sizes: Sizes,
    cluster: &Cluster,
    view: &View,
    compiled: &mut Compiled,
) -> Result<Built> {
    let records: Vec<Record> = cluster.records().cloned().collect();
    let foreign = cluster.foreign_modes();
    metrics::counter!("podgate_transactions_total", "kind" => "build").increment(1);
    loop {
        let plans = Plans {
            records: &records,
            world: &view.world,
            rulesets: compiled.rulesets(),
            foreign: &foreign,
        };
        let error = match build::build(paths, lock, sizes, plans) {
            Ok(built) => return Ok(built),
            Err(error) => error,
        };
        // Tables have grown as far as they do.
        match error.downcast_ref::<PlanError>() {
            Some(full) if give_way(compiled, full) => compile(compiled, view, None),
            Some(_) | None => return Err(error),
        }
    }
}
