// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files in, snapshots out; and the real watcher on a real directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use podgate_policy::model::ObjectName;

use super::{Manifests, Snapshot, file};

mod following;
mod room;
mod salvaged;

const POLICIES: &str = include_str!("samples/policies.yaml");
const LIST: &str = include_str!("samples/list.json");

/// A file that says only that this namespace exists.
fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\nspec:\n{spec}"
    )
}

fn errors(content: impl AsRef<[u8]>) -> Vec<String> {
    let result = file::read(Path::new("f.yaml"), content.as_ref());
    result
        .err()
        .unwrap_or_default()
        .errors
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn apply(manifests: &mut Manifests, path: &str, content: &str) -> Snapshot {
    manifests.apply_file(Path::new(path), content.as_bytes());
    manifests.snapshot()
}

fn namespaces(snapshot: &Snapshot) -> Vec<&str> {
    snapshot
        .objects
        .namespaces
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn samples_are_read_in_full() {
    let mut manifests = Manifests::default();
    manifests.apply_file(Path::new("list.json"), LIST.as_bytes());
    let snapshot = apply(&mut manifests, "policies.yaml", POLICIES);
    assert_eq!(snapshot.errors, []);
    assert_eq!(namespaces(&snapshot), ["client", "stars"]);
    let policies: Vec<_> = snapshot
        .objects
        .policies
        .keys()
        .map(ToString::to_string)
        .collect();
    assert_eq!(policies, ["client/default-deny", "stars/backend-policy"]);
    let pods: Vec<_> = snapshot
        .objects
        .pods
        .values()
        .map(|p| (p.name.to_string(), p.pod.addresses.len()))
        .collect();
    assert_eq!(pods, [("stars/frontend".into(), 2)]);
    let services: Vec<_> = snapshot.objects.services.keys().collect();
    let slices: Vec<_> = snapshot.objects.endpoint_slices.keys().collect();
    assert_eq!(services, [&ObjectName::new("stars", "frontend")]);
    assert_eq!(slices, [&ObjectName::new("stars", "frontend-4")]);
}

#[test]
fn the_reader_ends_wherever_a_file_is_cut() {
    let crlf = POLICIES.replace('\n', "\r\n");
    let bom = format!("\u{feff}{POLICIES}");
    assert_eq!(errors(&crlf), [""; 0]);
    assert_eq!(errors(&bom), [""; 0]);
    for sample in [POLICIES, LIST, &crlf, &bom] {
        for end in 0..=sample.len() {
            let cut = &sample.as_bytes()[..end];
            let result = file::read(Path::new("f.yaml"), cut);
            assert!(
                result.is_err_and(|e| !e.errors.is_empty()) || std::str::from_utf8(cut).is_ok()
            );
            // The iterator itself ends too, without anybody breaking off at the first error.
            let mut rest = cut;
            let documents = serde_saphyr::read::<_, super::node::Node>(&mut rest)
                .take(1000)
                .count();
            assert!(documents < 10, "cut at {end}: {documents} documents");
        }
    }
}

#[test]
fn a_document_nested_too_deep_is_an_error_and_no_crash() {
    let chain: String = (1..200)
        .map(|i| format!("a{i}: &a{i} [*a{}]\n", i - 1))
        .collect();
    for (what, content) in [
        ("lists", "[".repeat(60) + &"]".repeat(60)),
        ("maps", "{a: ".repeat(60) + "1" + &"}".repeat(60)),
        ("dashes", "- ".repeat(5000) + "1"),
        ("blocks", (0..300).map(|i| " ".repeat(i) + "a:\n").collect()),
        ("aliases", format!("a0: &a0 [x]\n{chain}")),
    ] {
        let found = errors(content);
        assert!(
            found.len() == 1 && found[0].contains("depth"),
            "{what}: {found:?}"
        );
    }
}

#[test]
fn text_that_is_not_utf8_is_an_error() {
    let utf16: Vec<u8> = std::iter::once(0xfeff)
        .chain(LIST.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_eq!(
        errors(utf16),
        ["f.yaml: is not UTF-8 text: save it as UTF-8"]
    );
}

/// Of a file that is wrong all over no more is kept than somebody reads. Its policies isolate all the same.
#[test]
fn of_the_errors_of_a_file_a_hundred_are_kept_and_counted() {
    assert_eq!(errors("---\n{}\n".repeat(100)).len(), 100);
    let policies: String = (0..150)
        .map(|_| format!("---\n{}", policy("  podSelector: {}\n")))
        .collect();
    let text = "---\n{}\n".repeat(5_000) + &policies;
    let wrong = file::read(Path::new("f.yaml"), text.as_bytes()).expect_err("wrong all over");
    let listed: Vec<_> = wrong.listed(Path::new("f.yaml")).collect();
    assert_eq!(listed.len(), 101);
    let last = listed.last().expect("there are some").to_string();
    // Of the policies, which have one name, all but the first are wrong.
    assert!(last.starts_with("f.yaml: has 5049 more errors"), "{last}");
    assert_eq!(wrong.isolating.len(), 150);
}

/// Nor of all files together: each that is wrong is named.
#[test]
fn of_the_errors_of_all_files_a_thousand_are_kept_and_counted() {
    let mut manifests = Manifests::default();
    let path = |file| PathBuf::from(format!("{file:03}.yaml"));
    for file in 0..100 {
        manifests.apply_file(&path(file), "---\n{}\n".repeat(60).as_bytes());
    }
    let errors = manifests.snapshot().errors;
    assert!(errors.len() < 1000 + 2 * 100, "{}", errors.len());
    let named: BTreeSet<PathBuf> = errors.into_iter().map(|error| error.path).collect();
    assert_eq!(named.len(), 100);
    // Those that are mended or gone make room.
    for file in 0..98 {
        match file % 2 {
            0 => manifests.remove_file(&path(file)),
            _ => manifests.apply_file(&path(file), b""),
        }
    }
    manifests.apply_file(&path(99), "---\n{}\n".repeat(60).as_bytes());
    let errors = manifests.snapshot().errors;
    let of_last = errors.iter().filter(|error| error.path == path(99));
    assert_eq!(of_last.count(), 60);
}

#[test]
fn an_empty_file_says_nothing() {
    for empty in ["", "\n", "# comment\n", "---\n---\n", "null\n"] {
        assert_eq!(
            file::read(Path::new("f.yaml"), empty.as_bytes()).map(|f| f.len()),
            Ok(0),
            "{empty:?}"
        );
    }
}

#[test]
fn an_unknown_field_is_an_error_with_its_path_and_place() {
    let cases = [
        (
            policy("  podSelector: {}\n  ingres:\n    - {}\n"),
            "f.yaml, document 1, line 7, column 3: spec.ingres: Kubernetes knows no such field",
        ),
        (
            policy("  ingress:\n    - from:\n        - podSelecter: {}\n"),
            "f.yaml, document 1, line 8, column 11: spec.ingress[0].from[0].podSelecter: ",
        ),
        (
            "kind: List\napiVersion: v1\nitem: []\nitems: []\n".into(),
            "f.yaml, document 1, line 3, column 1: item: ",
        ),
        (
            format!(
                "---\n{}---\n{}stauts: {{}}\n",
                namespace("a"),
                namespace("b")
            ),
            "f.yaml, document 2, line 9, column 1: stauts: ",
        ),
    ];
    for (content, start) in cases {
        let errors = errors(&content);
        assert!(
            errors.len() == 1 && errors[0].starts_with(start),
            "{errors:?}"
        );
    }
}

#[test]
fn a_duplicate_key_is_an_error_with_its_line() {
    let duplicates = [
        policy("  ingress: []\n  ingress: [{}]\n"),
        policy("  podSelector: {matchLabels: {a: b, a: c}}\n"),
        r#"{"apiVersion": "v1", "kind": "Namespace", "kind": "Namespace", "metadata": {"name": "a"}}"#.to_owned(),
    ];
    for content in duplicates {
        let errors = errors(&content);
        assert!(
            errors.len() == 1 && errors[0].contains("duplicate") && errors[0].contains(" line "),
            "{errors:?}"
        );
    }
}

#[test]
fn a_value_of_the_wrong_type_is_an_error_with_path_and_place() {
    let cases = [
        (
            policy("  podSelector: {matchLabels: {v: 1.0}}\n"),
            "line 6, column 31: spec.podSelector.matchLabels.v: is read as a number or a boolean, and text is needed: put it in quotes",
        ),
        (
            policy("  podSelector: {matchLabels: {v: yes}}\n"),
            "line 6, column 31: spec.podSelector.matchLabels.v: is read as a number or a boolean, and text is needed: put it in quotes",
        ),
        (
            policy("  ingress: {}\n"),
            "line 6, column 3: spec.ingress: ",
        ),
        (
            policy("  ingress:\n    - ports: [{port: [1]}]\n"),
            "spec.ingress[0].ports[0].port: ",
        ),
        (
            policy("  ingress:\n    - ports: [{port: 70000}]\n"),
            "spec.ingress[0].ports[0].port: 70000 is not a port",
        ),
    ];
    for (content, part) in cases {
        let errors = errors(&content);
        assert!(errors.len() == 1 && errors[0].contains(part), "{errors:?}");
    }
}

#[test]
fn another_kind_is_an_error_that_names_it() {
    for content in [
        "apiVersion: v1\nkind: Secret\n",
        "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Secret}]\n",
        "just text\n",
        "[1]\n",
    ] {
        let errors = errors(content);
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0].contains("is not read here")
                && errors[0].contains("Secret") == content.contains("Secret"),
            "{errors:?}"
        );
    }
}

#[test]
fn lists_hold_objects_and_name_the_item_that_is_wrong() {
    let list = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\nitems:\n- apiVersion: networking.k8s.io/v1\n  kind: NetworkPolicy\n  metadata: {name: p}\n  spec: {ingress: [{ports: [{endPort: 3}]}]}\n";
    let errors = errors(list);
    assert!(
        errors.len() == 1
            && errors[0].contains("line 7")
            && errors[0].contains("items[0].spec.ingress[0].ports[0].endPort: "),
        "{errors:?}"
    );
    let mut manifests = Manifests::default();
    assert_eq!(
        apply(&mut manifests, "a.yaml", &list.replace("endPort", "port"))
            .objects
            .policies
            .len(),
        1
    );
}

#[test]
fn an_object_twice_in_one_file_is_an_error_with_both_places() {
    let errors = errors(format!("{}---\n{}", namespace("a"), namespace("a")));
    assert!(
        errors.len() == 1
            && errors[0].contains("document 2, line 5")
            && errors[0].contains("document 1, line 1"),
        "{errors:?}"
    );
}

/// An object in two files is an error, and what was in force stays.
#[test]
fn an_object_in_two_files_is_an_error_and_changes_nothing() {
    let mut manifests = Manifests::default();
    apply(&mut manifests, "b.yaml", &namespace("first"));
    let snapshot = apply(
        &mut manifests,
        "a.yaml",
        &format!("{}---\n{}", namespace("second"), namespace("first")),
    );
    assert_eq!(namespaces(&snapshot), ["first"]);
    let error = snapshot.errors[0].to_string();
    assert!(
        error.starts_with("a.yaml, document 2, line 5")
            && error.contains("Namespace first is also in b.yaml, document 1, line 1"),
        "{error}"
    );
    manifests.remove_file(Path::new("b.yaml"));
    let snapshot = manifests.snapshot();
    assert_eq!(
        (namespaces(&snapshot), snapshot.errors.len()),
        (vec!["first", "second"], 0)
    );
}

#[test]
fn objects_may_change_places_between_files() {
    let mut manifests = Manifests::default();
    apply(&mut manifests, "a.yaml", &namespace("first"));
    apply(&mut manifests, "b.yaml", &namespace("second"));
    manifests.apply_file(Path::new("a.yaml"), namespace("second").as_bytes());
    let snapshot = apply(&mut manifests, "b.yaml", &namespace("first"));
    assert_eq!(
        (namespaces(&snapshot), snapshot.errors.len()),
        (vec!["first", "second"], 0)
    );
}

#[test]
fn a_bad_edit_keeps_what_the_file_said_until_it_is_fixed() {
    let mut manifests = Manifests::default();
    apply(&mut manifests, "a.yaml", &namespace("old"));
    let snapshot = apply(
        &mut manifests,
        "a.yaml",
        &format!("{}---\nkind: [", namespace("new")),
    );
    assert_eq!(
        (namespaces(&snapshot), snapshot.errors.len()),
        (vec!["old"], 1)
    );
    assert_eq!(snapshot.errors[0].path, PathBuf::from("a.yaml"));
    let snapshot = apply(&mut manifests, "a.yaml", &namespace("new"));
    assert_eq!(
        (namespaces(&snapshot), snapshot.errors.len()),
        (vec!["new"], 0)
    );
}
