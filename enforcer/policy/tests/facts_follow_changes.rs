//! Facts that follow changes are the facts that would have been made of the outcome.

use podgate_policy::arbitrary;
use podgate_policy::compile::facts::Facts;
use podgate_policy::compile::predicate::Questions;
use podgate_policy::compile::{compile_subject, questions_of};
use podgate_policy::connection::Baseline;
use podgate_policy::model::World;
use proptest::collection::vec;
use proptest::prelude::*;

/// What the policies of some of the pods ask.
fn questions(world: &World, pods: usize) -> Questions {
    let subjects = arbitrary::subjects(world, Baseline::Standard);
    let compiled: Vec<_> = subjects
        .iter()
        .take(pods)
        .map(|subject| compile_subject(world, subject))
        .collect();
    questions_of(
        compiled
            .iter()
            .flat_map(|both| [&both.ingress, &both.egress]),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn after_any_edits_they_are_as_made_from_nothing(
        mut world in arbitrary::world(),
        edits in vec((vec(arbitrary::edit(), 0..4), 0..10_usize), 1..12),
    ) {
        let mut facts = Facts::of(&world, &questions(&world, 3));
        for (edits, pods) in edits {
            for edit in edits {
                edit.apply(&mut world);
            }
            let questions = questions(&world, pods);
            facts = facts.under(&world, &questions).0;
            prop_assert_eq!(&facts, &Facts::of(&world, &questions));
        }
    }
}
