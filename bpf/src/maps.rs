// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The kernel's tables. The sizes here are the smallest that make sense; whoever loads the object sets others.

use aya_ebpf::bindings::{
    BPF_ANY, BPF_EXIST, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_FIB_LKUP_RET_BLACKHOLE,
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH,
    BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_FIB_LKUP_RET_UNREACHABLE, BPF_NOEXIST, BPF_RB_NO_WAKEUP,
};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_jiffies64};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::TcContext;
use podgate_abi::{
    Address, Answer, Attachment, CHUNK_NONE, Chunk, Class, Column, Direction, Event, FlowEntry,
    FlowKey, FlowTable, FlowValue, FragmentKey, FragmentValue, Limit, MAX_TAKEN, MAX_WAYS, NextHop,
    PacketCtx, PeerWord, PortSetChunks, PrefixWord, Put, Quota, Reason, RowKey, RowWords,
    RulesetId, Slot, Tables, WayKey, WayWord, Word,
};

#[map(name = "attachments")]
static ATTACHMENTS: Array<Attachment> = Array::with_max_entries(16, BPF_F_MMAPABLE);
#[map(name = "rulesets")]
static RULESETS: Array<RowWords> = Array::with_max_entries(16, BPF_F_MMAPABLE);
#[map(name = "peers")]
static PEERS: HashMap<Address, u64> = HashMap::with_max_entries(16, 0);
#[map(name = "taken")]
static TAKEN: LpmTrie<Address, u64> = LpmTrie::with_max_entries(MAX_TAKEN, BPF_F_NO_PREALLOC);
#[map(name = "ways")]
static WAYS: LpmTrie<[u32; 5], u64> = LpmTrie::with_max_entries(MAX_WAYS, BPF_F_NO_PREALLOC);
#[map(name = "prefixes")]
static PREFIXES: LpmTrie<Address, u64> = LpmTrie::with_max_entries(16, BPF_F_NO_PREALLOC);
#[map(name = "rows")]
static ROWS: HashMap<RowKey, RowWords> = HashMap::with_max_entries(16, 0);
#[map(name = "portsets")]
static PORTSETS: Array<PortSetChunks> = Array::with_max_entries(16, BPF_F_MMAPABLE);
#[map(name = "chunks")]
static CHUNKS: Array<Chunk> = Array::with_max_entries(16, BPF_F_MMAPABLE);
#[map(name = "counters")]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2 * Reason::COUNT, 0);
#[map(name = "events")]
static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

#[map(name = "ctx")]
static CTX: PerCpuArray<PacketCtx> = PerCpuArray::with_max_entries(1, 0);

#[map(name = "flows")]
static FLOWS: HashMap<FlowKey, FlowValue> = HashMap::with_max_entries(16, 0);
#[map(name = "embryonic")]
static EMBRYONIC: HashMap<FlowKey, FlowValue> = HashMap::with_max_entries(16, 0);
#[map(name = "crowd")]
static CROWD: LruHashMap<FlowKey, FlowValue> = LruHashMap::with_max_entries(16, 0);
#[map(name = "fragments")]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue> = LruHashMap::with_max_entries(16, 0);
#[map(name = "quotas")]
static QUOTAS: Array<Quota> = Array::with_max_entries(16, BPF_F_MMAPABLE);
#[map(name = "limits")]
static LIMITS: Array<Word> = Array::with_max_entries(Limit::COUNT, BPF_F_MMAPABLE);
#[map(name = "common")]
static COMMON: Array<Word> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Ticks of `bpf_jiffies64` a second, set by whoever loads the object.
#[unsafe(no_mangle)]
static HZ: u32 = 0;

/// Counts one packet.
#[inline(always)]
pub(crate) fn count(direction: Direction, reason: Reason) {
    let index = direction as u32 * Reason::COUNT + reason as u32;
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the element is this CPU's own, and a program is not moved to another CPU while it runs.
        unsafe { *counter += 1 };
    }
}

