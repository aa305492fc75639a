// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the engine does to the node in memory.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use podgate_abi::{Direction, Foreign, RulesetId};
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

use super::{Model, ModelDraft, ModelSet};
use crate::engine::dataplane::{Basis, Dataplane, Directory, Drafted, Finished, Set};
use crate::node::Addresses;
use crate::plan::{Table, Write};

impl Dataplane for Model {
    type Lock = ();
    type Set = ModelSet;
    type Unnamed = ModelDraft;

    fn now(&self) -> Instant {
        self.0.began + self.0.passed.get()
    }

    fn lock(&self, _until: Instant) -> Result<()> {
        self.0.try_to("lock")?;
        self.before_lock();
        Ok(())
    }

    fn directory(&self) -> Directory {
        let changes = self.0.state.borrow().changes;
        Directory::changed_at(SystemTime::UNIX_EPOCH + Duration::from_secs(changes))
    }

    fn records(&mut self) -> Result<Vec<Result<Record>>> {
        self.0.try_to("list attachments")?;
        Ok(self.attachments().into_iter().map(Ok).collect())
    }

    fn record(&self, identity: &AttachmentId) -> Result<Option<Record>> {
        self.0.try_to("read an attachment")?;
        Ok(self.0.state.borrow().files.get(identity).cloned())
    }

    fn restore_record(&self, record: &Record, (): &()) -> Result<()> {
        self.0.try_to("restore an attachment")?;
        let mut state = self.0.state.borrow_mut();
        state.files.insert(record.identity.clone(), record.clone());
        state.changes += 1;
        Ok(())
    }

    fn has_isolated_file(&self) -> bool {
        self.0.state.borrow().isolated.is_some()
    }

    fn write_isolated_file(&self, namespaces: &Namespaces, (): &()) -> Result<Written> {
        self.0.try_to("write the record of isolated namespaces")?;
        self.0.state.borrow_mut().isolated = Some(namespaces.clone());
        Ok(Written::Whole)
    }

    fn run_directory(&self) -> String {
        "memory".into()
    }

    fn addresses(&self) -> Result<Addresses> {
        Ok(Addresses {
            own: self.0.state.borrow().addresses.clone(),
            ..Addresses::default()
        })
    }

    fn links(&self) -> Result<Vec<Link>> {
        Ok(Vec::new())
    }

    fn link(&self, number: Ifindex) -> Result<Link> {
        bail!("no interface {number}")
    }

    fn sweep(&self, _only: Option<Vec<Record>>, (): &()) -> Result<Swept> {
        self.0.try_to("sweep attachments")?;
        Ok(Swept::default())
    }

    fn filter_status(&self, record: &Record) -> Result<FilterStatus> {
        self.0.try_to("look at filters")?;
        let state = self.0.state.borrow();
        Ok(match state.filters.get(&record.slot) {
            Some(_) => FilterStatus::InForce,
            None => FilterStatus::Gone {
                direction: Direction::Ingress,
            },
        })
    }

    fn restore_mark(&self, _record: &Record, (): &()) -> Result<bool> {
        Ok(false)
    }

    fn dropped_by_guard(&self, _family: Family) -> Result<u64> {
        Ok(0)
    }

    fn current(&self) -> Result<Option<ModelSet>> {
        self.0.try_to("open the current table set")?;
        Ok(self.0.state.borrow().current.clone())
    }

    fn is_current(&self, set: &ModelSet) -> Result<bool> {
        self.0.try_to("look at the current table set")?;
        let state = self.0.state.borrow();
        let current = state.current.as_ref();
        Ok(current.is_some_and(|current| current.number == set.number))
    }

    fn judge_again(&self) -> Result<()> {
        let current = self.0.state.borrow().current.clone();
        current.map_or(Ok(()), |set| set.renew_all())
    }

    fn create(&self, _sizes: &Sizes, (): &()) -> Result<ModelDraft> {
        self.0.try_to("make a table set")?;
        let set = self.new_set();
        let unnamed = &mut self.0.state.borrow_mut().unnamed;
        unnamed.retain(|tables| tables.strong_count() > 0);
        unnamed.push(Rc::downgrade(&set.tables));
        Ok(ModelDraft(set))
    }

    fn begin_draft(&mut self, basis: Basis) -> Result<u64> {
        self.0.try_to("begin a draft")?;
        let made = Drafted::make(basis, |sizes| self.create(sizes, &()));
        let mut state = self.0.state.borrow_mut();
        state.begun += 1;
        let number = state.begun;
        let drafted = made.map(Box::new);
        state.drafts.push(Finished { number, drafted });
        Ok(number)
    }

    fn finished_drafts(&mut self) -> Vec<Finished<Self>> {
        std::mem::take(&mut self.0.state.borrow_mut().drafts)
    }

    fn fill(set: &ModelDraft, write: &Write) -> Result<()> {
        set.node.try_to("fill a table set")?;
        set.execute(write);
        Ok(())
    }

    fn name_current(&self, set: ModelDraft, (): &()) -> Result<ModelSet> {
        self.0.try_to("name a table set")?;
        self.0.state.borrow_mut().current = Some(set.0.clone());
        Ok(set.0)
    }

    fn unpin_unused(&self, (): &()) {}

    fn write_sizes(&self, _sizes: &Sizes) -> Result<()> {
        self.0.try_to("write the sizes of tables")
    }

