// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A model of a table set on the host, on which `decide()` runs and plans are executed, write by write.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use podgate_abi::{
    Address, Attachment, Birth, CHUNK_ALL, CHUNK_NONE, Chunk, Class, Direction, Event, FlowEntry,
    FlowKey, FlowTable, FlowValue, FragmentKey, FragmentValue, HardwareWord, Limit, MAX_ADDRESSES,
    NextHop, PacketCtx, PeerWord, PolicyWord, PortSetChunks, PortSetId, PrefixWord, Put, Quota,
    RowKey, RowWords, RulesetId, Slot, Tables, WayKey, WayWord, Word, tunnel,
};

use super::Write;

pub(crate) mod frames;

/// Room for flows.
const FLOWS: usize = 4096;

/// Something that happens to the tables, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A write.
    Write(Write),
    /// A grace period begins: it waits for the packets that are on their way now, not for those that come later.
    GraceBegins,
    /// It is over.
    GraceOver,
}

/// Whether packets leave flows behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flows {
    /// A packet is judged by the policy alone, and forgotten.
    Ignored,
    /// As in the kernel.
    Tracked,
}

/// The tables.
pub(crate) struct HostTables {
    attachments: BTreeMap<Slot, Attachment>,
    default_rows: RefCell<HashMap<RulesetId, RowWords>>,
    rows: RefCell<HashMap<RowKey, RowWords>>,
    peers: RefCell<HashMap<Address, PeerWord>>,
    prefixes: RefCell<BTreeMap<(u32, u128), PrefixWord>>,
    ways: RefCell<HashMap<WayKey, WayWord>>,
    port_sets: RefCell<HashMap<PortSetId, PortSetChunks>>,
    chunks: RefCell<HashMap<u16, Chunk>>,
    flows: Cell<Flows>,
    places: RefCell<[HashMap<FlowKey, usize>; 3]>,
    values: Vec<FlowValue>,
    next_place: Cell<usize>,
    generation: Rc<Cell<u32>>,
    /// Nobody has used up anything.
    quota: Quota,
    common: Word,
    /// Writes that happen while a packet is on its way, after so many of its look-ups.
    meanwhile: RefCell<Option<(u32, Vec<Step>)>>,
}

/// A flow of the model.
#[derive(Clone, Copy)]
pub(crate) struct HostFlow<'a>(&'a FlowValue);

impl FlowEntry for HostFlow<'_> {
    fn value(&self) -> &FlowValue {
        self.0
    }
}

impl HostTables {
    /// A new table set, with room for attachments that have these slots and addresses.
    pub(crate) fn new(slots: impl IntoIterator<Item = (Slot, [Address; 2])>) -> Self {
        let mut tunnel_ports = [Chunk::NONE, Chunk::NONE, Chunk::NONE];
        for port in tunnel::UDP_PORTS {
            tunnel_ports[usize::from(port >> 12)].insert(port & 0xfff);
        }
        let mut protocols = Chunk::NONE;
        for protocol in tunnel::PROTOCOLS {
            protocols.insert(protocol.into());
        }
        let [low, middle, high] = tunnel_ports;
        let attachments = slots.into_iter().map(|(slot, [v4, v6])| {
            let mut addresses = [Address::UNSPECIFIED; MAX_ADDRESSES];
            addresses[..2].copy_from_slice(&[v4, v6]);
            let attachment = Attachment {
                hardware: Word::new(HardwareWord::UNBOUND.0),
                addresses,
                ..Attachment::default()
            };
            (slot, attachment)
        });
        let sets = |first: [u16; 3]| {
            let mut chunks = PortSetChunks::default();
            chunks.0[..3].copy_from_slice(&first);
            chunks
        };
        Self {
            attachments: attachments.collect(),
            default_rows: RefCell::default(),
            rows: RefCell::default(),
            peers: RefCell::default(),
            prefixes: RefCell::default(),
            ways: RefCell::default(),
            port_sets: RefCell::new(HashMap::from([
                (PortSetId::TUNNEL_PORTS, sets([2, 3, 4])),
                (
                    PortSetId::TUNNEL_PROTOCOLS,
                    sets([5, CHUNK_NONE, CHUNK_NONE]),
                ),
            ])),
            chunks: RefCell::new(HashMap::from([
                (CHUNK_ALL, Chunk::ALL),
                (2, low),
                (3, middle),
                (4, high),
                (5, protocols),
            ])),
            flows: Cell::new(Flows::Ignored),
            places: RefCell::default(),
            values: (0..FLOWS).map(|_| FlowValue::default()).collect(),
            next_place: Cell::new(0),
            generation: Rc::new(Cell::new(1)),
            quota: Quota::default(),
            common: Word::default(),
            meanwhile: RefCell::default(),
        }
    }

