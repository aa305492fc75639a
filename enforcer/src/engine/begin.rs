//! The time before the source is synced: what an earlier enforcer put in force stays, and ADDs wait.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::Result;
use podgate_handoff::Reply;
use tokio::sync::watch;

use super::inbox::Inbox;
use super::{Beginning, Engine, Event, Waiting, answer, identity};
use crate::admin::Condition;
use crate::source::Objects;

/// How often is looked who still waits.
const LOOK: Duration = Duration::from_secs(1);

impl Engine {
    /// Waits until the source is synced, then begins with what it says. None: the enforcer stops before that.
    ///
    /// # Errors
    /// When the first table set cannot be put in force.
    pub fn when_synced(
        mut beginning: Beginning,
        condition: watch::Sender<Condition>,
        events: &Receiver<Event>,
    ) -> Result<Option<Self>> {
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut reasons = Vec::new();
        loop {
            let inbox = Inbox::gather(events, LOOK);
            if inbox.stop {
                return Ok(None);
            }
            // Interfaces that went away are swept by the beginning, kernel counters are read after it.
            if let Some(addresses) = inbox.node_addresses {
                beginning.node_addresses = addresses;
            }
            for reply in inbox.dels {
                answer(reply, Reply::Done);
            }
            if let Some(new) = inbox.not_synced {
                reasons = new;
                condition.send_replace(Condition::Starting(reasons.clone()));
            }
            waiting.retain(|waiting| !waiting.reply.is_closed());
            waiting.extend(inbox.adds.into_iter().map(|(id, reply)| Waiting {
                identity: identity(id),
                reply,
            }));
            let Some(update) = inbox.source else {
                for reply in inbox.statuses {
                    answer(reply, Reply::Failed(not_synced(&reasons)));
                }
                continue;
            };
            let mut source = Objects::default();
            for change in update.changes {
                source.apply(change);
            }
            let mut engine = Self::start(beginning, source, update.errors, condition)?;
            tracing::info!("the first table set is in force");
            for reply in inbox.statuses {
                answer(reply, engine.status());
            }
            engine.waiting = waiting;
            engine.settle(false);
            return Ok(Some(engine));
        }
    }
}

/// For people: why nothing can be put in force yet.
fn not_synced(reasons: &[String]) -> String {
    match reasons {
        [] => "the source is not synced yet".to_owned(),
        reasons => format!("the source is not synced yet: {}", reasons.join("; ")),
    }
}
