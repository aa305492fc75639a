// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The compiler's values: port sets, the CIDR partition, rows.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podgate_policy::arbitrary;
use podgate_policy::compile::facts::Facts;
use podgate_policy::compile::partition::Partition;
use podgate_policy::compile::ports::{PortRange, PortSet, Row};
use podgate_policy::compile::predicate::Predicate;
use podgate_policy::compile::ruleset::{Judge, Ruleset};
use podgate_policy::compile::signature::Signature;
use podgate_policy::compile::{SubjectRulesets, compile_subject, questions_of};
use podgate_policy::connection::Baseline;
use podgate_policy::model::World;
use proptest::collection::vec;
use proptest::prelude::*;

/// Ports from both ends of the range, where sets overlap and touch.
fn ranges() -> impl Strategy<Value = Vec<(u16, u16)>> {
    let end = || prop_oneof![0..12_u16, u16::MAX - 6..=u16::MAX];
    vec((end(), end()), 0..6)
}

fn set(ranges: &[(u16, u16)]) -> PortSet {
    PortSet::from_ranges(ranges.iter().map(|(first, last)| PortRange {
        first: *first,
        last: *last,
    }))
}

/// The ports near either end that are in one of `ranges`.
fn by_hand(ranges: &[(u16, u16)]) -> BTreeSet<u16> {
    near_the_ends()
        .filter(|port| {
            ranges
                .iter()
                .any(|(first, last)| (*first..=*last).contains(port))
        })
        .collect()
}

fn in_set(set: &PortSet) -> BTreeSet<u16> {
    near_the_ends().filter(|port| set.contains(*port)).collect()
}

fn near_the_ends() -> impl Iterator<Item = u16> {
    (0..20).chain(u16::MAX - 20..=u16::MAX)
}

/// The address before a prefix, its first, its last, and the one after; fewer at the ends of the family.
fn around(prefix: IpNet) -> Vec<IpAddr> {
    match prefix {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            let all = [
                first.checked_sub(1),
                Some(first),
                Some(last),
                last.checked_add(1),
            ];
            all.into_iter()
                .flatten()
                .map(|bits| IpAddr::V4(bits.into()))
                .collect()
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            let all = [
                first.checked_sub(1),
                Some(first),
                Some(last),
                last.checked_add(1),
            ];
            all.into_iter()
                .flatten()
                .map(|bits| IpAddr::V6(bits.into()))
                .collect()
        }
    }
}

fn compiled(world: &World) -> Vec<SubjectRulesets> {
    arbitrary::subjects(world, Baseline::Allow)
        .iter()
        .map(|subject| compile_subject(world, subject))
        .collect()
}

fn both(rulesets: &[SubjectRulesets]) -> impl Iterator<Item = &Ruleset> {
    rulesets
        .iter()
        .flat_map(|subject| [&subject.ingress, &subject.egress])
}

