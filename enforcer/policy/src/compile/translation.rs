// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an address stands for before the node translates it, in terms of signatures: its part of a class.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::compile::canonical::Canonical;
use crate::compile::predicate::{Predicate, Signature};
use crate::model::{Protocol, ServiceEgress};

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

    fn is_certain(&self) -> bool {
        self.standing == Standing::Known && self.doubtful.is_empty()
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
    /// denied: a port whose endpoints nobody knows any more still stands for those that it had. Nor is what is in doubt: an
    /// endpoint that is not known does not count beside one that is. All else is as it is now, the address itself
    /// included. None: there is no such port, or the address stands for nothing any more.
    pub fn sparing(&self, old: &Self) -> Option<Self> {
        let (before, now) = (old.translation()?, self.translation()?);
        let nobody: Arc<Answers> = Arc::new(BTreeSet::new().into());
        let mut spared: BTreeSet<TranslatedPort> = BTreeSet::new();
        let mut at: BTreeSet<(Protocol, u16)> = BTreeSet::new();
        for said in before
            .ports
            .chunk_by(|one, other| one.place() == other.place())
        {
            let place = said[0].place();
            let here = now.ports_at(place);
            if !here.is_empty() && here.iter().all(|now| now.is_certain()) {
                continue;
            }
            at.insert(place);
            let known = here.iter().filter(|now| now.standing == Standing::Known);
            let known: Vec<TranslatedPort> = known
                .map(|now| TranslatedPort {
                    doubtful: Arc::clone(&nobody),
                    ..now.clone()
                })
                .collect();
            if known.is_empty() {
                spared.extend(said.iter().cloned());
            } else {
                spared.extend(known);
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
