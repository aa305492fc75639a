// SPDX-License-Identifier: Apache-2.0 OR MIT
//! CNI conflists as bytes: which file of a directory a runtime reads, how its network looks with podgate in the chain, and
//! what has to be written and removed so that the chain is what it should be.
//!
//! Nothing here reads or writes a file. Values of a conflist that are not ours are kept byte for byte, and keys in their order.

mod cached;
mod directory;
mod entry;
mod network;
mod object;
mod plan;

pub use cached::Cached;
pub use directory::{Directory, is_candidate};
pub use entry::{Entry, EntryError};
pub use network::{Malformed, Network, Notice, Refusal};
pub use plan::{Absence, Act, Chain, GONE, Healing, Mode, Names, Step};
