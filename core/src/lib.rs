// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The nouns that several crates share, each defined once.
//!
//! No dependencies and no `std`: the eBPF programs, the semantics and the plugin all stand on this crate, so it may know
//! neither map layouts nor file formats nor Kubernetes. What a noun is in a map, in a file or on the socket, the crate of that
//! format says.
#![cfg_attr(not(test), no_std)]

mod direction;
pub mod tunnel;

pub use direction::Direction;