    /// One of another table set, which shares this counter of generations.
    pub(crate) fn counting(generation: Rc<Cell<u32>>) -> Self {
        Self {
            generation,
            ..Self::new([])
        }
    }

    /// Writes an attachment with these addresses, birth and rulesets.
    pub(crate) fn put_attachment(
        &mut self,
        slot: Slot,
        own: &[Address],
        birth: u32,
        rulesets: [RulesetId; 2],
    ) {
        let mut addresses = [Address::UNSPECIFIED; MAX_ADDRESSES];
        addresses[..own.len()].copy_from_slice(own);
        let attachment = Attachment {
            hardware: Word::new(HardwareWord::UNBOUND.0),
            addresses,
            ..Attachment::default()
        };
        attachment.origin.store(Birth::new(birth).0);
        for (word, ruleset) in attachment.words.iter().zip(rulesets) {
            word.store(PolicyWord::new(ruleset, birth).0);
        }
        self.attachments.insert(slot, attachment);
    }

    /// Empties a slot.
    pub(crate) fn clear(&mut self, slot: Slot) {
        self.attachments.remove(&slot);
    }

    /// The birth of the attachment of a slot; 0: there is none.
    pub(crate) fn birth(&self, slot: Slot) -> u32 {
        let attachment = self.attachments.get(&slot);
        attachment.map_or(0, |attachment| attachment.origin().birth())
    }

