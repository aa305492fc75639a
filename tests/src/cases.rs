// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table of cases, `tests/cases/*.yaml`, and its judges.
//!
//! ```text
//!                                    ┌──► oracle    evaluate() on the model
//! tests/cases/*.yaml ──► Case ──► run├──► tables    decide() on compiled tables, packet by packet
//!                                    └──► cluster   real connections between real pods
//! ```
//! A case is a world, its policies, and a table that says of each connection whether it can be opened; then changes,
//! each with a table of its own. `tests/cases/README.md` says how a case is written.

pub mod case;
pub mod cluster;
pub mod expect;
pub mod ground;
pub mod judge;
pub mod oracle;
pub mod places;
pub mod prober;
pub mod read;
pub mod service;
pub mod simulated;
pub mod state;
pub mod tables;
pub mod world;

#[cfg(test)]
mod tests;
