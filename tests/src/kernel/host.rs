// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tables as plain memory, for the same `decide()` on the host.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use podgate_abi::{
    Address, Attachment, CHUNK_NONE, Chunk, Class, Event, FlowEntry, FlowKey, FlowTable, FlowValue,
    FragmentKey, FragmentValue, Limit, NextHop, PacketCtx, PeerWord, PortSetChunks, PrefixKey,
    PrefixWord, Put, Quota, RowKey, RowWords, RulesetId, Slot, Tables, WayKey, WayWord, Word,
};

/// What the kernel's tables hold, held once more.
#[derive(Debug, Default)]
pub struct HostTables {
    /// By slot.
    pub attachments: HashMap<Slot, Attachment>,
    /// By ruleset.
    pub rulesets: HashMap<u32, RowWords>,
    /// By address.
    pub peers: HashMap<Address, PeerWord>,
    /// Addresses that pods, nodes and Services have.
    pub taken: HashMap<PrefixKey, PrefixWord>,
    /// Addresses and UDP ports that lead into tunnels at nodes.
    pub ways: HashMap<WayKey, WayWord>,
    /// By prefix.
    pub prefixes: HashMap<PrefixKey, PrefixWord>,
    /// By ruleset and class.
    pub rows: HashMap<RowKey, RowWords>,
    /// By port set.
    pub port_sets: HashMap<u16, PortSetChunks>,
    /// By chunk.
    pub chunks: HashMap<u16, Chunk>,
    /// Answered flows.
    pub flows: FlowMemory,
    /// Flows that were not answered.
    pub embryonic: FlowMemory,
    /// What attachments have beyond their share or their quota.
    pub crowd: FlowMemory,
    /// Verdicts on first fragments.
    pub fragments: RefCell<HashMap<FragmentKey, FragmentValue>>,
    /// What each slot has of the tables of flows.
    pub quotas: HashMap<Slot, Quota>,
    /// What all of them have of `flows` beyond their guarantees.
    pub common: Word,
    /// What they may have, by [`Limit`].
    pub limits: [u64; Limit::COUNT as usize],
    /// The last generation that was drawn.
    pub last_generation: u32,
    /// The verdicts that were reported.
    pub events: RefCell<Vec<Event>>,
    /// The time, in jiffies.
    pub now: Cell<u64>,
    /// A second, in jiffies.
    pub second: u32,
    /// Whether the node forwards what is for others, as they want it. The namespaces of tests do not, by default.
    pub forwards: bool,
}

/// A table of flows: elements that stay where they are, and an index.
///
/// As in the kernel, a value is replaced under whoever holds it.
#[derive(Debug, Default)]
pub struct FlowMemory {
    elements: Vec<FlowValue>,
    index: RefCell<HashMap<FlowKey, usize>>,
    /// Elements that no key has any more.
    free: RefCell<Vec<usize>>,
}

impl FlowMemory {
    /// Room for so many flows.
    pub fn with_capacity(capacity: u32) -> Self {
        Self {
            elements: (0..capacity).map(|_| FlowValue::default()).collect(),
            index: RefCell::default(),
            free: RefCell::default(),
        }
    }

    /// For how many flows there is room.
    pub fn capacity(&self) -> u32 {
        u32::try_from(self.elements.len()).expect("it was made from as many")
    }

    /// The flow of a key.
    pub fn get(&self, key: &FlowKey) -> Option<&FlowValue> {
        let place = *self.index.borrow().get(key)?;
        self.elements.get(place)
    }

    /// Puts a flow in place; whether it did.
    pub fn put(&self, key: &FlowKey, value: &FlowValue, put: Put) -> bool {
        let (mut index, mut free) = (self.index.borrow_mut(), self.free.borrow_mut());
        let known = index.get(key).copied();
        match put {
            Put::New if known.is_some() => return false,
            Put::Known if known.is_none() => return false,
            Put::New | Put::Known | Put::Either => {}
        }
        let place = known.or_else(|| free.pop()).unwrap_or(index.len());
        let Some(element) = self.elements.get(place) else {
            return false;
        };
        index.insert(*key, place);
        element.word.store(value.word.load());
        element.seen.store(value.seen.load());
        true
    }

    /// Deletes a flow; whether it was there.
    pub fn remove(&self, key: &FlowKey) -> bool {
        let place = self.index.borrow_mut().remove(key);
        self.free.borrow_mut().extend(place);
        place.is_some()
    }

    /// Every flow.
    pub fn iter(&self) -> impl Iterator<Item = (FlowKey, &FlowValue)> {
        let index = self.index.borrow().clone();
        let found = index.into_iter();
        found.filter_map(|(key, place)| Some((key, self.elements.get(place)?)))
    }

