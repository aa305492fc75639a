// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Facts that follow changes are the facts that would have been made of the outcome.

use std::sync::Arc;

use podgate_policy::arbitrary::{self, Edit};
use podgate_policy::compile::facts::Facts;
use podgate_policy::compile::predicate::{Predicate, Questions};
use podgate_policy::compile::{compile_subject, questions_of};
use podgate_policy::connection::Baseline;
use podgate_policy::model::{Labels, ObjectName, Operator, Pod, Requirement, Selector, World};
use proptest::collection::vec;
use proptest::prelude::*;

/// What the policies of some of the pods ask.
fn questions(world: &World, pods: usize) -> Questions {
    let subjects = arbitrary::subjects(world, Baseline::Allow);
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

/// Some edits at a time, and of how many pods the policies ask questions then.
type Steps = Vec<(Vec<Edit>, usize)>;

fn steps(edit: impl Strategy<Value = Edit>) -> impl Strategy<Value = Steps> {
    vec((vec(edit, 0..4), 0..10_usize), 1..12)
}

fn assert_as_made_from_nothing(mut world: World, steps: Steps) -> Result<(), TestCaseError> {
    let mut facts = Facts::of(&world, &questions(&world, 3));
    for (edits, pods) in steps {
        for edit in edits {
            edit.apply(&mut world);
        }
        let questions = questions(&world, pods);
        facts = facts.under(&world, &questions).0;
        prop_assert_eq!(&facts, &Facts::of(&world, &questions));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn after_any_edits_they_are_as_made_from_nothing(
        world in arbitrary::world(),
        steps in steps(arbitrary::edit()),
    ) {
        assert_as_made_from_nothing(world, steps)?;
    }

    #[test]
    fn after_edits_of_ways_they_are_as_made_from_nothing(
        world in arbitrary::world_of_ways(),
        steps in steps(arbitrary::edit_of_ways()),
    ) {
        assert_as_made_from_nothing(world, steps)?;
    }
}

/// Pods of ten namespaces, one in three of them labeled `1`.
fn many_pods() -> World {
    let pods = (0..300_u16).map(|number| {
        let [high, low] = number.to_be_bytes();
        let labels = Labels::from([("app".to_owned(), (number % 3).to_string())]);
        let pod = Pod {
            labels,
            addresses: vec![[10, 0, high, low].into()],
            ..Pod::default()
        };
        let name = ObjectName::new(format!("ns-{}", number % 10), format!("pod-{number}"));
        (name, Arc::new(pod))
    });
    World {
        pods: pods.collect(),
        ..World::default()
    }
}

fn asking(predicates: impl IntoIterator<Item = Predicate>) -> Questions {
    Questions {
        predicates: predicates.into_iter().map(Arc::new).collect(),
        ..Questions::default()
    }
}

fn labeled_one_in(namespace: &str) -> Predicate {
    let pods = Selector::Requirements(vec![Requirement {
        key: "app".into(),
        operator: Operator::In(vec!["1".into()]),
    }]);
    Predicate::Pods {
        namespace: namespace.into(),
        pods: pods.into(),
    }
}

#[test]
fn a_change_looks_at_no_address_but_those_that_it_is_about() {
    let mut world = many_pods();
    let block = |cidr: &str, except: &str| Predicate::Block {
        cidr: cidr.parse().unwrap(),
        except: vec![except.parse().unwrap()].into(),
    };
    let before = asking([labeled_one_in("ns-1"), block("10.0.0.0/8", "10.0.0.0/24")]);
    let (facts, all) = Facts::default().under(&world, &before);
    assert_eq!(all, 300);

    let another = asking([
        labeled_one_in("ns-1"),
        labeled_one_in("ns-2"),
        block("10.0.0.0/8", "10.0.0.0/24"),
    ]);
    assert_eq!(facts.under(&world, &another).1, 10, "a selector");
    let internet = asking([labeled_one_in("ns-1"), block("0.0.0.0/0", "10.0.0.0/8")]);
    assert_eq!(
        facts.under(&world, &internet).1,
        44,
        "the pods outside the old exception"
    );

    let name = ObjectName::new("ns-1", "pod-1");
    let mut pod = world.pods[&name].as_ref().clone();
    pod.labels.insert("app".to_owned(), "2".to_owned());
    world.pods.insert(name, Arc::new(pod));
    assert_eq!(facts.under(&world, &before).1, 1, "a label");
    assert_eq!(facts.under(&many_pods(), &before).1, 0, "nothing");
}
