//! Loads, pins, attaches, swaps, lists and updates: the only code that touches bpffs, maps or tc.
//!
//! ```text
//! attach ──► slots ──► record (files)
//!    │          └────► tables ──► object ──► bpffs
//!    └──► filter ──► netlink         └─► sys (raw bpf, mmap)
//! ```

pub mod attach;
mod bpffs;
mod error;
pub mod filter;
pub mod flows;
pub mod isolated;
pub mod lock;
pub mod netlink;
mod object;
pub mod owed;
mod ownership;
mod paths;
pub mod record;
mod sizes;
mod slots;
pub mod sweep;
mod sys;
pub mod tables;

pub use bpffs::SetName;
pub use error::Failed;
pub use object::LoadError;
pub use paths::Paths;
pub use sizes::Sizes;
