//! A table set, and the tables that all sets share: typed reads and writes.
//!
//! Tables are opened when they are first used, so that whoever needs three of them opens three.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use podgate_abi::{
    Address, Attachment, CHUNK_ALL, CHUNK_NONE, Chunk, Class, Direction, Origin, PeerWord,
    PolicyWord, PortSet, PortSetChunks, PrefixKey, PrefixWord, Reason, Row, RowKey, RowSets,
    Ruleset, TUNNEL_PORTS, TUNNEL_PROTOCOLS,
};

use crate::{
    Failed, Paths, Sizes,
    bpffs::{self, SetName},
    lock::Lock,
    object::{self, LoadError},
    record::{Generation, Record, Slot},
    sys::{self, Map, MappedArray},
};

/// The tables. Their names in the object are the names of their pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MapName {
    /// Slot to attachment.
    Attachments,
    /// Ruleset to the row for any peer that no other row names.
    Rulesets,
    /// Address to class.
    Peers,
    /// CIDR to broad class.
    Prefixes,
    /// Ruleset and class to row.
    Rows,
    /// Port set to chunks.
    PortSets,
    /// Chunk to ports.
    Chunks,
    /// Packets by direction and reason.
    Counters,
    /// Verdict events.
    Events,
    /// Tracked connections.
    Flows,
    /// Connections seen in one direction only.
    Embryonic,
    /// Verdicts on first fragments.
    Fragments,
    /// Entries in `flows` by slot.
    Budgets,
    /// Entries in `flows` that one attachment may have.
    Limits,
    /// The last generation, and the last slot that was given out. Not used by the programs.
    Generation,
}

impl MapName {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Attachments,
        Self::Rulesets,
        Self::Peers,
        Self::Prefixes,
        Self::Rows,
        Self::PortSets,
        Self::Chunks,
        Self::Counters,
        Self::Events,
        Self::Flows,
        Self::Embryonic,
        Self::Fragments,
        Self::Budgets,
        Self::Limits,
        Self::Generation,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attachments => "attachments",
            Self::Rulesets => "rulesets",
            Self::Peers => "peers",
            Self::Prefixes => "prefixes",
            Self::Rows => "rows",
            Self::PortSets => "portsets",
            Self::Chunks => "chunks",
            Self::Counters => "counters",
            Self::Events => "events",
            Self::Flows => "flows",
            Self::Embryonic => "embryonic",
            Self::Fragments => "fragments",
            Self::Budgets => "budgets",
            Self::Limits => "limits",
            Self::Generation => "generation",
        }
    }

    /// Whether all table sets share it.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        match self {
            Self::Attachments
            | Self::Rulesets
            | Self::Peers
            | Self::Prefixes
            | Self::Rows
            | Self::PortSets
            | Self::Chunks
            | Self::Counters
            | Self::Events => false,
            Self::Flows
            | Self::Embryonic
            | Self::Fragments
            | Self::Budgets
            | Self::Limits
            | Self::Generation => true,
        }
    }

    /// Whether the programs know it.
    pub(crate) const fn is_in_object(self) -> bool {
        !matches!(self, Self::Generation)
    }
}

/// What a compare-and-swap found instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed(pub PolicyWord);

/// How full a table is, and what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Which table.
    pub map: MapName,
    /// Elements that fit.
    pub capacity: u32,
    /// Bytes of kernel memory.
    pub bytes: u64,
}

/// One table set, with the shared tables beside it.
#[derive(Debug)]
pub struct TableSet {
    name: SetName,
    paths: Paths,
    directory: PathBuf,
    shared: PathBuf,
    maps: [OnceLock<Map>; MapName::ALL.len()],
    arrays: [OnceLock<MappedArray>; MapName::ALL.len()],
}

fn full(map: MapName, index: u32) -> Failed {
    let why = "it has no such element; the table must grow";
    Failed::new(
        "use element",
        format_args!("{index} of table {}", map.name()),
        io::Error::other(why),
    )
}

