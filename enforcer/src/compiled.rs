// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The compiled policies of the node's own pods, kept as policies and pods change.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use podgate_datapath::record::Slot;
use podgate_policy::compile::ruleset::Tunnels;
use podgate_policy::compile::{SubjectRulesets, compile_selecting, isolate};
use podgate_policy::connection::{Baseline, Subject};
use podgate_policy::isolation;
use podgate_policy::model::{NamedPort, NetworkPolicy, ObjectName};

use crate::cluster::View;
use crate::plan::{Charges, Rulesets};
use crate::selections::{Concerned, Selections};
use crate::share::{self, CAPACITY, Load, Shares};

/// The compiled policies of all subjects. What cannot have changed is not compiled again.
#[derive(Debug, Default)]
pub struct Compiled {
    selections: Selections,
    /// What may be other than when it was compiled.
    concerned: Concerned,
    /// How long that took of each namespace, since nothing was due.
    spent: BTreeMap<String, Duration>,
    node_scopes: BTreeSet<IpNet>,
    tunnels: Tunnels,
    shares: Shares,
    /// What was compiled from what: subjects that differ in nothing that matters are compiled once.
    known: HashMap<Basis, Arc<SubjectRulesets>>,
    /// What was compiled of each.
    compiled: Rulesets,
    /// What attachments are to have whatever is compiled of them.
    withheld: Rulesets,
    /// What they are to have.
    rulesets: Rulesets,
}

/// All that a subject's rulesets depend on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Basis {
    namespace: String,
    suspended: bool,
    /// Each as its allocation, which `policies` keeps from being used again.
    selecting: Vec<usize>,
    policies: Kept,
    ports: Vec<NamedPort>,
    strict: bool,
}

/// Policies that are kept, and not compared.
#[derive(Debug, Clone)]
struct Kept(Vec<Arc<NetworkPolicy>>);

impl PartialEq for Kept {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Kept {}

impl std::hash::Hash for Kept {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl Basis {
    fn compile(
        &self,
        subject: &Subject,
        node_scopes: &BTreeSet<IpNet>,
        tunnels: &Tunnels,
    ) -> SubjectRulesets {
        let selecting: Vec<&NetworkPolicy> = self.policies.0.iter().map(AsRef::as_ref).collect();
        if self.suspended {
            isolate(isolation::of_policies(selecting), subject.baseline, tunnels)
        } else {
            compile_selecting(&selecting, subject, node_scopes, tunnels)
        }
    }
}

impl Compiled {
    /// Brings up to `view` who is selected by what, which costs next to nothing.
    pub fn select(&mut self, view: &View) {
        self.selections.update(view, &mut self.concerned);
    }

    /// Brings them up to `view`; how many subjects were compiled.
    pub fn update(&mut self, view: &View) -> usize {
        self.update_until(view, None, Instant::now)
    }

    /// Brings them up to `view`, as far as there is time: first those of the namespaces that took least of it. How many
    /// subjects were compiled, at least one if one is due.
    pub fn update_until(
        &mut self,
        view: &View,
        until: Option<Instant>,
        clock: impl Fn() -> Instant,
    ) -> usize {
        self.select(view);
        let tunnels = Tunnels::with(&view.world.tunnel_ports);
        if self.node_scopes != view.world.node_scopes || self.tunnels != tunnels {
            self.node_scopes.clone_from(&view.world.node_scopes);
            self.tunnels = tunnels;
            self.known.clear();
            self.concerned.slots.extend(view.subjects.keys());
        }
        let gone = self.concerned.slots.iter();
        let gone: Vec<Slot> = gone
            .filter(|slot| !view.subjects.contains_key(*slot))
            .copied()
            .collect();
        for slot in gone {
            self.concerned.slots.remove(&slot);
            self.compiled.remove(&slot);
            self.follow(slot);
        }
        let mut compiles = 0;
        while let Some(namespace) = self.next_namespace(view) {
            let began = clock();
            if self.concerned.namespaces.remove(&namespace) {
                let weight = self.weight_of(&namespace, view);
                self.shares.weigh(&namespace, weight);
                self.decide();
            } else {
                compiles += self.compile_one_of(&namespace, view);
            }
            let now = clock();
            *self.spent.entry(namespace).or_default() += now - began;
            if until.is_some_and(|until| until <= now) {
                break;
            }
        }
        if !self.is_behind() {
            self.spent.clear();
        }
        if compiles > 0 {
            self.known
                .retain(|_, rulesets| Arc::strong_count(rulesets) > 1);
        }
        compiles
    }

