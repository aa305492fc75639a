// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The API server, for every source that reads from it: the client, and the watch of one kind of objects.
//!
//! ```text
//! API server ── list, watch ──► follow::<Kind> ── Said ──► Store ──► (name, what it is now)
//!                                  │ parsed, converted and trimmed, object by object
//! ```
//! TLS, authentication and requests are kube's. A kind is one small implementation of [`Kind`].

mod client;
mod credentials;
mod follow;
pub(crate) mod health;
mod kind;
mod parts;
mod pulse;
mod store;
pub(crate) mod stream;
mod traffic;

pub use client::{ConnectError, connect};
pub use follow::{Failure, Said, follow, follow_selected};
pub use kind::{Kind, Missing, Seen};
pub use parts::Parts;
pub use pulse::{Pulse, Recall, Server};
pub use store::{Changed, Store, Stored, Ticket};

#[cfg(test)]
mod tests;
