// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What bulk TCP loses: between two pods that podgate polices, beside two that it does not know, in turns.
//!
//! ```text
//! pod ──► eth0 ──► the host's end: from_pod ──► route ──► the host's end: to_pod ──► eth0 ──► pod
//! ```
//! Segmentation is left to the last device, as it is for pods, so one run of the programs judges up to 64 KiB. Both ends are on one
//! CPU, so that all that is done for a byte counts, and no other CPU hides it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Figures;
use crate::add::{WAIT_MS, call};
use crate::node::{Node, Pod};
use crate::packets::on_one_cpu;
use crate::sample::Sample;

/// How often each pair of pods sends. The turns of a machine differ by a tenth: what is lost is the median of so many pairs of
/// turns, one after the other, which is known to about half a percent then.
const ROUNDS: usize = 301;

/// How much one sends each time.
const BYTES: usize = 64 << 20;

/// How much is written at once.
const PIECE: usize = 256 << 10;

/// Where servers are: what the policy of [`Node::start_enforcer`] allows.
const PORT: u16 = 80;

/// How long a stream may stand still.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prints how much slower a policed pair is.
pub(crate) fn print(cli: &Figures) -> Result<()> {
    let node = Node::new(4)?;
    node.forward()?;
    let enforcer = node.start_enforcer(&cli.enforcer)?;
    let (unknown, policed) = node.pods.split_at(2);
    for pod in policed {
        node.netns
            .run(|| call(&cli.plugin, &node, pod, "ADD", WAIT_MS))??;
    }
    println!(
        "\nbulk TCP between two pods, Gbit/s (median of {ROUNDS} turns, p25–p75){:>10}{:>20}{:>8}",
        "without", "policed", "lost"
    );
    let measured = on_one_cpu(|| print_all(&node, unknown, policed));
    drop(enforcer);
    measured
}

fn print_all(node: &Node, unknown: &[Pod], policed: &[Pod]) -> Result<()> {
    for mtu in [1500, 9000] {
        node.set_mtu(mtu)?;
        let (mut without, mut with) = (Sample::default(), Sample::default());
        let mut lost = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            // Who is second finds warmer caches, or what the first left undone.
            let first = round % 2;
            let mut took = [Duration::ZERO; 2];
            for pair in [first, 1 - first] {
                took[pair] = send([unknown, policed][pair])?;
            }
            let [plain, judged] = took;
            without.push(plain);
            with.push(judged);
            lost.push(1.0 - plain.as_secs_f64() / judged.as_secs_f64());
        }
        lost.sort_by(f64::total_cmp);
        println!(
            "{:<52}{:>20}{:>20}{:>7.1}%",
            format!("MTU {mtu}"),
            speed(&without),
            speed(&with),
            100.0 * lost[ROUNDS / 2]
        );
    }
    Ok(())
}

/// In Gbit/s: the median, and between what the middle half is.
fn speed(sample: &Sample) -> String {
    let of = |microseconds: f64| 8.0 * BYTES as f64 / 1000.0 / microseconds;
    let at = |percent| of(sample.percentile(percent));
    format!("{:.2} ({:.2}–{:.2})", at(50), at(75), at(25))
}

/// How long the first of two pods takes to send to the second.
fn send(pods: &[Pod]) -> Result<Duration> {
    let [from, to] = pods else {
        unreachable!("two pods");
    };
    let listener = to
        .netns
        .run(|| TcpListener::bind((to.address, PORT)))?
        .context("listen in a pod")?;
    let limit = Some(PATIENCE);
    let mut sender = from
        .netns
        .run(|| TcpStream::connect_timeout(&(to.address, PORT).into(), PATIENCE))?
        .context("connect two pods")?;
    let (mut receiver, _) = listener.accept()?;
    sender.set_write_timeout(limit)?;
    receiver.set_read_timeout(limit)?;
    let began = Instant::now();
    let received = std::thread::scope(|scope| -> Result<usize> {
        let receiving = scope.spawn(move || -> Result<usize> {
            let (mut piece, mut received) = (vec![0; PIECE], 0);
            loop {
                match receiver.read(&mut piece).context("receive")? {
                    0 => return Ok(received),
                    read => received += read,
                }
            }
        });
        let piece = vec![0; PIECE];
        for _ in 0..BYTES / PIECE {
            sender.write_all(&piece).context("send")?;
        }
        sender.shutdown(Shutdown::Write)?;
        receiving.join().expect("the receiver does not panic")
    })?;
    let took = began.elapsed();
    ensure!(received == BYTES, "{received} of {BYTES} bytes arrived");
    Ok(took)
}