    /// Of the namespaces of which something is due, the one that took least time since nothing was.
    fn next_namespace(&self, view: &View) -> Option<String> {
        let slots = self.concerned.slots.iter();
        let of_slots = slots.filter_map(|slot| view.subjects.get(slot));
        let names = self.concerned.namespaces.iter().map(String::as_str);
        let names = names.chain(of_slots.map(|subject| subject.name.namespace.as_str()));
        let spent = |name: &str| self.spent.get(name).copied().unwrap_or_default();
        names.min_by_key(|name| spent(name)).map(str::to_owned)
    }

    /// Compiles a subject of a namespace that is due. How many there were.
    fn compile_one_of(&mut self, namespace: &str, view: &View) -> usize {
        let mut due = self.concerned.slots.iter();
        let found = due.find_map(|slot| {
            let subject = view.subjects.get(slot)?;
            (subject.name.namespace == namespace).then_some((*slot, subject))
        });
        let Some((slot, subject)) = found else {
            return 0;
        };
        self.concerned.slots.remove(&slot);
        self.compile(slot, subject);
        self.follow(slot);
        1
    }

    /// Whether something may be other than it was compiled.
    pub fn is_behind(&self) -> bool {
        !(self.concerned.slots.is_empty() && self.concerned.namespaces.is_empty())
    }

    /// Whether an attachment may be to have something else than what was compiled.
    pub fn is_due(&self, slot: Slot) -> bool {
        self.concerned.slots.contains(&slot)
    }

    /// All such attachments.
    pub fn due(&self) -> impl Iterator<Item = Slot> {
        self.concerned.slots.iter().copied()
    }

    fn compile(&mut self, slot: Slot, subject: &Subject) {
        let selecting = self.selections.selecting(slot).into_iter().flatten();
        let policies: Vec<Arc<NetworkPolicy>> = selecting.cloned().collect();
        let basis = Basis {
            namespace: subject.name.namespace.clone(),
            suspended: self.shares.is_suspended(&subject.name.namespace),
            selecting: policies.iter().map(address_of).collect(),
            policies: Kept(policies),
            ports: subject.ports.clone(),
            strict: subject.baseline == Baseline::Deny,
        };
        let rulesets = match self.known.get(&basis) {
            Some(known) => Arc::clone(known),
            None => {
                let compiled = Arc::new(basis.compile(subject, &self.node_scopes, &self.tunnels));
                self.known.insert(basis, Arc::clone(&compiled));
                compiled
            }
        };
        let is_new = self.compiled.get(&slot).is_none_or(|before| {
            !Arc::ptr_eq(before, &rulesets) && before.as_ref() != rulesets.as_ref()
        });
        if is_new {
            self.compiled.insert(slot, rulesets);
        }
    }

    /// What the policies of a namespace weigh that select subjects.
    fn weight_of(&self, namespace: &str, view: &View) -> usize {
        let world = &view.world;
        let mut called = 0;
        let mut groups: BTreeSet<Vec<usize>> = BTreeSet::new();
        let mut policies: BTreeMap<usize, &NetworkPolicy> = BTreeMap::new();
        for slot in self.selections.slots_in(namespace) {
            let selecting = self.selections.selecting(slot).into_iter().flatten();
            let selecting: Vec<_> = selecting.collect();
            let subject = view.subjects.get(&slot).filter(|_| !selecting.is_empty());
            called = subject.map_or(0, |it| share::called(&it.ports)).max(called);
            groups.insert(selecting.iter().copied().map(address_of).collect());
            let addressed = |policy| (address_of(policy), Arc::as_ref(policy));
            policies.extend(selecting.into_iter().map(addressed));
        }
        if policies.is_empty() {
            return 0;
        }
        let mut rulesets: BTreeMap<usize, usize> = BTreeMap::new();
        for policy in groups.iter().flatten() {
            *rulesets.entry(*policy).or_insert(0) += 1;
        }
        let own_pods = world
            .pods
            .range(ObjectName::new(namespace, "")..)
            .take_while(|(name, _)| name.namespace == namespace);
        let load = Load {
            namespace,
            policies: policies
                .into_iter()
                .map(|(address, policy)| (policy, rulesets.get(&address).copied().unwrap_or(1)))
                .collect(),
            rulesets: groups.len(),
            called,
            own_pods: own_pods.count(),
            all_pods: world.pods.len(),
        };
        load.weight(CAPACITY)
    }