    /// The slots that have an attachment.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        self.attachments.keys().copied().collect()
    }

    /// How many rows and peers there are.
    pub(crate) fn entries(&self) -> [usize; 2] {
        [self.rows.borrow().len(), self.peers.borrow().len()]
    }

    /// The address of a family that an attachment's pod has; without one, one that it has not.
    pub(crate) fn own(&self, slot: Slot, is_ipv4: bool) -> Address {
        let own = self.attachments.get(&slot).map(|it| it.addresses);
        let mut own = own.into_iter().flatten();
        own.find(|it| *it != Address::UNSPECIFIED && it.is_ipv4() == is_ipv4)
            .unwrap_or(Address::UNSPECIFIED)
    }

    /// What the plugin does: a record with a birth of its own, and the baseline in both directions.
    pub(crate) fn attach(&self, slot: Slot, baseline: RulesetId) {
        let generation = self.fresh_generation();
        let attachment = &self.attachments[&slot];
        attachment.origin.store(Birth::new(generation).0);
        for word in &attachment.words {
            word.store(PolicyWord::new(baseline, generation).0);
        }
    }

    /// Makes the next packets leave flows behind, or not.
    pub(crate) fn track(&self, flows: Flows) {
        self.flows.set(flows);
    }

    /// Forgets all flows.
    pub(crate) fn forget_flows(&self) {
        *self.places.borrow_mut() = <[HashMap<FlowKey, usize>; 3]>::default();
        self.next_place.set(0);
    }

    /// Executes `steps` while the next packet is on its way, after `lookups` of its look-ups, or behind it.
    pub(crate) fn meanwhile(&self, lookups: u32, steps: Vec<Step>) {
        *self.meanwhile.borrow_mut() = Some((lookups, steps));
    }

    /// Executes what is left of [`Self::meanwhile`].
    pub(crate) fn catch_up(&self) {
        let due = self.meanwhile.borrow_mut().take();
        for step in due.into_iter().flat_map(|(_, steps)| steps) {
            self.execute(&step);
        }
    }

    /// Executes one step.
    pub(crate) fn execute(&self, step: &Step) {
        match step {
            Step::Write(write) => self.execute_write(write),
            Step::GraceBegins | Step::GraceOver => {}
        }
    }

    /// The word of an attachment.
    pub(crate) fn word(&self, slot: Slot, direction: Direction) -> PolicyWord {
        self.attachments[&slot].word(direction)
    }

    /// Executes a write.
    pub(crate) fn execute_write(&self, write: &Write) {
        match write {
            Write::Chunk { number, chunk } => {
                self.chunks.borrow_mut().insert(*number, **chunk);
            }
            Write::PortSet { number, chunks } => {
                self.port_sets.borrow_mut().insert(*number, *chunks);
            }
            Write::DefaultRow { ruleset, row } => {
                self.default_rows.borrow_mut().insert(*ruleset, *row);
            }
            Write::Row { key, row } => {
                self.rows.borrow_mut().insert(*key, *row);
            }
            Write::RemoveRow { key } => {
                self.rows.borrow_mut().remove(key);
            }
            Write::Peer { address, word } => {
                self.peers.borrow_mut().insert(*address, *word);
            }
            Write::RemovePeer { address } => {
                self.peers.borrow_mut().remove(address);
            }
            Write::Prefix { key, word } => {
                let bits = u128::from_be_bytes(key.address.octets());
                self.prefixes.borrow_mut().insert((key.length, bits), *word);
            }
            Write::RemovePrefix { key } => {
                let bits = u128::from_be_bytes(key.address.octets());
                self.prefixes.borrow_mut().remove(&(key.length, bits));
            }
            Write::Way { key, word } => {
                self.ways.borrow_mut().insert(*key, *word);
            }
            Write::RemoveWay { key } => {
                self.ways.borrow_mut().remove(key);
            }
            Write::Flip {
                slot,
                direction,
                ruleset,
            } => self.store(*slot, *direction, *ruleset),
            Write::Renew { slot, direction } => {
                self.store(*slot, *direction, self.word(*slot, *direction).ruleset());
            }
        }
    }

    /// Stores the word of an attachment with a generation of its own.
    pub(crate) fn store(&self, slot: Slot, direction: Direction, ruleset: RulesetId) {
        let word = PolicyWord::new(ruleset, self.fresh_generation());
        let words: &[Word; 2] = &self.attachments[&slot].words;
        words[direction as usize].store(word.0);
    }

    /// Draws a generation.
    pub(crate) fn fresh_generation(&self) -> u32 {
        self.generation.set(self.generation.get() + 1);
        self.generation.get()
    }

    /// One look-up of a packet, after which it may be time for the writes that happen meanwhile.
    fn look_up(&self) {
        let is_time = match self.meanwhile.borrow_mut().as_mut() {
            Some((0, _)) => true,
            Some((left, _)) => {
                *left -= 1;
                false
            }
            None => false,
        };
        if is_time {
            self.catch_up();
        }
    }
}

/// Which of the arrays.
const fn index(table: FlowTable) -> usize {
    match table {
        FlowTable::Flows => 0,
        FlowTable::Embryonic => 1,
        FlowTable::Crowd => 2,
    }
}

impl<'a> Tables for &'a HostTables {
    type Entry = HostFlow<'a>;

    fn attachment(&self, slot: Slot) -> Option<&Attachment> {
        self.attachments.get(&slot)
    }

    fn default_row_word(&self, ruleset: RulesetId, word: usize) -> u64 {
        self.look_up();
        let rows = self.default_rows.borrow();
        rows.get(&ruleset).map_or(0, |row| row.0[word])
    }

    fn peer(&self, address: Address) -> PeerWord {
        self.look_up();
        let peers = self.peers.borrow();
        peers.get(&address).copied().unwrap_or(PeerWord::ABSENT)
    }

