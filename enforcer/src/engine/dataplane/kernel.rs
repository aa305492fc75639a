// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The node's kernel, and the run directory.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use podgate_abi::{
    Class, Direction, Foreign, PeerWord, PolicyWord, PrefixKey, PrefixWord, RulesetId,
};
use podgate_datapath::attach::{self, FilterStatus};
use podgate_datapath::flows::Copied;
use podgate_datapath::guard::{self, Family};
use podgate_datapath::isolated::{self, Isolation, Namespaces, Written};
use podgate_datapath::lock::Lock;
use podgate_datapath::netlink::{Ifindex, Link, Socket};
use podgate_datapath::owed::{self, Owed};
use podgate_datapath::record::{self, AttachmentId, Reader, Record, Slot};
use podgate_datapath::sweep::{self, Swept};
use podgate_datapath::tables::{FlowUse, Over, TableSet, Unnamed, Usage};
use podgate_datapath::{Failed, LoadError, Paths, Sizes, SkbLayout};

use super::{Dataplane, Set};
use crate::engine::Event;
use crate::engine::directory::Directory;
use crate::engine::draft::{Basis, Drafted, Finished};
use crate::engine::grace::Graces;
use crate::engine::reconcile::LOCK_PATIENCE;
use crate::node::{self, Addresses};
use crate::plan::{Table, Write};

/// The kernel of this node, for the engine that hears of these events.
#[derive(Debug)]
pub struct Kernel {
    paths: Paths,
    reader: Reader,
    graces: Graces,
    engine: Sender<Event>,
    drafts: (Sender<Finished<Kernel>>, Receiver<Finished<Kernel>>),
    begun: u64,
}

impl Kernel {
    /// The kernel, by these files and pins.
    ///
    /// # Errors
    /// When there are no threads to be had.
    pub fn new(paths: Paths, engine: Sender<Event>) -> Result<Self> {
        Ok(Self {
            paths,
            reader: Reader::default(),
            graces: Graces::start(engine.clone())?,
            engine,
            drafts: channel(),
            begun: 0,
        })
    }
}

impl Dataplane for Kernel {
    type Lock = Lock;
    type Set = TableSet;
    type Unnamed = Unnamed;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn lock(&self, until: Instant) -> Result<Lock> {
        Ok(Lock::take_until(&self.paths, until)?)
    }

    fn directory(&self) -> Directory {
        Directory::now(&self.paths)
    }

    fn records(&mut self) -> Result<Vec<Result<Record>>> {
        let records = self.reader.list(&self.paths)?.into_iter();
        Ok(records.map(|record| Ok(record?)).collect())
    }

    fn record(&self, identity: &AttachmentId) -> Result<Option<Record>> {
        Ok(record::read(&self.paths, identity)?)
    }

    fn restore_record(&self, record: &Record, lock: &Lock) -> Result<()> {
        Ok(record::restore(&self.paths, record, lock)?)
    }

    fn has_isolated_file(&self) -> bool {
        self.paths.isolated().exists()
    }

    fn write_isolated_file(&self, namespaces: &Namespaces, lock: &Lock) -> Result<Written> {
        Ok(isolated::write(&self.paths, namespaces, lock)?)
    }

    fn run_directory(&self) -> String {
        self.paths.run.display().to_string()
    }

    fn addresses(&self) -> Result<Addresses> {
        node::addresses_now()
    }

    fn links(&self) -> Result<Vec<Link>> {
        Ok(Socket::open().and_then(|mut socket| socket.links())?)
    }

    fn link(&self, number: Ifindex) -> Result<Link> {
        Ok(Socket::open()?.link_by_index(number)?)
    }

    fn sweep(&self, only: Option<Vec<Record>>, lock: &Lock) -> Result<Swept> {
        Ok(match only {
            Some(records) => sweep::sweep_some(&self.paths, lock, records)?,
            None => sweep::sweep(&self.paths, lock).context("sweep attachments")?,
        })
    }

    fn filter_status(&self, record: &Record) -> Result<FilterStatus> {
        Ok(attach::filter_status(record)?)
    }

