//! Which signatures become classes, and which classes a ruleset may say something of.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use podgate_abi::Class;
use podgate_policy::compile::facts::Facts;
use podgate_policy::compile::predicate::{Predicate, Questions, Signature};

/// Classes that get rows, found by what can set them apart from an unknown peer.
#[derive(Default)]
pub(super) struct Candidates<'a> {
    by_predicate: HashMap<&'a Predicate, Vec<(Class, &'a Arc<Signature>)>>,
    with_ports: Vec<(Class, &'a Arc<Signature>)>,
}

impl<'a> Candidates<'a> {
    pub(super) fn of(classes: impl Iterator<Item = (Class, &'a Arc<Signature>)>) -> Self {
        let mut candidates = Self::default();
        for (class, signature) in classes {
            for predicate in signature.predicates() {
                candidates
                    .by_predicate
                    .entry(predicate)
                    .or_default()
                    .push((class, signature));
            }
            if !signature.ports().is_empty() {
                candidates.with_ports.push((class, signature));
            }
        }
        candidates
    }

    /// The classes of which a ruleset with these questions may say something of its own.
    pub(super) fn under(&self, questions: &Questions) -> BTreeMap<Class, &'a Arc<Signature>> {
        let asked = questions.predicates.iter().map(AsRef::as_ref);
        let by_predicate = asked
            .chain([&Predicate::OwnNode])
            .filter_map(|predicate| self.by_predicate.get(predicate))
            .flatten();
        let with_ports = self
            .with_ports
            .iter()
            .filter(|_| !questions.port_names.is_empty());
        by_predicate.chain(with_ports).copied().collect()
    }
}

/// Every signature that needs a number: of addresses and prefixes, and the broad part of each.
pub(super) fn signatures_of(facts: &Facts) -> BTreeSet<Arc<Signature>> {
    let addresses = facts.addresses().map(|(_, signature)| signature);
    let prefixes = facts.prefixes().map(|(_, signature)| signature);
    let mut signatures: BTreeSet<Arc<Signature>> = addresses.chain(prefixes).cloned().collect();
    let broad: Vec<Arc<Signature>> = signatures
        .iter()
        .filter(|signature| !is_broad(signature))
        .map(|signature| Arc::new(signature.broad()))
        .collect();
    signatures.extend(broad);
    signatures.retain(|signature| !signature.is_empty());
    signatures
}

/// Whether a signature is its own broad part.
pub(super) fn is_broad(signature: &Signature) -> bool {
    signature.ports().is_empty() && signature.predicates().iter().all(|p| p.is_broad())
}

/// Whether a signature is no more than what the longest prefix of its address says.
pub(super) fn is_of_prefix(signature: &Signature) -> bool {
    let is_block = |predicate: &Arc<Predicate>| match predicate.as_ref() {
        Predicate::Block { .. } => true,
        Predicate::OwnNode
        | Predicate::ClusterPods { .. }
        | Predicate::Pods { .. }
        | Predicate::Listed(_) => false,
    };
    signature.ports().is_empty() && signature.predicates().iter().all(is_block)
}
