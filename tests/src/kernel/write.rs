// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Writes that go to the kernel's maps and to the host's tables alike.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData};
use podgate_abi::{
    Address, CHUNK_NONE, Chunk, Class, PeerWord, PortSetChunks, PortSetId, PrefixKey, PrefixWord,
    RowKey, RowSets, RowWords, RulesetId, WayKey, WayWord,
};

use super::Kernel;

/// The table `peers`.
pub type Peers = HashMap<MapData, [u8; 16], u64>;
/// The table `taken`.
pub type Taken = LpmTrie<MapData, [u8; 16], u64>;
/// The table `ways`.
pub type Ways = LpmTrie<MapData, [u8; 20], u64>;
/// The table `rows`.
pub type Rows = HashMap<MapData, u32, [u64; 2]>;

fn trie_key(way: WayKey) -> Key<[u8; 20]> {
    let mut data = [0; 20];
    data[..16].copy_from_slice(&way.address.octets());
    data[16..].copy_from_slice(&way.port.to_ne_bytes());
    Key::new(way.length, data)
}

/// A prefix without the bits beyond its length, which the kernel does not look at.
fn masked(key: PrefixKey) -> PrefixKey {
    let mask = u128::MAX.checked_shl(128 - key.length).unwrap_or(0);
    let bits = u128::from_be_bytes(key.address.octets()) & mask;
    PrefixKey {
        address: Address::new(bits.to_be_bytes()),
        ..key
    }
}

impl Kernel {
    /// Second hands for `peers` and `rows` of the kernel alone, for another thread.
    ///
    /// # Panics
    /// When the kernel refuses to open them.
    pub fn writers(&self) -> (Peers, Rows) {
        let [peers, rows] = self
            .written_by_others
            .map(|number| Map::HashMap(MapData::from_id(number).expect("the map is there")));
        (
            peers.try_into().expect("peers"),
            rows.try_into().expect("rows"),
        )
    }

    /// Says what an address is.
    pub fn put_peer(&mut self, address: IpAddr, class: Class, broad: Class) {
        let address = Address::from(address);
        self.put_peer_word(address, PeerWord::new(address, class, broad, false));
    }

    /// Says that an address is the node's.
    pub fn put_node(&mut self, address: IpAddr) {
        let address = Address::from(address);
        self.put_peer_word(
            address,
            PeerWord::new(address, Class::NONE, Class::NONE, true),
        );
    }

    /// Writes any word for an address, even one that is not its own.
    ///
    /// # Panics
    /// Here and below: when the kernel refuses the write.
    pub fn put_peer_word(&mut self, address: Address, word: PeerWord) {
        self.host.peers.insert(address, word);
        self.peers
            .insert(address.octets(), word.0, 0)
            .expect("the address is written");
    }

    /// Says that a pod, a node or a Service has these addresses.
    pub fn put_taken(&mut self, address: IpAddr, length: u32) {
        let address = Address::from(address);
        let key = PrefixKey { length, address };
        self.host.taken.insert(masked(key), PrefixWord(1));
        self.taken
            .insert(&Key::new(length, address.octets()), 1, 0)
            .expect("the addresses are written");
    }

    /// Says whom an address and UDP port are closed to.
    pub fn put_way(&mut self, way: WayKey, word: WayWord) {
        self.host.ways.insert(way, word);
        self.ways
            .insert(&trie_key(way), word.0, 0)
            .expect("the way is closed");
    }

    /// Opens an address and UDP port.
    pub fn remove_way(&mut self, way: WayKey) {
        if self.host.ways.remove(&way).is_some() {
            let removed = self.ways.remove(&trie_key(way));
            removed.expect("the way is opened");
        }
    }

    /// Leaves an address to the prefixes.
    pub fn remove_peer(&mut self, address: Address) {
        if self.host.peers.remove(&address).is_some() {
            self.peers
                .remove(&address.octets())
                .expect("the address is deleted");
        }
    }

    /// Says what lies in a block; `length` is in the bits of its own family.
    pub fn put_prefix(&mut self, address: IpAddr, length: u32, broad: Class) {
        let length = length + if address.is_ipv4() { 96 } else { 0 };
        let address = Address::from(address);
        self.put_prefix_word(
            PrefixKey { length, address },
            PrefixWord(u64::from(broad.0)),
        );
    }

    /// Says what lies under a prefix.
    pub fn put_prefix_word(&mut self, key: PrefixKey, word: PrefixWord) {
        self.host.prefixes.insert(masked(key), word);
        self.prefixes
            .insert(&Key::new(key.length, key.address.octets()), word.0, 0)
            .expect("the prefix is written");
    }

    /// Leaves what lies under a prefix to the next shorter one.
    pub fn remove_prefix(&mut self, key: PrefixKey) {
        if self.host.prefixes.remove(&masked(key)).is_some() {
            self.prefixes
                .remove(&Key::new(key.length, key.address.octets()))
                .expect("the prefix is deleted");
        }
    }

    /// Says what a ruleset allows with a class or broad class.
    pub fn put_row(&mut self, ruleset: RulesetId, class: Class, sets: RowSets) {
        let key = RowKey::new(ruleset, class);
        self.put_row_words(key, RowWords::new(key, sets));
    }

    /// Writes any row, even one that is another's.
    pub fn put_row_words(&mut self, key: RowKey, row: RowWords) {
        self.host.rows.insert(key, row);
        self.rows
            .insert(key.0, row.0, 0)
            .expect("the row is written");
    }

    /// Deletes a row.
    pub fn remove_row(&mut self, key: RowKey) {
        if self.host.rows.remove(&key).is_some() {
            self.rows.remove(&key.0).expect("the row is deleted");
        }
    }

    /// Says what a ruleset allows with any peer that no row names.
    pub fn put_default_row(&mut self, ruleset: RulesetId, row: RowWords) {
        self.host.rulesets.insert(ruleset.0, row);
        self.rulesets
            .set(ruleset.0, row.0, 0)
            .expect("the ruleset is written");
    }

    /// Writes a port set.
    pub fn put_port_set(&mut self, set: PortSetId, chunks: PortSetChunks) {
        self.host.port_sets.insert(set.0, chunks);
        self.port_sets
            .set(u32::from(set.0), chunks.0, 0)
            .expect("the port set is written");
    }

    /// Writes a chunk.
    pub fn put_chunk(&mut self, number: u16, chunk: Chunk) {
        self.host.chunks.insert(number, chunk);
        self.chunks
            .set(u32::from(number), chunk.0, 0)
            .expect("the chunk is written");
    }

    /// A new port set with these ports.
    pub fn ports(&mut self, ranges: &[RangeInclusive<u16>]) -> PortSetId {
        let set = PortSetId(self.next_port_set);
        self.next_port_set += 1;
        self.next_chunk = self.fill_port_set(set, self.next_chunk, ranges);
        set
    }

    /// Writes a port set, with chunks from `next` on; the first chunk that it did not need.
    pub(super) fn fill_port_set(
        &mut self,
        set: PortSetId,
        mut next: u16,
        ranges: &[RangeInclusive<u16>],
    ) -> u16 {
        let mut chunks = [CHUNK_NONE; 16];
        for (place, number) in (0_u16..).zip(chunks.iter_mut()) {
            let mut chunk = Chunk::NONE;
            let ports = ranges.iter().cloned().flatten();
            for port in ports.filter(|port| port >> 12 == place) {
                chunk.insert(port & 0xfff);
            }
            if chunk != Chunk::NONE {
                self.put_chunk(next, chunk);
                *number = next;
                next += 1;
            }
        }
        self.put_port_set(set, PortSetChunks(chunks));
        next
    }
}
