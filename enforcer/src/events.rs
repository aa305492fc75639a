// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kubernetes Events: the owner of an object learns what the node says of it, without access to the node.
//!
//! ```text
//! engine ── Condition ──► drafts: what lasts now ──► Schedule ──► POST, one at a time ──► API server
//!                         one an object and matter      ▲               │ created; there already; refused; failed
//!                                                       └───────────────┘
//! ```
//! All nodes give an Event the same name, so that the API server keeps one for the whole cluster: whoever finds it there
//! does not write. It ends there by itself, after an hour by default, and is written again while the matter lasts. A task
//! of its own does this; nothing waits for it.

mod draft;
mod schedule;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::events::v1;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use self::draft::Draft;
use self::schedule::{Outcome, Schedule};
use crate::api::Failure;
use crate::condition::Condition;

/// From one write to the next, at least.
const PAUSE: Duration = Duration::from_millis(500);

/// How long the API server may take for one.
const ANSWER: Duration = Duration::from_secs(10);

/// Writes Events of what the engine says of objects, until the engine has ended.
pub async fn write(client: Client, node: String, mut condition: watch::Receiver<Condition>) {
    let mut schedule = Schedule::of(node.clone());
    let mut writer = Writer {
        client,
        node,
        is_refused: false,
    };
    let mut free = Instant::now();
    loop {
        let due = schedule.next().map(|(due, _)| due.max(free));
        tokio::select! {
            changed = condition.changed() => {
                if changed.is_err() {
                    return;
                }
                let drafts = draft::of(condition.borrow_and_update().warnings());
                follow(&mut schedule, drafts);
            }
            () = until(due) => {
                let Some(draft) = schedule.next().map(|(_, draft)| draft.clone()) else {
                    continue;
                };
                let outcome = writer.write(&draft).await;
                let now = Instant::now();
                schedule.take(&draft, outcome, now);
                free = now + PAUSE;
            }
        }
    }
}

fn follow(schedule: &mut Schedule, drafts: BTreeMap<draft::Place, Draft>) {
    let left_out = schedule.follow(drafts, Instant::now());
    let left_out = u32::try_from(left_out).unwrap_or(u32::MAX);
    metrics::gauge!("podgate_events_left_out").set(left_out);
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Who writes.
struct Writer {
    client: Client,
    node: String,
    /// Whether the log has it that Events are refused.
    is_refused: bool,
}

impl Writer {
    /// Writes one, counts how that went, and logs what somebody must do something about.
    async fn write(&mut self, draft: &Draft) -> Outcome {
        let event = draft.event(&self.node, Timestamp::now());
        let outcome = self.post(draft, &event).await;
        let name = match &outcome {
            Outcome::Created => "created",
            Outcome::Found => "found",
            Outcome::Ending => "ending",
            Outcome::Refused(_) => "refused",
            Outcome::Failed(_) => "failed",
        };
        metrics::counter!("podgate_events_total", "outcome" => name).increment(1);
        let (event, object) = (draft.place.to_string(), draft.object.name.to_string());
        match &outcome {
            Outcome::Created | Outcome::Found => {
                self.is_refused = false;
                tracing::debug!(event, object, outcome = name, "the API server has an Event");
            }
            Outcome::Ending => {
                tracing::debug!(event, object, "an Event's namespace is ending or gone");
            }
            Outcome::Refused(why) if !self.is_refused => {
                self.is_refused = true;
                tracing::warn!(
                    event,
                    object,
                    why,
                    "the API server refuses an Event, which is tried again every half hour; see the RBAC rules and quotas for events.events.k8s.io"
                );
            }
            Outcome::Refused(why) | Outcome::Failed(why) => {
                tracing::debug!(event, object, why, "an Event is not written");
            }
        }
        outcome
    }

    async fn post(&self, draft: &Draft, event: &v1::Event) -> Outcome {
        let api = Api::<v1::Event>::namespaced(self.client.clone(), &draft.place.namespace);
        let params = PostParams::default();
        let error = match timeout(ANSWER, api.create(&params, event)).await {
            Ok(Ok(_)) => return Outcome::Created,
            Ok(Err(error)) => error,
            Err(_) => return Outcome::Failed(format!("no answer within {ANSWER:?}")),
        };
        if let kube::Error::Api(status) = &error {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            let mut reasons = causes.map(|cause| cause.reason.as_str());
            match status.code {
                409 => return Outcome::Found,
                404 => return Outcome::Ending,
                403 if reasons.any(|reason| reason == "NamespaceTerminating") => {
                    return Outcome::Ending;
                }
                _ => {}
            }
        }
        match Failure::of(&error) {
            Failure::NoSuchKind(why) | Failure::Refused(why) => Outcome::Refused(why),
            Failure::Unreachable(why) => Outcome::Failed(why),
        }
    }
}

#[cfg(test)]
mod tests;
