// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A node in memory: table sets on which `decide()` runs, attachment files, filters, a clock that is set. Every operation may
//! fail, and after every write packets are tried.

mod operations;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use podgate_abi::{Address, Direction};
use podgate_datapath::isolated::{self, Isolation, Namespaces};
use podgate_datapath::record::{AttachmentId, Generation, Record, Slot};

use super::Finished;
use crate::plan::Write;
use crate::plan::host::HostTables;

/// The node. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Model(Rc<Node>);

/// What there is, engine or not.
struct Node {
    began: Instant,
    /// How long an operation takes: turns end in the middle.
    tick: Duration,
    passed: Cell<Duration>,
    state: RefCell<State>,
    generation: Rc<Cell<u32>>,
    faults: Cell<Faults>,
    /// What a plugin does before the lock is had so many times more.
    plugin: RefCell<Option<(u32, Plugin)>>,
    /// What they have done.
    done: RefCell<Vec<Plugin>>,
    /// Called after every change of a table.
    probe: RefCell<Option<Box<dyn Fn()>>>,
}

/// Which operations fail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// How many operations work before.
    pub(crate) after: u32,
    /// How many fail then.
    pub(crate) number: u32,
}

/// A run of the plugin.
#[derive(Debug, Clone)]
pub(crate) enum Plugin {
    /// An ADD, of which the record has neither slot nor birth yet.
    Add(Box<Record>),
    /// A DEL, and what it removed.
    Del(AttachmentId, Option<Box<Record>>),
}

#[derive(Default)]
struct State {
    files: BTreeMap<AttachmentId, Record>,
    /// The birth of the last attachment that had an address.
    added: BTreeMap<IpAddr, u32>,
    /// How often files came or went.
    changes: u64,
    isolated: Option<Namespaces>,
    sets: u32,
    current: Option<ModelSet>,
    /// The sets that were made last and may be named current.
    unnamed: Vec<Weak<RefCell<HostTables>>>,
    /// Which set judges what goes through a slot's filters.
    filters: BTreeMap<Slot, ModelSet>,
    drafts: Vec<Finished<Model>>,
    begun: u64,
    grace_is_wanted: bool,
    addresses: BTreeSet<IpAddr>,
}

/// A table set.
#[derive(Clone)]
pub(crate) struct ModelSet {
    number: u32,
    node: Rc<Node>,
    tables: Rc<RefCell<HostTables>>,
}

/// One that is being made.
#[derive(Debug)]
pub(crate) struct ModelDraft(ModelSet);

impl Deref for ModelDraft {
    type Target = ModelSet;

    fn deref(&self) -> &ModelSet {
        &self.0
    }
}

impl ModelSet {
    fn fresh_generation(&self) -> u32 {
        self.tables.borrow().fresh_generation()
    }

    fn put(&self, record: &Record, isolation: Isolation) {
        let addresses: Vec<Address> = record.addresses.iter().copied().map(Into::into).collect();
        let rulesets =
            Direction::BOTH.map(|it| isolated::until_in_force(isolation, it, record.baseline));
        self.tables
            .borrow_mut()
            .put_attachment(record.slot, &addresses, record.birth.0, rulesets);
    }

    fn execute(&self, write: &Write) {
        let tables = self.tables.borrow();
        let is_left = matches!(
            write,
            Write::Flip { slot, .. } | Write::Renew { slot, .. } if tables.birth(*slot) == 0
        );
        // The word of a slot without an attachment is read by none.
        if !is_left {
            tables.execute_write(write);
        }
    }

    fn holds(&self, record: &Record) -> Result<()> {
        let birth = self.tables.borrow().birth(record.slot);
        ensure!(birth == record.birth.0, "its slot is another attachment's");
        Ok(())
    }

    /// Of how many addresses it says something.
    pub(crate) fn peers(&self) -> usize {
        let [_rows, peers] = self.tables.borrow().entries();
        peers
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Model")
    }
}

impl fmt::Debug for ModelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set {}", self.number)
    }
}

