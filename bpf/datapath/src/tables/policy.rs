// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rulesets, rows, port sets, peers and prefixes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podgate_abi::{
    Address, CHUNK_ALL, CHUNK_NONE, CHUNK_OF_PROTOCOLS, Chunk, Class, FIRST_CHUNK_OF_TUNNELS,
    PeerWord, PortSetChunks, PortSetId, PrefixKey, PrefixWord, RowKey, RowSets, RowWords,
    RulesetId, WayKey, WayWord, tunnel,
};

use super::{MapName, TableSet, Unnamed};
use crate::{
    Failed, Sizes,
    lock::Lock,
    owed::{self, Owed},
};

impl Unnamed {
    /// Stores what is known of an address.
    ///
    /// # Errors
    /// When the table cannot be opened, or is full.
    pub fn put_peer(&self, address: IpAddr, word: PeerWord) -> Result<(), Failed> {
        self.store_peer(address, word)
    }

    /// Deletes what is known of an address, which no flow was judged by.
    ///
    /// # Errors
    /// When the table cannot be opened.
    pub fn remove_peer(&self, address: IpAddr) -> Result<(), Failed> {
        self.delete_peer(address).map(drop)
    }
}

impl TableSet {
    pub(super) fn fill_constants(&self, sizes: &Sizes) -> Result<(), Failed> {
        self.put_chunk(CHUNK_NONE, &Chunk::NONE)?;
        self.put_chunk(CHUNK_ALL, &Chunk::ALL)?;
        self.put_port_set(PortSetId::NONE, PortSetChunks([CHUNK_NONE; 16]))?;
        self.put_port_set(PortSetId::ALL, PortSetChunks([CHUNK_ALL; 16]))?;
        let mut protocols = Chunk::NONE;
        for protocol in tunnel::PROTOCOLS {
            protocols.insert(protocol.into());
        }
        self.put_chunk(CHUNK_OF_PROTOCOLS, &protocols)?;
        let mut chunks = PortSetChunks([CHUNK_NONE; 16]);
        chunks.0[0] = CHUNK_OF_PROTOCOLS;
        self.put_port_set(PortSetId::TUNNEL_PROTOCOLS, chunks)?;
        self.store_tunnel_ports(&BTreeSet::new())?;
        for (place, chunk) in (FIRST_CHUNK_OF_TUNNELS..).zip(&mut chunks.0) {
            *chunk = place;
        }
        self.put_port_set(PortSetId::TUNNEL_PORTS, chunks)?;
        let of = |set| RowSets {
            tcp: set,
            udp: set,
            sctp: set,
            rest: set,
        };
        self.put_default_row(
            RulesetId::DENY_ALL,
            RowWords::new(RowKey(0), of(PortSetId::NONE)),
        )?;
        self.put_default_row(
            RulesetId::ALLOW_ALL,
            RowWords::new(RowKey(0), of(PortSetId::ALL)),
        )?;
        let none = Class::NONE.0;
        self.put_prefix(IpAddr::from([0, 0, 0, 0]), 0, PrefixWord(u64::from(none)))?;
        self.set_limits(sizes)
    }

    /// Stores a chunk. Nothing may name it yet.
    ///
    /// # Errors
    /// Here and below: when the table cannot be opened, or is full.
    pub fn put_chunk(&self, number: u16, chunk: &Chunk) -> Result<(), Failed> {
        self.store(MapName::Chunks, u32::from(number), &chunk.0)
    }

    /// Says at which UDP ports the node's devices take tunnels, beside the usual ones. Each word is stored at once, and says
    /// nothing of the ports of another.
    pub fn store_tunnel_ports(&self, devices: &BTreeSet<u16>) -> Result<(), Failed> {
        let mut chunks = [Chunk::NONE; 16];
        for port in devices.iter().copied().chain(tunnel::UDP_PORTS) {
            chunks[usize::from(port >> 12)].insert(port & 0xfff);
        }
        for (number, chunk) in (FIRST_CHUNK_OF_TUNNELS..).zip(&chunks) {
            self.put_chunk(number, chunk)?;
        }
        Ok(())
    }

