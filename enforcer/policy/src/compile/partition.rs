//! The CIDR partition: for every boundary of the blocks in use, which blocks hold just inside it.
//!
//! The longest prefix that contains an address then answers for all blocks at once, so that an exception takes
//! its addresses out of its own block and out of no other (item 16).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::compile::predicate::{Predicate, Signature};

/// Which blocks hold for which addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partition {
    /// Every boundary, and the signature of the addresses whose longest prefix it is: blocks only.
    prefixes: BTreeMap<IpNet, Arc<Signature>>,
    /// The lengths that occur, longest first, of IPv4 and of IPv6.
    lengths: [Vec<u8>; 2],
}

impl Partition {
    /// The partition by the blocks among `predicates`.
    pub fn of(predicates: &BTreeSet<Arc<Predicate>>) -> Self {
        let mut boundaries: BTreeMap<IpNet, Boundary<'_>> = BTreeMap::new();
        for predicate in predicates {
            match predicate.as_ref() {
                Predicate::Block { cidr, except } => {
                    boundaries.entry(*cidr).or_default().begin.push(predicate);
                    for hole in except {
                        boundaries.entry(*hole).or_default().end.push(predicate);
                    }
                }
                Predicate::OwnNode
                | Predicate::ClusterPods { .. }
                | Predicate::Pods { .. }
                | Predicate::Listed(_) => {}
            }
        }

        // A prefix sorts before the prefixes that it contains, so those that contain the current one are a stack.
        let mut containing: Vec<(IpNet, BTreeSet<&Arc<Predicate>>)> = Vec::new();
        let mut prefixes = BTreeMap::new();
        let mut lengths = [BTreeSet::new(), BTreeSet::new()];
        for (prefix, boundary) in &boundaries {
            while containing
                .last()
                .is_some_and(|(outer, _)| !outer.contains(prefix))
            {
                containing.pop();
            }
            let mut holding = containing
                .last()
                .map(|(_, holding)| holding.clone())
                .unwrap_or_default();
            holding.extend(&boundary.begin);
            holding.retain(|predicate| !boundary.end.contains(predicate));
            let signature =
                Signature::new(holding.iter().map(|predicate| Arc::clone(predicate)), []);
            prefixes.insert(*prefix, Arc::new(signature));
            lengths[family(prefix.addr())].insert(prefix.prefix_len());
            containing.push((*prefix, holding));
        }
        Self {
            prefixes,
            lengths: lengths.map(|lengths| lengths.into_iter().rev().collect()),
        }
    }

    /// Every boundary, with the signature of the addresses whose longest prefix it is. It may be empty, where an
    /// exception makes a hole.
    pub fn prefixes(&self) -> impl Iterator<Item = (IpNet, &Arc<Signature>)> {
        self.prefixes
            .iter()
            .map(|(prefix, signature)| (*prefix, signature))
    }

    /// The longest prefix that contains `address`, with its signature.
    pub fn longest(&self, address: IpAddr) -> Option<(IpNet, &Arc<Signature>)> {
        self.lengths[family(address)].iter().find_map(|length| {
            let prefix = IpNet::new(address, *length).ok()?.trunc();
            self.prefixes
                .get(&prefix)
                .map(|signature| (prefix, signature))
        })
    }
}

/// The blocks that begin and end at a prefix.
#[derive(Default)]
struct Boundary<'a> {
    begin: Vec<&'a Arc<Predicate>>,
    end: Vec<&'a Arc<Predicate>>,
}

fn family(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 1,
    }
}
