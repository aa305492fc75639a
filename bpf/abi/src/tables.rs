use crate::{
    Address, Attachment, Chunk, FlowKey, FlowValue, FragmentKey, FragmentValue, PeerWord,
    PrefixWord, Row, RowKey, Ruleset, Slot,
};

/// Which of the two tables of flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowTable {
    /// Seen in one direction only; the least recently used goes first.
    Embryonic,
    /// Answered, and within the budget of its attachment.
    Flows,
}

/// A flow as it stands in a table.
pub trait FlowEntry: Copy {
    /// Its value. The element may be another key's by now: look at the tag.
    fn value(&self) -> &FlowValue;
}

/// The tables that decide a packet, as the programs see them.
pub trait Tables {
    /// What a flow look-up gives.
    type Entry: FlowEntry;

    /// The attachment of `slot`; all zeroes if there is none.
    fn attachment(&self, slot: Slot) -> Option<&Attachment>;
    /// The row that `ruleset` has for any peer that no other row names.
    fn default_row(&self, ruleset: Ruleset) -> Option<Row>;
    /// The word of an address, if the address is known.
    fn peer(&self, address: Address) -> Option<PeerWord>;
    /// The word of the longest prefix that holds the address.
    fn prefix(&self, address: Address) -> Option<PrefixWord>;
    /// One word of the row at `key`, if there is such a row.
    fn row_word(&self, key: RowKey, word: usize) -> Option<u64>;
    /// The number of the chunk of `set` that `port` is in.
    fn chunk_of(&self, set: u16, port: u16) -> Option<u16>;
    /// The word of `chunk` that `port` is in.
    fn chunk_word(&self, chunk: u16, port: u16) -> Option<u64>;
    /// The flow `key`.
    fn flow(&self, table: FlowTable, key: &FlowKey) -> Option<Self::Entry>;
    /// Puts the flow `key` in place, whole; whether there was room.
    fn put_flow(&self, table: FlowTable, key: &FlowKey, value: &FlowValue) -> bool;
    /// Whether the attachment may have one more entry in `flows`.
    fn within_budget(&self, slot: Slot) -> bool;
    /// Counts one more entry of the attachment in `flows`.
    fn count_flow(&self, slot: Slot);
    /// What the first fragment was judged.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;
    /// Remembers what the first fragment was judged.
    fn put_fragment(&self, key: &FragmentKey, value: FragmentValue);
    /// The time, in jiffies.
    fn now(&self) -> u64;
    /// A second, in jiffies.
    fn second(&self) -> u32;
}

/// The word of `chunk` that `port` is in, and the bit for it.
#[inline(always)]
pub(crate) const fn bit_of(port: u16) -> (usize, u64) {
    (((port & 0xfff) >> 6) as usize, 1 << (port & 63))
}

impl Chunk {
    /// A chunk without any port.
    pub const NONE: Self = Self([0; 64]);
    /// A chunk with every port.
    pub const ALL: Self = Self([u64::MAX; 64]);

    /// Adds the port whose lowest 12 bits these are.
    pub const fn insert(&mut self, port: u16) {
        let (word, bit) = bit_of(port);
        self.0[word] |= bit;
    }
}