impl Node {
    /// An operation that may fail.
    fn try_to(&self, what: &str) -> Result<()> {
        self.passed.set(self.passed.get() + self.tick);
        let Faults { after, number } = self.faults.get();
        if after > 0 {
            self.faults.set(Faults {
                after: after - 1,
                number,
            });
        } else if number > 0 {
            self.faults.set(Faults {
                after,
                number: number - 1,
            });
            bail!("{what}: the fault that was asked for");
        }
        Ok(())
    }

    fn probe(&self) {
        // What is probed is read by this, and changes nothing.
        let probe = self.probe.borrow();
        if let Some(probe) = probe.as_ref() {
            probe();
        }
    }
}

/// What the driver does.
impl Model {
    /// A node on which nothing has happened, and on which each operation takes so long.
    pub(crate) fn new(tick: Duration) -> Self {
        Self(Rc::new(Node {
            began: Instant::now(),
            tick,
            passed: Cell::default(),
            state: RefCell::default(),
            generation: Rc::new(Cell::new(1)),
            faults: Cell::default(),
            plugin: RefCell::default(),
            done: RefCell::default(),
            probe: RefCell::default(),
        }))
    }

    /// Ends the node: what it holds holds it in turn, and would live on.
    pub(crate) fn take_apart(&self) {
        drop(self.0.state.take());
        drop(self.0.probe.take());
    }

    pub(crate) fn probe_with(&self, probe: impl Fn() + 'static) {
        *self.0.probe.borrow_mut() = Some(Box::new(probe));
    }

    pub(crate) fn fail(&self, faults: Faults) {
        self.0.faults.set(faults);
    }

    /// Whether some operation is still to fail.
    pub(crate) fn has_faults(&self) -> bool {
        self.0.faults.get().number > 0
    }

    pub(crate) fn wait(&self, time: Duration) {
        self.0.passed.set(self.0.passed.get() + time);
    }

    /// Whether the engine waits for a grace period, which is over with that.
    pub(crate) fn take_grace(&self) -> bool {
        std::mem::take(&mut self.0.state.borrow_mut().grace_is_wanted)
    }

    pub(crate) fn set_addresses(&self, addresses: impl Iterator<Item = IpAddr>) {
        self.0.state.borrow_mut().addresses = addresses.collect();
    }

    pub(crate) fn has_drafts(&self) -> bool {
        !self.0.state.borrow().drafts.is_empty()
    }

    /// The attachments.
    pub(crate) fn attachments(&self) -> Vec<Record> {
        self.0.state.borrow().files.values().cloned().collect()
    }

    /// Whether the attachment of this birth is there.
    pub(crate) fn has_birth(&self, birth: u32) -> bool {
        let state = self.0.state.borrow();
        state.files.values().any(|record| record.birth.0 == birth)
    }

    /// The birth of the last attachment that had an address.
    pub(crate) fn added(&self, address: IpAddr) -> Option<u32> {
        self.0.state.borrow().added.get(&address).copied()
    }

    /// What judges the packets of a slot.
    pub(crate) fn tables_of(&self, slot: Slot) -> Option<Rc<RefCell<HostTables>>> {
        let state = self.0.state.borrow();
        state.filters.get(&slot).map(|set| Rc::clone(&set.tables))
    }

    /// The generation that was drawn last.
    pub(crate) fn generation(&self) -> u32 {
        self.0.generation.get()
    }

    /// Has a plugin run once the lock was had so many times, before it is had again.
    pub(crate) fn run_later(&self, locks: u32, plugin: Plugin) {
        *self.0.plugin.borrow_mut() = Some((locks, plugin));
    }

    /// The one that has not run yet.
    pub(crate) fn next_plugin(&self) -> Option<Plugin> {
        let next = self.0.plugin.borrow();
        next.as_ref().map(|(_, plugin)| plugin.clone())
    }

    /// Has it run now.
    pub(crate) fn run_plugin(&self) {
        let next = self.0.plugin.borrow_mut().take();
        if let Some((_, plugin)) = next {
            self.run(plugin);
        }
    }

    /// The lock is had: it runs first, if it has waited long enough.
    fn before_lock(&self) {
        if let Some((locks @ 1.., _)) = self.0.plugin.borrow_mut().as_mut() {
            *locks -= 1;
            return;
        }
        self.run_plugin();
    }