    fn restore_mark(&self, record: &Record, lock: &Lock) -> Result<bool> {
        Ok(sweep::restore_mark(record, lock)?)
    }

    fn dropped_by_guard(&self, family: Family) -> Result<u64> {
        Ok(guard::dropped(family)?)
    }

    fn current(&self) -> Result<Option<TableSet>> {
        Ok(TableSet::open_current(&self.paths)?)
    }

    fn is_current(&self, set: &TableSet) -> Result<bool> {
        Ok(set.is_current()?)
    }

    fn judge_again(&self) -> Result<()> {
        let mut sets = TableSet::list_sets(&self.paths)?;
        sets.retain(|set| set.abi == podgate_abi::ABI);
        if sets.is_empty() {
            return Ok(());
        }
        let _lock = self.lock(Instant::now() + LOCK_PATIENCE)?;
        TableSet::grace()?;
        // A set that is not whole, because its build was killed, keeps no other from it.
        let renewed: Vec<_> = sets
            .into_iter()
            .map(|name| TableSet::at(&self.paths, name).renew_generations())
            .collect();
        for renewed in renewed {
            renewed?;
        }
        Ok(())
    }

    fn create(&self, sizes: &Sizes, lock: &Lock) -> Result<Unnamed> {
        Ok(TableSet::create(&self.paths, lock, sizes)?)
    }

    fn begin_draft(&mut self, basis: Basis) -> Result<u64> {
        self.begun += 1;
        let (number, paths) = (self.begun, self.paths.clone());
        let (engine, drafts) = (self.engine.clone(), self.drafts.0.clone());
        std::thread::Builder::new()
            .name("draft".into())
            .spawn(move || {
                // A bug there is an error like any other: the engine makes its next attempt.
                let create = |sizes: &Sizes| Ok(create_beside(&paths, sizes)?);
                let made = catch_unwind(AssertUnwindSafe(|| Drafted::make(basis, create)));
                let drafted =
                    made.unwrap_or_else(|_| bail!("the thread that makes a table set panicked"));
                let drafted = drafted.map(Box::new);
                // Without an engine, the next start unpins it.
                drop(drafts.send(Finished { number, drafted }));
                drop(engine.send(Event::Drafted));
            })
            .context("start a thread that makes a table set")?;
        Ok(number)
    }

    fn finished_drafts(&mut self) -> Vec<Finished<Self>> {
        self.drafts.1.try_iter().collect()
    }

    fn fill(set: &Unnamed, write: &Write) -> Result<()> {
        Ok(execute(write, Target::Unnamed(set))?)
    }

    fn name_current(&self, set: Unnamed, lock: &Lock) -> Result<TableSet> {
        Ok(set.name_current(lock)?)
    }

    fn unpin_unused(&self, lock: &Lock) {
        unpin_unused(&self.paths, lock);
    }

    fn write_sizes(&self, sizes: &Sizes) -> Result<()> {
        Ok(sizes.write(&self.paths)?)
    }

    fn with_foreign_flows(&self) -> Result<Option<String>> {
        let set = TableSet::with_foreign_flows(&self.paths)?;
        Ok(set.map(|set| set.to_string()))
    }

    fn blindness(&self) -> Option<String> {
        SkbLayout::of_kernel().err().map(|error| error.to_string())
    }

    fn begin_grace(&self) {
        self.graces.begin();
    }

    fn grace(&self) -> Result<()> {
        Ok(TableSet::grace()?)
    }

    fn owed_waits(&self, lock: &Lock) -> Result<()> {
        Ok(owed::grace_begins(&self.paths, lock)?)
    }

    fn paid(&self, owed: Owed, lock: &Lock) -> Result<()> {
        Ok(owed::paid(&self.paths, owed, lock)?)
    }
}

/// Holds the lock for its place and its name, and lets go of it while the programs are loaded.
fn create_beside(paths: &Paths, sizes: &Sizes) -> Result<Unnamed, LoadError> {
    let lock = Lock::take(paths)?;
    // Those of drafts that came to nothing.
    unpin_unused(paths, &lock);
    let begun = TableSet::begin(paths, &lock, sizes)?;
    drop(lock);
    let loaded = begun.load()?;
    let lock = Lock::take(paths)?;
    loaded.finish(&lock)
}

