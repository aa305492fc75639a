// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the API server takes otherwise than YAML's text says, and what a file that is wrong says all the same.

use std::path::Path;

use podgate_policy::model::{NetworkPolicy, Port, Protocol, Rule, Selector};

use super::{Manifests, apply, errors, namespace, policy};

/// The only policy of a file that is right.
fn read(content: &str) -> NetworkPolicy {
    let mut manifests = Manifests::default();
    let snapshot = apply(&mut manifests, "f.yaml", content);
    assert_eq!(snapshot.errors, [], "{content}");
    let mut policies = snapshot.objects.policies.values();
    policies.next().expect("a policy").as_ref().clone()
}

/// The only policy that isolates because of a new file that is wrong, and its namespace.
fn isolating(content: &str) -> Option<(String, NetworkPolicy)> {
    let mut manifests = Manifests::default();
    let snapshot = apply(&mut manifests, "f.yaml", content);
    assert_ne!(snapshot.errors, [], "{content}");
    let policies = snapshot.objects.policies.iter();
    let mut policies =
        policies.map(|(name, policy)| (name.namespace.clone(), policy.as_ref().clone()));
    let first = policies.next();
    assert_eq!(policies.next(), None, "{content}");
    first
}

#[test]
fn an_element_that_is_null_is_one_without_anything_in_it() {
    let anything = [Rule::default()];
    assert_eq!(read(&policy("  ingress: [null]\n")).ingress, anything);
    assert_eq!(read(&policy("  ingress:\n    -\n")).ingress, anything);
    let of_tcp = [Port::All(Protocol::Tcp)];
    let ports = read(&policy("  egress:\n    - ports:\n        -\n"));
    assert_eq!(ports.egress[0].ports, of_tcp);
    assert_eq!(
        read(&policy("  ingress: [{ports: [~]}]\n")).ingress[0].ports,
        of_tcp
    );
    // The selector of everybody, and a rule for nobody in particular.
    let open = read(&policy(
        "  podSelector:\n  ingress: [{from: null, ports: null}]\n",
    ));
    assert_eq!(open.members.matching, Some(Selector::everything()));
    assert_eq!(open.ingress, anything);
    // What the API server refuses is an error here.
    for (spec, part) in [
        (
            "  ingress: [{from: [null]}]\n",
            "spec.ingress[0].from[0]: is empty",
        ),
        ("  policyTypes: [null]\n", "is not a policy type"),
        ("  ingress: [{from: [{ipBlock: null}]}]\n", "is empty"),
        (
            "  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [null]}}]}]\n",
            "except[0]",
        ),
    ] {
        let found = errors(policy(spec));
        assert!(
            found.len() == 1 && found[0].contains(part),
            "{spec}: {found:?}"
        );
    }
}

#[test]
fn numbers_are_read_as_kubectl_reads_them() {
    for (text, number) in [
        ("80", 80),
        ("0120", 80),
        ("0o120", 80),
        ("0x50", 80),
        ("0b1010000", 80),
        ("8_0", 80),
        ("80.0", 80),
        ("8e1", 80),
        ("+80", 80),
        ("0809", 809),
    ] {
        let read = read(&policy(&format!(
            "  ingress: [{{ports: [{{port: {text}}}]}}]\n"
        )));
        let expected = Port::Range {
            protocol: Protocol::Tcp,
            first: number,
            last: number,
        };
        assert_eq!(read.ingress[0].ports, [expected], "{text}");
    }
    for (port, part) in [
        ("80.5", "port: "),
        ("yes", "port: "),
        ("12:30", "port: "),
        ("\"80\"", "port: "),
        ("\"0120\"", "port: "),
        ("1e9", "is not a port"),
        (".inf", "non-finite float"),
    ] {
        let found = errors(policy(&format!(
            "  ingress: [{{ports: [{{port: {port}}}]}}]\n"
        )));
        assert!(
            found.len() == 1 && found[0].contains(part),
            "{port}: {found:?}"
        );
    }
}

