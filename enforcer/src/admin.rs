// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Health and metrics over HTTP.
//!
//! ```text
//! engine ── Condition ──► /readyz, /livez
//!        ◄── "count" ──── /metrics: the kernel's counters are read when somebody asks
//! source ── Freshness ──► both: how old the knowledge is
//! ```

mod listen;
mod scrapes;
mod visitors;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

pub use self::listen::listen;
use self::scrapes::Scrapes;
use crate::condition::Condition;
use crate::figures;
use crate::source::Freshness;

/// What Prometheus takes for its text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `/readyz` names this many warnings; the log and the figures have all.
const NAMED: usize = 100;

/// How long a scrape waits for the engine to read the kernel's counters. After that it shows the last ones.
const COUNTING: Duration = Duration::from_secs(1);

/// Makes the process's recorder of metrics.
///
/// # Errors
/// When there is one already.
pub fn install_recorder() -> Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)
        .map_err(|error| anyhow::anyhow!("install the recorder of metrics: {error}"))?;
    figures::describe();
    Ok(handle)
}

/// Knowledge older than this makes the enforcer not ready. A watch that works says something every minute or so, and
/// one that is silent is given up after half of this.
const STALE: Duration = Duration::from_secs(300);

/// What the pages of health are made of.
#[derive(Debug, Clone)]
struct Health {
    condition: watch::Receiver<Condition>,
    freshness: watch::Receiver<Freshness>,
}

/// `/readyz` and `/livez`.
pub fn health(
    condition: watch::Receiver<Condition>,
    freshness: watch::Receiver<Freshness>,
) -> Router {
    Router::new()
        .route("/readyz", get(readyz))
        .route("/livez", get(livez))
        .with_state(Health {
            condition,
            freshness,
        })
}

async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    if health.condition.has_changed().is_err() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the engine has ended\n".into(),
        );
    }
    let ages = ages(&health.freshness.borrow(), Instant::now());
    let (is_ready, mut lines, warnings) = match health.condition.borrow().clone() {
        Condition::Ready { warnings } => (true, vec!["ok".to_owned()], warnings),
        Condition::Starting(reasons) => {
            let mut lines = vec!["not synced: the first table set is not in force yet".to_owned()];
            lines.extend(reasons);
            (false, lines, Vec::new())
        }
        Condition::Degraded { reasons, warnings } => (false, reasons, warnings),
    };
    let stale: Vec<_> = ages.iter().filter(|(_, age)| *age > STALE).collect();
    if is_ready && !stale.is_empty() {
        lines = vec![
            "stale: what is in force is in force, and changes since then are not known".to_owned(),
        ];
    }
    let named = warnings.iter().take(NAMED);
    lines.extend(named.map(|warning| format!("warning: {warning}")));
    if let Some(more @ 1..) = warnings.len().checked_sub(NAMED) {
        lines.push(format!("warning: and {more} more, which the log names"));
    }
    for (kind, age) in &ages {
        lines.push(format!("{kind}: as of {} s ago", age.as_secs()));
    }
    let status = if is_ready && stale.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, lines.join("\n") + "\n")
}

/// How old the knowledge of each kind is, of which there is any.
fn ages(freshness: &Freshness, now: Instant) -> Vec<(&'static str, Duration)> {
    let heard = freshness.iter();
    heard
        .filter_map(|(kind, heard)| Some((*kind, now.saturating_duration_since((*heard)?))))
        .collect()
}

async fn livez(State(health): State<Health>) -> (StatusCode, &'static str) {
    match health.condition.has_changed() {
        Ok(_) => (StatusCode::OK, "ok\n"),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the engine has ended\n"),
    }
}

/// `/metrics`. `count` asks the engine to read the kernel's counters; it answers, or drops the question.
pub fn metrics<C>(
    handle: PrometheusHandle,
    freshness: watch::Receiver<Freshness>,
    count: C,
) -> Router
where
    C: Fn(oneshot::Sender<()>) + Clone + Send + Sync + 'static,
{
    let scrapes = Arc::new(Scrapes::default());
    let page = move || {
        let (handle, freshness, count) = (handle.clone(), freshness.clone(), count.clone());
        let scrapes = Arc::clone(&scrapes);
        async move {
            let render = || async {
                let (done, counted) = oneshot::channel();
                count(done);
                // Without an answer in time the figures are a little older.
                drop(timeout(COUNTING, counted).await);
                for (kind, age) in ages(&freshness.borrow(), Instant::now()) {
                    metrics::gauge!("podgate_source_age_seconds", "kind" => kind).set(age);
                }
                handle.run_upkeep();
                handle.render()
            };
            ([(CONTENT_TYPE, TEXT)], scrapes.text(render).await)
        }
    };
    Router::new().route("/metrics", get(page))
}

#[cfg(test)]
mod tests;
