//! NetworkPolicy semantics, pure: no Kubernetes client, no runtime, no kernel.
//!
//! ```text
//! World ──► compile ──► predicates, rulesets, signatures ──► (enforcer: tables)
//!   └─────► evaluate: the oracle, slow and obvious; shares only `model` with the compiler
//! ```

pub mod model;
