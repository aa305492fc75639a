// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The figures of podgate on this machine, as plain text. `bench/figures` and `bench/control-plane` build what they need
//! and run it.
//!
//! ```text
//! figures ──► add: ADD beside a program that does nothing ──► node: namespaces, veth pairs, enforcer
//!        ├──► programs: instructions, load time     └──► packets: test runs     └──► memory: a table set
//!        └──► bulk: TCP between two pods
//! planner ──► what one namespace's policies cost the compiler and the planner
//! control-plane ──► world: what is in the API server ──► api ──► node1's enforcer ──► kernel: is it in force?
//! ```
//!
//! Nothing here passes or fails: figures of two runs compare only if both had the machine to themselves.

mod add;
mod bulk;
mod cni;
mod control_plane;
mod empty;
mod frames;
mod memory;
mod node;
mod packets;
mod planner;
mod programs;
mod sample;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser};
use nix::unistd::geteuid;

/// Measures podgate on this machine and prints what it found.
#[derive(Debug, Parser)]
#[command(name = "podgate-bench")]
enum Cli {
    /// Programs, tables, packets and ADD.
    Figures(Figures),
    /// From an API server to the kernel of one node; started by `bench/control-plane` in that node's namespaces.
    ControlPlane(control_plane::Options),
    /// Compiler and planner, by worlds that the owner of one namespace can write. Needs no root.
    Planner(planner::Options),
}

#[derive(Debug, Args)]
struct Figures {
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
    if let Cli::Planner(options) = &cli {
        return planner::print(options);
    }
    ensure!(
        geteuid().is_root(),
        "figures need network namespaces and eBPF programs: run it as root"
    );
    print_machine()?;
    match cli {
        Cli::Figures(figures) => {
            programs::print()?;
            memory::print()?;
            packets::print(figures.repeat)?;
            bulk::print(&figures)?;
            add::print(&figures)
        }
        Cli::ControlPlane(options) => control_plane::print(&options),
        Cli::Planner(options) => planner::print(&options),
    }
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
