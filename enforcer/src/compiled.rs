//! The compiled policies of the node's own pods, kept as policies and pods change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use podgate_datapath::record::Slot;
use podgate_policy::compile::{SubjectRulesets, applies, compile_selecting, isolate_selecting};
use podgate_policy::connection::{Baseline, Subject};
use podgate_policy::model::{NamedPort, NetworkPolicy, ObjectName, World};

use crate::cluster::View;
use crate::plan::Rulesets;
use crate::share::{CAPACITY, Load, Shares};

/// The compiled policies of all subjects. What cannot have changed is not compiled again.
#[derive(Debug, Default)]
pub struct Compiled {
    policies: OrdMap<ObjectName, Arc<NetworkPolicy>>,
    node_scopes: BTreeSet<IpNet>,
    subjects: OrdMap<Slot, Arc<Subject>>,
    /// The subjects of each namespace.
    by_namespace: BTreeSet<(String, Slot)>,
    /// The policies that select each subject.
    selecting: BTreeMap<Slot, BTreeMap<ObjectName, Arc<NetworkPolicy>>>,
    shares: Shares,
    /// What was compiled from what: subjects that differ in nothing that matters are compiled once.
    known: HashMap<Basis, Arc<SubjectRulesets>>,
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
    fn compile(&self, subject: &Subject, node_scopes: &BTreeSet<IpNet>) -> SubjectRulesets {
        let selecting: Vec<&NetworkPolicy> = self.policies.0.iter().map(AsRef::as_ref).collect();
        if self.suspended {
            isolate_selecting(&selecting, subject)
        } else {
            compile_selecting(&selecting, subject, node_scopes)
        }
    }
}

impl Compiled {
    /// Brings them up to `view`; how many subjects were compiled.
    pub fn update(&mut self, view: &View) -> usize {
        let Concerned {
            mut slots,
            namespaces,
        } = self.concerned(view);
        self.policies = view.world.policies.clone();
        if self.node_scopes != view.world.node_scopes {
            self.node_scopes.clone_from(&view.world.node_scopes);
            self.known.clear();
        }
        self.subjects = view.subjects.clone();
        for namespace in &namespaces {
            let weight = self.weight_of(namespace, &view.world);
            self.shares.weigh(namespace, weight);
        }
        for namespace in self.shares.decide() {
            slots.extend(slots_in(&self.by_namespace, &namespace));
        }
        for slot in &slots {
            match self.subjects.get(slot).cloned() {
                None => {
                    self.rulesets.remove(&slot.0);
                    self.selecting.remove(slot);
                }
                Some(subject) => self.compile(*slot, &subject),
            }
        }
        if !slots.is_empty() {
            self.known
                .retain(|_, rulesets| Arc::strong_count(rulesets) > 1);
        }
        slots.len()
    }

    fn compile(&mut self, slot: Slot, subject: &Subject) {
        let policies: Vec<Arc<NetworkPolicy>> = self
            .selecting
            .get(&slot)
            .into_iter()
            .flat_map(|selecting| selecting.values().cloned())
            .collect();
        let basis = Basis {
            namespace: subject.name.namespace.clone(),
            suspended: self.shares.is_suspended(&subject.name.namespace),
            selecting: policies.iter().map(address_of).collect(),
            policies: Kept(policies),
            ports: subject.ports.clone(),
            strict: subject.baseline == Baseline::Strict,
        };
        let rulesets = match self.known.get(&basis) {
            Some(known) => Arc::clone(known),
            None => {
                let compiled = Arc::new(basis.compile(subject, &self.node_scopes));
                self.known.insert(basis, Arc::clone(&compiled));
                compiled
            }
        };
        let is_new = self.rulesets.get(&slot.0).is_none_or(|before| {
            !Arc::ptr_eq(before, &rulesets) && before.as_ref() != rulesets.as_ref()
        });
        if is_new {
            self.rulesets.insert(slot.0, rulesets);
        }
    }

    /// What the policies of a namespace weigh that select subjects.
    fn weight_of(&self, namespace: &str, world: &World) -> usize {
        let mut groups: BTreeSet<Vec<usize>> = BTreeSet::new();
        let mut policies: BTreeMap<usize, &NetworkPolicy> = BTreeMap::new();
        for slot in slots_in(&self.by_namespace, namespace) {
            let Some(selecting) = self.selecting.get(&slot) else {
                continue;
            };
            let addressed = |policy| (address_of(policy), Arc::as_ref(policy));
            policies.extend(selecting.values().map(addressed));
            groups.insert(selecting.values().map(address_of).collect());
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
            own_pods: own_pods.count(),
            all_pods: world.pods.len(),
        };
        load.weight(CAPACITY)
    }

