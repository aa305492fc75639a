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
use std::net::IpAddr;

use anyhow::{Context, Result};
use podgate_abi::{Direction, RulesetId};
use podgate_datapath::Sizes;
use podgate_datapath::record::{Record, Slot};
use podgate_policy::model::World;

use super::build::{check, fit};
use super::change::FactsChange;
use super::dataplane::Dataplane;
use super::portion::{Portion, Size};
use super::taken::Taken;
use crate::cluster::Cluster;
use crate::compiled::Compiled;
use crate::plan::{Plan, Planner, Rulesets, Write};

/// What a table set is made from.
#[derive(Debug)]
pub struct Basis {
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
pub struct Drafted<D: Dataplane> {
    pub(super) set: D::Unnamed,
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

impl<D: Dataplane> Drafted<D> {
    /// Plans everything, and makes and fills a set.
    pub(super) fn make(
        basis: Basis,
        create: impl FnOnce(&Sizes) -> Result<D::Unnamed>,
    ) -> Result<Self> {
        let (planner, writes, sizes) = fit(&basis)?;
        let set = create(&sizes).context("make a new table set")?;
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
        check(&*drafted.set, &drafted.planner)?;
        drafted.taken.write_to(&*drafted.set);
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
                D::fill(&self.set, one).context("fill the new table set")?;
            }
        }
        Ok(())
    }

    fn execute(&mut self, plan: Plan) -> Result<()> {
        self.fill(plan.writes())?;
        self.planner.commit(plan);
        Ok(())
    }

    /// Takes note of which attachments there are now, and of the addresses of all that came meanwhile. Their ADDs deleted these
    /// here or came too early for that, before the set had a name or was filled: so they are deleted once more.
    pub(super) fn follow<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Record>,
        added: BTreeSet<IpAddr>,
    ) -> Result<()> {
        let now = by_slot(records.cloned().collect());
        for slot in now
            .keys()
            .filter(|slot| self.records.get(slot) != now.get(slot))
        {
            self.planner.attachment_was_replaced(*slot);
        }
        self.records = now;
        for address in added {
            self.lacks_addresses = true;
            self.planner.address_was_deleted(address);
            let address = address.into();
            D::fill(&self.set, &Write::RemovePeer { address })
                .context("delete the address of a new attachment from the new table set")?;
        }
        Ok(())
    }

    /// Brings it a step further to these facts, and then to these rulesets. Whether that is all.
    pub(super) fn catch_up(
        &mut self,
        node: &D,
        world: &World,
        wanted: &Rulesets,
        room: usize,
    ) -> Result<bool> {
        self.taken.follow(world, self.records.values());
        self.taken.write_to(&*self.set);
        self.steps += 1;
        if self.lacks_addresses || FactsChange::between(&self.world, world) != FactsChange::None {
            let (facts, now, size) = if room == usize::MAX {
                let facts = self.planner.facts_change(world)?;
                (facts, world.clone(), Size::Whole)
            } else {
                let way = (&self.world, world);
                self.portion
                    .plan(node, &mut self.planner, way, &BTreeSet::new())?
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

fn by_slot(records: Vec<Record>) -> BTreeMap<Slot, Record> {
    let by_slot = records.into_iter().map(|record| (record.slot, record));
    by_slot.collect()
}

/// How far a draft has come.
#[derive(Debug, Default)]
pub(super) enum Draft<D: Dataplane> {
    /// There is none.
    #[default]
    None,
    /// A thread makes it.
    Underway {
        /// Which.
        number: u64,
    },
    /// It is made.
    Here(Box<Drafted<D>>),
    /// It could not be made.
    Failed(anyhow::Error),
}

/// What became of a draft.
#[derive(Debug)]
pub struct Finished<D: Dataplane> {
    pub(super) number: u64,
    pub(super) drafted: Result<Box<Drafted<D>>>,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use podgate_datapath::record::{Generation, PodName};
    use podgate_policy::model::{
        Namespace, Namespaces, NetworkPolicy, ObjectName, Peer, Pod, Rule, Selector,
    };

    use super::*;
    use crate::convert::pod::IdentifiedPod;
    use crate::engine::dataplane::model::Model;
    use crate::engine::reconcile::compile;
    use crate::fixture;
    use crate::source::{Change, Objects};

    const TAKEN_OVER: [u8; 4] = [10, 0, 0, 7];

    fn attachment(slot: u32, namespace: &str, address: [u8; 4]) -> Record {
        Record {
            pod: Some(PodName {
                namespace: namespace.into(),
                name: format!("of-slot-{slot}"),
                uid: None,
            }),
            addresses: vec![address.into()],
            birth: Generation(slot),
            ..fixture::record(slot)
        }
    }

    fn pod(namespace: &str, name: &str, address: [u8; 4]) -> (ObjectName, Arc<IdentifiedPod>) {
        let pod = Pod {
            addresses: vec![address.into()],
            ..Pod::default()
        };
        fixture::pod(namespace, name, pod)
    }

    /// An ADD may come before the set has a name, by which it would find it, or before it is filled.
    #[test]
    fn attack_20_a_set_made_during_an_add_keeps_no_older_right() {
        let node = Model::new(Duration::ZERO);
        let mut cluster = Cluster::default();
        let (old, old_pod) = pod("shop", "old", TAKEN_OVER);
        let own_pods = Peer::Pods {
            namespaces: Namespaces::Own,
            pods: Selector::everything(),
        };
        let policy = NetworkPolicy {
            ingress: vec![Rule {
                peers: vec![own_pods],
                ports: Vec::new(),
            }],
            ..(*fixture::deny()).clone()
        };
        let namespaces = ["shop", "other"].map(|name| (name.to_owned(), Namespace::default()));
        cluster.set_source(Objects {
            namespaces: namespaces.into_iter().collect(),
            pods: [
                pod("shop", "of-slot-1", [10, 0, 0, 1]),
                (old.clone(), old_pod),
            ]
            .into_iter()
            .collect(),
            policies: [(ObjectName::new("shop", "own"), Arc::new(policy))]
                .into_iter()
                .collect(),
            ..Objects::default()
        });
        let web = attachment(1, "shop", [10, 0, 0, 1]);
        cluster.set_attachments(vec![web.clone()]);
        let mut compiled = Compiled::default();
        compile(&node, &mut compiled, &cluster.view(), None);
        let basis = Basis::of(Sizes::default(), &cluster, &compiled);
        let mut drafted = Drafted::make(basis, |sizes| node.create(sizes, &())).unwrap();
        let peers = |drafted: &Drafted<Model>| drafted.set.peers();
        assert_eq!(peers(&drafted), 2, "both pods of the namespace");

        cluster.apply(vec![Change::Pod(old, None)]);
        cluster.set_attachments(vec![web, attachment(2, "other", TAKEN_OVER)]);
        let view = cluster.view();
        compile(&node, &mut compiled, &view, None);
        let added = [TAKEN_OVER.into()].into();
        drafted.follow(cluster.records(), added).unwrap();
        drafted
            .catch_up(&node, &view.world, compiled.rulesets(), usize::MAX)
            .unwrap();
        assert_eq!(peers(&drafted), 1);
    }
}
