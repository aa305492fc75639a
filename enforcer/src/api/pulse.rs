// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What wakes the watches of all kinds when the API server is heard again after it was away: the first that hears it wakes
//! the others, which need not wait until their own pause is over.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{Notify, watch};

/// How soon after a list a kind is listed anew because there is room again for what was not kept of it: whoever may write
/// objects can cause that again and again, at every node.
const AGAIN: Duration = Duration::from_secs(20);

/// Says that the server answers again.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<watch::Sender<()>>);

impl Default for Pulse {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(())))
    }
}

impl Pulse {
    /// The server has answered, after it was not heard.
    pub fn beat(&self) {
        self.0.send_replace(());
    }

    /// What hears it.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// Asks whoever follows a kind to list it anew.
#[derive(Debug, Clone)]
pub struct Recall {
    asked: Arc<Notify>,
    /// How soon after a list.
    pause: Duration,
}

impl Default for Recall {
    fn default() -> Self {
        Self::after(AGAIN)
    }
}

impl Recall {
    /// One that is heard so soon after a list.
    pub(super) fn after(pause: Duration) -> Self {
        Self {
            asked: Arc::default(),
            pause,
        }
    }

    /// How soon after a list the next one is made.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// Asks. Nothing is lost if nobody listens yet.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Until it was asked since this was heard last.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }
}

/// The API server, and what wakes its watches when it is there again.
#[derive(Clone)]
pub struct Server {
    /// How it is asked.
    pub client: Client,
    /// One for all kinds of a source.
    pub pulse: Pulse,
    /// Of one kind: asks that it be listed anew.
    pub recall: Recall,
}

impl Server {
    /// For the kind of which this asks.
    pub fn recalled_by(self, recall: Recall) -> Self {
        Self { recall, ..self }
    }
}

impl From<Client> for Server {
    fn from(client: Client) -> Self {
        Self {
            client,
            pulse: Pulse::default(),
            recall: Recall::default(),
        }
    }
}
