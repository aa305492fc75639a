// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The process in a pod: a real HTTP server, and a prober that asks other pods when its stdin says so.
//!
//! Orders and outcomes go through pipes, so no policy is in their way.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use podgate_demo::netns;

use crate::http;

/// What the process is told on its command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The network namespace to live in.
    #[arg(long)]
    netns: PathBuf,
    /// Where to listen; may be given once per family.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// What the server answers.
    #[arg(long)]
    name: String,
}

/// One line on stdin: connect, and say what came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: u64,
    pub(crate) server: SocketAddr,
    /// The name that the right server answers.
    pub(crate) name: String,
    pub(crate) timeout: Duration,
}

/// One line on stdout.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Said {
    /// The server listens.
    Ready,
    /// An order has been carried out.
    Probed {
        /// The order.
        id: u64,
        /// What came of it.
        outcome: Outcome,
    },
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The right server answered.
    Reached,
    /// Nothing came back in time: what a denied connection looks like.
    Silent,
    /// Anything else, in words; neither an allowed nor a denied connection looks like that.
    Failed(String),
}

/// Lives in the pod until stdin ends.
pub(crate) fn run(args: Args) -> Result<()> {
    // There is one thread yet, and it takes all later ones along.
    netns::enter(&args.netns)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(live(args))
}

async fn live(args: Args) -> Result<()> {
    for address in args.listen {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address}"))?;
        let name = args.name.clone();
        let router = Router::new().route("/", get(|| async { name }));
        tokio::spawn(async { axum::serve(listener, router).await });
    }
    let (orders, mut due) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if orders.send(line).is_err() {
                return;
            }
        }
    });
    say(&Said::Ready)?;
    while let Some(line) = due.recv().await {
        let order: Order = serde_json::from_str(&line).context("decode an order")?;
        tokio::spawn(async move {
            let outcome = probe(&order).await;
            say(&Said::Probed {
                id: order.id,
                outcome,
            })
        });
    }
    Ok(())
}

async fn probe(order: &Order) -> Outcome {
    match tokio::time::timeout(order.timeout, http::get(order.server, "/")).await {
        Err(_elapsed) => Outcome::Silent,
        Ok(Err(error)) => Outcome::Failed(error.to_string()),
        Ok(Ok(answer)) if answer.status == 200 && answer.body == order.name => Outcome::Reached,
        Ok(Ok(answer)) => Outcome::Failed(format!("another answer: {answer:?}")),
    }
}

fn say(what: &Said) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(what)?)?;
    Ok(stdout.flush()?)
}