    /// A slot is another attachment's than before: what was compiled for that one is not this one's.
    pub fn forget(&mut self, slot: Slot) {
        self.compiled.remove(&slot);
        self.withheld.remove(&slot);
        self.concerned.slots.insert(slot);
        self.follow(slot);
    }

    /// These attachments are to have these rulesets, whatever is compiled of them; all others what is compiled.
    pub fn withhold(&mut self, withheld: Rulesets) {
        let before = std::mem::replace(&mut self.withheld, withheld);
        let differing = before
            .diff(&self.withheld)
            .map(|difference| match difference {
                DiffItem::Add(slot, _)
                | DiffItem::Remove(slot, _)
                | DiffItem::Update { new: (slot, _), .. } => *slot,
            });
        for slot in differing.collect::<Vec<_>>() {
            self.follow(slot);
        }
    }

    fn follow(&mut self, slot: Slot) {
        let wanted = self
            .withheld
            .get(&slot)
            .or_else(|| self.compiled.get(&slot));
        match wanted {
            None => drop(self.rulesets.remove(&slot)),
            Some(wanted) => {
                if self.rulesets.get(&slot) != Some(wanted) {
                    self.rulesets.insert(slot, Arc::clone(wanted));
                }
            }
        }
    }

    /// The tunnels of the view that was last compiled.
    pub fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// Who is selected by what, which is newer than what is compiled.
    pub fn selections(&self) -> &Selections {
        &self.selections
    }

    /// There is no room for all of this: the namespace gives way, from the next [`Self::update`] on, whose rulesets are charged
    /// most; of those that are charged alike, the heaviest. Whether one does; no other does while the rules of one that did are
    /// still compiled in.
    pub fn refuse(&mut self, why: &str, charges: &Charges) -> bool {
        let mut suspended = self.shares.suspended().keys();
        let is_under_way = suspended.any(|namespace| {
            let mut slots = self.selections.slots_in(namespace);
            slots.any(|slot| self.concerned.slots.contains(&slot))
        });
        if is_under_way {
            return true;
        }
        let charge = |namespace: &str| {
            let slots = self.selections.slots_in(namespace);
            let both = slots.filter_map(|slot| self.rulesets.get(&slot));
            let rulesets: HashSet<_> = both.flat_map(|it| [&it.ingress, &it.egress]).collect();
            let charges = rulesets.iter().filter_map(|it| charges.get(*it));
            charges.sum()
        };
        if self.shares.refuse(why, charge).is_none() {
            return false;
        }
        self.decide();
        true
    }

    /// Decides who is suspended. Those who were not before, or are not any more, are to be compiled again.
    fn decide(&mut self) {
        for switched in self.shares.decide() {
            let slots = self.selections.slots_in(&switched);
            self.concerned.slots.extend(slots);
        }
    }

    /// The namespaces that are suspended, and why.
    pub fn suspended(&self) -> &BTreeMap<String, String> {
        self.shares.suspended()
    }

    /// All of them. A copy costs next to nothing.
    pub fn rulesets(&self) -> &Rulesets {
        &self.rulesets
    }

    /// What is compiled of one slot, whether or not it is to have that.
    pub fn what_is_compiled(&self, slot: Slot) -> Option<&Arc<SubjectRulesets>> {
        self.compiled.get(&slot)
    }

    /// The rulesets of one slot.
    pub fn of(&self, slot: Slot) -> Option<&Arc<SubjectRulesets>> {
        self.rulesets.get(&slot)
    }
}

fn address_of(policy: &Arc<NetworkPolicy>) -> usize {
    Arc::as_ptr(policy).addr()
}

#[cfg(test)]
mod tests;
