// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What policies ask about a peer's address, and the answers that an address gives.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use imbl::OrdSet;
use ipnet::IpNet;

use crate::compile::canonical::{Canonical, HASHER};
use crate::compile::translation::Translation;
use crate::model::{
    ListName, NamedPort, Namespaces, Operator, Peer, Protocol, Requirement, SCOPES, Selector,
};

/// Something that is true or false of an address, in one form only: equal questions are equal values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Predicate {
    /// The address is one of this node's own. The first variant, so that it comes first in a [`Signature`].
    OwnNode,
    /// The address is one of another node of the cluster.
    OtherNode,
    /// The address is in the block and in none of its exceptions.
    Block {
        /// The block.
        cidr: IpNet,
        /// The scopes inside it included. Sorted; each strictly inside `cidr`, none inside another.
        except: Canonical<Vec<IpNet>>,
    },
    /// The address is that of a pod whose labels match, in a known namespace whose labels match.
    ClusterPods {
        /// Which namespaces.
        namespaces: Canonical<Selector>,
        /// Which of their pods.
        pods: Canonical<Selector>,
    },
    /// The address is that of a pod of one namespace whose labels match.
    Pods {
        /// The namespace, by name; it need not be known.
        namespace: String,
        /// Which of its pods.
        pods: Canonical<Selector>,
    },
    /// The address is in this list.
    Listed(ListName),
}

impl Predicate {
    /// How many prefixes it tells apart.
    pub fn prefixes(&self) -> usize {
        match self {
            Self::Block { except, .. } => 1 + except.len(),
            Self::OwnNode
            | Self::OtherNode
            | Self::ClusterPods { .. }
            | Self::Pods { .. }
            | Self::Listed(_) => 0,
        }
    }

    /// What `peer` asks, in a policy of `namespace` on a node with these scopes; nothing if nobody can match it.
    pub fn of_peer(peer: &Peer, namespace: &str, node_scopes: &BTreeSet<IpNet>) -> Option<Self> {
        match peer {
            Peer::Pods {
                namespaces: Namespaces::Own,
                pods,
            } => Some(Self::Pods {
                namespace: namespace.to_owned(),
                pods: canonical_selector(pods)?,
            }),
            Peer::Pods {
                namespaces: Namespaces::Matching(namespaces),
                pods,
            } => Some(Self::ClusterPods {
                namespaces: canonical_selector(namespaces)?,
                pods: canonical_selector(pods)?,
            }),
            Peer::Block { cidr, except } => {
                let cidr = cidr.trunc();
                if except.iter().any(|hole| hole.contains(&cidr)) {
                    return None;
                }
                let is_everything =
                    cidr.prefix_len() == 0 && !except.iter().any(|hole| cidr.contains(hole));
                let scopes = SCOPES.iter().chain(node_scopes);
                // A scope around the block takes nothing away. Two networks contain one another or are apart.
                let scopes = scopes.filter(|scope| !is_everything && !scope.contains(&cidr));
                let inside: BTreeSet<IpNet> = except
                    .iter()
                    .chain(scopes)
                    .map(IpNet::trunc)
                    .filter(|hole| cidr.contains(hole))
                    .collect();
                // A hole sorts before those that it contains.
                let mut widest: Vec<IpNet> = Vec::with_capacity(inside.len());
                for hole in inside {
                    if !widest.last().is_some_and(|last| last.contains(&hole)) {
                        widest.push(hole);
                    }
                }
                Some(Self::Block {
                    cidr,
                    except: widest.into(),
                })
            }
            Peer::Listed(list) => Some(Self::Listed(list.clone())),
            Peer::Invalid => None,
        }
    }

    /// Whether this belongs to the broad class: what CIDRs and cluster-wide selectors can tell apart.
    pub fn is_broad(&self) -> bool {
        match self {
            Self::OwnNode | Self::OtherNode | Self::Block { .. } | Self::ClusterPods { .. } => true,
            Self::Pods { .. } | Self::Listed(_) => false,
        }
    }
}

/// The same selector with requirements and values sorted, and none twice; nothing if it cannot be read.
fn canonical_selector(selector: &Selector) -> Option<Canonical<Selector>> {
    let sorted = |values: &[String]| {
        values
            .iter()
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    };
    match selector {
        Selector::Requirements(requirements) => {
            let canonical: BTreeSet<Requirement> = requirements
                .iter()
                .map(|requirement| Requirement {
                    key: requirement.key.clone(),
                    operator: match &requirement.operator {
                        Operator::In(values) => Operator::In(sorted(values)),
                        Operator::NotIn(values) => Operator::NotIn(sorted(values)),
                        Operator::Exists => Operator::Exists,
                        Operator::DoesNotExist => Operator::DoesNotExist,
                    },
                })
                .collect();
            Some(Selector::Requirements(canonical.into_iter().collect()).into())
        }
        Selector::Invalid => None,
    }
}

/// The name of a port, as an egress rule gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    /// The protocol.
    pub protocol: Protocol,
    /// The name.
    pub name: String,
}

impl PortName {
    /// The name that a port goes by.
    pub fn of(port: &NamedPort) -> Self {
        Self {
            protocol: port.protocol,
            name: port.name.clone(),
        }
    }

    /// Whether `port` goes by this name.
    pub fn names(&self, port: &NamedPort) -> bool {
        self.protocol == port.protocol && self.name == port.name
    }
}

/// All that a set of rulesets asks about peers. Addresses are classified by the answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Questions {
    /// True or false of an address. [`Predicate::OwnNode`] and [`Predicate::OtherNode`] need not be here: they are
    /// always asked.
    pub predicates: OrdSet<Arc<Predicate>>,
    /// Which numbers a pod calls by these names.
    pub port_names: OrdSet<PortName>,
    /// Whether it matters what addresses stand for before the node translates them.
    pub translations: bool,
}

impl Questions {
    /// Adds all that `other` asks.
    pub fn add(&mut self, other: &Self) {
        self.predicates.extend(other.predicates.iter().cloned());
        self.port_names.extend(other.port_names.iter().cloned());
        self.translations |= other.translations;
    }
}

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
