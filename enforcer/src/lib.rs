//! The node daemon: watches policy and fills the kernel tables.
