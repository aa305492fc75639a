// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The node daemon: watches policy and fills the kernel tables.

use std::io::IsTerminal;

use clap::Parser;
use podgate_enforcer::args::{Args, Config};
use podgate_enforcer::run::run;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> anyhow::Result<()> {
    let config = Config::try_from(Args::parse())?;
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry()
        .with(log.with_filter(logged(config.log_level)))
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(run(config));
    // What still blocks is not waited for: the first reading of large manifests, an engine that did not end in time.
    runtime.shutdown_background();
    ended
}

/// What we say at this level. Of the libraries, errors only: what goes wrong in them we say ourselves, once.
fn logged(level: LevelFilter) -> Targets {
    let libraries = match level {
        LevelFilter::TRACE => LevelFilter::TRACE,
        ours => ours.min(LevelFilter::ERROR),
    };
    Targets::new()
        .with_default(libraries)
        .with_target("podgate", level)
}