/// Text that YAML takes for something else is an error, or the same.
#[test]
fn text_that_yaml_misreads_is_an_error_or_the_same() {
    for value in ["0120", "0x50", "1_000", "1.0", "yes", "off", "True", "1e3"] {
        let found = errors(policy(&format!(
            "  podSelector: {{matchLabels: {{v: {value}}}}}\n"
        )));
        assert!(
            found.len() == 1 && found[0].contains("put it in quotes"),
            "{value}: {found:?}"
        );
    }
    for value in ["2026-01-01", "v1.0", "\"yes\"", "\"0120\""] {
        read(&policy(&format!(
            "  podSelector: {{matchLabels: {{v: {value}}}}}\n"
        )));
    }
    // A key is text in JSON, whatever it was.
    let key = |text: &str| {
        let read = read(&policy(&format!(
            "  podSelector: {{matchLabels: {{{text}: v}}}}\n"
        )));
        match read.members.matching {
            Some(Selector::Requirements(requirements)) => requirements[0].key.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        ["yes", "80", "\"yes\"", "app"].map(key),
        ["true", "80", "yes", "app"]
    );
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[test]
fn a_new_file_that_is_wrong_isolates_whom_it_names() {
    const WRONG_RULE: &str = "  ingress: [{form: []}]\n";
    let app = |spec: &str| {
        policy(&format!(
            "  podSelector: {{matchLabels: {{app: web}}}}\n{spec}"
        ))
    };
    let with_namespace =
        |spec: &str| app(spec).replace("  name: p", "  name: p\n  namespace: shop");
    for (content, namespace, by_label, ingress, egress) in [
        (app(WRONG_RULE), "default", true, true, false),
        (with_namespace(WRONG_RULE), "shop", true, true, false),
        (
            app("  policyTypes: [Egress]\n  egress: [{to: [{}]}]\n"),
            "default",
            true,
            false,
            true,
        ),
        (app("  egress: [{to: [{}]}]\n"), "default", true, true, true),
        // Which direction is meant cannot be read.
        (app("  policyTypes: [Egres]\n"), "default", true, true, true),
        (app("  policyType: [Egress]\n"), "default", true, true, true),
        (app("  egres: [{}]\n"), "default", true, true, true),
        // Who is meant cannot be read.
        (
            policy("  podSelector: {matchLabel: {app: web}}\n"),
            "default",
            false,
            true,
            false,
        ),
        (
            policy("  podSelector: {matchLabels: {app: 80}}\n"),
            "default",
            false,
            true,
            false,
        ),
        (
            policy("  podSelecter: {matchLabels: {app: web}}\n"),
            "default",
            false,
            true,
            true,
        ),
        (policy("  - 1\n"), "default", false, true, true),
        // Another document or item is what is wrong.
        (
            format!("{}---\nkind: Secret\n", app("")),
            "default",
            true,
            true,
            false,
        ),
        (
            app("").replace("networking.k8s.io/v1", "extensions/v1beta1"),
            "default",
            true,
            true,
            false,
        ),
        // What follows is no YAML.
        (app("  ingress: [{]\n"), "default", true, true, true),
        (
            app("  ingress:\n  - from:\n\t- podSelector: {}\n"),
            "default",
            true,
            true,
            true,
        ),
        (
            policy("  podSelector:\n    matchLabels:\n      app: web\n     tier: x\n"),
            "default",
            true,
            true,
            true,
        ),
        (
            policy(
                "  podSelector:\n    matchExpressions:\n    - {key: app, operator: In, values: [a]}\n  ingress: [{]\n",
            ),
            "default",
            false,
            true,
            true,
        ),
        (
            format!("{}---\n{}", namespace("a"), app("  ingress: [{]\n")),
            "default",
            true,
            true,
            true,
        ),
    ] {
        let found = isolating(&content);
        let (of, policy) = found.unwrap_or_else(|| panic!("nobody is isolated by\n{content}"));
        assert_eq!(of, namespace, "{content}");
        let selects_by_label = matches!(&policy.members.matching, Some(Selector::Requirements(some)) if !some.is_empty());
        assert_eq!(selects_by_label, by_label, "{content}{:?}", policy.members);
        assert_eq!(
            (policy.isolates_ingress, policy.isolates_egress),
            (ingress, egress),
            "{content}"
        );
        assert_eq!(
            (policy.ingress, policy.egress),
            (vec![], vec![]),
            "{content}"
        );
    }
}

/// A wrong edit isolates by new policies only, and that ends with the mistake.
#[test]
fn a_wrong_edit_isolates_by_new_policies_until_it_is_fixed() {
    let lets_in = |name: &str| {
        policy(
            "  podSelector: {matchLabels: {app: web}}\n  ingress: [{from: [{podSelector: {}}]}]\n",
        )
        .replace("name: p", &format!("name: {name}"))
    };
    let names = |snapshot: &super::Snapshot| {
        let policies = snapshot.objects.policies.iter();
        policies
            .map(|(name, policy)| (name.name.clone(), policy.ingress.len()))
            .collect::<Vec<_>>()
    };
    let mut manifests = Manifests::default();
    apply(&mut manifests, "a.yaml", &lets_in("old"));
    let edited = format!("{}---\n{}", lets_in("old"), lets_in("new"));
    let wrong = edited.replacen("podSelector: {}", "podSelecter: {}", 1);
    let snapshot = apply(&mut manifests, "a.yaml", &wrong);
    let found = names(&snapshot);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[1], ("old".to_owned(), 1), "what it last said stays");
    assert!(
        found[0].0.starts_with("new (") && found[0].1 == 0,
        "{found:?}"
    );
    // One that cannot be read at all is no less wrong.
    manifests.unreadable_file(Path::new("a.yaml"), "input/output error".into());
    assert_eq!(names(&manifests.snapshot()), found);
    let right = [("new".to_owned(), 1), ("old".to_owned(), 1)];
    assert_eq!(names(&apply(&mut manifests, "a.yaml", &edited)), right);
    // A file that has to wait for another one isolates, too.
    let waits = format!("{}---\n{}", lets_in("old"), lets_in("other"));
    let snapshot = apply(&mut manifests, "b.yaml", &waits);
    let found = names(&snapshot);
    assert_eq!(
        found
            .iter()
            .filter(|(name, rules)| name.contains("of b.yaml") && *rules == 0)
            .count(),
        2,
        "{found:?}"
    );
}

#[test]
fn a_peer_that_is_null_beside_others_lets_nobody_more_in() {
    let found = isolating(&policy("  ingress: [{from: [{podSelector: {}}, null]}]\n"));
    let (_, policy) = found.expect("it isolates");
    assert_eq!(policy.ingress, []);
}
