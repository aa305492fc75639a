// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What rulesets are sure to allow of each other they allow with every peer.

use std::sync::Arc;

use imbl::OrdMap;
use podgate_policy::arbitrary;
use podgate_policy::compile::facts::Facts;
use podgate_policy::compile::{compile_subject, questions_of};
use podgate_policy::connection::{Baseline, Direction, Subject};
use podgate_policy::model::{
    NetworkPolicy, ObjectName, Peer, Pod, Port, Protocol, Rule, Selector, World,
};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn what_one_surely_allows_of_another_it_allows(
        mut world in arbitrary::world(),
        edits in vec(arbitrary::edit(), 0..3),
        fewer in vec(any::<bool>(), 8),
    ) {
        let before = world.clone();
        for edit in edits {
            edit.apply(&mut world);
        }
        let mut kept = fewer.into_iter().cycle();
        let policies = before.policies.iter().filter(|_| kept.next() == Some(true));
        let fewer = World {
            policies: policies.map(|(name, policy)| (name.clone(), policy.clone())).collect(),
            ..before.clone()
        };
        let worlds = [before, world, fewer];
        let subjects = arbitrary::subjects(&worlds[0], Baseline::Allow);
        for subject in &subjects {
            let compiled = worlds.each_ref().map(|world| compile_subject(world, subject));
            let questions = questions_of(compiled.iter().flat_map(|both| [&both.ingress, &both.egress]));
            let facts = Facts::of(&worlds[0], &questions);
            for direction in Direction::BOTH {
                for new in &compiled {
                    for old in &compiled {
                        let (new, old) = (new.of(direction), old.of(direction));
                        if new == old {
                            prop_assert!(new.surely_allows(old));
                        }
                        if !new.surely_allows(old) {
                            continue;
                        }
                        for peer in facts.addresses().values().chain(facts.prefixes().values()) {
                            let lost = old.row(peer).without(&new.row(peer));
                            prop_assert!(lost.is_none(), "{lost:?} with {peer:?}");
                        }
                    }
                }
            }
        }
    }
}

/// A rule for any peer says nothing of a Service's address, which a rule for a block of Services' ranges allows by name.
#[test]
fn any_peer_is_no_name_of_a_service() {
    let rule = |peers: Vec<Peer>| NetworkPolicy {
        members: Selector::everything().into(),
        isolates_ingress: false,
        isolates_egress: true,
        ingress: Vec::new(),
        egress: vec![Rule {
            peers,
            ports: vec![Port::All(Protocol::Tcp)],
        }],
    };
    let block = Peer::Block {
        cidr: "10.96.0.0/24".parse().expect("a block"),
        except: Vec::new(),
    };
    let subject = Subject::new(ObjectName::new("x", "a"), &Pod::default(), Baseline::Allow);
    let [by_name, any] = [vec![block], Vec::new()].map(|peers| {
        let world = World {
            policies: OrdMap::unit(ObjectName::new("x", "p"), Arc::new(rule(peers))),
            ..World::default()
        };
        compile_subject(&world, &subject).egress
    });
    assert!(!any.surely_allows(&by_name));
    assert!(by_name.surely_allows(&by_name));
}