    /// Deletes every flow.
    pub fn clear(&self) {
        self.index.borrow_mut().clear();
        self.free.borrow_mut().clear();
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.index.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A flow where it stands.
#[derive(Debug, Clone, Copy)]
pub struct HostEntry<'a>(&'a FlowValue);

impl FlowEntry for HostEntry<'_> {
    fn value(&self) -> &FlowValue {
        self.0
    }
}

impl HostTables {
    fn memory(&self, table: FlowTable) -> &FlowMemory {
        match table {
            FlowTable::Flows => &self.flows,
            FlowTable::Embryonic => &self.embryonic,
            FlowTable::Crowd => &self.crowd,
        }
    }
}

/// The longest prefix first, as the kernel's trie has it.
fn longest(prefixes: &HashMap<PrefixKey, PrefixWord>, address: Address) -> Option<PrefixWord> {
    let bits = u128::from_be_bytes(address.octets());
    (0..=128_u32).rev().find_map(|length| {
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        let address = Address::new((bits & mask).to_be_bytes());
        prefixes.get(&PrefixKey { length, address }).copied()
    })
}

impl<'a> Tables for &'a HostTables {
    type Entry = HostEntry<'a>;

    fn attachment(&self, slot: Slot) -> Option<&Attachment> {
        self.attachments.get(&slot)
    }

    fn default_row_word(&self, ruleset: RulesetId, word: usize) -> u64 {
        self.rulesets.get(&ruleset.0).map_or(0, |row| row.0[word])
    }

    fn peer(&self, address: Address) -> PeerWord {
        self.peers
            .get(&address)
            .copied()
            .unwrap_or(PeerWord::ABSENT)
    }

    fn way(&self, address: Address, port: u16) -> WayWord {
        let longest_first = [WayKey::new(address, port), WayKey::ALL];
        let mut found = longest_first.iter().filter_map(|key| self.ways.get(key));
        found.next().copied().unwrap_or(WayWord::NONE)
    }

    fn is_taken(&self, address: Address) -> bool {
        longest(&self.taken, address).is_some()
    }

    fn prefix(&self, address: Address) -> Class {
        longest(&self.prefixes, address).map_or(Class::NONE, PrefixWord::broad)
    }

    fn row_word(&self, key: RowKey, word: usize) -> u64 {
        self.rows.get(&key).map_or(0, |row| row.0[word])
    }

    fn chunk_of(&self, set: u16, port: u16) -> u16 {
        let chunks = self.port_sets.get(&set);
        chunks.map_or(CHUNK_NONE, |chunks| chunks.0[usize::from(port >> 12)])
    }

    fn chunk_word(&self, chunk: u16, port: u16) -> u64 {
        let ports = self.chunks.get(&chunk);
        ports.map_or(0, |ports| ports.0[usize::from(port & 0xfff) / 64])
    }

    fn flow(&self, table: FlowTable, key: &FlowKey) -> Option<HostEntry<'a>> {
        let tables: &'a HostTables = self;
        tables.memory(table).get(key).map(HostEntry)
    }

    fn put_flow(&self, table: FlowTable, key: &FlowKey, value: &FlowValue, put: Put) -> bool {
        self.memory(table).put(key, value, put)
    }

    fn remove_flow(&self, table: FlowTable, key: &FlowKey) -> bool {
        self.memory(table).remove(key)
    }

    fn quota(&self, slot: Slot) -> Option<&Quota> {
        self.quotas.get(&slot)
    }

    fn common(&self) -> Option<&Word> {
        Some(&self.common)
    }

    fn limit(&self, of: Limit) -> u64 {
        self.limits[of as usize]
    }

    fn is_delivered_here(&self, _link: u32, _source: Address, _destination: Address) -> bool {
        !self.forwards
    }

    fn next_hop(&self, _link: u32, _source: Address, _destination: Address) -> NextHop {
        NextHop::NONE
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.fragments.borrow().get(key).copied()
    }

    fn put_fragment(&self, key: &FragmentKey, value: FragmentValue, put: Put) {
        let mut fragments = self.fragments.borrow_mut();
        let fits = match put {
            Put::New => !fragments.contains_key(key),
            Put::Known => fragments.contains_key(key),
            Put::Either => true,
        };
        if fits {
            fragments.insert(*key, value);
        }
    }

    fn ctx<'c>(&self, place: &'c mut PacketCtx) -> Option<&'c mut PacketCtx> {
        Some(place)
    }

    fn report(&self, event: &Event) {
        self.events.borrow_mut().push(*event);
    }

    fn now(&self) -> u64 {
        self.now.get()
    }

    fn second(&self) -> u32 {
        self.second
    }
}
