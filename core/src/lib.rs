// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The types that several crates share, each defined once.
//!
//! No dependencies and no `std`: the eBPF programs, the semantics and the plugin all depend on this crate, so it may know
//! neither map layouts nor file formats nor Kubernetes. How a type is encoded in a map, in a file or on the socket, the crate of that
//! format says.
#![cfg_attr(not(test), no_std)]

#[cfg(feature = "alloc")]
extern crate alloc;

#[cfg(feature = "alloc")]
mod attachment;
mod direction;
mod isolation;
pub mod tunnel;

#[cfg(feature = "alloc")]
pub use attachment::{AttachmentId, PodName};
pub use direction::Direction;
pub use isolation::Isolation;

/// The verdict in a direction in which no known policy isolates the pod; fixed at ADD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Baseline {
    /// Everything is allowed, as Kubernetes has it (enforcing mode `standard`).
    Allow,
    /// Nothing is allowed, not even the own node (enforcing mode `strict`).
    Deny,
}

/// The index of an attachment in the maps, and the class ID of its filters: 1 to 65,535.
///
/// Slot 0 is for test runs, which cannot set a class ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Slot(pub u32);

impl Slot {
    /// The lowest number, which no attachment has.
    pub const MIN: Self = Self(0);
    /// The highest: a class ID has 16 bits.
    pub const MAX: Self = Self(0xffff);
}