    /// A chunk.
    pub fn read_chunk(&self, number: u16) -> Result<Chunk, Failed> {
        let mut chunk = Chunk::NONE;
        let words = self.load(MapName::Chunks, u32::from(number))?;
        chunk.0.copy_from_slice(&words);
        Ok(chunk)
    }

    /// Stores a port set. Nothing may name it yet.
    pub fn put_port_set(&self, set: PortSetId, chunks: PortSetChunks) -> Result<(), Failed> {
        let words: [u64; 4] = bytemuck::cast(chunks.0);
        self.store(MapName::PortSets, u32::from(set.0), &words)
    }

    /// A port set.
    pub fn read_port_set(&self, set: PortSetId) -> Result<PortSetChunks, Failed> {
        let words = self.load(MapName::PortSets, u32::from(set.0))?;
        let mut chunks = PortSetChunks::default();
        chunks.0.copy_from_slice(bytemuck::cast_slice(&words));
        Ok(chunks)
    }

    /// Stores what a ruleset says of any peer that no row names.
    pub fn put_default_row(&self, ruleset: RulesetId, row: RowWords) -> Result<(), Failed> {
        self.store(MapName::Rulesets, ruleset.0, &row.0)
    }

    /// What a ruleset says of any peer that no row names.
    pub fn read_default_row(&self, ruleset: RulesetId) -> Result<RowWords, Failed> {
        let words = self.load(MapName::Rulesets, ruleset.0)?;
        Ok(RowWords([words[0], words[1]]))
    }

    /// Stores a row, tagged with `key`.
    pub fn put_row(&self, key: RowKey, row: RowWords) -> Result<(), Failed> {
        self.update(
            MapName::Rows,
            bytemuck::bytes_of(&key),
            bytemuck::bytes_of(&row),
        )
    }

    /// Deletes a row; whether it was there.
    pub fn remove_row(&self, key: RowKey) -> Result<bool, Failed> {
        self.delete(MapName::Rows, bytemuck::bytes_of(&key))
    }

    /// A row.
    pub fn read_row(&self, key: RowKey) -> Result<Option<RowWords>, Failed> {
        Ok(self
            .lookup(MapName::Rows, bytemuck::bytes_of(&key))?
            .map(|value| bytemuck::pod_read_unaligned(&value)))
    }

    /// The keys of all rows.
    pub fn row_keys(&self) -> Result<Vec<RowKey>, Failed> {
        self.keys(MapName::Rows)
    }

    /// Stores what is known of an address. Only under the lock, because ADD deletes what is known of its own.
    pub fn put_peer(&self, address: IpAddr, word: PeerWord, _lock: &Lock) -> Result<(), Failed> {
        self.store_peer(address, word)
    }

    fn store_peer(&self, address: IpAddr, word: PeerWord) -> Result<(), Failed> {
        let key = Address::from(address);
        self.update(
            MapName::Peers,
            bytemuck::bytes_of(&key),
            bytemuck::bytes_of(&word.0),
        )
    }

    fn delete_peer(&self, address: IpAddr) -> Result<bool, Failed> {
        self.delete(MapName::Peers, bytemuck::bytes_of(&Address::from(address)))
    }

    /// Deletes what is known of an address; whether there was anything. Whoever does owes it to the attachments that
    /// they judge their flows again; see [`owed`].
    pub fn remove_peer(&self, address: IpAddr, by: Owed, lock: &Lock) -> Result<bool, Failed> {
        if self.read_peer(address)?.is_none() {
            return Ok(false);
        }
        let noted = owed::note(&self.paths, by, address, lock);
        let deleted = self.delete_peer(address)?;
        if noted.is_err() {
            // A debt that cannot be noted is paid at once.
            Self::grace()?;
            for name in Self::list_sets(&self.paths)? {
                if name.abi == podgate_abi::ABI {
                    Self::at(&self.paths, name).renew_generations()?;
                }
            }
        }
        Ok(deleted)
    }

