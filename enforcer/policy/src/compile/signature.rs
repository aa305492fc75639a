// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an address answers, and what it stands for before the node translates it, which is told in answers again: what a class
//! is made of.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use crate::compile::canonical::{Canonical, HASHER};
use crate::compile::predicate::Predicate;
use crate::model::{NamedPort, Protocol, ServiceEgress};

/// What one address answers to a set of questions. A class is a signature with a number.
#[derive(Debug, Clone, Default)]
pub struct Signature {
    /// The predicates that hold, sorted, none twice.
    predicates: Vec<Arc<Predicate>>,
    /// The ports that the pod at this address calls by a name that was asked for; sorted, none twice.
    ports: Vec<NamedPort>,
    /// What the address stands for before the node translates it; none where only for itself.
    translation: Option<Arc<Translation>>,
    /// A hash of the rest, once it was asked for: the sum of those of its parts, so that it follows each predicate that
    /// comes or goes without all others being read again.
    hash: OnceLock<u64>,
}

impl Signature {
    fn content(&self) -> (&[Arc<Predicate>], &[NamedPort], &Option<Arc<Translation>>) {
        (&self.predicates, &self.ports, &self.translation)
    }

    fn hash_of_content(&self) -> u64 {
        *self.hash.get_or_init(|| {
            let predicates = self.predicates.iter().map(|it| HASHER.hash_one(it));
            let rest = HASHER.hash_one((&self.ports, &self.translation));
            predicates.fold(rest, u64::wrapping_add)
        })
    }

    /// The hash follows a predicate that comes or goes.
    fn rehash(&mut self, predicate: &Predicate, follow: fn(u64, u64) -> u64) {
        if let Some(hash) = self.hash.take() {
            self.hash = follow(hash, HASHER.hash_one(predicate)).into();
        }
    }
}

impl PartialEq for Signature {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || (self.hash_of_content() == other.hash_of_content()
                && self.content() == other.content())
    }
}

impl Eq for Signature {}

impl PartialOrd for Signature {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Signature {
    fn cmp(&self, other: &Self) -> Ordering {
        if std::ptr::eq(self, other) {
            return Ordering::Equal;
        }
        // Predicates are shared by most signatures: what is one allocation is not compared.
        let pairs = self.predicates.iter().zip(&other.predicates);
        let mut orderings = pairs
            .filter(|(one, other)| !Arc::ptr_eq(one, other))
            .map(|(one, other)| one.cmp(other));
        orderings
            .find(|ordering| ordering.is_ne())
            .unwrap_or_else(|| self.predicates.len().cmp(&other.predicates.len()))
            .then_with(|| (&self.ports, &self.translation).cmp(&(&other.ports, &other.translation)))
    }
}

impl Hash for Signature {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash_of_content());
    }
}

impl Signature {
    /// The signature of an address for which exactly `predicates` hold, with these named ports.
    pub fn new(
        predicates: impl IntoIterator<Item = Arc<Predicate>>,
        ports: impl IntoIterator<Item = NamedPort>,
    ) -> Self {
        let mut signature = Self {
            predicates: predicates.into_iter().collect(),
            ports: ports.into_iter().collect(),
            ..Self::default()
        };
        signature.predicates.sort();
        signature.predicates.dedup();
        signature.ports.sort();
        signature.ports.dedup();
        signature
    }

    /// One more predicate holds.
    pub fn insert(&mut self, predicate: &Arc<Predicate>) {
        if let Err(place) = self.predicates.binary_search(predicate) {
            self.rehash(predicate, u64::wrapping_add);
            self.predicates.insert(place, Arc::clone(predicate));
        }
    }

    /// A predicate holds no more.
    pub fn remove(&mut self, predicate: &Predicate) {
        let place = self
            .predicates
            .binary_search_by(|holding| holding.as_ref().cmp(predicate));
        if let Ok(place) = place {
            self.rehash(predicate, u64::wrapping_sub);
            self.predicates.remove(place);
        }
    }

    /// The predicates that hold, sorted.
    pub fn predicates(&self) -> &[Arc<Predicate>] {
        &self.predicates
    }

    /// The ports that have a name that was asked for, sorted.
    pub fn ports(&self) -> &[NamedPort] {
        &self.ports
    }

    /// The same address, standing for this too.
    #[must_use]
    pub fn translated(&self, translation: Translation) -> Self {
        Self {
            translation: Some(Arc::new(translation)),
            hash: OnceLock::new(),
            ..self.clone()
        }
    }

    /// What the address stands for before the node translates it; none where only for itself.
    pub fn translation(&self) -> Option<&Arc<Translation>> {
        self.translation.as_ref()
    }

    /// Whether nothing holds: what an unknown address answers.
    pub fn is_empty(&self) -> bool {
        self.predicates.is_empty() && self.ports.is_empty() && self.translation.is_none()
    }

    /// Whether this is its own broad part.
    pub fn is_broad(&self) -> bool {
        let translation = self.translation.as_ref();
        self.ports.is_empty()
            && self.predicates.iter().all(|predicate| predicate.is_broad())
            && translation.is_none_or(|translation| translation.is_broad())
    }

    /// Whether the address is one of the own node's.
    pub fn is_own_node(&self) -> bool {
        self.predicates
            .first()
            .is_some_and(|predicate| **predicate == Predicate::OwnNode)
    }

    /// Whether the address is one of another node's.
    pub fn is_other_node(&self) -> bool {
        let mut first = self.predicates.iter().take(2);
        first.any(|predicate| **predicate == Predicate::OtherNode)
    }

