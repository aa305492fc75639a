// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The CIDR partition: for every boundary of the blocks in use, which blocks hold just inside it.
//!
//! The longest prefix that contains an address then answers for all blocks at once, so that an exception takes
//! its addresses out of its own block and out of no other (item 16). A block that comes or goes costs what lies
//! inside it.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;

use crate::compile::predicate::Predicate;
use crate::compile::signature::Signature;

/// Which blocks hold for which addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partition {
    /// Every boundary, and the signature of the addresses whose longest prefix it is: blocks only.
    prefixes: OrdMap<IpNet, Arc<Signature>>,
    /// How many blocks begin or end at a boundary.
    boundaries: OrdMap<IpNet, usize>,
    /// How many boundaries have a length, of IPv4 and of IPv6.
    lengths: [OrdMap<u8, usize>; 2],
    /// How many blocks hold at all boundaries together. Blocks inside each other multiply it.
    mass: usize,
}

impl Partition {
    /// The partition by the blocks among `predicates`.
    pub fn of<'a>(predicates: impl IntoIterator<Item = &'a Arc<Predicate>>) -> Self {
        let mut partition = Self::default();
        for predicate in predicates {
            partition.add(predicate);
        }
        partition
    }

    /// One more predicate is asked; it was not before. How many boundaries it is about.
    pub fn add(&mut self, predicate: &Arc<Predicate>) -> usize {
        let Some((cidr, except)) = as_block(predicate) else {
            return 0;
        };
        for boundary in std::iter::once(cidr).chain(except) {
            self.begin(*boundary);
        }
        let inside = self.inside(*cidr, except);
        for inside in &inside {
            if let Some(signature) = self.prefixes.get_mut(inside) {
                self.mass += 1;
                Arc::make_mut(signature).insert(predicate);
            }
        }
        inside.len() + except.len()
    }

    /// A predicate is asked no more. How many boundaries it was about.
    pub fn remove(&mut self, predicate: &Arc<Predicate>) -> usize {
        let Some((cidr, except)) = as_block(predicate) else {
            return 0;
        };
        let inside = self.inside(*cidr, except);
        for inside in &inside {
            if let Some(signature) = self.prefixes.get_mut(inside) {
                self.mass -= 1;
                Arc::make_mut(signature).remove(predicate);
            }
        }
        for boundary in std::iter::once(cidr).chain(except) {
            self.end(*boundary);
        }
        inside.len() + except.len()
    }

    /// Every boundary, with the signature of the addresses whose longest prefix it is. It may be empty, where an
    /// exception makes a hole.
    pub fn prefixes(&self) -> &OrdMap<IpNet, Arc<Signature>> {
        &self.prefixes
    }

    /// How many blocks hold at all boundaries together.
    pub fn mass(&self) -> usize {
        self.mass
    }

    /// The longest prefix that contains `address`, with its signature.
    pub fn longest(&self, address: IpAddr) -> Option<(IpNet, &Arc<Signature>)> {
        self.longest_within(address, u8::MAX)
    }

    /// The longest prefix that contains `address` and is no longer than `most`.
    fn longest_within(&self, address: IpAddr, most: u8) -> Option<(IpNet, &Arc<Signature>)> {
        let lengths = self.lengths[family(address)].range(..=most);
        lengths.rev().find_map(|(length, _)| {
            let prefix = IpNet::new(address, *length).ok()?.trunc();
            self.prefixes
                .get(&prefix)
                .map(|signature| (prefix, signature))
        })
    }

    /// The boundaries inside a block and outside its exceptions, which are sorted and lie apart. A prefix sorts before
    /// the prefixes that it contains.
    fn inside(&self, cidr: IpNet, except: &[IpNet]) -> Vec<IpNet> {
        let mut holes = except.iter().peekable();
        self.prefixes
            .range(cidr..)
            .map(|(prefix, _)| *prefix)
            .take_while(|prefix| cidr.contains(prefix))
            .filter(|prefix| {
                while holes
                    .next_if(|hole| hole.broadcast() < prefix.addr())
                    .is_some()
                {}
                !holes.peek().is_some_and(|hole| hole.contains(prefix))
            })
            .collect()
    }

    fn begin(&mut self, boundary: IpNet) {
        let uses = self.boundaries.entry(boundary).or_insert(0);
        *uses += 1;
        if *uses == 1 {
            let around = self.longest_within(boundary.addr(), boundary.prefix_len());
            let signature = around.map(|(_, signature)| Arc::clone(signature));
            let signature = signature.unwrap_or_default();
            self.mass += signature.predicates().len();
            self.prefixes.insert(boundary, signature);
            let lengths = &mut self.lengths[family(boundary.addr())];
            *lengths.entry(boundary.prefix_len()).or_insert(0) += 1;
        }
    }

    fn end(&mut self, boundary: IpNet) {
        let Some(uses) = self.boundaries.get_mut(&boundary) else {
            return;
        };
        *uses -= 1;
        if *uses == 0 {
            self.boundaries.remove(&boundary);
            let gone = self.prefixes.remove(&boundary);
            self.mass -= gone.map_or(0, |signature| signature.predicates().len());
            let lengths = &mut self.lengths[family(boundary.addr())];
            match lengths.get(&boundary.prefix_len()).copied() {
                Some(more @ 2..) => lengths.insert(boundary.prefix_len(), more - 1),
                Some(0 | 1) | None => lengths.remove(&boundary.prefix_len()),
            };
        }
    }
}

fn as_block(predicate: &Predicate) -> Option<(&IpNet, &[IpNet])> {
    match predicate {
        Predicate::Block { cidr, except } => Some((cidr, except)),
        Predicate::OwnNode
        | Predicate::OtherNode
        | Predicate::ClusterPods { .. }
        | Predicate::Pods { .. }
        | Predicate::Listed(_) => None,
    }
}

fn family(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 1,
    }
}
