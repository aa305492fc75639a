// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the engine asks of the node: kernel tables, the filters that run them, the files beside both, and the time.
//!
//! ```text
//! Engine<D> ──► D: Dataplane ─┬─► Kernel: maps, netlink, the run directory, the clock
//!                             └─► Model (tests): the same in memory; decide() runs on it, writes fail, time is set
//! ```

use std::collections::BTreeSet;
use std::fmt::{Debug, Display};
use std::ops::Deref;
use std::time::Instant;

use anyhow::Result;
use ipnet::IpNet;
use podgate_abi::{Direction, Foreign};
use podgate_datapath::Sizes;
use podgate_datapath::attach::FilterStatus;
use podgate_datapath::flows::Copied;
use podgate_datapath::guard::Family;
use podgate_datapath::isolated::{Isolation, Namespaces, Written};
use podgate_datapath::netlink::{Ifindex, Link};
use podgate_datapath::owed::Owed;
use podgate_datapath::record::{AttachmentId, Record, Slot};
use podgate_datapath::sweep::Swept;
use podgate_datapath::tables::{FlowUse, Over, Usage};

use crate::node::Addresses;
use crate::plan::{Table, Write};

mod kernel;
#[cfg(test)]
pub(crate) mod model;

pub use super::directory::Directory;
pub use super::draft::{Basis, Drafted, Finished};
pub use kernel::Kernel;

/// The node, as far as policy is put in force there.
pub trait Dataplane: Debug + Sized {
    /// What plugins and the enforcer hold in turn.
    type Lock;
    /// A table set.
    type Set: Set<Lock = Self::Lock>;
    /// A table set that is being made: nothing attaches to it, and what is written to it needs no order.
    type Unnamed: Deref<Target = Self::Set> + Debug;

    /// What the clock says.
    fn now(&self) -> Instant;

    /// The lock, if it is to be had until then.
    fn lock(&self, until: Instant) -> Result<Self::Lock>;

    /// When the attachment files changed last.
    fn directory(&self) -> Directory;
    /// Every attachment that has a file, and why a file cannot be read.
    fn records(&mut self) -> Result<Vec<Result<Record>>>;
    /// The attachment of this identity, as its file says it.
    fn record(&self, identity: &AttachmentId) -> Result<Option<Record>>;
    /// Writes the file of an attachment again.
    fn restore_record(&self, record: &Record, lock: &Self::Lock) -> Result<()>;
    /// Whether there is a record of which namespaces isolate.
    fn has_isolated_file(&self) -> bool;
    /// Writes it.
    fn write_isolated_file(&self, namespaces: &Namespaces, lock: &Self::Lock) -> Result<Written>;
    /// Where these files are; for people.
    fn run_directory(&self) -> String;

    /// The node's own addresses.
    fn addresses(&self) -> Result<Addresses>;
    /// Every interface.
    fn links(&self) -> Result<Vec<Link>>;
    /// One interface.
    fn link(&self, number: Ifindex) -> Result<Link>;
    /// Removes the attachments whose interface is gone: of these, or of all.
    fn sweep(&self, only: Option<Vec<Record>>, lock: &Self::Lock) -> Result<Swept>;
    /// What stands at an attachment's host end.
    fn filter_status(&self, record: &Record) -> Result<FilterStatus>;
    /// Puts a host end back into its group; whether it was in another.
    fn restore_mark(&self, record: &Record, lock: &Self::Lock) -> Result<bool>;
    /// How many packets the guard has dropped since it stands.
    fn dropped_by_guard(&self, family: Family) -> Result<u64>;