    /// Whether the address is any node's: there a tunnel needs a rule with its number.
    pub fn is_node(&self) -> bool {
        self.is_own_node() || self.is_other_node()
    }

    /// The part that makes the broad class.
    pub fn broad(&self) -> Self {
        Self {
            predicates: self
                .predicates
                .iter()
                .filter(|p| p.is_broad())
                .cloned()
                .collect(),
            ports: Vec::new(),
            translation: self
                .translation
                .as_ref()
                .and_then(|translation| translation.broad())
                .map(Arc::new),
            hash: OnceLock::new(),
        }
    }
}

/// What an address stands for: some of its ports for endpoints, the others for itself or for nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Translation {
    /// What its ports mean.
    pub(super) meaning: Meaning,
    /// The predicates of this very address, which allow it whatever stands behind it; sorted.
    pub(super) by_name: Vec<Arc<Predicate>>,
    /// The ports that stand for endpoints, sorted. Where a port is here twice, either may be meant. One allocation for all
    /// addresses of a Service that are alike.
    pub(super) ports: Arc<TranslatedPorts>,
    /// How many endpoints must be allowed.
    pub(super) egress: ServiceEgress,
}

/// What the ports of an address mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Meaning {
    /// A cluster address: ports that stand for no endpoints lead nowhere.
    Cluster,
    /// An external address that must be allowed itself, too.
    External,
    /// An external address that is never met untranslated: a load balancer's, or any if the node's options say so.
    Translated,
    /// An address of the own node.
    OwnNode,
}

/// The ports of an address that stand for endpoints.
pub(super) type TranslatedPorts = Canonical<Vec<TranslatedPort>>;

/// What endpoints answer, each with its target port.
pub(super) type Answers = Canonical<BTreeSet<(Arc<Signature>, u16)>>;

/// A port that stands for endpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TranslatedPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The number.
    pub number: u16,
    /// What is known of the endpoints.
    pub standing: Standing,
    /// The endpoints that are known, as what they answer and their target port.
    pub(super) endpoints: Arc<Answers>,
    /// Those that say that they are pods, of whom nobody is known: what their addresses answer. Where there are neither these
    /// nor those, nothing is allowed.
    pub(super) doubtful: Arc<Answers>,
}

impl TranslatedPort {
    fn place(&self) -> (Protocol, u16) {
        (self.protocol, self.number)
    }

    /// What it has of endpoints, in two allocations that others may share.
    #[cfg(test)]
    pub(super) fn endpoints_stored(&self) -> impl Iterator<Item = &Answers> {
        [&self.endpoints, &self.doubtful]
            .into_iter()
            .map(AsRef::as_ref)
    }

    /// Whether there is no endpoint, not even one whose pod is unknown.
    fn has_none(&self) -> bool {
        self.standing == Standing::NotKnown && self.doubtful.is_empty()
    }
}

/// What is known of a port's endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// At least who one of them is, or is not.
    Known,
    /// There is none, or nobody knows who they are.
    NotKnown,
}

impl Signature {
    /// What established flows are judged by at an address that has said `old` and says this now. What went away is not
    /// denied: a port without endpoints still means those that it had. What is in doubt is denied: an endpoint whose pod is
    /// unknown may be any address, and a datagram, or a connection that conntrack has forgotten, is translated to it as the
    /// first packet of a flow is. All else is as it is now, the address itself included. None: there is no such port, or the
    /// address means no endpoints any more.
    pub fn sparing(&self, old: &Self) -> Option<Self> {
        let (before, now) = (old.translation()?, self.translation()?);
        let mut spared: BTreeSet<TranslatedPort> = BTreeSet::new();
        let mut at: BTreeSet<(Protocol, u16)> = BTreeSet::new();
        for said in before
            .ports
            .chunk_by(|one, other| one.place() == other.place())
        {
            let place = said[0].place();
            let here = now.ports_at(place);
            let (gone, left): (Vec<_>, Vec<_>) = here.iter().partition(|now| now.has_none());
            if gone.is_empty() && !left.is_empty() {
                continue;
            }
            at.insert(place);
            if left.is_empty() {
                spared.extend(said.iter().cloned());
            } else {
                spared.extend(left.into_iter().cloned());
            }
        }
        if at.is_empty() {
            return None;
        }
        let others = now.ports.iter().filter(|port| !at.contains(&port.place()));
        spared.extend(others.cloned());
        let ports: Vec<TranslatedPort> = spared.into_iter().collect();
        Some(self.translated(Translation {
            by_name: now.by_name.clone(),
            ports: Arc::new(ports.into()),
            ..**now
        }))
    }
}

impl Translation {
    /// The ports that stand for endpoints, sorted.
    pub fn ports(&self) -> &[TranslatedPort] {
        &self.ports
    }

    /// Those of one number.
    fn ports_at(&self, place: (Protocol, u16)) -> &[TranslatedPort] {
        let first = self.ports.partition_point(|port| port.place() < place);
        let of_place = self.ports[first..].partition_point(|port| port.place() == place);
        &self.ports[first..first + of_place]
    }

    /// Whether this is its own broad part.
    pub(super) fn is_broad(&self) -> bool {
        self.broad().as_ref() == Some(self)
    }

    /// What is left without endpoints, which are told apart by more than what makes the broad class.
    pub(super) fn broad(&self) -> Option<Self> {
        match self.meaning {
            Meaning::Cluster => Some(Self {
                by_name: self
                    .by_name
                    .iter()
                    .filter(|predicate| predicate.is_broad())
                    .cloned()
                    .collect(),
                ports: Arc::new(Vec::new().into()),
                ..*self
            }),
            Meaning::External | Meaning::Translated | Meaning::OwnNode => None,
        }
    }
}
