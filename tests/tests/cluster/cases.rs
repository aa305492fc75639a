// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table of cases between real pods, through each source that can express them.

use std::time::Instant;

use podgate_tests::cases::case::Case;
use podgate_tests::cases::cluster::{InCluster, Source};
use podgate_tests::cases::judge::run;
use podgate_tests::cases::read;
use podgate_tests::cluster::{Cluster, Enforcer, NODES};

/// A part of a case's name or place, to try cases by hand.
const ONLY: &str = "PODGATE_CASES";

/// A part of a source's name, to try that one by hand.
const ONLY_SOURCE: &str = "PODGATE_CASES_SOURCE";

/// Whether a source is to be tried.
fn is_wanted(source: Source) -> bool {
    std::env::var(ONLY_SOURCE).map_or(true, |only| source.to_string().contains(&only))
}

/// How many differences of a case are told as soon as they are seen; all are told at the end.
const TOLD_AT_ONCE: usize = 8;

#[test]
fn every_case_holds_between_real_pods_through_every_source() {
    let all = read::all().unwrap_or_else(|error| panic!("{error}"));
    let only = std::env::var(ONLY).unwrap_or_default();
    let cases: Vec<_> = all
        .iter()
        .filter(|case| case.not_on_cluster.is_none())
        .filter(|case| format!("{}: {}", case.file.display(), case.name).contains(&only))
        .collect();
    let cluster = Cluster::alone();
    cluster.define("policyendpoints");
    let mut judge = InCluster::new(&cluster).unwrap_or_else(|error| panic!("{error:#}"));
    let mut failures = Vec::new();
    for source in Source::ALL.into_iter().filter(|source| is_wanted(*source)) {
        judge
            .set_source(source)
            .unwrap_or_else(|error| panic!("{source}: {error:#}"));
        let flags = ["--source", source.flag()];
        let enforcers = NODES.map(|node| Enforcer::start(&cluster, node, &flags));
        let expressible = |case: &&&Case| !case.not_through.contains_key(source.flag());
        for case in cases.iter().filter(expressible) {
            let begun = Instant::now();
            let outcome = run(case, &mut judge);
            let result = if outcome.failures.is_empty() {
                "ok"
            } else {
                "FAILED"
            };
            println!(
                "{source}: {}:{}: {} ... {result}, {} connections in {} ms",
                case.file.display(),
                case.line,
                case.name,
                outcome.tried,
                begun.elapsed().as_millis()
            );
            for failure in outcome.failures.iter().take(TOLD_AT_ONCE) {
                println!("    {}", failure.what);
            }
            failures.extend(outcome.failures.iter().map(ToString::to_string));
        }
        println!(
            "{source}: {} verdicts were late",
            std::mem::take(&mut judge.late)
        );
        drop(enforcers);
    }
    let count = failures.len();
    failures.truncate(60);
    assert!(
        failures.is_empty(),
        "{count} differences, the first of them:\n{}",
        failures.join("\n")
    );
}
