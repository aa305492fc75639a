//! Loads, pins, attaches, swaps, lists and updates: the only code that touches bpffs, maps or tc.

pub mod netlink;
