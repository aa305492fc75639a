// SPDX-License-Identifier: Apache-2.0 OR MIT
//! No write, and no packet on its way during some, gives a verdict that neither the state before nor the state
//! after gives.

use podgate_policy::arbitrary::{self, Edit};
use podgate_policy::connection::Baseline;
use podgate_policy::model::World;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::bench::{AMPLE, Bench, Effort};
use crate::plan::Write;
use crate::plan::host::Step;

const EFFORT: Effort = Effort {
    probes: 12,
    flows: 6,
};

/// Item 7, and attack 11: a hundred edits of a random world.
fn assert_no_verdict_is_wrong(
    world: World,
    baseline: Baseline,
    edits: Vec<Edit>,
    seed: u64,
) -> Result<(), TestCaseError> {
    let mut bench = Bench::new(AMPLE, baseline, seed, EFFORT);
    let outcome = bench
        .go_to(world)
        .and_then(|()| edits.into_iter().try_for_each(|edit| bench.edit(edit)));
    prop_assert!(outcome.is_ok(), "{outcome:#?}");
    Ok(())
}

/// Twice 12,000 edits, side by side; in a long run twice 200,000. What is wrong is made smaller for a minute at most.
fn config() -> ProptestConfig {
    let is_long = std::env::var_os("PODGATE_LONG").is_some();
    ProptestConfig {
        failure_persistence: None,
        max_shrink_time: 60_000,
        ..ProptestConfig::with_cases(if is_long { 2000 } else { 120 })
    }
}

proptest! {
    #![proptest_config(config())]

    /// No write of random edits gives a wrong verdict where the baseline allows.
    #[test]
    fn no_write_gives_a_wrong_verdict_if_the_baseline_allows(
        world in arbitrary::world(),
        edits in vec(arbitrary::edit(), 100),
        seed in any::<u64>(),
    ) {
        assert_no_verdict_is_wrong(world, Baseline::Allow, edits, seed)?;
    }

    /// No write of random edits gives a wrong verdict where the baseline denies.
    #[test]
    fn no_write_gives_a_wrong_verdict_if_the_baseline_denies(
        world in arbitrary::world(),
        edits in vec(arbitrary::edit(), 100),
        seed in any::<u64>(),
    ) {
        assert_no_verdict_is_wrong(world, Baseline::Deny, edits, seed)?;
    }

    /// Nor of those that open and close ways into tunnels.
    #[test]
    fn no_write_of_ways_gives_a_wrong_verdict(
        world in arbitrary::world_of_ways(),
        edits in vec(arbitrary::edit_of_ways(), 100),
        seed in any::<u64>(),
    ) {
        assert_no_verdict_is_wrong(world, Baseline::Allow, edits, seed)?;
    }
}

/// Whether some verdict is wrong in some of many random edits, when the steps of each plan are changed by `mutant`.
fn some_verdict_is_wrong(mutant: fn(Vec<Step>) -> Vec<Step>) -> bool {
    some_verdict_is_wrong_of(40, mutant)
}

/// Looks at so many lives.
fn some_verdict_is_wrong_of(lives: u64, mutant: fn(Vec<Step>) -> Vec<Step>) -> bool {
    let mut runner = TestRunner::deterministic();
    let mut draw = |strategy: BoxedStrategy<Edit>| {
        strategy
            .new_tree(&mut runner)
            .expect("nothing is filtered")
            .current()
    };
    (0..lives).any(|seed| {
        let mut bench = Bench::new(AMPLE, Baseline::Allow, seed, EFFORT).with_mutant(mutant);
        (0..250).any(|_| bench.edit(draw(arbitrary::edit().boxed())).is_err())
    })
}

fn is_move(step: &Step) -> bool {
    matches!(
        step,
        Step::Write(
            Write::Peer { .. }
                | Write::RemovePeer { .. }
                | Write::Prefix { .. }
                | Write::RemovePrefix { .. }
        )
    )
}

fn is_flip(step: &Step) -> bool {
    matches!(step, Step::Write(Write::Flip { .. }))
}

fn is_row(step: &Step) -> bool {
    matches!(
        step,
        Step::Write(Write::Row { .. } | Write::DefaultRow { .. })
    )
}

fn is_renewal(step: &Step) -> bool {
    matches!(step, Step::Write(Write::Renew { .. }))
}

/// The steps for which `early` holds, and then the others.
fn first(steps: Vec<Step>, early: fn(&Step) -> bool) -> Vec<Step> {
    let (mut early, late): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(early);
    early.extend(late);
    early
}

#[test]
fn the_steps_as_they_are_give_no_wrong_verdict() {
    assert!(!some_verdict_is_wrong(|steps| steps));
}

/// Classes that only the new policy tells apart give wrong verdicts. This is attack 11 with its defense taken out:
/// addresses go straight to the classes of the new policy, then the words flip.
#[test]
fn classes_that_are_not_refined_first_give_wrong_verdicts() {
    assert!(some_verdict_is_wrong(|steps| {
        let Some(last_flip) = steps.iter().rposition(is_flip) else {
            return steps;
        };
        let (to_flips, mut coarsening) = (
            steps[..=last_flip].to_vec(),
            steps[last_flip + 1..].to_vec(),
        );
        let (flips, mut refining): (Vec<Step>, Vec<Step>) = to_flips.into_iter().partition(is_flip);
        refining.append(&mut coarsening);
        refining.extend(flips);
        refining
    }));
}

#[test]
fn addresses_that_move_before_their_rows_give_wrong_verdicts() {
    assert!(some_verdict_is_wrong(|steps| first(steps, is_move)));
}

/// Words that flip before their rulesets are complete give wrong verdicts.
#[test]
fn words_that_flip_before_their_rulesets_give_wrong_verdicts() {
    assert!(some_verdict_is_wrong(|steps| first(steps, is_flip)));
}

#[test]
fn rows_that_come_before_their_port_sets_give_wrong_verdicts() {
    assert!(some_verdict_is_wrong(|steps| {
        let (ports, rest): (Vec<Step>, Vec<Step>) = steps
            .into_iter()
            .partition(|step| matches!(step, Step::Write(Write::PortSet { .. })));
        let after_rows = rest.iter().rposition(is_row).map_or(0, |last| last + 1);
        let mut steps = rest;
        let late = steps.split_off(after_rows);
        steps.into_iter().chain(ports).chain(late).collect()
    }));
}

#[test]
fn facts_that_revoke_without_new_generations_leave_flows_behind() {
    assert!(some_verdict_is_wrong(|steps| {
        steps.into_iter().filter(|step| !is_renewal(step)).collect()
    }));
}

#[test]
fn generations_that_come_before_the_fact_leave_flows_behind() {
    assert!(some_verdict_is_wrong(|steps| first(steps, is_renewal)));
}

#[test]
fn without_grace_periods_packets_on_their_way_are_judged_wrong() {
    assert!(some_verdict_is_wrong_of(1000, |steps| {
        steps
            .into_iter()
            .filter(|step| match step {
                Step::Write(_) => true,
                Step::GraceBegins | Step::GraceOver => false,
            })
            .collect()
    }));
}

/// It waits for the packets that are on their way when it begins, and for no others.
#[test]
fn grace_periods_that_began_before_something_was_left_are_none() {
    // A packet must be on its way just then: that is rare.
    assert!(some_verdict_is_wrong_of(1000, |steps| {
        first(steps, |step| *step == Step::GraceBegins)
    }));
}