impl TableSet {
    /// Makes a new table set, filled with what is the same for everybody: not current yet. The caller fills the
    /// rest, and names it.
    ///
    /// # Errors
    /// When the kernel refuses it, or a pin cannot be made.
    pub fn create(paths: &Paths, lock: &Lock, sizes: &Sizes) -> Result<Self, LoadError> {
        let set = Self::at(paths, object::create(paths, lock, sizes)?);
        set.fill_constants(sizes)?;
        Ok(set)
    }

    /// Opens the current table set, if there is one.
    ///
    /// # Errors
    /// When its layout is another version's.
    pub fn open_current(paths: &Paths) -> Result<Option<Self>, Failed> {
        let Some(name) = bpffs::current(paths)? else {
            return Ok(None);
        };
        if name.abi != podgate_abi::ABI {
            let why = format!(
                "its layout {} is not {}; let the enforcer that made it attach",
                name.abi,
                podgate_abi::ABI
            );
            return Err(Failed::new("open table set", name, io::Error::other(why)));
        }
        Ok(Some(Self::at(paths, name)))
    }

    /// Opens a table set of this version's layout.
    #[must_use]
    pub fn at(paths: &Paths, name: SetName) -> Self {
        Self {
            name,
            paths: paths.clone(),
            directory: name.path(paths),
            shared: paths.shared(),
            maps: [const { OnceLock::new() }; MapName::ALL.len()],
            arrays: [const { OnceLock::new() }; MapName::ALL.len()],
        }
    }

