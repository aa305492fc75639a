// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The Stars demo: real pods policed on one machine.
//!
//! ```text
//! main ──► node: namespaces ──► stage: enforcer, pods (CNI chain), probes ──► steps: five matrices
//!                                                                        └──► page: the management page
//! ```

mod enforcer;
mod http;
mod node;
mod page;
mod pod;
mod scenario;
mod stage;
mod star;
mod steps;

use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::scenario::Family;
use crate::stage::{Pieces, Stage};

/// Exit code after a signal, as shells have it for SIGINT.
const INTERRUPTED: u8 = 130;

/// Starts the Stars demo on this machine, in namespaces of its own, and shows who reaches whom as policies come.
#[derive(Debug, Parser)]
#[command(name = "podgate-demo", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    demo: Demo,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What the demo is to do.
#[derive(Debug, Clone, clap::Args)]
struct Demo {
    /// Give the pods IPv6 addresses beside IPv4, and probe both.
    #[arg(long)]
    ipv6: bool,
    /// Serve the management page until Ctrl-C, instead of running the five steps.
    #[arg(long)]
    ui: bool,
    /// The port of the page on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 8080, requires = "ui")]
    port: u16,
    #[command(flatten)]
    pieces: Pieces,
}

/// The program as which the demo starts itself again.
#[derive(Debug, Subcommand)]
enum Part {
    /// The node, in namespaces of its own.
    #[command(hide = true)]
    Node(Demo),
    /// The process in a pod.
    #[command(hide = true)]
    Star(star::Args),
}

/// How the demo ended, when nothing failed.
#[derive(Debug, Clone, Copy)]
enum Ending {
    /// Everything was as expected.
    Right,
    /// Some matrix was not.
    Wrong,
    /// Somebody ended it before the last step.
    Interrupted,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.part {
        None => start_node(&cli.demo),
        Some(Part::Node(demo)) => run_node(demo),
        Some(Part::Star(args)) => star::run(args).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn start_node(demo: &Demo) -> Result<ExitCode> {
    // In the namespace of the host, where the browser is; the node only accepts on it.
    let page = if demo.ui {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, demo.port))
            .with_context(|| format!("serve the page on 127.0.0.1:{}; try --port 0", demo.port))?;
        Some(listener)
    } else {
        None
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    node::start(&arguments, page)
}

fn run_node(demo: Demo) -> Result<ExitCode> {
    node::become_node()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(play(demo))
}

async fn play(demo: Demo) -> Result<ExitCode> {
    let mut end = signal(SignalKind::terminate())?;
    let mut families = vec![Family::V4];
    if demo.ipv6 {
        node::forward_ipv6()?;
        families.push(Family::V6);
    }
    let mut stage = Stage::new(&demo.pieces, families)?;
    let played = tokio::select! {
        played = perform(&mut stage, &demo) => played,
        _ = end.recv() => Ok(if demo.ui { Ending::Right } else { Ending::Interrupted }),
    };
    let log = stage.enforcer_log();
    if !log.is_empty() && !matches!(played, Ok(Ending::Right | Ending::Interrupted)) {
        eprintln!("the end of the enforcer's log:\n{log}");
    }
    // What went wrong first is told first, and hides nothing that went wrong after it.
    let mut failures = Vec::new();
    let ending = played.map_err(|error| failures.push(error)).ok();
    failures.extend(stage.take_down().await);
    for failure in &failures {
        eprintln!("error: {failure:#}");
    }
    let Some(ending) = ending.filter(|_| failures.is_empty()) else {
        return Ok(ExitCode::FAILURE);
    };
    println!("everything is taken down");
    Ok(ExitCode::from(match ending {
        Ending::Right => 0,
        Ending::Wrong => 1,
        Ending::Interrupted => INTERRUPTED,
    }))
}

async fn perform(stage: &mut Stage, demo: &Demo) -> Result<Ending> {
    stage.set_up(&demo.pieces.enforcer).await?;
    if demo.ui {
        page::serve(stage, node::passed_listener()?).await?;
        return Ok(Ending::Right);
    }
    let all_right = steps::run(stage).await?;
    println!(
        "\n{}",
        if all_right {
            "all five as expected"
        } else {
            "NOT all as expected"
        }
    );
    Ok(if all_right {
        Ending::Right
    } else {
        Ending::Wrong
    })
}
