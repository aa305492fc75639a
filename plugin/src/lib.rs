// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The chained CNI plugin. It comes after a main plugin, polices the interface that this one made, and answers with
//! the result that it was given, byte for byte.
//!
//! ```text
//! environment ─► invocation ┐                    ┌─► attachment (podgate-datapath): record, filters
//! stdin ───────► config ────┼─► run ─► verbs ────┼─► enforcer: waits until the policy is in force
//!                prev_result┘                    └─► reply: one JSON value, or nothing
//!                               interface: the pod's interface and its host end, by netlink
//! ```
//!
//! It is small and blocking, because its start is on every pod's way; it has a second thread only while another has the lock. Sources of the rules: the CNI
//! specification 1.1.0, and what runtimes make of it (errors are read from stdout, empty variables are missing ones).

mod attachment;
mod client;
mod config;
mod error;
mod interface;
mod invocation;
mod log;
mod prev_result;
mod reply;
mod run;
mod verbs;

pub use run::{Exit, Io, run};