fn unpin_unused(paths: &Paths, lock: &Lock) {
    match sweep::unpin_unused_sets(paths, lock) {
        Ok(sets) => {
            for set in sets {
                tracing::info!(%set, "unpinned an older table set");
            }
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            tracing::warn!(error = format!("{error:#}"), "older table sets stay pinned");
        }
    }
}

impl Set for TableSet {
    type Lock = Lock;

    fn name(&self) -> impl Display {
        TableSet::name(self)
    }

    fn write(&self, write: &Write, lock: &Lock) -> Result<()> {
        Ok(execute(write, Target::Named(self, lock))?)
    }

    fn entries(&self, table: Table) -> Result<Option<u32>> {
        let found = match table {
            Table::Rows => self.row_keys()?.len(),
            Table::Peers => self.peer_addresses()?.len(),
            Table::Rulesets
            | Table::Prefixes
            | Table::PortSets
            | Table::Chunks
            | Table::Classes => return Ok(None),
        };
        Ok(Some(u32::try_from(found).unwrap_or(u32::MAX)))
    }

    fn birth(&self, slot: Slot) -> Result<u32> {
        Ok(self.read_attachment(slot)?.origin().birth())
    }

    fn put_attachment(&self, record: &Record, isolated: Isolation) -> Result<()> {
        Ok(self.write_waiting_attachment(record, isolated)?)
    }

    fn clear_attachment(&self, slot: Slot) -> Result<()> {
        Ok(TableSet::clear_attachment(self, slot)?)
    }

    fn deny(&self, record: &Record, direction: Direction, over: Over) -> Result<bool> {
        Ok(TableSet::deny(self, record, direction, over)?)
    }

    fn open(&self, record: &Record, direction: Direction) -> Result<()> {
        let stands = self.read_attachment(record.slot)?;
        ensure!(
            stands.origin().birth() == record.birth.0,
            "its slot is another attachment's"
        );
        let baseline = RulesetId::of(record.baseline);
        if self.read_word(record.slot, direction)?.ruleset() != baseline {
            let generation = TableSet::draw_generation(self)?.0;
            self.store_word(
                record.slot,
                direction,
                PolicyWord::new(baseline, generation),
            )?;
        }
        Ok(())
    }

    fn renew(&self, slot: Slot) -> Result<()> {
        Ok(self.renew_generation(slot)?)
    }

    fn renew_all(&self) -> Result<()> {
        Ok(self.renew_generations()?)
    }

    fn draw_generation(&self) -> Result<u32> {
        Ok(TableSet::draw_generation(self)?.0)
    }

    fn put_tunnel_ports(&self, ports: &BTreeSet<u16>) -> Result<()> {
        Ok(self.store_tunnel_ports(ports)?)
    }

    fn put_taken(&self, net: IpNet) -> Result<()> {
        Ok(TableSet::put_taken(self, net.addr(), net.prefix_len())?)
    }

    fn remove_taken(&self, net: IpNet) -> Result<bool> {
        Ok(TableSet::remove_taken(self, net.addr(), net.prefix_len())?)
    }

    fn put_foreign(&self, slot: Slot, mode: Foreign) -> Result<()> {
        Ok(self.store_foreign(slot, mode)?)
    }

    fn follow_master(&self, record: &Record) -> Result<()> {
        Ok(attach::follow_master(self, record)?)
    }

    fn swap(&self, record: &Record, lock: &Lock) -> Result<()> {
        Ok(TableSet::swap(self, record, lock)?)
    }

    fn restore(&self, record: &Record, lock: &Lock) -> Result<bool> {
        Ok(sweep::restore(self, record, lock)?)
    }

    fn copy_flows(&self, only: Option<Slot>) -> Result<Copied> {
        Ok(match only {
            Some(slot) => self.copy_flows_of(slot)?,
            None => TableSet::copy_flows(self)?,
        })
    }

