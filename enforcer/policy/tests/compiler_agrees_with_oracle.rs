//! The compiler and the oracle give the same verdict, over random worlds, policies and connections.

use podgate_policy::arbitrary;
use podgate_policy::compile::facts::Facts;
use podgate_policy::compile::{compile_subject, compiled_verdict, questions_of};
use podgate_policy::connection::{Baseline, Connection};
use podgate_policy::evaluate;
use podgate_policy::model::World;
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
        world in arbitrary::world(),
        baseline in arbitrary::baseline(),
        connections in vec(arbitrary::connection(), 64),
    ) {
        assert_agreement(&world, baseline, &connections)?;
    }
}
