// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tables that are too small: what does not fit is refused as a whole, and what was in force stays.

use podgate_policy::arbitrary::{self, Edit};
use podgate_policy::connection::Baseline;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::bench::{AMPLE, Bench, Effort};
use crate::plan::Capacities;

/// Makes many random edits in tables of these sizes; whether some were refused and some were not.
#[track_caller]
fn assert_refusals_change_nothing(capacities: Capacities) {
    let effort = Effort {
        probes: 6,
        flows: 4,
    };
    let mut runner = TestRunner::deterministic();
    let (mut edits, mut refused) = (0, 0);
    for seed in 0..20 {
        let mut bench = Bench::new(capacities, Baseline::Allow, seed, effort);
        for _ in 0..50 {
            let edit: Edit = arbitrary::edit()
                .new_tree(&mut runner)
                .expect("nothing is filtered")
                .current();
            bench.edit(edit).expect("no wrong verdict");
            edits += 1;
        }
        refused += bench.refused;
    }
    assert!(refused > 0, "some edit needs more room");
    assert!(
        refused < edits / 2,
        "most edits have room: {refused} of {edits} are refused"
    );
}

#[test]
fn full_rows_leave_the_old_policy_in_force() {
    assert_refusals_change_nothing(Capacities { rows: 24, ..AMPLE });
}

#[test]
fn full_rulesets_leave_the_old_policy_in_force() {
    assert_refusals_change_nothing(Capacities {
        rulesets: 7,
        ..AMPLE
    });
}

#[test]
fn full_peers_leave_the_old_policy_in_force() {
    assert_refusals_change_nothing(Capacities { peers: 9, ..AMPLE });
}

#[test]
fn full_prefixes_leave_the_old_policy_in_force() {
    assert_refusals_change_nothing(Capacities {
        prefixes: 5,
        ..AMPLE
    });
}

#[test]
fn full_port_sets_leave_the_old_policy_in_force() {
    assert_refusals_change_nothing(Capacities {
        port_sets: 10,
        ..AMPLE
    });
}

#[test]
fn full_chunks_leave_the_old_policy_in_force() {
    assert_refusals_change_nothing(Capacities {
        chunks: 31,
        ..AMPLE
    });
}
