// SPDX-License-Identifier: Apache-2.0 OR MIT
//! NetworkPolicy semantics, pure: no Kubernetes client, no runtime, no kernel.
//!
//! ```text
//! World ──► compile ──► predicates, rulesets, signatures ──► (enforcer: tables)
//!   └─────► evaluate: the oracle, slow and obvious; shares only its input types with the compiler
//! ```

#[cfg(feature = "arbitrary")]
pub mod arbitrary;
pub mod compile;
pub mod connection;
pub mod difference;
pub mod isolation;
pub mod model;
pub mod oracle;

pub use oracle::evaluate;
