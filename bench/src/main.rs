//! The figures of podgate on this machine, as plain text. `bench/figures` builds what it needs and runs it.
//!
//! ```text
//! main ──► add: ADD beside a program that does nothing ──► node: namespaces, veth pairs, enforcer
//!     └──► programs: instructions, load time     └──► packets: test runs     └──► memory: a table set
//! ```
//!
//! Nothing here passes or fails: figures of two runs compare only if both had the machine to themselves.

mod add;
mod empty;
mod frames;
mod memory;
mod node;
mod packets;
mod programs;
mod sample;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use nix::unistd::geteuid;

/// Measures podgate on this machine and prints what it found.
#[derive(Debug, Parser)]
#[command(name = "podgate-bench")]
struct Cli {
    /// The plugin's binary, static.
    #[arg(long, value_name = "FILE")]
    plugin: PathBuf,
    /// The enforcer's binary.
    #[arg(long, value_name = "FILE")]
    enforcer: PathBuf,
    /// A static program that does nothing.
    #[arg(long, value_name = "FILE")]
    nothing: PathBuf,
    /// How often ADD is measured.
    #[arg(long, default_value_t = 200)]
    adds: usize,
    /// How often a packet is judged in one test run.
    #[arg(long, default_value_t = 1_000_000)]
    repeat: u32,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    ensure!(
        geteuid().is_root(),
        "figures need network namespaces and eBPF programs: run it as root"
    );
    print_machine()?;
    programs::print()?;
    memory::print()?;
    packets::print(cli.repeat)?;
    add::print(&cli)
}

fn print_machine() -> Result<()> {
    let system = nix::sys::utsname::uname().context("ask for the kernel's version")?;
    let cpus = std::fs::read_to_string("/proc/cpuinfo").context("ask for the CPU")?;
    let field = |name: &str| {
        let line = cpus.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": "))
            .map_or("unknown", |(_, value)| value)
    };
    println!(
        "kernel {}, {}, {} cores",
        system.release().display(),
        field("model name"),
        std::thread::available_parallelism()?
    );
    Ok(())
}