/// The kernel's maps as [`Tables`], for one packet; without one they know no routes.
pub(crate) struct Maps<'a>(pub(crate) Option<&'a TcContext>);

/// The word of an address, whose halves these are, read until it is whole.
///
/// This and the next two are global functions: the verifier follows each once, for any arguments (Linux 5.6), where it
/// follows what is inlined once for every way that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn podgate_peer_word(first: u64, second: u64) -> u64 {
    podgate_abi::peer_word(&Maps(None), Address::from_halves([first, second])).0
}

/// See [`podgate_abi::may_be_foreign`], of the address whose halves these are; 1 or 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn podgate_may_be_foreign(first: u64, second: u64) -> u32 {
    let address = Address::from_halves([first, second]);
    u32::from(podgate_abi::may_be_foreign(&Maps(None), address))
}

/// See [`podgate_abi::way_word`], of the address whose halves these are.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn podgate_way_word(first: u64, second: u64, port: u32) -> u64 {
    let address = Address::from_halves([first, second]);
    podgate_abi::way_word(&Maps(None), address, port as u16).0
}

/// What a ruleset says: see [`podgate_abi::ask`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn podgate_ask(ruleset: u32, class: u32, broad: u32, column: u32, port: u32) -> u32 {
    let (ruleset, class, broad) = (RulesetId(ruleset), Class(class), Class(broad));
    podgate_abi::ask(
        &Maps(None),
        ruleset,
        class,
        broad,
        Column::from_number(column),
        port as u16,
    )
    .0
}

/// A pointer to a live element of a map of flows.
#[derive(Clone, Copy)]
pub(crate) struct Entry(*const FlowValue);

impl FlowEntry for Entry {
    #[inline(always)]
    fn value(&self) -> &FlowValue {
        // SAFETY: the kernel keeps the memory of an element valid while a program runs; its fields are atomics.
        unsafe { &*self.0 }
    }
}

/// How the kernel's `bpf_map_update_elem` is told.
#[inline(always)]
fn flags(put: Put) -> u64 {
    u64::from(match put {
        Put::New => BPF_NOEXIST,
        Put::Known => BPF_EXIST,
        Put::Either => BPF_ANY,
    })
}

/// One aligned word of a map element, read whole.
#[inline(always)]
fn read(word: *const u64) -> u64 {
    // SAFETY: `word` points into a live map element and is aligned; the kernel may replace its content at any
    // time, which a volatile read of one word cannot tear.
    unsafe { word.read_volatile() }
}

impl Maps<'_> {
    /// What the node's routes say of a packet, and if it is forwarded, where to and by which interface.
    #[inline(always)]
    fn route(&self, interface: u32, source: Address, destination: Address) -> (u32, Address, u32) {
        const AF_INET: u32 = 2;
        const AF_INET6: u32 = 10;
        // `struct bpf_fib_lookup` by its words (Linux 4.18): 0 family and protocol, 2 interface, 4 to 7 source,
        // 8 to 11 destination, where the next hop is put.
        let mut lookup = [0_u32; 16];
        let (from, to) = (source.words(), destination.words());
        lookup[2] = interface;
        if destination.is_ipv4() {
            lookup[0] = AF_INET;
            (lookup[4], lookup[8]) = (from[3], to[3]);
        } else {
            lookup[0] = AF_INET6;
            [lookup[4], lookup[5], lookup[6], lookup[7]] = from;
            [lookup[8], lookup[9], lookup[10], lookup[11]] = to;
        }
        let Some(ctx) = self.0 else {
            return (BPF_FIB_LKUP_RET_NOT_FWDED, Address::UNSPECIFIED, 0);
        };
        // SAFETY: the context is this packet's, and `lookup` has the length that is told.
        let result = unsafe {
            bpf_fib_lookup(
                ctx.skb.skb.cast(),
                lookup.as_mut_ptr().cast(),
                size_of_val(&lookup) as i32,
                0,
            )
        };
        let [.., a, b, c, d, _, _, _, _] = lookup;
        let next_hop = if destination.is_ipv4() {
            Address::from_ipv4_word(a)
        } else {
            Address::from_words([a, b, c, d])
        };
        (result as u32, next_hop, lookup[2])
    }
}

