//! The node daemon: watches policy and fills the kernel tables.

pub mod convert;
pub mod manifests;
