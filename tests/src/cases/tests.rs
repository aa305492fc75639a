// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every case, by the judges that need no cluster; and what the reader refuses.

use std::collections::BTreeSet;
use std::path::Path;

use super::case::Case;
use super::judge::{Judge, run};
use super::oracle::Oracle;
use super::read;
use super::tables::Tables;

/// Items of the checklist.
const ITEMS: std::ops::RangeInclusive<u8> = 1..=51;

/// Items that no connection of these worlds can show, and what shows them.
const SHOWN_ELSEWHERE: [(u8, &str); 9] = [
    (1, "the converters' tests"),
    (7, "the manifest reader's tests"),
    (27, "level kernel: headers, fragments"),
    (31, "level cluster: pods that are ending"),
    (34, "the Services' tests"),
    (40, "the Services' tests"),
    (47, "level chain: restarts"),
    (
        50,
        "level kernel: what is counted and reported is what was decided",
    ),
    (51, "level chain: attacks from pods"),
];

fn all() -> Vec<Case> {
    read::all().unwrap_or_else(|error| panic!("{error}"))
}

fn every_case_by<J: Judge + Default>() {
    let mut failures = Vec::new();
    let mut tried = 0;
    let cases = all();
    for case in &cases {
        let outcome = run(case, &mut J::default());
        tried += outcome.tried;
        failures.extend(outcome.failures.iter().map(ToString::to_string));
    }
    println!("{} cases, {tried} connections", cases.len());
    let count = failures.len();
    failures.truncate(40);
    assert!(
        failures.is_empty(),
        "{count} differences, the first of them:\n{}",
        failures.join("\n")
    );
}

#[test]
fn the_oracle_says_of_every_connection_what_the_cases_say() {
    every_case_by::<Oracle>();
}

#[test]
fn the_compiled_tables_say_of_every_packet_what_the_cases_say() {
    every_case_by::<Tables>();
}

#[test]
fn every_item_of_the_checklist_has_a_case_or_is_shown_elsewhere() {
    let shown: BTreeSet<u8> = all().iter().flat_map(|case| case.items.clone()).collect();
    let elsewhere: BTreeSet<u8> = SHOWN_ELSEWHERE.iter().map(|(item, _)| *item).collect();
    let all: BTreeSet<u8> = shown.union(&elsewhere).copied().collect();
    assert_eq!(all, ITEMS.collect());
    let both: Vec<_> = shown.intersection(&elsewhere).collect();
    assert!(both.is_empty(), "cases show {both:?} now");
}

#[test]
fn no_two_cases_have_one_name() {
    let mut names = BTreeSet::new();
    for case in all() {
        assert!(names.insert(case.name.clone()), "{}", case.name);
    }
}

/// What the reader says of a case with these lines.
fn complaint(lines: &str) -> String {
    match read::read(Path::new("f.yaml"), lines) {
        Ok(cases) => panic!("it is read as {cases:?}"),
        Err(error) => error.to_string(),
    }
}

/// A case with this table of two lines or more, which begins in line 4.
fn table(lines: &[&str]) -> String {
    format!("name: n\nitems: [1]\nexpect: |\n  {}\n", lines.join("\n  "))
}

#[test]
fn a_field_that_is_not_known_is_an_error_of_its_line() {
    let said = complaint("name: n\nitems: [1]\npolicys: {}\nexpect: |\n  * → * = allow\n");
    assert!(said.starts_with("f.yaml:3: "), "{said}");
    let said =
        complaint("name: n\nitems: [1]\npods:\n  x/a: {lables: {}}\nexpect: |\n  * → * = allow\n");
    assert!(said.starts_with("f.yaml:4: "), "{said}");
}

#[test]
fn a_wrong_line_of_a_table_is_an_error_of_that_line() {
    for (line, reason) in [
        ("x/a → x/b : 80 = deny", "\"80\" is no protocol"),
        ("x/a → x/b : 80/TPC = deny", "\"TPC\" is no protocol"),
        (
            "x/a → x/b : 99999/TCP = deny",
            "\"99999\" is no port number",
        ),
        ("x/a → x/b over ipv5 = deny", "\"ipv5\" is no family"),
        ("x/a → x = deny", "\"x\" is nobody"),
        ("x/a x/b = deny", "there is no →"),
        ("x/a → x/b", "a line ends with = allow"),
        ("x/a → x/d = deny", "is no pod with a network of its own"),
        ("outside → own-node = deny", "meets no pod"),
        ("x/a → x/b = allow", "was said before it"),
    ] {
        let said = complaint(&table(&["* → * = allow", "", line]));
        assert!(said.starts_with("f.yaml:6: "), "{line}: {said}");
        assert!(said.contains(reason), "{line}: {said}");
    }
}

#[test]
fn a_line_that_later_ones_override_is_an_error() {
    let said = complaint(&table(&[
        "* → * = allow",
        "x/a → x/b = deny",
        "x/a → x/* = allow",
    ]));
    assert!(said.starts_with("f.yaml:5: "), "{said}");
}

#[test]
fn a_table_begins_with_everybody() {
    for first in [
        "x/* → * = allow",
        "* → * : 80/TCP = allow",
        "* → * over ipv4 = allow",
    ] {
        let said = complaint(&table(&[first]));
        assert!(said.contains("the first line"), "{first}: {said}");
    }
}

#[test]
fn what_is_not_there_cannot_be_taken_away() {
    let said = complaint("name: n\nitems: [1]\npods: {x/d: ~}\nexpect: |\n  * → * = allow\n");
    assert!(said.contains("pod x/d is not there"), "{said}");
}

#[test]
fn what_became_of_a_kept_connection_must_be_said() {
    let said = complaint(
        "name: n\nitems: [1]\nexpect: |\n  * → * = allow\nopens: |\n  x/a → x/b : 80/TCP\nsteps:\n  \
         - does: nothing\n    expect: |\n      * → * = allow\n",
    );
    assert!(said.contains("what became of it"), "{said}");
}

/// A judge that says otherwise is reported with case, step and connection.
#[test]
fn a_judge_that_disagrees_is_reported_with_its_case() {
    let text = table(&["* → * = allow", "x/a → x/b : 81/UDP over ipv6 = deny"]);
    let case = read::read(Path::new("f.yaml"), &text)
        .expect("a case")
        .remove(0);
    let failures: Vec<_> = run(&case, &mut Oracle::default())
        .failures
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        failures,
        ["f.yaml:1: n: oracle: x/a → x/b : 81/UDP over ipv6: expected Deny, seen Allow"]
    );
}