proptest! {
    #[test]
    fn a_port_set_has_the_ports_of_its_ranges(some in ranges(), more in ranges()) {
        prop_assert_eq!(in_set(&set(&some)), by_hand(&some));
        let mut union = set(&some);
        union.add(&set(&more));
        prop_assert_eq!(in_set(&union), &by_hand(&some) | &by_hand(&more));
        prop_assert_eq!(in_set(&set(&some).without(&set(&more))), &by_hand(&some) - &by_hand(&more));
    }

    #[test]
    fn equal_port_sets_are_equal_values(mut some in ranges(), more in ranges()) {
        let (left, right) = (set(&some), set(&more));
        let mut union = left.clone();
        union.add(&right);
        some.extend(more.iter().rev());
        prop_assert_eq!(&union, &set(&some));
        prop_assert_eq!(left.complement().complement(), left.clone());
        prop_assert!(union.ranges().windows(2).all(|pair| pair[0].last + 1 < pair[1].first));
        let mut whole = left.complement();
        whole.add(&left);
        prop_assert!(whole.is_all());
        prop_assert!(left.without(&left).is_empty());
    }

    #[test]
    fn the_longest_prefix_knows_every_block_at_every_boundary(peers in vec(arbitrary::block(), 0..8)) {
        let predicates: BTreeSet<Arc<Predicate>> =
            peers.iter().filter_map(|peer| Predicate::of_peer(peer, "x", &BTreeSet::new())).map(Arc::new).collect();
        let partition = Partition::of(&predicates);
        let boundaries: Vec<IpNet> = partition.prefixes().keys().copied().collect();
        for address in boundaries.into_iter().flat_map(around) {
            let holding = predicates.iter().filter(|predicate| match predicate.as_ref() {
                Predicate::Block { cidr, except } =>
                    cidr.contains(&address) && !except.iter().any(|hole| hole.contains(&address)),
                Predicate::OwnNode | Predicate::OtherNode | Predicate::Pods { .. } | Predicate::ClusterPods { .. } | Predicate::Listed(_) => false,
            });
            let found = partition.longest(address).map(|(_, blocks)| blocks.predicates().to_vec()).unwrap_or_default();
            prop_assert_eq!(found, holding.cloned().collect::<Vec<_>>(), "{}", address);
        }
    }

    #[test]
    fn more_questions_change_no_row(world in arbitrary::world(), other in arbitrary::world(), peer in arbitrary::peer_address()) {
        let rulesets = compiled(&world);
        let mut more = questions_of(both(&rulesets));
        more.add(&questions_of(both(&compiled(&other))));
        let finer = Facts::of(&world, &more);
        for ruleset in both(&rulesets) {
            let exact = Facts::of(&world, &ruleset.questions());
            prop_assert_eq!(ruleset.row(finer.signature_of(peer)), ruleset.row(exact.signature_of(peer)));
        }
    }

    /// A row allows at least what the broad class and every peer are allowed.
    #[test]
    fn a_row_allows_at_least_what_its_broad_class_allows(world in arbitrary::world()) {
        let rulesets = compiled(&world);
        let facts = Facts::of(&world, &questions_of(both(&rulesets)));
        let signatures = facts.addresses().values().chain(facts.prefixes().values());
        // Nodes' addresses are under more rules than others, and a Service's under those of its endpoints.
        let plain = |signature: &&Arc<Signature>| {
            !signature.is_own_node() && !signature.is_other_node() && signature.translation().is_none()
        };
        for signature in signatures.filter(plain) {
            for ruleset in both(&rulesets) {
                let (row, broad) = (ruleset.row(signature), ruleset.row(&signature.broad()));
                prop_assert!(broad.without(&row).is_none());
                prop_assert!(ruleset.default_row().without(&broad).is_none());
            }
        }
    }

    #[test]
    fn a_judge_of_many_peers_says_of_each_what_its_ruleset_does(world in arbitrary::world()) {
        let rulesets = compiled(&world);
        let facts = Facts::of(&world, &questions_of(both(&rulesets)));
        for ruleset in both(&rulesets) {
            let mut judge = Judge::of(ruleset);
            for signature in facts.addresses().values() {
                prop_assert_eq!(judge.row(signature), ruleset.row(signature));
            }
        }
    }

    #[test]
    fn equal_signatures_are_one_allocation(world in arbitrary::world()) {
        let facts = Facts::of(&world, &questions_of(both(&compiled(&world))));
        let signatures: Vec<_> = facts.addresses().values().collect();
        for (one, other) in signatures.iter().flat_map(|one| signatures.iter().map(move |other| (one, other))) {
            prop_assert!(one != other || Arc::ptr_eq(one, other));
        }
    }
}

#[test]
fn the_extremes_of_a_row_are_what_they_say() {
    assert!(Row::none().is_none() && !Row::all().is_none());
    assert_eq!(Row::all().without(&Row::all()), Row::none());
    assert_eq!(Row::none().without(&Row::all()), Row::none());
}
