// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::{
    Address, Answer, Attachment, Chunk, Class, Column, Event, FlowKey, FlowValue, FragmentKey,
    FragmentValue, Limit, PacketCtx, PeerWord, Quota, RowKey, RulesetId, Slot, WayWord, Word, ask,
    may_be_foreign, peer_word, way_word,
};

/// Which of the tables of flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowTable {
    /// Answered, and within the quota of its attachment.
    Flows,
    /// Seen in one direction only. Nothing is ever evicted from it, and each attachment has a share.
    Embryonic,
    /// What an attachment has beyond its share or its quota; the least recently used goes first.
    Crowd,
}

/// How a flow is put in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// Only if the table does not have it.
    New,
    /// Only if the table has it.
    Known,
    /// Whether the table has it or not.
    Either,
}

/// A flow as it stands in a table.
pub trait FlowEntry: Copy {
    /// Its value. The element may be another key's by now: look at the tag.
    fn value(&self) -> &FlowValue;
}

/// Where the node would forward a packet.
///
/// A number and no enum: see [`crate::Column`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop(u32);

impl NextHop {
    /// Nowhere: it is the node's own, or the node forwards nothing, or not this.
    pub const NONE: Self = Self(0);
    /// By the link that it came in by, to the destination itself.
    pub const ITSELF: Self = Self(1);
    /// By another link, or to a router.
    pub const ROUTER: Self = Self(2);
}

/// The tables that decide a packet, as the programs see them.
pub trait Tables {
    /// What a flow look-up gives.
    type Entry: FlowEntry;

    /// The attachment of `slot`; all zeroes if there is none.
    fn attachment(&self, slot: Slot) -> Option<&Attachment>;
    /// One word of the row that `ruleset` has for any peer that no other row names, or 0.
    fn default_row_word(&self, ruleset: RulesetId, word: usize) -> u64;
    /// The word of an address, or [`PeerWord::ABSENT`].
    ///
    /// Not an `Option`: LLVM computes with the content of one before it looks whether there is any, which the
    /// kernel's verifier refuses. The same holds below, wherever absence is a number.
    fn peer(&self, address: Address) -> PeerWord;
    /// The broad class of the longest prefix that holds the address, or [`Class::NONE`].
    fn prefix(&self, address: Address) -> Class;
    /// Whether a pod, a node or a Service has the address.
    fn is_taken(&self, address: Address) -> bool;
    /// Whom an address and UDP port are closed to, because they lead into a tunnel at a node; absent: [`WayWord::NONE`].
    fn way(&self, address: Address, port: u16) -> WayWord;
    /// [`way_word`] of these tables.
    #[inline(always)]
    fn way_word(&self, peer: Address, port: u16) -> WayWord
    where
        Self: Sized,
    {
        way_word(self, peer, port)
    }
    /// [`may_be_foreign`] of these tables.
    #[inline(always)]
    fn may_be_foreign(&self, address: Address) -> bool
    where
        Self: Sized,
    {
        may_be_foreign(self, address)
    }
    /// [`peer_word`] of these tables.
    #[inline(always)]
    fn peer_word(&self, address: Address) -> PeerWord
    where
        Self: Sized,
    {
        peer_word(self, address)
    }
    /// [`ask`] of these tables.
    #[inline(always)]
    fn ask(
        &self,
        ruleset: RulesetId,
        class: Class,
        broad: Class,
        column: Column,
        port: u16,
    ) -> Answer
    where
        Self: Sized,
    {
        ask(self, ruleset, class, broad, column, port)
    }
    /// One word of the row at `key`, or 0.
    fn row_word(&self, key: RowKey, word: usize) -> u64;
    /// The number of the chunk of `set` that `port` is in, or [`crate::CHUNK_NONE`].
    fn chunk_of(&self, set: u16, port: u16) -> u16;
    /// The word of `chunk` that `port` is in, or 0.
    fn chunk_word(&self, chunk: u16, port: u16) -> u64;
    /// The flow `key`.
    fn flow(&self, table: FlowTable, key: &FlowKey) -> Option<Self::Entry>;
    /// Puts the flow `key` in place, whole; whether it did. For one key and all CPUs, [`Put::New`] does so once.
    fn put_flow(&self, table: FlowTable, key: &FlowKey, value: &FlowValue, put: Put) -> bool;
    /// Deletes the flow `key`; whether it was there. For one key and all CPUs, it was there once.
    fn remove_flow(&self, table: FlowTable, key: &FlowKey) -> bool;
    /// What the attachment has of the tables of flows.
    fn quota(&self, slot: Slot) -> Option<&Quota>;
    /// How many entries of `flows` all attachments have beyond their guarantees.
    fn common(&self) -> Option<&Word>;
    /// A limit of the tables of flows; 0 if nobody has said it.
    fn limit(&self, of: Limit) -> u64;
    /// Whether the node itself may take what comes in by `link` for `destination`: whatever its routes answer but
    /// "forwarded, as it is". So broadcast and anycast addresses count, of which `peers` knows nothing, and routes that
    /// take a packet apart.
    fn is_delivered_here(&self, link: u32, source: Address, destination: Address) -> bool;
    /// Where the node would forward what comes in by `link` for `destination`.
    fn next_hop(&self, link: u32, source: Address, destination: Address) -> NextHop;
    /// What the first fragment was judged.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;
    /// Remembers what the first fragment was judged.
    fn put_fragment(&self, key: &FragmentKey, value: FragmentValue, put: Put);
    /// Where to keep what is known of the packet: `place`, or somewhere better.
    ///
    /// In the kernel it is an element of a table of its own, so that the verifier forgets which branches led to
    /// what it holds: else it follows the rest of the verdict once for every way to read a packet, and gives up
    /// after a million instructions. None: there is no such table.
    fn ctx<'a>(&self, place: &'a mut PacketCtx) -> Option<&'a mut PacketCtx>;
    /// Tells whoever listens of a verdict.
    fn report(&self, event: &Event);
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
