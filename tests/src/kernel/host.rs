//! The tables as plain memory, for the same `decide()` on the host.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use podgate_abi::{
    Address, Attachment, CHUNK_NONE, Case, Chunk, Class, Direction, Event, FlowEntry, FlowKey,
    FlowTable, FlowValue, FragmentKey, FragmentValue, PeerWord, PortSetChunks, PrefixKey,
    PrefixWord, Row, RowKey, Ruleset, Slot, Tables, Word,
};

/// What the kernel's tables hold, held once more.
#[derive(Debug, Default)]
pub struct HostTables {
    /// By slot.
    pub attachments: HashMap<Slot, Attachment>,
    /// By ruleset.
    pub rulesets: HashMap<u32, Row>,
    /// By address.
    pub peers: HashMap<Address, PeerWord>,
    /// By prefix.
    pub prefixes: HashMap<PrefixKey, PrefixWord>,
    /// By ruleset and class.
    pub rows: HashMap<RowKey, Row>,
    /// By port set.
    pub port_sets: HashMap<u16, PortSetChunks>,
    /// By chunk.
    pub chunks: HashMap<u16, Chunk>,
    /// Answered flows.
    pub flows: FlowMemory,
    /// Flows that were not answered.
    pub embryonic: FlowMemory,
    /// The same, of attachments that begin many.
    pub crowd: FlowMemory,
    /// Verdicts on first fragments.
    pub fragments: RefCell<HashMap<FragmentKey, FragmentValue>>,
    /// Entries in `flows`, by slot.
    pub budgets: RefCell<HashMap<Slot, u64>>,
    /// How many of them a slot may have.
    pub limit: u64,
    /// Flows begun lately in the slot of test runs, by direction.
    pub paces: [Word; 2],
    /// How many of them a slot may begin before they go to `crowd`.
    pub pace_limit: u64,
    /// The last generation that was drawn.
    pub last_generation: u32,
    /// The verdicts that were reported.
    pub events: RefCell<Vec<Event>>,
    /// The time, in jiffies.
    pub now: Cell<u64>,
    /// A second, in jiffies.
    pub second: u32,
}

/// A table of flows: elements that stay where they are, and an index.
///
/// As in the kernel, a value is replaced under whoever holds it.
#[derive(Debug, Default)]
pub struct FlowMemory {
    elements: Vec<FlowValue>,
    index: RefCell<HashMap<FlowKey, usize>>,
}

impl FlowMemory {
    /// Room for so many flows.
    pub fn with_capacity(capacity: u32) -> Self {
        Self {
            elements: (0..capacity).map(|_| FlowValue::default()).collect(),
            index: RefCell::default(),
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

    /// Puts a flow in place; whether there was room.
    pub fn put(&self, key: &FlowKey, value: &FlowValue) -> bool {
        let mut index = self.index.borrow_mut();
        let next = index.len();
        let place = *index.entry(*key).or_insert(next);
        let Some(element) = self.elements.get(place) else {
            index.remove(key);
            return false;
        };
        element.word.store(value.word.load());
        element.seen.store(value.seen.load());
        true
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

    fn default_row_word(&self, ruleset: Ruleset, word: usize) -> u64 {
        self.rulesets.get(&ruleset.0).map_or(0, |row| row.0[word])
    }

    fn peer(&self, address: Address) -> PeerWord {
        self.peers
            .get(&address)
            .copied()
            .unwrap_or(PeerWord::ABSENT)
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

    fn put_flow(&self, table: FlowTable, key: &FlowKey, value: &FlowValue) -> bool {
        self.memory(table).put(key, value)
    }

    fn within_budget(&self, slot: Slot) -> bool {
        self.budgets.borrow().get(&slot).copied().unwrap_or(0) < self.limit
    }

    fn count_flow(&self, slot: Slot) {
        *self.budgets.borrow_mut().entry(slot).or_default() += 1;
    }

    fn pace(&self, slot: Slot, direction: Direction) -> Option<&Word> {
        (slot == super::SLOT).then(|| &self.paces[direction as usize])
    }

    fn pace_limit(&self) -> u64 {
        self.pace_limit
    }

    fn is_delivered_here(&self, _interface: u32, _source: Address, _destination: Address) -> bool {
        false
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.fragments.borrow().get(key).copied()
    }

    fn put_fragment(&self, key: &FragmentKey, value: FragmentValue) {
        self.fragments.borrow_mut().insert(*key, value);
    }

    fn case<'c>(&self, place: &'c mut Case) -> Option<&'c mut Case> {
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
