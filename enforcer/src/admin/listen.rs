// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The HTTP listeners. Each has a thread of its own and serves within [`Limits`]; what is beyond them is reset at once,
//! so that the queue of connections stays short for those that are served.
//!
//! A connection is one request. It has one deadline for everything: header, handler and the slowest reader.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::visitors::{Limits, Visitor, Visitors};
use crate::args::BindAddress;
use crate::descriptors::Descriptors;

/// Until a request's header is complete.
const HEADER: Duration = Duration::from_secs(2);

/// Until the answer is taken, from the beginning of the connection.
const WHOLE: Duration = Duration::from_secs(10);

/// A request's header may have this many bytes: one line, and what a proxy adds.
const LONGEST_HEADER: usize = 16 * 1024;

/// How long nothing is accepted after `accept` failed: what is missing, descriptors most likely, comes back no sooner.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens at `address` and serves `router` there until `stop`.
///
/// # Errors
/// When the address cannot be had. [`BindAddress::Off`] is none, and waits for nothing.
pub async fn listen(
    what: &'static str,
    address: BindAddress,
    router: Router,
    descriptors: Descriptors,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<Option<SocketAddr>> {
    let BindAddress::At(address) = address else {
        return Ok(None);
    };
    let listening = async || -> io::Result<(std::net::TcpListener, SocketAddr)> {
        let listener = bind(address).await?;
        let bound = listener.local_addr()?;
        Ok((listener.into_std()?, bound))
    };
    let (listener, bound) = listening()
        .await
        .with_context(|| format!("listen at {address} for {what}"))?;
    let limits = Limits::within(descriptors.limit());
    std::thread::Builder::new()
        .name(what.into())
        .spawn(move || {
            let serve = || -> io::Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(async {
                    let listener = TcpListener::from_std(listener)?;
                    tokio::select! {
                        () = serve(what, &listener, &router, limits) => {}
                        () = stop => {}
                    }
                    Ok(())
                })
            };
            if let Err(error) = serve() {
                tracing::error!(%error, what, "the HTTP listener ended");
            }
        })
        .with_context(|| format!("start the thread of the listener for {what}"))?;
    Ok(Some(bound))
}

/// A kernel without IPv6 has no `[::]`, which stands for every address here.
async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error)
            if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
                && address.ip().is_unspecified() =>
        {
            TcpListener::bind((IpAddr::from(Ipv4Addr::UNSPECIFIED), address.port())).await
        }
        result => result,
    }
}

/// Accepts for ever. What is accepted is served or reset at once.
async fn serve(what: &'static str, listener: &TcpListener, router: &Router, limits: Limits) {
    let mut visitors = Visitors::new(limits, Instant::now());
    let mut connections = JoinSet::new();
    let mut whose = HashMap::new();
    loop {
        let (stream, peer) = tokio::select! {
            Some(ended) = connections.join_next_with_id() => {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(panicked) => panicked.id(),
                };
                if let Some(visitor) = whose.remove(&id) {
                    visitors.leave(visitor);
                }
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, what, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        // Without an address of its own end, it is gone already.
        let Ok(local) = stream.local_addr() else {
            continue;
        };
        let visitor = Visitor::of(peer, local);
        if visitors.admit(visitor, Instant::now()) {
            let connection = connections.spawn(converse(what, stream, router.clone()));
            whose.insert(connection.id(), visitor);
        } else {
            count(what, "refused");
            // A reset, and no state that the kernel keeps for a minute.
            drop(stream.set_zero_linger());
        }
    }
}

/// Serves one request.
async fn converse(what: &'static str, stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .keep_alive(false)
        .max_buf_size(LONGEST_HEADER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let outcome = match timeout(WHOLE, connection).await {
        Ok(Ok(())) => "served",
        Ok(Err(_)) => "broken",
        Err(_) => "late",
    };
    count(what, outcome);
}

fn count(what: &'static str, outcome: &'static str) {
    metrics::counter!("podgate_http_connections_total", "listener" => what, "outcome" => outcome)
        .increment(1);
}
