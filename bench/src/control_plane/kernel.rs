// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is in force, by the pinned tables.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use podgate_abi::{Class, Column, Direction, RowKey};
use podgate_datapath::Paths;
use podgate_datapath::record::{self, AttachmentId, Slot};
use podgate_datapath::tables::{MapName, TableSet};

/// How often is looked.
const LOOK: Duration = Duration::from_micros(100);
/// After this something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// The current table set of a node.
#[derive(Debug)]
pub(crate) struct Kernel {
    paths: Paths,
    set: TableSet,
}

/// Whether a peer may begin a TCP connection to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) slot: Slot,
    pub(crate) peer: IpAddr,
    pub(crate) port: u16,
}

impl Kernel {
    pub(crate) fn open(paths: &Paths) -> Result<Self> {
        let set = TableSet::open_current(paths)?.context("the node has no table set")?;
        Ok(Self {
            paths: paths.clone(),
            set,
        })
    }

    /// The slot of an attachment.
    pub(crate) fn slot(&self, identity: &AttachmentId) -> Result<Slot> {
        let record = record::read(&self.paths, identity)?;
        Ok(record
            .with_context(|| format!("attachment {identity} has no record"))?
            .slot)
    }

    /// What the tables say now. While they are being changed that may be neither the old nor the new answer.
    pub(crate) fn allows(&self, question: Question) -> Result<bool> {
        let Question { slot, peer, port } = question;
        let ruleset = self.set.read_word(slot, Direction::Ingress)?.ruleset();
        let (class, broad) = match self.set.read_peer(peer)? {
            Some(word) => (word.class(), word.broad()),
            None => {
                let bits = if peer.is_ipv4() { 32 } else { 128 };
                let prefix = self.set.read_prefix(peer, bits)?;
                let broad = prefix.map_or(Class::NONE, |word| word.broad());
                (broad, broad)
            }
        };
        let row = match self.set.read_row(RowKey::new(ruleset, class))? {
            Some(row) => row,
            None => match self.set.read_row(RowKey::new(ruleset, broad))? {
                Some(row) => row,
                None => self.set.read_default_row(ruleset)?,
            },
        };
        let ports = Column::TCP.set(row.0[Column::TCP.word()]);
        let chunks = self.set.read_port_set(ports)?;
        let chunk = self.set.read_chunk(chunks.0[usize::from(port >> 12)])?;
        Ok(chunk.0[usize::from(port & 0xfff) >> 6] >> (port & 63) & 1 == 1)
    }

    /// Waits until the tables give this answer; tells when they did.
    pub(crate) fn wait(&mut self, question: Question, answer: bool) -> Result<Instant> {
        self.wait_for(
            || format!("{question:?} is answered with {answer}"),
            |kernel| Ok(kernel.allows(question)? == answer),
        )
    }

    /// Waits until the address has a class, or none.
    pub(crate) fn wait_for_peer(&mut self, address: IpAddr, is_known: bool) -> Result<Instant> {
        self.wait_for(
            || format!("address {address} is known: {is_known}"),
            |kernel| Ok(kernel.set.read_peer(address)?.is_some() == is_known),
        )
    }

    fn wait_for(
        &mut self,
        what: impl Fn() -> String,
        is_so: impl Fn(&Self) -> Result<bool>,
    ) -> Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if is_so(self)? {
                return Ok(Instant::now());
            }
            if Instant::now() > deadline {
                bail!(
                    "after {PATIENCE:?} it is not so in the kernel that {}",
                    what()
                );
            }
            self.follow()?;
            std::thread::sleep(LOOK);
        }
    }

    /// The enforcer may have named another set current.
    pub(crate) fn follow(&mut self) -> Result<()> {
        if let Some(current) = TableSet::open_current(&self.paths)?
            && current.name() != self.set.name()
        {
            self.set = current;
        }
        Ok(())
    }

    /// Entries of a hash table.
    pub(crate) fn entries(&self, map: MapName) -> Result<u64> {
        let entries = self.set.entries(map)?;
        Ok(entries.context("a table that has no entries")?.try_into()?)
    }

    /// Bytes of all tables, the shared ones too.
    pub(crate) fn bytes(&self) -> Result<u64> {
        Ok(self.set.usage()?.iter().map(|usage| usage.bytes).sum())
    }
}
