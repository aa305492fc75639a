// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The demo in five steps: apply, look, print what is expected beside what is seen.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::scenario::{Edge, Family, Policy, Star, works};
use crate::stage::{Look, Stage, is_right};
use crate::star::Outcome;

/// How long a connection may take before it counts as denied, in the matrix that is printed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// The same, in the quick looks that find out when the matrix became right.
const QUICK_TIMEOUT: Duration = Duration::from_millis(100);
/// The time between two quick looks.
const PAUSE: Duration = Duration::from_millis(20);
/// How long after a change a wrong matrix may still become right. The time is printed.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Runs all steps. Whether every matrix was as expected.
pub(crate) async fn run(stage: &mut Stage) -> Result<bool> {
    let mut all_right = true;
    let mut applied = BTreeSet::new();
    for (number, policy) in (1..).zip([None].into_iter().chain(Policy::ALL.map(Some))) {
        let title = match policy {
            None => "no policy: everybody reaches everybody".to_owned(),
            Some(policy) => format!("{}: {}", policy.id(), policy.meaning()),
        };
        println!("\n[{number}/{}] {title}", Policy::ALL.len() + 1);
        if let Some(policy) = policy {
            stage.manifests().apply(policy)?;
            applied.insert(policy);
        }
        let start = Instant::now();
        let since = wait_until_right(stage, &applied).await?;
        let look = stage.look(PROBE_TIMEOUT).await?;
        stage.check_enforcer()?;
        for family in stage.families() {
            print!(
                "{}",
                table(*family, &look, &applied, std::io::stdout().is_terminal())
            );
        }
        let wrong: Vec<_> = look
            .iter()
            .filter(|((_, edge), seen)| !is_right(*edge, seen, &applied))
            .collect();
        match since {
            Some(since) if wrong.is_empty() => {
                println!(
                    "  as expected, at most {} ms after the change",
                    since.as_millis()
                );
            }
            None if wrong.is_empty() => {
                println!(
                    "  as expected, {} ms after the change",
                    start.elapsed().as_millis()
                );
            }
            Some(_) | None => {
                println!(
                    "  NOT as expected, {} ms after the change:",
                    start.elapsed().as_millis()
                );
                all_right = false;
            }
        }
        for ((family, Edge { from, to }), seen) in wrong {
            println!(
                "    {} {} -> {}: {seen:?}",
                family.name(),
                from.name(),
                to.name()
            );
        }
    }
    Ok(all_right)
}

/// Looks in short intervals until the matrix is right; how long after the start that look began, if it came.
async fn wait_until_right(
    stage: &mut Stage,
    applied: &BTreeSet<Policy>,
) -> Result<Option<Duration>> {
    let start = Instant::now();
    while start.elapsed() < SETTLE_LIMIT {
        let begun = start.elapsed();
        let look = stage.look(QUICK_TIMEOUT).await?;
        stage.check_enforcer()?;
        if look
            .iter()
            .all(|((_, edge), seen)| is_right(*edge, seen, applied))
        {
            return Ok(Some(begun));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(None)
}

/// The matrix of one family, expected beside seen. A cell that differs carries a `!`.
fn table(family: Family, look: &Look, applied: &BTreeSet<Policy>, color: bool) -> String {
    let header: String = Star::ALL
        .iter()
        .map(|to| format!("{:^5}", to.letter()))
        .collect();
    let mut text = format!("  {:<16}{:<24}{}\n", family.name(), "expected", "seen");
    text += &format!("  {:<16}{header:<24}{header}\n", "from \\ to");
    for from in Star::ALL {
        let mut expected = String::new();
        let mut seen = String::new();
        for to in Star::ALL {
            let edge = Edge { from, to };
            let Some(outcome) = look.get(&(family, edge)) else {
                expected += "  ·  ";
                seen += "  ·  ";
                continue;
            };
            expected += &format!("{:^5}", if works(edge, applied) { "yes" } else { "no" });
            let word = match outcome {
                Outcome::Reached => "yes",
                Outcome::Silent => "no",
                Outcome::Failed(_) => "err",
            };
            let right = is_right(edge, outcome, applied);
            let cell = format!(
                "{:^5}",
                if right {
                    word.to_owned()
                } else {
                    format!("{word}!")
                }
            );
            seen += &match (color, right, outcome) {
                (true, false, _) => format!("\x1b[1;31m{cell}\x1b[0m"),
                (true, true, Outcome::Reached) => format!("\x1b[32m{cell}\x1b[0m"),
                (true, true, Outcome::Silent | Outcome::Failed(_)) | (false, ..) => cell,
            };
        }
        text += &format!(
            "  {:<16}{expected:<24}{seen}\n",
            format!("{:<2} {}", from.letter(), from.name())
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_that_differs_is_marked_beside_what_was_expected() {
        let applied = BTreeSet::from([Policy::DefaultDeny]);
        let look = Edge::all()
            .map(|edge| {
                let wrong = edge
                    == Edge {
                        from: Star::Client,
                        to: Star::Backend,
                    };
                let reached = works(edge, &applied) != wrong;
                (
                    (Family::V4, edge),
                    if reached {
                        Outcome::Reached
                    } else {
                        Outcome::Silent
                    },
                )
            })
            .collect();
        let text = table(Family::V4, &look, &applied, false);
        let client: Vec<_> = text.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(
            client,
            [
                "C", "client", "·", "no", "no", "yes", "·", "no", "yes!", "yes"
            ]
        );
        assert_eq!(text.matches('!').count(), 1);
    }
}