    fn with_foreign_flows(&self) -> Result<Option<String>> {
        Ok(None)
    }

    fn blindness(&self) -> Option<String> {
        None
    }

    fn begin_grace(&self) {
        self.0.state.borrow_mut().grace_is_wanted = true;
    }

    fn grace(&self) -> Result<()> {
        self.0.try_to("wait for a grace period")
    }

    fn owed_waits(&self, (): &()) -> Result<()> {
        self.0.try_to("note what is owed")
    }

    fn paid(&self, _owed: Owed, (): &()) -> Result<()> {
        self.0.try_to("note what is paid")
    }
}

impl Set for ModelSet {
    type Lock = ();

    fn name(&self) -> impl Display {
        self.number
    }

    fn write(&self, write: &Write, (): &()) -> Result<()> {
        self.node.try_to("write")?;
        self.execute(write);
        self.node.probe();
        Ok(())
    }

    fn entries(&self, table: Table) -> Result<Option<u32>> {
        let [rows, peers] = self.tables.borrow().entries();
        let found = match table {
            Table::Rows => rows,
            Table::Peers => peers,
            Table::Rulesets
            | Table::Prefixes
            | Table::PortSets
            | Table::Chunks
            | Table::Classes => return Ok(None),
        };
        Ok(Some(u32::try_from(found).context("few entries")?))
    }

    fn birth(&self, slot: Slot) -> Result<u32> {
        self.node.try_to("read an attachment's record")?;
        Ok(self.tables.borrow().birth(slot))
    }

    fn put_attachment(&self, record: &Record, isolated: Isolation) -> Result<()> {
        self.node.try_to("write an attachment's record")?;
        self.put(record, isolated);
        self.node.probe();
        Ok(())
    }

    fn clear_attachment(&self, slot: Slot) -> Result<()> {
        self.node.try_to("clear a slot")?;
        self.tables.borrow_mut().clear(slot);
        Ok(())
    }

    fn deny(&self, record: &Record, direction: Direction, over: Over) -> Result<bool> {
        self.node.try_to("isolate an attachment")?;
        self.holds(record)?;
        let stands = self.tables.borrow().word(record.slot, direction).ruleset();
        let stays = match over {
            Over::Open => stands != RulesetId::ALLOW_ALL,
            Over::Anything => stands == RulesetId::DENY_ALL,
        };
        if stays {
            return Ok(false);
        }
        let denied = RulesetId::DENY_ALL;
        self.tables.borrow().store(record.slot, direction, denied);
        self.node.probe();
        Ok(true)
    }

    fn open(&self, record: &Record, direction: Direction) -> Result<()> {
        self.node.try_to("open an attachment")?;
        self.holds(record)?;
        let baseline = RulesetId::of(record.baseline);
        self.tables.borrow().store(record.slot, direction, baseline);
        self.node.probe();
        Ok(())
    }

    fn renew(&self, slot: Slot) -> Result<()> {
        self.node.try_to("renew an attachment")?;
        let tables = self.tables.borrow();
        if tables.birth(slot) != 0 {
            for direction in Direction::BOTH {
                tables.store(slot, direction, tables.word(slot, direction).ruleset());
            }
        }
        Ok(())
    }

    fn renew_all(&self) -> Result<()> {
        let slots = self.tables.borrow().slots();
        slots.into_iter().try_for_each(|slot| self.renew(slot))
    }

    fn draw_generation(&self) -> Result<u32> {
        Ok(self.fresh_generation())
    }

    fn put_tunnel_ports(&self, _ports: &BTreeSet<u16>) -> Result<()> {
        self.node.try_to("write the ports of tunnels")
    }

    fn put_taken(&self, _net: IpNet) -> Result<()> {
        self.node.try_to("write a taken address")
    }

    fn remove_taken(&self, _net: IpNet) -> Result<bool> {
        self.node.try_to("remove a taken address")?;
        Ok(true)
    }

    fn put_foreign(&self, _slot: Slot, _mode: Foreign) -> Result<()> {
        self.node.try_to("write what becomes of foreign addresses")
    }

    fn follow_master(&self, _record: &Record) -> Result<()> {
        Ok(())
    }

    fn swap(&self, record: &Record, (): &()) -> Result<()> {
        self.node.try_to("swap filters")?;
        let mut state = self.node.state.borrow_mut();
        let filter = state.filters.get_mut(&record.slot);
        *filter.context("there are no filters")? = self.clone();
        drop(state);
        self.node.probe();
        Ok(())
    }

    fn restore(&self, record: &Record, (): &()) -> Result<bool> {
        self.node.try_to("restore filters")?;
        let mut state = self.node.state.borrow_mut();
        if state.filters.contains_key(&record.slot) {
            return Ok(false);
        }
        state.filters.insert(record.slot, self.clone());
        Ok(true)
    }

    fn copy_flows(&self, _only: Option<Slot>) -> Result<Copied> {
        Ok(Copied::default())
    }

    fn counters(&self, _direction: Direction) -> Result<Vec<u64>> {
        Ok(Vec::new())
    }

    fn flow_use(&self) -> Result<FlowUse> {
        Ok(FlowUse::default())
    }

    fn usage(&self) -> Result<Vec<Usage>> {
        Ok(Vec::new())
    }
}