    /// The table set that plugins attach to, if there is one.
    fn current(&self) -> Result<Option<Self::Set>>;
    /// Whether this is the one. An error says nothing of it.
    fn is_current(&self, set: &Self::Set) -> Result<bool>;
    /// Has all flows judged again, by the table sets as they stand.
    fn judge_again(&self) -> Result<()>;
    /// Makes a table set at once.
    fn create(&self, sizes: &Sizes, lock: &Self::Lock) -> Result<Self::Unnamed>;
    /// Has one made beside the engine, which hears of it by [`Event::Drafted`](super::Event::Drafted). Its number.
    fn begin_draft(&mut self, basis: Basis) -> Result<u64>;
    /// What became of those that were begun.
    fn finished_drafts(&mut self) -> Vec<Finished<Self>>;
    /// Executes a write for a table set that is being made.
    fn fill(set: &Self::Unnamed, write: &Write) -> Result<()>;
    /// Has plugins attach to a table set from now on.
    fn name_current(&self, set: Self::Unnamed, lock: &Self::Lock) -> Result<Self::Set>;
    /// Unpins the table sets that nothing runs.
    fn unpin_unused(&self, lock: &Self::Lock);
    /// Tells plugins how large tables are to be.
    fn write_sizes(&self, sizes: &Sizes) -> Result<()>;
    /// The current table set, if its flows have a layout that is not known.
    fn with_foreign_flows(&self) -> Result<Option<String>>;
    /// Why programs cannot look at checksums that are still to be computed, if they cannot.
    fn blindness(&self) -> Option<String>;

    /// Begins a grace period, of whose end the engine hears.
    fn begin_grace(&self);
    /// Waits for one.
    fn grace(&self) -> Result<()>;
    /// Notes that what is owed to flows waits for the grace period that begins.
    fn owed_waits(&self, lock: &Self::Lock) -> Result<()>;
    /// Notes that nothing of this kind is owed any more.
    fn paid(&self, owed: Owed, lock: &Self::Lock) -> Result<()>;
}

/// A table set, and the filters that run it.
pub trait Set: Debug {
    /// See [`Dataplane::Lock`].
    type Lock;

    /// Which one; for people.
    fn name(&self) -> impl Display;
    /// Executes a write.
    fn write(&self, write: &Write, lock: &Self::Lock) -> Result<()>;
    /// How many entries a table has, if they can be counted.
    fn entries(&self, table: Table) -> Result<Option<u32>>;

    /// The birth of the attachment of a slot; 0: there is none.
    fn birth(&self, slot: Slot) -> Result<u32>;
    /// Writes an attachment as it is at birth, denied in these directions.
    fn put_attachment(&self, record: &Record, isolated: Isolation) -> Result<()>;
    /// Empties a slot: what filters still name it drop everything.
    fn clear_attachment(&self, slot: Slot) -> Result<()>;
    /// Has an attachment drop what passes in a direction; whether something could pass. Needs no lock.
    fn deny(&self, record: &Record, direction: Direction, over: Over) -> Result<bool>;
    /// Has an attachment that may have waited closed fall back to its baseline in a direction.
    fn open(&self, record: &Record, direction: Direction) -> Result<()>;
    /// Has the flows of an attachment judged again.
    fn renew(&self, slot: Slot) -> Result<()>;
    /// Has all flows judged again.
    fn renew_all(&self) -> Result<()>;
    /// Draws a generation that none has had.
    fn draw_generation(&self) -> Result<u32>;

    /// Where the node's devices take tunnels.
    fn put_tunnel_ports(&self, ports: &BTreeSet<u16>) -> Result<()>;
    /// An address or range is a pod's, a node's or a Service's.
    fn put_taken(&self, net: IpNet) -> Result<()>;
    /// It is not any more; whether it was.
    fn remove_taken(&self, net: IpNet) -> Result<bool>;
    /// What becomes of foreign addresses at an attachment.
    fn put_foreign(&self, slot: Slot, mode: Foreign) -> Result<()>;
    /// Which bridge the host end of an attachment is a port of.
    fn follow_master(&self, record: &Record) -> Result<()>;

    /// Replaces the filters of an attachment by this set's; never makes any.
    fn swap(&self, record: &Record, lock: &Self::Lock) -> Result<()>;
    /// Makes the filters that are missing; whether some were.
    fn restore(&self, record: &Record, lock: &Self::Lock) -> Result<bool>;
    /// Copies flows of older sets: all, or an attachment's.
    fn copy_flows(&self, only: Option<Slot>) -> Result<Copied>;

    /// Packets by reason.
    fn counters(&self, direction: Direction) -> Result<Vec<u64>>;
    /// How many flows attachments have.
    fn flow_use(&self) -> Result<FlowUse>;
    /// What tables cost.
    fn usage(&self) -> Result<Vec<Usage>>;
}
