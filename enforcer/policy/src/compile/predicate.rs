// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What policies ask about a peer's address.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdSet;
use ipnet::IpNet;

use crate::compile::canonical::Canonical;
use crate::model::{
    ListName, NamedPort, Namespaces, Operator, Peer, Protocol, Requirement, SCOPES, Selector,
};

/// Something that is true or false of an address, in one form only: equal questions are equal values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Predicate {
    /// The address is one of this node's own. The first variant, so that it comes first in a
    /// [`Signature`](super::signature::Signature).
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
