// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The compiler and the oracle give the same verdict, over random worlds, policies and connections.

use podgate_policy::arbitrary;
use podgate_policy::compile::facts::Facts;
use podgate_policy::compile::ruleset::Tunnels;
use podgate_policy::compile::{
    applies, compile_subject, compiled_verdict, isolate, isolates, questions_of,
};
use podgate_policy::connection::{Baseline, Connection, Verdict};
use podgate_policy::evaluate;
use podgate_policy::isolation;
use podgate_policy::model::{NetworkPolicy, World};
use proptest::collection::vec;
use proptest::prelude::*;

/// Compares both for every pod of the world, with facts that answer the questions of all of them at once.
fn assert_agreement(
    world: &World,
    baseline: Baseline,
    connections: &[Connection],
) -> Result<(), TestCaseError> {
    let subjects = arbitrary::subjects(world, baseline);
    let compiled: Vec<_> = subjects
        .iter()
        .map(|subject| compile_subject(world, subject))
        .collect();
    let facts = Facts::of(
        world,
        &questions_of(
            compiled
                .iter()
                .flat_map(|both| [&both.ingress, &both.egress]),
        ),
    );
    for (subject, rulesets) in subjects.iter().zip(&compiled) {
        for connection in connections {
            prop_assert_eq!(
                compiled_verdict(rulesets, &facts, connection),
                evaluate(world, subject, connection),
                "compiler (left) against oracle (right) for {} in {:?}",
                subject.name,
                connection
            );
        }
    }
    Ok(())
}

proptest! {
    // 2,000 worlds, 64 connections, about seven pods: near a million verdicts.
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn compiler_and_oracle_give_the_same_verdicts(
        world in arbitrary::world_with_tunnels(),
        baseline in arbitrary::baseline(),
        connections in vec(arbitrary::connection(), 64),
    ) {
        assert_agreement(&world, baseline, &connections)?;
    }

    /// Of ways into tunnels, which are rare among all that there is.
    #[test]
    fn compiler_and_oracle_agree_about_ways_into_tunnels(
        world in arbitrary::world_of_ways(),
        baseline in arbitrary::baseline(),
        connections in vec(arbitrary::way(), 32),
    ) {
        assert_agreement(&world, baseline, &connections)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// What a suspended namespace gets: denied where its policies isolate, as ever where they do not, and in no case more
    /// than they allow.
    #[test]
    fn isolation_alone_never_allows_more(
        world in arbitrary::world_with_tunnels(),
        baseline in arbitrary::baseline(),
        connections in vec(arbitrary::connection(), 32),
    ) {
        for subject in arbitrary::subjects(&world, baseline) {
            let policies = world.policies.iter().filter(|(name, policy)| {
                name.namespace == subject.name.namespace && applies(policy, &subject)
            });
            let selecting: Vec<&NetworkPolicy> = policies.map(|(_, policy)| policy.as_ref()).collect();
            let tunnels = Tunnels::with(&world.tunnel_ports);
            let closed = isolate(isolation::of_policies(selecting.iter().copied()), baseline, &tunnels);
            let facts = Facts::of(&world, &questions_of([&closed.ingress, &closed.egress]));
            for connection in &connections {
                let verdict = compiled_verdict(&closed, &facts, connection);
                let allowed = evaluate(&world, &subject, connection);
                let is_isolated = selecting.iter().any(|policy| isolates(policy, connection.direction, &subject));
                let node = world.node_addresses.contains(&connection.peer);
                match (is_isolated, node) {
                    (false, _) => prop_assert_eq!(verdict, allowed, "{} in {:?}", subject.name, connection),
                    (true, false) => prop_assert_eq!(verdict, Verdict::Deny, "{} in {:?}", subject.name, connection),
                    (true, true) => prop_assert!(verdict == Verdict::Deny || allowed == Verdict::Allow),
                }
            }
        }
    }

    /// The order of writes rests on this: while policies change, facts may too, and either set of rulesets is
    /// right under facts that were asked the questions of both.
    #[test]
    fn old_and_new_rulesets_are_both_right_under_newer_facts(
        before in arbitrary::world_with_tunnels(),
        baseline in arbitrary::baseline(),
        edits in vec(arbitrary::edit(), 1..6),
        connections in vec(arbitrary::connection(), 32),
    ) {
        let mut after = before.clone();
        for edit in edits {
            edit.apply(&mut after);
        }
        let old_policies = World { policies: before.policies.clone(), ..after.clone() };
        for subject in arbitrary::subjects(&before, baseline) {
            let (old, new) = (compile_subject(&before, &subject), compile_subject(&after, &subject));
            let facts = Facts::of(&after, &questions_of([&old.ingress, &old.egress, &new.ingress, &new.egress]));
            for connection in &connections {
                prop_assert_eq!(
                    compiled_verdict(&old, &facts, connection),
                    evaluate(&old_policies, &subject, connection),
                    "old policies, {} in {:?}", subject.name, connection
                );
                prop_assert_eq!(
                    compiled_verdict(&new, &facts, connection),
                    evaluate(&after, &subject, connection),
                    "new policies, {} in {:?}", subject.name, connection
                );
            }
        }
    }
}
