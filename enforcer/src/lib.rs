// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The node daemon: watches policy and fills the kernel tables.
//!
//! ```text
//! manifests ────────┐                    ┌──► plan ──► datapath
//! networkpolicies ──┤
//! socket ───────────┼──► engine ─► cluster ─► policy
//! node ─────────────┘        └──► admin, events
//! ```

pub mod admin;
pub mod api;
pub mod args;
pub mod cluster;
pub mod compiled;
pub mod condition;
pub mod conntrack_gc;
pub mod convert;
pub mod descriptors;
pub mod engine;
pub mod events;
pub mod figures;
#[cfg(test)]
mod fixture;
pub mod gone;
pub mod guard;
mod instance_lock;
pub mod manifests;
pub mod networkpolicies;
pub mod node;
pub mod plan;
pub mod policyendpoints;
pub mod run;
pub mod selections;
pub mod share;
pub mod socket;
pub mod source;
pub mod stored;
pub mod warning;
pub mod watched;
