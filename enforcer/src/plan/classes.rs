// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which signatures become classes, which classes a ruleset may say something of, and which rulesets of a class.
//!
//! Both are looked up by what a ruleset asks and a class answers, so that a new ruleset meets only the classes that it
//! can tell from an unknown peer, and a new class only the rulesets that can tell it from one.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use podgate_abi::{Class, RulesetId};
use podgate_policy::compile::predicate::{PortName, Predicate, Questions};
use podgate_policy::compile::signature::Signature;

/// The classes in use, by what sets them apart from an unknown peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Classes {
    by_predicate: OrdMap<Arc<Predicate>, OrdSet<Class>>,
    with_ports: OrdSet<Class>,
    /// Those that stand for something else before the node translates them.
    translated: OrdSet<Class>,
}

impl Classes {
    /// A class is new.
    pub(super) fn add(&mut self, class: Class, signature: &Signature) {
        for predicate in signature.predicates() {
            add(&mut self.by_predicate, predicate, class);
        }
        if !signature.ports().is_empty() {
            self.with_ports.insert(class);
        }
        if signature.translation().is_some() {
            self.translated.insert(class);
        }
    }

    /// A class is gone.
    pub(super) fn remove(&mut self, class: Class, signature: &Signature) {
        for predicate in signature.predicates() {
            remove(&mut self.by_predicate, predicate, &class);
        }
        self.with_ports.remove(&class);
        self.translated.remove(&class);
    }

    /// The classes of which a ruleset with these questions may say something of its own.
    pub(super) fn under(&self, questions: &Questions) -> BTreeSet<Class> {
        let asked = questions.predicates.iter().map(AsRef::as_ref);
        let by_predicate = asked
            .chain([&Predicate::OwnNode, &Predicate::OtherNode])
            .filter_map(|predicate| self.by_predicate.get(predicate))
            .flatten();
        let with_ports = self
            .with_ports
            .iter()
            .filter(|_| !questions.port_names.is_empty());
        let translated = self.translated.iter().filter(|_| questions.translations);
        by_predicate
            .chain(with_ports)
            .chain(translated)
            .copied()
            .collect()
    }
}

/// The rulesets in use, by what they ask, and what they ask together beside predicates.
#[derive(Debug, Clone, Default)]
pub(super) struct RulesetIndex {
    by_predicate: OrdMap<Arc<Predicate>, OrdSet<RulesetId>>,
    by_port_name: OrdMap<PortName, OrdSet<RulesetId>>,
    /// Those that ask what addresses stand for.
    translating: OrdSet<RulesetId>,
    all: OrdSet<RulesetId>,
    beside: Questions,
    /// Predicates that no ruleset asks any more.
    surplus: OrdSet<Arc<Predicate>>,
}

impl RulesetIndex {
    /// A ruleset is new. Its predicates follow.
    pub(super) fn begin(&mut self, ruleset: RulesetId, questions: &Questions) {
        for name in &questions.port_names {
            add(&mut self.by_port_name, name, ruleset);
            self.beside.port_names.insert(name.clone());
        }
        if questions.translations {
            self.translating.insert(ruleset);
        }
        self.beside.translations = !self.translating.is_empty();
        self.all.insert(ruleset);
    }

    /// It asks a predicate.
    pub(super) fn add(&mut self, ruleset: RulesetId, predicate: &Arc<Predicate>) {
        add(&mut self.by_predicate, predicate, ruleset);
        self.surplus.remove(predicate);
    }

    /// A ruleset is gone. Its predicates follow.
    pub(super) fn end(&mut self, ruleset: RulesetId, questions: &Questions) {
        for name in &questions.port_names {
            if remove(&mut self.by_port_name, name, &ruleset) {
                self.beside.port_names.remove(name);
            }
        }
        self.translating.remove(&ruleset);
        self.beside.translations = !self.translating.is_empty();
        self.all.remove(&ruleset);
    }

    /// It asks a predicate no more.
    pub(super) fn remove(&mut self, ruleset: RulesetId, predicate: &Arc<Predicate>) {
        if remove(&mut self.by_predicate, predicate, &ruleset) {
            self.surplus.insert(Arc::clone(predicate));
        }
    }

    /// What they ask together, predicates apart.
    pub(super) fn beside(&self) -> &Questions {
        &self.beside
    }

    /// Predicates that no ruleset asks any more.
    pub(super) fn surplus(&self) -> &OrdSet<Arc<Predicate>> {
        &self.surplus
    }

    /// They are not asked any more.
    pub(super) fn forget(&mut self, predicates: &[Arc<Predicate>]) {
        for predicate in predicates {
            self.surplus.remove(predicate);
        }
    }

    /// The rulesets that may say something of their own of this signature. Of nodes all may.
    pub(super) fn about(&self, signature: &Signature) -> BTreeSet<RulesetId> {
        if signature.is_node() {
            return self.all.iter().copied().collect();
        }
        let by_predicate = signature
            .predicates()
            .iter()
            .filter_map(|predicate| self.by_predicate.get(predicate));
        let by_port = signature.ports().iter().filter_map(|port| {
            let (protocol, name) = (port.protocol, port.name.clone());
            self.by_port_name.get(&PortName { protocol, name })
        });
        let translating = self.translating.iter();
        let translating = translating.filter(|_| signature.translation().is_some());
        let asking = by_predicate.chain(by_port).flatten().chain(translating);
        asking.copied().collect()
    }
}

fn add<K: Ord + Clone, V: Ord + Clone>(index: &mut OrdMap<K, OrdSet<V>>, key: &K, value: V) {
    match index.get_mut(key) {
        Some(values) => drop(values.insert(value)),
        None => drop(index.insert(key.clone(), OrdSet::unit(value))),
    }
}

/// Whether nothing is left under the key.
fn remove<K: Ord + Clone, V: Ord + Clone>(
    index: &mut OrdMap<K, OrdSet<V>>,
    key: &K,
    value: &V,
) -> bool {
    let Some(values) = index.get_mut(key) else {
        return false;
    };
    values.remove(value);
    let is_last = values.is_empty();
    if is_last {
        index.remove(key);
    }
    is_last
}

/// The classes of a signature, itself and its broad part. Where nothing holds there is none.
pub(super) fn parts_of(signature: &Arc<Signature>) -> impl Iterator<Item = Arc<Signature>> {
    let broad = (!signature.is_broad()).then(|| Arc::new(signature.broad()));
    [Some(Arc::clone(signature)), broad]
        .into_iter()
        .flatten()
        .filter(|part| !part.is_empty())
}

/// Whether a signature is no more than what the longest prefix of its address says.
pub(super) fn is_of_prefix(signature: &Signature) -> bool {
    let is_block = |predicate: &Arc<Predicate>| match predicate.as_ref() {
        Predicate::Block { .. } => true,
        Predicate::OwnNode
        | Predicate::OtherNode
        | Predicate::ClusterPods { .. }
        | Predicate::Pods { .. }
        | Predicate::Listed(_) => false,
    };
    signature.ports().is_empty()
        && signature.translation().is_none()
        && signature.predicates().iter().all(is_block)
}
