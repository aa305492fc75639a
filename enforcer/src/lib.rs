//! The node daemon: watches policy and fills the kernel tables.

pub mod args;
pub mod convert;
pub mod manifests;
pub mod node;
pub mod plan;
pub mod socket;
