// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The management page: every edge is probed all the time, and the page asks for the state of all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::{get, put};
use axum::{Json, Router};
use serde::Serialize;

use crate::enforcer::Manifests;
use crate::scenario::{Edge, Family, Policy, Star, works};
use crate::stage::{Probe, Stage, is_right};
use crate::star::Outcome;

/// How long a connection may take before it counts as denied. With [`PAUSE`] and the page's own rhythm it keeps
/// the page within a second of the kernel.
const PROBE_TIMEOUT: Duration = Duration::from_millis(400);
/// The time between two probes of an edge.
const PAUSE: Duration = Duration::from_millis(150);

/// What the page is told; `edges` and `policies` are what a test reads.
#[derive(Serialize)]
struct Report {
    pods: Vec<PodReport>,
    policies: Vec<PolicyReport>,
    edges: Vec<EdgeReport>,
    /// Since the last policy came or went, in milliseconds; since the start before that.
    since_change_ms: u128,
    /// From the last change until every edge, probed anew, was as expected; absent until it is so.
    settled_after_ms: Option<u128>,
}

#[derive(Serialize)]
struct PodReport {
    name: &'static str,
    namespace: &'static str,
    letter: &'static str,
    port: u16,
    addresses: Vec<String>,
}

#[derive(Serialize)]
struct PolicyReport {
    id: &'static str,
    meaning: &'static str,
    applied: bool,
}

#[derive(Serialize)]
struct EdgeReport {
    from: Star,
    to: Star,
    /// Connections work in every family.
    works: bool,
    expected: bool,
    families: BTreeMap<Family, &'static str>,
}

/// What is known now.
struct Board {
    manifests: Manifests,
    pods: Vec<PodReportSource>,
    now: Mutex<Now>,
}

type PodReportSource = (Star, Vec<String>);

struct Now {
    applied: BTreeSet<Policy>,
    changed: Instant,
    settled: Option<Duration>,
    seen: BTreeMap<(Family, Edge), Seen>,
}

/// The newest outcome of an edge, and when its probe began.
struct Seen {
    begun: Instant,
    outcome: Outcome,
}

impl Board {
    fn now(&self) -> std::sync::MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies or removes `policy`; without effect when it is so already.
    fn set(&self, policy: Policy, apply: bool) -> Result<()> {
        let mut now = self.now();
        if now.applied.contains(&policy) == apply {
            return Ok(());
        }
        if apply {
            self.manifests.apply(policy)?;
            now.applied.insert(policy);
        } else {
            self.manifests.remove(policy)?;
            now.applied.remove(&policy);
        }
        now.changed = Instant::now();
        now.settled = None;
        Ok(())
    }

    fn record(&self, probe: &Probe, begun: Instant, outcome: Outcome) {
        let mut now = self.now();
        now.seen
            .insert((probe.family, probe.edge), Seen { begun, outcome });
        let all_right = now.seen.iter().all(|((_, edge), seen)| {
            seen.begun >= now.changed && is_right(*edge, &seen.outcome, &now.applied)
        });
        if all_right && now.settled.is_none() {
            now.settled = Some(now.changed.elapsed());
        }
    }

    fn report(&self) -> Report {
        let now = self.now();
        let pods = self.pods.iter().map(|(star, addresses)| PodReport {
            name: star.name(),
            namespace: star.namespace(),
            letter: star.letter(),
            port: star.port(),
            addresses: addresses.clone(),
        });
        let policies = Policy::ALL.map(|policy| PolicyReport {
            id: policy.id(),
            meaning: policy.meaning(),
            applied: now.applied.contains(&policy),
        });
        let edges = Edge::all().map(|edge| {
            let families: BTreeMap<_, _> = now
                .seen
                .iter()
                .filter(|((_, seen_edge), _)| *seen_edge == edge)
                .map(|((family, _), seen)| (*family, word(&seen.outcome)))
                .collect();
            EdgeReport {
                from: edge.from,
                to: edge.to,
                works: !families.is_empty()
                    && families
                        .values()
                        .all(|said| *said == word(&Outcome::Reached)),
                expected: works(edge, &now.applied),
                families,
            }
        });
        Report {
            pods: pods.collect(),
            policies: policies.into(),
            edges: edges.collect(),
            since_change_ms: now.changed.elapsed().as_millis(),
            settled_after_ms: now.settled.map(|after| after.as_millis()),
        }
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Reached => "works",
        Outcome::Silent => "silent",
        Outcome::Failed(_) => "failed",
    }
}

/// Serves the page on `listener` for ever.
pub(crate) async fn serve(stage: &mut Stage, listener: TcpListener) -> Result<()> {
    let address = listener.local_addr()?;
    let probes = stage.probes()?;
    let pods = Star::ALL.map(|star| {
        let addresses = stage
            .addresses(star)
            .values()
            .map(ToString::to_string)
            .collect();
        (star, addresses)
    });
    let board = Arc::new(Board {
        manifests: stage.manifests().clone(),
        pods: pods.into(),
        now: Mutex::new(Now {
            applied: BTreeSet::new(),
            changed: Instant::now(),
            settled: None,
            seen: BTreeMap::new(),
        }),
    });
    let router = Router::new()
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/api/state", get(state))
        .route("/api/policies/{id}", put(apply).delete(remove))
        .with_state(Arc::clone(&board));
    let listener = tokio::net::TcpListener::from_std(listener).context("serve the page")?;

    let mut probing = tokio::task::JoinSet::new();
    for probe in probes {
        let board = Arc::clone(&board);
        probing.spawn(async move {
            loop {
                let begun = Instant::now();
                let outcome = probe.run(PROBE_TIMEOUT).await;
                board.record(&probe, begun, outcome);
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    println!("\nthe page is at http://{address}/ (Ctrl-C ends the demo)");
    let watch = async {
        loop {
            stage.check_enforcer()?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        served = axum::serve(listener, router) => served.context("serve the page"),
        ended = watch => ended,
    }
}

async fn state(State(board): State<Arc<Board>>) -> Json<Report> {
    Json(board.report())
}

async fn apply(board: State<Arc<Board>>, id: Path<String>) -> (StatusCode, String) {
    set(&board, &id, true)
}

async fn remove(board: State<Arc<Board>>, id: Path<String>) -> (StatusCode, String) {
    set(&board, &id, false)
}

fn set(board: &Board, id: &str, apply: bool) -> (StatusCode, String) {
    let Some(policy) = Policy::ALL.into_iter().find(|policy| policy.id() == id) else {
        return (StatusCode::NOT_FOUND, format!("no policy {id:?}"));
    };
    match board.set(policy, apply) {
        Ok(()) => (StatusCode::NO_CONTENT, String::new()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
    }
}
