// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What ADD adds to a pod's start, beside what the start of any program costs.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::Figures;
use crate::cni::{begin, end};
use crate::node::{Node, Pod};
use crate::sample::Sample;

/// How many pods there are, and how many ADDs come at once at most.
const PODS: u8 = 50;
/// How many nodes see their first ADD.
const FIRST_ADDS: usize = 5;
/// How long ADD waits for an enforcer that is there.
pub(crate) const WAIT_MS: u32 = 2000;

/// Prints ADD's time without and with an enforcer.
pub(crate) fn print(cli: &Figures) -> Result<()> {
    println!(
        "\nADD, milliseconds{:>43}{:>8}{:>18}{:>8}{:>8}{:>8}",
        "median", "p99", "nothing: median", "p99", "ratio", "added"
    );
    let mut first = Sample::default();
    for _ in 0..FIRST_ADDS {
        let node = Node::new(1)?;
        first.push(
            node.netns
                .run(|| call(&cli.plugin, &node, &node.pods[0], "ADD", 0))??,
        );
    }
    println!(
        "{:<52}{:>8.2}{:>8.2}",
        format!("the first on a node, which loads ({FIRST_ADDS} nodes; worst)"),
        first.median() / 1000.0,
        first.percentile(100) / 1000.0
    );
    let node = Node::new(PODS)?;
    node.netns
        .run(|| series(cli, &node, "no enforcer, waitMs 0", 0))??;
    let enforcer = node.start_enforcer(&cli.enforcer)?;
    node.netns.run(|| {
        series(
            cli,
            &node,
            "enforcer running, policy in force when it returns",
            WAIT_MS,
        )
    })??;
    drop(enforcer);
    Ok(())
}

fn series(cli: &Figures, node: &Node, name: &str, wait_ms: u32) -> Result<()> {
    // One more than is counted, so that tables are pinned and files cached.
    for pod in &node.pods[..1] {
        call(&cli.plugin, node, pod, "ADD", wait_ms)?;
        call(&cli.plugin, node, pod, "DEL", wait_ms)?;
    }
    let (mut adds, mut nothings) = (Sample::default(), Sample::default());
    for pod in node.pods.iter().cycle().take(cli.adds) {
        nothings.push(call(&cli.nothing, node, pod, "ADD", wait_ms)?);
        adds.push(call(&cli.plugin, node, pod, "ADD", wait_ms)?);
        call(&cli.plugin, node, pod, "DEL", wait_ms)?;
    }
    println!(
        "{:<52}{:>8.2}{:>8.2}{:>18.2}{:>8.2}{:>8.1}{:>8.2}",
        format!("{name} ({})", cli.adds),
        adds.median() / 1000.0,
        adds.percentile(99) / 1000.0,
        nothings.median() / 1000.0,
        nothings.percentile(99) / 1000.0,
        adds.median() / nothings.median(),
        (adds.median() - nothings.median()) / 1000.0
    );
    for at_once in [20, usize::from(PODS)] {
        let pods = &node.pods[..at_once];
        let whole = all_at_once(&cli.plugin, node, pods, "ADD", wait_ms)?;
        all_at_once(&cli.plugin, node, pods, "DEL", wait_ms)?;
        let nothing = all_at_once(&cli.nothing, node, pods, "ADD", wait_ms)?;
        println!(
            "{:<52}{:>8.2}{:>26.2}",
            format!("  {at_once} at once, until the last has ended"),
            whole.as_secs_f64() * 1000.0,
            nothing.as_secs_f64() * 1000.0
        );
    }
    Ok(())
}

/// One call: from its start until its output is read and it has ended.
pub(crate) fn call(
    program: &Path,
    node: &Node,
    pod: &Pod,
    verb: &str,
    wait_ms: u32,
) -> Result<Duration> {
    let stdin = node.stdin(pod, wait_ms);
    let start = Instant::now();
    end(begin(program, pod.environment(verb), &stdin)?)?;
    Ok(start.elapsed())
}

fn all_at_once(
    program: &Path,
    node: &Node,
    pods: &[Pod],
    verb: &str,
    wait_ms: u32,
) -> Result<Duration> {
    let inputs: Vec<_> = pods.iter().map(|pod| node.stdin(pod, wait_ms)).collect();
    let start = Instant::now();
    let running: Vec<_> = pods
        .iter()
        .zip(&inputs)
        .map(|(pod, stdin)| begin(program, pod.environment(verb), stdin))
        .collect::<Result<_>>()?;
    for child in running {
        end(child)?;
    }
    Ok(start.elapsed())
}
