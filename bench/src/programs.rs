// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The programs: how large they are, and how long the kernel takes to accept them.

use std::time::Instant;

use anyhow::{Context, Result};
use aya::programs::SchedClassifier;
use aya::{EbpfLoader, include_bytes_aligned};
use podgate_datapath::SkbLayout;

use crate::sample::Sample;

/// The object as it is committed.
static OBJECT: &[u8] = include_bytes_aligned!("../../bpf/podgate.o");

/// How often they are loaded.
const LOADS: usize = 11;

/// Elements of the tables here: their size is not what is measured.
const ELEMENTS: u32 = 4096;

/// Prints instructions and load time of both.
pub(crate) fn print() -> Result<()> {
    println!(
        "\nprograms{:>18}{:>12}{:>14}{:>14}",
        "instructions", "verified", "load, median", "worst"
    );
    for name in ["to_pod", "from_pod"] {
        let mut times = Sample::default();
        let mut sizes = (0, None);
        for _ in 0..LOADS {
            let mut loader = EbpfLoader::new();
            loader.override_global("HZ", &250_u32, true);
            let skb = SkbLayout::of_kernel().unwrap_or_default();
            for (name, value) in skb.globals() {
                loader.override_global(name, value, true);
            }
            for table in [
                "attachments",
                "rulesets",
                "peers",
                "taken",
                "prefixes",
                "rows",
                "portsets",
                "chunks",
                "counters",
                "events",
                "flows",
                "embryonic",
                "crowd",
                "fragments",
                "quotas",
                "limits",
                "common",
            ] {
                loader.map_max_entries(table, ELEMENTS);
            }
            let mut ebpf = loader.load(OBJECT).context("load the eBPF object")?;
            let program = ebpf.program_mut(name).context("find a program")?;
            let program: &mut SchedClassifier = program.try_into()?;
            let start = Instant::now();
            program.load()?;
            times.push(start.elapsed());
            let info = program.info()?;
            let translated = info.size_translated().unwrap_or_default() / 8;
            sizes = (translated, info.verified_instruction_count());
        }
        let verified = sizes.1.map_or("unknown".into(), |count| count.to_string());
        println!(
            "{name:<10}{:>16}{verified:>12}{:>11.2} ms{:>11.2} ms",
            sizes.0,
            times.median() / 1000.0,
            times.percentile(100) / 1000.0
        );
    }
    Ok(())
}
