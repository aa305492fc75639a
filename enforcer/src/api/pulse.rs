//! What wakes the watches of all kinds when the API server is heard again after it was away: the first that hears it wakes
//! the others, which need not wait until their own pause is over.

use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;

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

/// The API server, and what wakes its watches when it is there again.
#[derive(Clone)]
pub struct Server {
    /// How it is asked.
    pub client: Client,
    /// One for all kinds of a source.
    pub pulse: Pulse,
}

impl From<Client> for Server {
    fn from(client: Client) -> Self {
        Self {
            client,
            pulse: Pulse::default(),
        }
    }
}
