//! The node daemon: watches policy and fills the kernel tables.

use std::io::IsTerminal;

use clap::Parser;
use podgate_enforcer::args::{Args, Config};
use podgate_enforcer::run::run;

fn main() -> anyhow::Result<()> {
    let config = Config::try_from(Args::parse())?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_max_level(config.log_level)
        .init();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(run(config))
}