    /// What plugins have done.
    pub(crate) fn plugins_done(&self) -> Vec<Plugin> {
        std::mem::take(&mut *self.0.done.borrow_mut())
    }

    fn run(&self, plugin: Plugin) {
        let done = match plugin {
            Plugin::Add(record) => {
                // It replaces what has its identity.
                if let Some(old) = self.remove(&record.identity) {
                    let old = Plugin::Del(old.identity.clone(), Some(Box::new(old)));
                    self.0.done.borrow_mut().push(old);
                }
                Plugin::Add(Box::new(self.add(*record)))
            }
            Plugin::Del(identity, _) => {
                let removed = self.remove(&identity);
                Plugin::Del(identity, removed.map(Box::new))
            }
        };
        self.0.done.borrow_mut().push(done);
    }

    /// Somebody takes away the record of isolated namespaces.
    pub(crate) fn lose_isolated_file(&self) {
        self.0.state.borrow_mut().isolated = None;
    }

    /// What the plugin does at ADD, in its order, as far as policy is concerned.
    fn add(&self, mut record: Record) -> Record {
        record = self.with_free_addresses(&record);
        let current = self.0.state.borrow().current.clone();
        let current = current.unwrap_or_else(|| {
            let set = self.new_set();
            self.0.state.borrow_mut().current = Some(set.clone());
            set
        });
        {
            // The kernel's slots rest before they are given out again; here as few are as can be.
            let state = self.0.state.borrow();
            let used: BTreeSet<Slot> = state.files.values().map(|record| record.slot).collect();
            let free = (1..).map(Slot).find(|slot| !used.contains(slot));
            record.slot = free.expect("few attachments");
        }
        record.birth = Generation(current.fresh_generation());
        let isolated = self.isolated_of(&record);
        current.put(&record, isolated);
        let mut sets = vec![Rc::clone(&current.tables)];
        // One that is being made may have no name yet, or be filled later.
        if record.birth.0.is_multiple_of(2) {
            let state = self.0.state.borrow();
            sets.extend(state.unnamed.iter().filter_map(Weak::upgrade));
        }
        for address in &record.addresses {
            let address = Address::from(*address);
            for tables in &sets {
                tables
                    .borrow()
                    .execute_write(&Write::RemovePeer { address });
            }
        }
        let mut state = self.0.state.borrow_mut();
        let births = record.addresses.iter().map(|it| (*it, record.birth.0));
        state.added.extend(births);
        state.files.insert(record.identity.clone(), record.clone());
        state.changes += 1;
        state.filters.insert(record.slot, current);
        drop(state);
        self.0.probe();
        record
    }

    /// What another attachment has is not given out again.
    pub(crate) fn with_free_addresses(&self, record: &Record) -> Record {
        let mut others = self.attachments();
        others.retain(|it| it.identity != record.identity);
        let taken: BTreeSet<IpAddr> = others.into_iter().flat_map(|it| it.addresses).collect();
        let mut record = record.clone();
        record.addresses.retain(|address| !taken.contains(address));
        record
    }

    fn isolated_of(&self, record: &Record) -> Isolation {
        let state = self.0.state.borrow();
        let namespace = record.pod.as_ref().map(|pod| &pod.namespace);
        let known = state.isolated.as_ref().zip(namespace);
        known
            .and_then(|(known, namespace)| known.get(namespace).copied())
            .unwrap_or_default()
    }

    /// What it does at DEL.
    fn remove(&self, identity: &AttachmentId) -> Option<Record> {
        let mut state = self.0.state.borrow_mut();
        let record = state.files.remove(identity)?;
        state.changes += 1;
        state.filters.remove(&record.slot);
        if let Some(current) = &state.current {
            current.tables.borrow_mut().clear(record.slot);
        }
        Some(record)
    }

    fn new_set(&self) -> ModelSet {
        let mut state = self.0.state.borrow_mut();
        state.sets += 1;
        let tables = HostTables::counting(Rc::clone(&self.0.generation));
        ModelSet {
            number: state.sets,
            node: Rc::clone(&self.0),
            tables: Rc::new(RefCell::new(tables)),
        }
    }
}
