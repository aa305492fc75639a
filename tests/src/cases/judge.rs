// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a judge can do, and how it goes through a case.

use std::fmt;

use anyhow::Result;
use podgate_policy::connection::Verdict;

use super::case::{Case, Step};
use super::expect::{Fate, Probe};
use super::state::State;

/// What a judge has seen of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen<V> {
    /// This.
    Said(V),
    /// Nothing: it cannot try this one.
    NotTried,
    /// What should never be, such as a refusal where a denial is silence.
    Strange(String),
}

/// Someone who says which connections can be opened in a world.
pub trait Judge {
    /// Its name, for people.
    fn name(&self) -> String;

    /// A case begins: no connection is kept any more.
    fn begin(&mut self) {}

    /// The world is now so; returns when that is in force.
    ///
    /// # Errors
    /// When the world cannot be made so.
    fn follow(&mut self, state: &State) -> Result<()>;

    /// Whether each of these can be opened now. `expected` is what the case says: a judge that waits for what does
    /// not come need not wait for what comes.
    ///
    /// # Errors
    /// When they cannot be tried.
    fn verdicts(&mut self, expected: &[(Probe, Verdict)]) -> Result<Vec<Seen<Verdict>>>;

    /// Opens these, which can be opened, and keeps them.
    ///
    /// # Errors
    /// When one cannot be opened.
    fn open(&mut self, probes: &[Probe]) -> Result<()>;

    /// What has become of these, which were opened before.
    ///
    /// # Errors
    /// When they cannot be tried.
    fn fates(&mut self, expected: &[(Probe, Fate)]) -> Result<Vec<Seen<Fate>>>;
}

/// Where a judge and a case differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The judge.
    pub judge: String,
    /// File, line and name of the case, and what the step does.
    pub place: String,
    /// The connection, what is expected of it and what was seen; or why the judge could not go on.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { judge, place, what } = self;
        write!(f, "{place}: {judge}: {what}")
    }
}

/// What came of a case.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many connections were tried.
    pub tried: usize,
    /// Where the judge and the case differ.
    pub failures: Vec<Failure>,
}

/// Goes through a case. A step that cannot be made ends it.
///
/// # Panics
/// When the reader did not go through the steps of the case.
pub fn run(case: &Case, judge: &mut dyn Judge) -> Outcome {
    let mut outcome = Outcome::default();
    let mut state = State::standard();
    judge.begin();
    for step in &case.steps {
        state = state.edited(&step.edit).expect("steps that follow");
        let mut place = format!("{}:{}: {}", case.file.display(), case.line, case.name);
        if let Some(does) = &step.does {
            place = format!("{place} / {does}");
        }
        let failure = |judge: &dyn Judge, what| Failure {
            judge: judge.name(),
            place: place.clone(),
            what,
        };
        match take(step, &state, judge) {
            Ok((tried, differences)) => {
                outcome.tried += tried;
                let failures = differences.into_iter().map(|what| failure(judge, what));
                outcome.failures.extend(failures);
            }
            Err(error) => {
                outcome.failures.push(failure(judge, format!("{error:#}")));
                break;
            }
        }
    }
    outcome
}

/// How many connections a step tried, and what was seen of them that was not expected.
fn take(step: &Step, state: &State, judge: &mut dyn Judge) -> Result<(usize, Vec<String>)> {
    let pods = state.running();
    judge.follow(state)?;
    let verdicts: Vec<_> = step
        .expect
        .verdicts(&pods)
        .expect("a table that was read")
        .into_iter()
        .collect();
    let seen = judge.verdicts(&verdicts)?;
    let (mut tried, mut wrong) = differences(&verdicts, &seen);
    let fates: Vec<_> = step
        .opened
        .said(&pods)
        .expect("a table that was read")
        .into_iter()
        .collect();
    let (kept, cut) = differences(&fates, &judge.fates(&fates)?);
    tried += kept;
    wrong.extend(cut);
    let opens = step.opens.said(&pods).expect("a table that was read");
    judge.open(&opens.into_keys().collect::<Vec<_>>())?;
    Ok((tried, wrong))
}

fn differences<V: fmt::Debug + PartialEq>(
    expected: &[(Probe, V)],
    seen: &[Seen<V>],
) -> (usize, Vec<String>) {
    let mut tried = 0;
    let mut wrong = Vec::new();
    for ((probe, expected), seen) in expected.iter().zip(seen) {
        let seen = match seen {
            Seen::NotTried => continue,
            Seen::Said(seen) if seen == expected => None,
            Seen::Said(seen) => Some(format!("{seen:?}")),
            Seen::Strange(what) => Some(what.clone()),
        };
        tried += 1;
        if let Some(seen) = seen {
            wrong.push(format!("{probe}: expected {expected:?}, seen {seen}"));
        }
    }
    (tried, wrong)
}