    fn counters(&self, direction: Direction) -> Result<Vec<u64>> {
        Ok(TableSet::counters(self, direction)?)
    }

    fn flow_use(&self) -> Result<FlowUse> {
        Ok(TableSet::flow_use(self)?)
    }

    fn usage(&self) -> Result<Vec<Usage>> {
        Ok(TableSet::usage(self)?)
    }
}

/// The set that is written to.
#[derive(Debug, Clone, Copy)]
enum Target<'a> {
    /// One that plugins attach to.
    Named(&'a TableSet, &'a Lock),
    /// One that is being made.
    Unnamed(&'a Unnamed),
}

impl Target<'_> {
    fn set(&self) -> &TableSet {
        match self {
            Self::Named(set, _) => set,
            Self::Unnamed(set) => set,
        }
    }

    fn put_peer(&self, address: IpAddr, word: PeerWord) -> Result<(), Failed> {
        match self {
            Self::Named(set, lock) => set.put_peer(address, word, lock),
            Self::Unnamed(set) => set.put_peer(address, word),
        }
    }

    fn remove_peer(&self, address: IpAddr) -> Result<(), Failed> {
        match self {
            Self::Named(set, lock) => set.remove_peer(address, Owed::ByEnforcer, lock).map(drop),
            Self::Unnamed(set) => set.remove_peer(address),
        }
    }
}

/// Writes once.
fn execute(write: &Write, to: Target<'_>) -> Result<(), Failed> {
    let set = to.set();
    match write {
        Write::Chunk { number, chunk } => set.put_chunk(*number, chunk),
        Write::PortSet { number, chunks } => set.put_port_set(*number, *chunks),
        Write::DefaultRow { ruleset, row } => set.put_default_row(*ruleset, *row),
        Write::Row { key, row } => set.put_row(*key, *row),
        Write::RemoveRow { key } => set.remove_row(*key).map(drop),
        Write::Peer { address, word } => to.put_peer(IpAddr::from(*address), *word),
        Write::RemovePeer { address } => to.remove_peer(IpAddr::from(*address)),
        Write::Prefix { key, word } => {
            let (prefix, length) = in_own_family(*key);
            set.put_prefix(prefix, length, *word)
        }
        Write::RemovePrefix { key } => match in_own_family(*key) {
            // Always there, or `::/0` would hold IPv4.
            (all @ IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0) => {
                set.put_prefix(all, 0, PrefixWord(u64::from(Class::NONE.0)))
            }
            (prefix, length) => set.remove_prefix(prefix, length).map(drop),
        },
        Write::Way { key, word } => set.put_way(*key, *word),
        Write::RemoveWay { key } => set.remove_way(*key).map(drop),
        Write::Flip {
            slot,
            direction,
            ruleset,
        } => {
            let generation = set.draw_generation()?.0;
            let word = PolicyWord::new(*ruleset, generation);
            set.store_word(*slot, *direction, word)
        }
        Write::Renew { slot, direction } => set.renew_word(*slot, *direction),
    }
}

/// A prefix of 128 bits as it is written: IPv4 where it lies in the IPv4-mapped block.
fn in_own_family(key: PrefixKey) -> (IpAddr, u8) {
    let narrow = |length: u32| u8::try_from(length).unwrap_or(u8::MAX);
    match IpAddr::from(key.address) {
        v4 @ IpAddr::V4(_) if key.length >= 96 => (v4, narrow(key.length - 96)),
        IpAddr::V4(v4) => (v4.to_ipv6_mapped().into(), narrow(key.length)),
        v6 @ IpAddr::V6(_) => (v6, narrow(key.length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_keeps_its_family_and_length() {
        for (prefix, length, bits) in [
            ("10.0.0.0", 8, 104),
            ("0.0.0.0", 0, 96),
            ("::", 0, 0),
            ("fd00::", 8, 8),
            ("2001:db8::1", 128, 128),
        ] {
            let prefix: IpAddr = prefix.parse().unwrap();
            let key = PrefixKey {
                length: bits,
                address: prefix.into(),
            };
            assert_eq!(in_own_family(key), (prefix, length));
        }
    }
}
