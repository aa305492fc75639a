// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files of which not all is kept.

use std::path::Path;

use podgate_policy::model::ObjectName;

use super::super::Manifests;
use super::{Snapshot, apply};
use crate::stored::Rooms;

/// What is kept of policies here: one of a hundred rules, and not two.
pub(super) const ROOMS: Rooms = Rooms {
    policies: 20_000,
    endpoint_slices: usize::MAX,
};

pub(super) fn policy(namespace: &str, name: &str, rules: usize) -> String {
    let ports: Vec<String> = (1..=rules)
        .map(|port| format!("{{ports: [{{port: {port}}}]}}"))
        .collect();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{podSelector: {{}}, ingress: [{}]}}\n",
        ports.join(", ")
    )
}

pub(super) fn rules(snapshot: &Snapshot, namespace: &str, name: &str) -> usize {
    let policy = &snapshot.objects.policies[&ObjectName::new(namespace, name)];
    assert!(policy.isolates_ingress);
    policy.ingress.len()
}

pub(super) fn closed(snapshot: &Snapshot) -> Vec<&str> {
    let all = snapshot.warnings.iter();
    all.map(|it| it.about.as_ref().unwrap().0.name.name.as_str())
        .collect()
}

/// Policies that do not fit allow nothing, and their files are read again when they do.
#[test]
fn policies_that_do_not_fit_allow_nothing_until_they_do() {
    let mut manifests = Manifests::of(ROOMS);
    let a = policy("large", "a", 100);
    apply(&mut manifests, "small", &policy("small", "p", 10));
    let snapshot = apply(&mut manifests, "a", &a);
    assert_eq!(closed(&snapshot), [""; 0]);
    assert_eq!(rules(&snapshot, "large", "a"), 100);

    let snapshot = apply(&mut manifests, "b", &policy("large", "b", 100));
    assert_eq!(closed(&snapshot), ["large"]);
    assert_eq!(rules(&snapshot, "large", "a"), 0);
    assert_eq!(rules(&snapshot, "large", "b"), 0);
    assert_eq!(rules(&snapshot, "small", "p"), 10);
    assert!(manifests.take_again().is_empty());

    manifests.remove_file(Path::new("b"));
    assert_eq!(manifests.take_again(), [Path::new("a").to_owned()].into());
    assert_eq!(closed(&manifests.snapshot()), ["large"], "until it is read");
    let snapshot = apply(&mut manifests, "a", &a);
    assert_eq!(closed(&snapshot), [""; 0]);
    assert_eq!(rules(&snapshot, "large", "a"), 100);
}

/// A file that changes takes no more than what it says before or after the change.
#[test]
fn a_changing_file_takes_no_more_than_one_of_its_versions() {
    let mut manifests = Manifests::of(ROOMS);
    for number in [100, 101, 99, 100] {
        let snapshot = apply(&mut manifests, "a", &policy("large", "a", number));
        assert_eq!(closed(&snapshot), [""; 0]);
        assert_eq!(rules(&snapshot, "large", "a"), number);
    }
}