    /// The slots whose rulesets may be other ones than before: of subjects that changed, and of those that a policy
    /// selects that changed, before or after it did; of all, when the node has other scopes.
    fn concerned(&mut self, view: &View) -> Concerned {
        let mut concerned = Concerned::default();
        for difference in self.subjects.diff(&view.subjects) {
            let (slot, old, new) = match difference {
                DiffItem::Add(slot, new) => (slot, None, Some(new)),
                DiffItem::Remove(slot, old) => (slot, Some(old), None),
                DiffItem::Update {
                    old: (_, old),
                    new: (slot, new),
                } => (slot, Some(old), Some(new)),
            };
            if let Some(old) = old {
                let namespace = old.name.namespace.clone();
                concerned.namespaces.insert(namespace.clone());
                self.by_namespace.remove(&(namespace, *slot));
            }
            if let Some(new) = new {
                let namespace = new.name.namespace.clone();
                concerned.namespaces.insert(namespace.clone());
                self.by_namespace.insert((namespace, *slot));
                let selecting = policies_of(&view.world, &new.name.namespace)
                    .filter(|(_, policy)| applies(policy, new))
                    .map(|(name, policy)| (name.clone(), Arc::clone(policy)));
                self.selecting.insert(*slot, selecting.collect());
            }
            concerned.slots.insert(*slot);
        }
        for difference in self.policies.diff(&view.world.policies) {
            let (name, new) = match difference {
                DiffItem::Add(name, new)
                | DiffItem::Update {
                    new: (name, new), ..
                } => (name, Some(new)),
                DiffItem::Remove(name, _) => (name, None),
            };
            for slot in slots_in(&self.by_namespace, &name.namespace) {
                let Some((subject, selecting)) =
                    view.subjects.get(&slot).zip(self.selecting.get_mut(&slot))
                else {
                    continue;
                };
                let before = match new.filter(|policy| applies(policy, subject)) {
                    Some(policy) => {
                        concerned.slots.insert(slot);
                        selecting.insert(name.clone(), Arc::clone(policy))
                    }
                    None => selecting.remove(name),
                };
                if before.is_some() {
                    concerned.slots.insert(slot);
                }
            }
            concerned.namespaces.insert(name.namespace.clone());
        }
        if self.node_scopes != view.world.node_scopes {
            concerned.slots.extend(view.subjects.keys());
        }
        concerned
    }

    /// There is no room for all of this: the heaviest namespace gives way, from the next [`Self::update`] on. Its name.
    pub fn refuse_heaviest(&mut self, why: &str) -> Option<String> {
        self.shares.refuse(why)
    }

    /// The namespaces that are suspended, and why.
    pub fn suspended(&self) -> &BTreeMap<String, String> {
        self.shares.suspended()
    }

    /// All of them. A copy costs next to nothing.
    pub fn rulesets(&self) -> &Rulesets {
        &self.rulesets
    }

    /// The rulesets of one slot.
    pub fn of(&self, slot: Slot) -> Option<&Arc<SubjectRulesets>> {
        self.rulesets.get(&slot.0)
    }
}

/// What may be other than before.
#[derive(Debug, Default)]
struct Concerned {
    slots: BTreeSet<Slot>,
    /// Where policies or subjects changed.
    namespaces: BTreeSet<String>,
}

fn address_of(policy: &Arc<NetworkPolicy>) -> usize {
    Arc::as_ptr(policy).addr()
}

fn policies_of<'a>(
    world: &'a World,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a ObjectName, &'a Arc<NetworkPolicy>)> {
    world
        .policies
        .range(ObjectName::new(namespace, "")..)
        .take_while(move |(name, _)| name.namespace == namespace)
}

fn slots_in<'a>(
    by_namespace: &'a BTreeSet<(String, Slot)>,
    namespace: &'a str,
) -> impl Iterator<Item = Slot> + 'a {
    by_namespace
        .range((namespace.to_owned(), Slot(0))..)
        .take_while(move |(of, _)| of == namespace)
        .map(|(_, slot)| *slot)
}

#[cfg(test)]
mod tests;