/// Whether the answer of the routes is that the packet goes on as it is. The next hop may not be known yet.
#[inline(always)]
fn is_forwarded(result: u32) -> bool {
    result == BPF_FIB_LKUP_RET_SUCCESS
        || result == BPF_FIB_LKUP_RET_NO_NEIGH
        || result == BPF_FIB_LKUP_RET_FRAG_NEEDED
}

impl Tables for Maps<'_> {
    type Entry = Entry;

    #[inline(always)]
    fn attachment(&self, slot: Slot) -> Option<&Attachment> {
        ATTACHMENTS.get(slot.0)
    }

    #[inline(always)]
    fn default_row_word(&self, ruleset: RulesetId, word: usize) -> u64 {
        match RULESETS.get_ptr(ruleset.0) {
            // SAFETY: `word & 1` is 0 or 1, and a row has two words.
            Some(row) => read(unsafe { row.cast::<u64>().add(word & 1) }),
            None => 0,
        }
    }

    #[inline(always)]
    fn peer(&self, address: Address) -> PeerWord {
        match PEERS.get_ptr(&address) {
            Some(word) => PeerWord(read(word)),
            None => PeerWord::ABSENT,
        }
    }

    #[inline(always)]
    fn prefix(&self, address: Address) -> Class {
        match PREFIXES.get(&Key::new(128, address)) {
            Some(word) => PrefixWord(read(word)).broad(),
            None => Class::NONE,
        }
    }

    #[inline(always)]
    fn is_taken(&self, address: Address) -> bool {
        TAKEN.get(&Key::new(128, address)).is_some()
    }

    #[inline(always)]
    fn way(&self, address: Address, port: u16) -> WayWord {
        let [a, b, c, d] = address.words();
        match WAYS.get(&Key::new(WayKey::WHOLE, [a, b, c, d, port.into()])) {
            Some(word) => WayWord(read(word)),
            None => WayWord::NONE,
        }
    }

    #[inline(always)]
    fn way_word(&self, peer: Address, port: u16) -> WayWord {
        let [first, second] = peer.halves();
        WayWord(podgate_way_word(first, second, port.into()))
    }

    #[inline(always)]
    fn may_be_foreign(&self, address: Address) -> bool {
        let [first, second] = address.halves();
        podgate_may_be_foreign(first, second) != 0
    }

    #[inline(always)]
    fn peer_word(&self, address: Address) -> PeerWord {
        let [first, second] = address.halves();
        PeerWord(podgate_peer_word(first, second))
    }

    #[inline(always)]
    fn ask(
        &self,
        ruleset: RulesetId,
        class: Class,
        broad: Class,
        column: Column,
        port: u16,
    ) -> Answer {
        Answer(podgate_ask(
            ruleset.0,
            class.0,
            broad.0,
            column.number(),
            port.into(),
        ))
    }

    #[inline(always)]
    fn row_word(&self, key: RowKey, word: usize) -> u64 {
        match ROWS.get_ptr(&key) {
            // SAFETY: `word & 1` is 0 or 1, and a row has two words.
            Some(row) => read(unsafe { row.cast::<u64>().add(word & 1) }),
            None => 0,
        }
    }

    #[inline(always)]
    fn chunk_of(&self, set: u16, port: u16) -> u16 {
        match PORTSETS.get(u32::from(set)) {
            Some(chunks) => chunks.0[usize::from(port >> 12) & 15],
            None => CHUNK_NONE,
        }
    }

    #[inline(always)]
    fn chunk_word(&self, chunk: u16, port: u16) -> u64 {
        match CHUNKS.get(u32::from(chunk)) {
            Some(chunk) => chunk.0[usize::from(port >> 6) & 63],
            None => 0,
        }
    }

    #[inline(always)]
    fn flow(&self, table: FlowTable, key: &FlowKey) -> Option<Entry> {
        match table {
            FlowTable::Flows => FLOWS.get_ptr(key),
            FlowTable::Embryonic => EMBRYONIC.get_ptr(key),
            FlowTable::Crowd => CROWD.get_ptr(key),
        }
        .map(Entry)
    }

    #[inline(always)]
    fn put_flow(&self, table: FlowTable, key: &FlowKey, value: &FlowValue, put: Put) -> bool {
        let flags = flags(put);
        match table {
            FlowTable::Flows => FLOWS.insert(key, value, flags),
            FlowTable::Embryonic => EMBRYONIC.insert(key, value, flags),
            FlowTable::Crowd => CROWD.insert(key, value, flags),
        }
        .is_ok()
    }

    #[inline(always)]
    fn remove_flow(&self, table: FlowTable, key: &FlowKey) -> bool {
        match table {
            FlowTable::Flows => FLOWS.remove(key),
            FlowTable::Embryonic => EMBRYONIC.remove(key),
            FlowTable::Crowd => CROWD.remove(key),
        }
        .is_ok()
    }

    #[inline(always)]
    fn quota(&self, slot: Slot) -> Option<&Quota> {
        QUOTAS.get(slot.0)
    }

    #[inline(always)]
    fn common(&self) -> Option<&Word> {
        COMMON.get(0)
    }

    #[inline(always)]
    fn limit(&self, of: Limit) -> u64 {
        match LIMITS.get(of as u32) {
            Some(word) => word.load(),
            None => 0,
        }
    }

    #[inline(always)]
    fn is_delivered_here(&self, link: u32, source: Address, destination: Address) -> bool {
        // Local, broadcast and anycast addresses and no route are "not forwarded"; a route with a lightweight tunnel,
        // which may take the packet apart here (SRv6, `End.DT6`), has an answer of its own.
        !is_forwarded(self.route(link, source, destination).0)
    }

    #[inline(always)]
    fn next_hop(&self, link: u32, source: Address, destination: Address) -> NextHop {
        let (result, next_hop, by) = self.route(link, source, destination);
        // Where the node forwards nothing, or not this, it stays; a lightweight tunnel may take it anywhere.
        if result == BPF_FIB_LKUP_RET_NOT_FWDED
            || result == BPF_FIB_LKUP_RET_FWD_DISABLED
            || result == BPF_FIB_LKUP_RET_BLACKHOLE
            || result == BPF_FIB_LKUP_RET_UNREACHABLE
            || result == BPF_FIB_LKUP_RET_PROHIBIT
        {
            NextHop::NONE
        } else if is_forwarded(result) && next_hop == destination && by == link {
            NextHop::ITSELF
        } else {
            NextHop::ROUTER
        }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        FRAGMENTS
            .get_ptr(key)
            .map(|value| FragmentValue(read(value.cast())))
    }

    #[inline(always)]
    fn put_fragment(&self, key: &FragmentKey, value: FragmentValue, put: Put) {
        // An LRU table has room for every insertion but under memory pressure; then the fragments that follow
        // find nothing, and are dropped.
        let _ = FRAGMENTS.insert(key, &value, flags(put));
    }

    #[inline(always)]
    fn ctx<'a>(&self, _place: &'a mut PacketCtx) -> Option<&'a mut PacketCtx> {
        // SAFETY: the element is this CPU's own while the program runs, and nothing else points to it.
        CTX.get_ptr_mut(0).map(|ctx| unsafe { &mut *ctx })
    }

    #[inline(always)]
    fn report(&self, event: &Event) {
        if let Some(mut entry) = EVENTS.reserve::<Event>(0) {
            entry.write(*event);
            // Waking an idle reader costs 20 to 30 microseconds: it polls.
            entry.submit(u64::from(BPF_RB_NO_WAKEUP));
        }
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: the helper takes nothing and cannot fail.
        unsafe { bpf_jiffies64() }
    }

    #[inline(always)]
    fn second(&self) -> u32 {
        // SAFETY: a static that only the loader writes, before the program exists.
        unsafe { (&raw const HZ).read_volatile() }
    }
}