    fn way(&self, address: Address, port: u16) -> WayWord {
        self.look_up();
        let ways = self.ways.borrow();
        let found = [WayKey::new(address, port), WayKey::ALL].map(|key| ways.get(&key).copied());
        found.into_iter().flatten().next().unwrap_or(WayWord::NONE)
    }

    fn is_taken(&self, _address: Address) -> bool {
        // Attachments of this world deny foreign addresses, and nothing asks.
        true
    }

    fn prefix(&self, address: Address) -> Class {
        self.look_up();
        let bits = u128::from_be_bytes(address.octets());
        let prefixes = self.prefixes.borrow();
        let mut longest_first = prefixes.iter().rev();
        longest_first
            .find(|((length, prefix), _)| length == &0 || (bits ^ prefix) >> (128 - length) == 0)
            .map_or(Class::NONE, |(_, word)| word.broad())
    }

    fn row_word(&self, key: RowKey, word: usize) -> u64 {
        self.look_up();
        let rows = self.rows.borrow();
        rows.get(&key).map_or(0, |row| row.0[word])
    }

    fn chunk_of(&self, set: u16, port: u16) -> u16 {
        self.look_up();
        let sets = self.port_sets.borrow();
        let chunks = sets.get(&PortSetId(set));
        chunks.map_or(CHUNK_NONE, |chunks| chunks.0[usize::from(port >> 12)])
    }

    fn chunk_word(&self, chunk: u16, port: u16) -> u64 {
        self.look_up();
        let chunks = self.chunks.borrow();
        let word = usize::from((port & 0xfff) >> 6);
        chunks.get(&chunk).map_or(0, |chunk| chunk.0[word])
    }

    fn flow(&self, table: FlowTable, key: &FlowKey) -> Option<HostFlow<'a>> {
        self.look_up();
        if self.flows.get() == Flows::Ignored {
            return None;
        }
        let place = *self.places.borrow()[index(table)].get(key)?;
        let tables: &'a HostTables = self;
        Some(HostFlow(&tables.values[place]))
    }

    fn put_flow(&self, table: FlowTable, key: &FlowKey, value: &FlowValue, put: Put) -> bool {
        if self.flows.get() == Flows::Ignored {
            return true;
        }
        let mut places = self.places.borrow_mut();
        let is_known = places[index(table)].contains_key(key);
        match put {
            Put::New if is_known => return false,
            Put::Known if !is_known => return false,
            Put::New | Put::Known | Put::Either => {}
        }
        let place = *places[index(table)].entry(*key).or_insert_with(|| {
            let place = self.next_place.get();
            self.next_place.set(place + 1);
            place
        });
        self.values[place].word.store(value.word.load());
        self.values[place].seen.store(value.seen.load());
        true
    }

    fn remove_flow(&self, table: FlowTable, key: &FlowKey) -> bool {
        let mut places = self.places.borrow_mut();
        places[index(table)].remove(key).is_some()
    }

    fn quota(&self, _: Slot) -> Option<&Quota> {
        Some(&self.quota)
    }

    fn common(&self) -> Option<&Word> {
        Some(&self.common)
    }

    fn limit(&self, _: Limit) -> u64 {
        i64::MAX.cast_unsigned()
    }

    fn is_delivered_here(&self, _link: u32, _source: Address, _destination: Address) -> bool {
        false
    }

    fn next_hop(&self, _link: u32, _source: Address, _destination: Address) -> NextHop {
        NextHop::NONE
    }

    fn fragment(&self, _: &FragmentKey) -> Option<FragmentValue> {
        None
    }

    fn put_fragment(&self, _: &FragmentKey, _: FragmentValue, _: Put) {}

    fn ctx<'p>(&self, place: &'p mut PacketCtx) -> Option<&'p mut PacketCtx> {
        Some(place)
    }

    fn report(&self, _: &Event) {}

    fn now(&self) -> u64 {
        1_000_000
    }

    fn second(&self) -> u32 {
        250
    }
}