    /// Every table set that is pinned, of whatever layout.
    ///
    /// # Errors
    /// When the directory of pins cannot be read.
    pub fn list_sets(paths: &Paths) -> Result<Vec<SetName>, Failed> {
        bpffs::list(paths)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> SetName {
        self.name
    }

    /// Names it current: attachments go there from now on.
    ///
    /// # Errors
    /// When the link cannot be replaced.
    pub fn name_current(&self, _lock: &Lock) -> Result<(), Failed> {
        bpffs::name_current(&self.paths, self.name)
    }

    fn pin(&self, map: MapName) -> PathBuf {
        if map.is_shared() {
            &self.shared
        } else {
            &self.directory
        }
        .join(map.name())
    }

    pub(crate) fn map(&self, name: MapName) -> Result<&Map, Failed> {
        let cell = &self.maps[name as usize];
        if let Some(map) = cell.get() {
            return Ok(map);
        }
        let pin = self.pin(name);
        let map = sys::obj_get(&pin)
            .and_then(|fd| Map::new(fd, name == MapName::Counters))
            .map_err(Failed::at("open table", &pin))?;
        Ok(cell.get_or_init(|| map))
    }

    pub(crate) fn array(&self, name: MapName) -> Result<&MappedArray, Failed> {
        let cell = &self.arrays[name as usize];
        if let Some(array) = cell.get() {
            return Ok(array);
        }
        let array = MappedArray::new(self.map(name)?.as_fd())
            .map_err(Failed::at("map table", &self.pin(name)))?;
        Ok(cell.get_or_init(|| array))
    }

    fn words(&self, name: MapName, index: u32) -> Result<&[AtomicU64], Failed> {
        self.array(name)?
            .element(index)
            .ok_or_else(|| full(name, index))
    }

    fn store(&self, name: MapName, index: u32, content: &[u64]) -> Result<(), Failed> {
        for (word, value) in self.words(name, index)?.iter().zip(content) {
            word.store(*value, Ordering::Release);
        }
        Ok(())
    }

    fn load(&self, name: MapName, index: u32) -> Result<Vec<u64>, Failed> {
        let words = self.words(name, index)?;
        Ok(words
            .iter()
            .map(|word| word.load(Ordering::Acquire))
            .collect())
    }

    /// The program that judges a direction.
    pub(crate) fn program(&self, direction: Direction) -> Result<OwnedFd, Failed> {
        let pin = self.directory.join(object::program(direction));
        sys::obj_get(&pin).map_err(Failed::at("open program", &pin))
    }

    /// The kernel's number of the program that judges a direction.
    ///
    /// # Errors
    /// When the pin cannot be opened.
    pub fn program_id(&self, direction: Direction) -> Result<u32, Failed> {
        let fd = self.program(direction)?;
        sys::prog_id(fd.as_fd()).map_err(|e| {
            Failed::new(
                "ask for the number of program",
                object::program(direction),
                e,
            )
        })
    }

    /// The kernel's numbers of both programs, of whatever layout the set is.
    pub(crate) fn program_ids(&self) -> Result<[u32; 2], Failed> {
        Ok([
            self.program_id(Direction::ToPod)?,
            self.program_id(Direction::FromPod)?,
        ])
    }

    fn fill_constants(&self, sizes: &Sizes) -> Result<(), Failed> {
        self.put_chunk(CHUNK_NONE, &Chunk::NONE)?;
        self.put_chunk(CHUNK_ALL, &Chunk::ALL)?;
        self.put_port_set(PortSet::NONE, PortSetChunks([CHUNK_NONE; 16]))?;
        self.put_port_set(PortSet::ALL, PortSetChunks([CHUNK_ALL; 16]))?;
        let mut next = CHUNK_ALL + 1;
        let protocols = TUNNEL_PROTOCOLS.map(u16::from);
        for (set, ports) in [
            (PortSet::TUNNEL_PORTS, &TUNNEL_PORTS[..]),
            (PortSet::TUNNEL_PROTOCOLS, &protocols[..]),
        ] {
            let mut chunks = [CHUNK_NONE; 16];
            for (place, number) in (0_u16..).zip(chunks.iter_mut()) {
                let mut chunk = Chunk::NONE;
                for port in ports.iter().filter(|port| **port >> 12 == place) {
                    chunk.insert(port & 0xfff);
                }
                if chunk != Chunk::NONE {
                    self.put_chunk(next, &chunk)?;
                    *number = next;
                    next += 1;
                }
            }
            self.put_port_set(set, PortSetChunks(chunks))?;
        }
        let of = |set| RowSets {
            tcp: set,
            udp: set,
            sctp: set,
            rest: set,
        };
        self.put_default_row(Ruleset::DENY_ALL, Row::new(RowKey(0), of(PortSet::NONE)))?;
        self.put_default_row(Ruleset::ALLOW_ALL, Row::new(RowKey(0), of(PortSet::ALL)))?;
        let none = Class::NONE.0;
        self.put_prefix(IpAddr::from([0, 0, 0, 0]), 0, PrefixWord(u64::from(none)))?;
        self.set_flows_per_attachment(sizes.flows_per_attachment)
    }

    /// The lowest chunk that is not taken by what is the same for everybody.
    pub const FIRST_CHUNK: u16 = 8;

    /// Stores a chunk. Nothing may name it yet.
    ///
    /// # Errors
    /// Here and below: when the table cannot be opened, or is full.
    pub fn put_chunk(&self, number: u16, chunk: &Chunk) -> Result<(), Failed> {
        self.store(MapName::Chunks, u32::from(number), &chunk.0)
    }

    /// A chunk.
    pub fn read_chunk(&self, number: u16) -> Result<Chunk, Failed> {
        let mut chunk = Chunk::NONE;
        let words = self.load(MapName::Chunks, u32::from(number))?;
        chunk.0.copy_from_slice(&words);
        Ok(chunk)
    }

    /// Stores a port set. Nothing may name it yet.
    pub fn put_port_set(&self, set: PortSet, chunks: PortSetChunks) -> Result<(), Failed> {
        let words: [u64; 4] = bytemuck::cast(chunks.0);
        self.store(MapName::PortSets, u32::from(set.0), &words)
    }

    /// A port set.
    pub fn read_port_set(&self, set: PortSet) -> Result<PortSetChunks, Failed> {
        let words = self.load(MapName::PortSets, u32::from(set.0))?;
        let mut chunks = PortSetChunks::default();
        chunks.0.copy_from_slice(bytemuck::cast_slice(&words));
        Ok(chunks)
    }

    /// Stores what a ruleset says of any peer that no row names.
    pub fn put_default_row(&self, ruleset: Ruleset, row: Row) -> Result<(), Failed> {
        self.store(MapName::Rulesets, ruleset.0, &row.0)
    }

    /// What a ruleset says of any peer that no row names.
    pub fn read_default_row(&self, ruleset: Ruleset) -> Result<Row, Failed> {
        let words = self.load(MapName::Rulesets, ruleset.0)?;
        Ok(Row([words[0], words[1]]))
    }

    fn update(&self, map: MapName, key: &[u8], value: &[u8]) -> Result<(), Failed> {
        self.map(map)?
            .update(key, value)
            .map_err(|e| Failed::new("write table", map.name(), e))
    }

    fn delete(&self, map: MapName, key: &[u8]) -> Result<bool, Failed> {
        self.map(map)?
            .delete(key)
            .map_err(|e| Failed::new("delete from table", map.name(), e))
    }

    fn lookup(&self, map: MapName, key: &[u8]) -> Result<Option<Vec<u8>>, Failed> {
        self.map(map)?
            .lookup(key)
            .map_err(|e| Failed::new("read table", map.name(), e))
    }

    fn lookup_word(&self, map: MapName, key: &[u8]) -> Result<Option<u64>, Failed> {
        Ok(self
            .lookup(map, key)?
            .map(|value| bytemuck::pod_read_unaligned(&value)))
    }

    fn keys<K: bytemuck::AnyBitPattern>(&self, map: MapName) -> Result<Vec<K>, Failed> {
        let keys = self
            .map(map)?
            .keys()
            .map_err(|e| Failed::new("list table", map.name(), e))?;
        Ok(keys
            .iter()
            .map(|key| bytemuck::pod_read_unaligned(key))
            .collect())
    }

    /// Stores a row, tagged with `key`.
    pub fn put_row(&self, key: RowKey, row: Row) -> Result<(), Failed> {
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
    pub fn read_row(&self, key: RowKey) -> Result<Option<Row>, Failed> {
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
        let key = Address::from(address);
        self.update(
            MapName::Peers,
            bytemuck::bytes_of(&key),
            bytemuck::bytes_of(&word.0),
        )
    }

    /// Deletes what is known of an address; whether there was anything.
    pub fn remove_peer(&self, address: IpAddr, _lock: &Lock) -> Result<bool, Failed> {
        self.delete(MapName::Peers, bytemuck::bytes_of(&Address::from(address)))
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

    fn policy_word(&self, slot: Slot, direction: Direction) -> Result<&AtomicU64, Failed> {
        Ok(&self.words(MapName::Attachments, slot.0)?[direction as usize])
    }

    /// Stores an attachment's word of one direction: its policy flips.
    pub fn store_word(
        &self,
        slot: Slot,
        direction: Direction,
        word: PolicyWord,
    ) -> Result<(), Failed> {
        self.policy_word(slot, direction)?
            .store(word.0, Ordering::Release);
        Ok(())
    }

    /// An attachment's word of one direction.
    pub fn read_word(&self, slot: Slot, direction: Direction) -> Result<PolicyWord, Failed> {
        let word = self.policy_word(slot, direction)?;
        Ok(PolicyWord(word.load(Ordering::Acquire)))
    }

    /// Stores a word if the old one still stands; else tells what stands there.
    pub fn compare_and_swap_word(
        &self,
        slot: Slot,
        direction: Direction,
        old: PolicyWord,
        new: PolicyWord,
    ) -> Result<Result<(), Changed>, Failed> {
        let word = self.policy_word(slot, direction)?;
        Ok(word
            .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(|found| Changed(PolicyWord(found))))
    }

    /// Writes an attachment as it is at birth: its addresses, its baseline, and last that it exists.
    ///
    /// No filter may name the slot in this set.
    pub fn write_attachment(&self, record: &Record) -> Result<(), Failed> {
        let words = self.words(MapName::Attachments, record.slot.0)?;
        let (policies, rest) = words.split_at(Direction::BOTH.len());
        let (origin, addresses) = rest.split_at(1);
        origin[0].store(Origin::NONE.0, Ordering::Release);
        let own: Vec<Address> = record
            .addresses
            .iter()
            .map(|ip| Address::from(*ip))
            .collect();
        if own.len() * 2 > addresses.len() {
            return Err(Failed::new(
                "write attachment",
                &record.identity,
                io::Error::other(format!(
                    "it has {} addresses, and there is room for {}",
                    own.len(),
                    podgate_abi::MAX_ADDRESSES
                )),
            ));
        }
        let content: &[u64] = &own
            .iter()
            .flat_map(|address| {
                let halves: [u64; 2] = bytemuck::cast(address.octets());
                halves
            })
            .collect::<Vec<_>>();
        for (place, word) in addresses.iter().enumerate() {
            word.store(content.get(place).copied().unwrap_or(0), Ordering::Release);
        }
        let policy = PolicyWord::new(record.baseline.ruleset(), record.birth.0);
        for word in policies {
            word.store(policy.0, Ordering::Release);
        }
        let born = Origin::new(record.birth.0, record.routes);
        origin[0].store(born.0, Ordering::Release);
        Ok(())
    }

    /// Empties a slot: whatever filter still names it drops everything.
    pub fn clear_attachment(&self, slot: Slot) -> Result<(), Failed> {
        let words = self.words(MapName::Attachments, slot.0)?;
        let first = words.iter().skip(Direction::BOTH.len());
        for word in first.chain(words.iter().take(Direction::BOTH.len())) {
            word.store(0, Ordering::Release);
        }
        Ok(())
    }

    /// An attachment as the programs see it.
    pub fn read_attachment(&self, slot: Slot) -> Result<Attachment, Failed> {
        let words = self.load(MapName::Attachments, slot.0)?;
        let attachment = Attachment::default();
        attachment.words[0].store(words[0]);
        attachment.words[1].store(words[1]);
        attachment.origin.store(words[2]);
        let mut addresses = attachment.addresses;
        for (address, halves) in addresses.iter_mut().zip(words[3..].chunks_exact(2)) {
            let octets: [u8; 16] = bytemuck::cast([halves[0], halves[1]]);
            *address = Address::new(octets);
        }
        Ok(Attachment {
            addresses,
            ..attachment
        })
    }

    /// Draws a generation that nobody has had.
    pub fn draw_generation(&self) -> Result<Generation, Failed> {
        let word = &self.words(MapName::Generation, 0)?[0];
        loop {
            let drawn = word.fetch_add(1, Ordering::AcqRel).wrapping_add(1) as u32;
            if drawn != 0 {
                return Ok(Generation(drawn));
            }
        }
    }

    /// Where the last slot that was given out is kept; only under the lock.
    pub(crate) fn last_slot(&self) -> Result<&AtomicU64, Failed> {
        Ok(&self.words(MapName::Generation, 1)?[0])
    }

    /// How many slots there are, slot 0 included.
    pub(crate) fn slots(&self) -> Result<u32, Failed> {
        Ok(self.map(MapName::Attachments)?.capacity)
    }

    /// Gives every attachment a fresh generation in both directions: all flows are judged again.
    ///
    /// # Errors
    /// When the tables cannot be opened.
    pub fn renew_generations(&self) -> Result<(), Failed> {
        for slot in self.born()? {
            self.renew_generation(slot)?;
        }
        Ok(())
    }

    /// The slots that hold an attachment.
    ///
    /// # Errors
    /// When the table cannot be opened.
    pub fn born(&self) -> Result<Vec<Slot>, Failed> {
        let records = self.array(MapName::Attachments)?;
        let is_born = |slot: &u32| {
            records
                .element(*slot)
                .is_some_and(|words| origin(words) != Origin::NONE)
        };
        Ok((1..self.slots()?).filter(is_born).map(Slot).collect())
    }

    /// Gives one attachment a fresh generation in both directions.
    ///
    /// # Errors
    /// When the tables cannot be opened.
    pub fn renew_generation(&self, slot: Slot) -> Result<(), Failed> {
        for direction in Direction::BOTH {
            let mut old = self.read_word(slot, direction)?;
            loop {
                let new = PolicyWord::new(old.ruleset(), self.draw_generation()?.0);
                match self.compare_and_swap_word(slot, direction, old, new)? {
                    Ok(()) => break,
                    Err(Changed(found)) => old = found,
                }
            }
        }
        Ok(())
    }

    /// Sets how many connections in `flows` each attachment may have.
    pub fn set_flows_per_attachment(&self, limit: u32) -> Result<(), Failed> {
        self.store(MapName::Limits, 0, &[u64::from(limit)])
    }

    /// How many entries of `flows` a slot is said to have.
    pub fn read_budget(&self, slot: Slot) -> Result<u64, Failed> {
        Ok(self.load(MapName::Budgets, slot.0)?[0])
    }

    pub(crate) fn store_budget(&self, slot: u32, count: u64) -> Result<(), Failed> {
        self.store(MapName::Budgets, slot, &[count])
    }

    /// Packets of a direction that ended with a reason, by the reason's number; over all CPUs.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn counters(&self, direction: Direction) -> Result<Vec<u64>, Failed> {
        let first = direction as u32 * Reason::COUNT;
        (first..first + Reason::COUNT)
            .map(|index| {
                let value = self.lookup(MapName::Counters, bytemuck::bytes_of(&index))?;
                Ok(value
                    .unwrap_or_default()
                    .chunks_exact(8)
                    .map(bytemuck::pod_read_unaligned::<u64>)
                    .sum())
            })
            .collect()
    }

    /// Capacity and memory of every table, the shared ones too.
    ///
    /// # Errors
    /// When a table cannot be opened.
    pub fn usage(&self) -> Result<Vec<Usage>, Failed> {
        MapName::ALL
            .into_iter()
            .map(|name| {
                let map = self.map(name)?;
                let bytes = map
                    .memory()
                    .map_err(|e| Failed::new("ask for the memory of table", name.name(), e))?;
                Ok(Usage {
                    map: name,
                    capacity: map.capacity,
                    bytes,
                })
            })
            .collect()
    }

    /// Waits until no program runs that began before: an update of a table of tables waits for that.
    ///
    /// # Errors
    /// When the kernel refuses the tables made for it.
    pub fn grace() -> Result<(), Failed> {
        let wait = || {
            let inner = sys::map_create(sys::ARRAY, 8, 1, 0, None)?;
            let outer = sys::map_create(sys::ARRAY_OF_MAPS, 4, 1, 0, Some(inner.as_fd()))?;
            let fd = std::os::fd::AsRawFd::as_raw_fd(&inner);
            Map::new(outer, false)?.update(&0_u32.to_ne_bytes(), &fd.to_ne_bytes())
        };
        wait().map_err(|e| Failed::new("wait for", "a grace period", e))
    }
}

/// Where the attachment with these words comes from.
pub(crate) fn origin(words: &[AtomicU64]) -> Origin {
    Origin(words[Direction::BOTH.len()].load(Ordering::Acquire))
}

fn prefix_key(prefix: IpAddr, length: u8) -> PrefixKey {
    PrefixKey {
        length: u32::from(length) + if prefix.is_ipv4() { 96 } else { 0 },
        address: prefix.into(),
    }
}
