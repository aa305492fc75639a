// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Loads, pins, attaches, swaps, lists and updates: the only code that touches bpffs, maps or tc.
//!
//! ```text
//! attach ──► slots ──► record (files)
//!    │          └────► tables ──► object ──► map_spec, bpffs
//!    └──► filter ──► netlink         └─► sys (raw bpf, mmap)
//! ```

pub mod attach;
mod bpffs;
mod btf;
mod error;
pub mod filter;
pub mod flows;
pub mod guard;
pub mod isolated;
pub mod lock;
mod map_spec;
pub mod mark;
pub mod memory;
pub mod netlink;
mod nft;
mod object;
pub mod owed;
mod ownership;
mod paths;
pub mod record;
pub mod release;
mod sizes;
mod slots;
pub mod sweep;
mod sys;
pub mod tables;
pub mod uninstall;

pub use bpffs::SetName;
pub use btf::SkbLayout;
pub use error::Failed;
pub use nft::NftError;
pub use object::LoadError;
pub use paths::Paths;
pub use sizes::Sizes;