    /// What is known of an address.
    pub fn read_peer(&self, address: IpAddr) -> Result<Option<PeerWord>, Failed> {
        let key = Address::from(address);
        Ok(self
            .lookup_word(MapName::Peers, bytemuck::bytes_of(&key))?
            .map(PeerWord))
    }

    /// Every address of which something is known.
    pub fn peer_addresses(&self) -> Result<Vec<IpAddr>, Failed> {
        let keys: Vec<Address> = self.keys(MapName::Peers)?;
        Ok(keys.into_iter().map(IpAddr::from).collect())
    }

    /// Notes that a pod, a node or a Service has these addresses. `length` is in the bits of the address's own family.
    pub fn put_taken(&self, prefix: IpAddr, length: u8) -> Result<(), Failed> {
        let key = prefix_key(prefix, length);
        self.update(
            MapName::Taken,
            bytemuck::bytes_of(&key),
            bytemuck::bytes_of(&1_u64),
        )
    }

    /// Notes that none has them any more; whether any had.
    pub fn remove_taken(&self, prefix: IpAddr, length: u8) -> Result<bool, Failed> {
        let key = prefix_key(prefix, length);
        self.delete(MapName::Taken, bytemuck::bytes_of(&key))
    }

    /// Says whom an address and UDP port are closed to.
    pub fn put_way(&self, key: WayKey, word: WayWord) -> Result<(), Failed> {
        self.update(
            MapName::Ways,
            bytemuck::bytes_of(&key),
            bytemuck::bytes_of(&word.0),
        )
    }

    /// Opens them again; whether they were closed.
    pub fn remove_way(&self, key: WayKey) -> Result<bool, Failed> {
        self.delete(MapName::Ways, bytemuck::bytes_of(&key))
    }

    /// Every address and UDP port that is closed.
    pub fn way_keys(&self) -> Result<Vec<WayKey>, Failed> {
        self.keys(MapName::Ways)
    }

    /// Stores what is known of a CIDR. `length` is in the bits of the address's own family.
    pub fn put_prefix(&self, prefix: IpAddr, length: u8, word: PrefixWord) -> Result<(), Failed> {
        let key = prefix_key(prefix, length);
        self.update(
            MapName::Prefixes,
            bytemuck::bytes_of(&key),
            bytemuck::bytes_of(&word.0),
        )
    }

    /// Deletes what is known of a CIDR; whether there was anything. That of all IPv4 is not to be deleted, but to
    /// be stored with no class: else `::/0` would match IPv4.
    pub fn remove_prefix(&self, prefix: IpAddr, length: u8) -> Result<bool, Failed> {
        let key = prefix_key(prefix, length);
        self.delete(MapName::Prefixes, bytemuck::bytes_of(&key))
    }

    /// What is known of exactly this CIDR, or of the longest that holds it: the kernel does not tell which.
    pub fn read_prefix(&self, prefix: IpAddr, length: u8) -> Result<Option<PrefixWord>, Failed> {
        let key = prefix_key(prefix, length);
        Ok(self
            .lookup_word(MapName::Prefixes, bytemuck::bytes_of(&key))?
            .map(PrefixWord))
    }

    /// Every CIDR of which something is known, as the kernel has it.
    pub fn prefix_keys(&self) -> Result<Vec<PrefixKey>, Failed> {
        self.keys(MapName::Prefixes)
    }
}

fn prefix_key(prefix: IpAddr, length: u8) -> PrefixKey {
    PrefixKey {
        length: u32::from(length) + if prefix.is_ipv4() { 96 } else { 0 },
        address: prefix.into(),
    }
}
