// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What isolates a pod is known without compiling, and agrees with what is compiled.

use podgate_policy::arbitrary;
use podgate_policy::compile::compile_subject;
use podgate_policy::compile::ruleset::Ruleset;
use podgate_policy::connection::{Baseline, Direction, Subject};
use podgate_policy::isolation;
use podgate_policy::model::{NetworkPolicy, World};
use proptest::prelude::*;

fn policies_of<'a>(
    world: &'a World,
    subject: &'a Subject,
) -> impl Iterator<Item = &'a NetworkPolicy> {
    let policies = world.policies.iter();
    let of_namespace = policies.filter(|(name, _)| name.namespace == subject.name.namespace);
    of_namespace.map(|(_, policy)| policy.as_ref())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_direction_that_is_not_isolated_has_the_baseline(world in arbitrary::world()) {
        for subject in arbitrary::subjects(&world, Baseline::Allow) {
            let known = isolation::of_subject(policies_of(&world, &subject), &subject);
            let compiled = compile_subject(&world, &subject);
            let strict = Subject { baseline: Baseline::Deny, ..subject.clone() };
            let strict = compile_subject(&world, &strict);
            for direction in Direction::BOTH {
                if !known.of(direction) {
                    prop_assert_eq!(compiled.of(direction), &Ruleset::Allowed);
                    prop_assert_eq!(strict.of(direction), &Ruleset::Denied);
                } else {
                    // Isolated: the baseline says nothing any more.
                    prop_assert_eq!(compiled.of(direction), strict.of(direction));
                }
            }
        }
    }

    /// A pod of unknown labels may be isolated wherever one of known labels is.
    #[test]
    fn a_pod_of_unknown_labels_may_be_isolated_as_any_known_one(world in arbitrary::world()) {
        for subject in arbitrary::subjects(&world, Baseline::Allow) {
            let known = isolation::of_subject(policies_of(&world, &subject), &subject);
            let unknown = isolation::of_policies(policies_of(&world, &subject));
            prop_assert_eq!(known.or(unknown), unknown);
        }
    }
}
