// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Loads the committed object with tables of its own.

use std::cell::Cell;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::SchedClassifier;
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use podgate_abi::{Class, Direction, FIRST_CHUNK, Limit, PortSetId, Quota, Reason};
use podgate_datapath::SkbLayout;

use super::execute::constants;
use super::wire::Wire;
use super::{ATTACHMENT_WORDS, FlowMemory, HZ, HostTables, Kernel, SLOT};

/// The object under test.
static OBJECT: &[u8] = include_bytes_aligned!("../../../bpf/podgate.o");

/// Elements of the tables that a test may want small.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Answered flows.
    pub flows: u32,
    /// Flows that were not answered.
    pub embryonic: u32,
    /// The same, of attachments that have used up their share.
    pub crowd: u32,
    /// Of `embryonic`, how many one attachment may have.
    pub embryonic_per_attachment: u64,
    /// Of `flows`, how many one attachment may have.
    pub flows_per_attachment: u64,
    /// Of these, how many it may have whatever the others have.
    pub guarantee: u64,
    /// Of `flows`, how many all may have beyond that.
    pub common: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            flows: 4096,
            embryonic: 8192,
            crowd: 8192,
            embryonic_per_attachment: 8,
            flows_per_attachment: 4096,
            guarantee: 0,
            common: 4096,
        }
    }
}

impl Sizes {
    /// What the programs are told, in the order of [`Limit`].
    fn limits(self) -> [(Limit, u64); Limit::COUNT as usize] {
        [
            (Limit::Flows, self.flows_per_attachment),
            (Limit::Embryonic, self.embryonic_per_attachment),
            (Limit::Guarantee, self.guarantee),
            (Limit::Common, self.common),
        ]
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new(Sizes::default())
    }
}

/// The programs in the kernel, with their tables.
pub(super) struct Loaded {
    ebpf: Ebpf,
    /// Real interfaces, where test runs cannot be had.
    pub(super) wire: Option<Wire>,
    /// Elements of `flows`, `embryonic` and `crowd`.
    room: [u32; 3],
}

/// All that this process has loaded. The verifier needs seconds on an emulated machine, so what no test holds any more
/// serves the next one that wants tables of its sizes.
static LOADED: Mutex<Vec<Arc<Loaded>>> = Mutex::new(Vec::new());

impl Loaded {
    /// One that no test holds any more.
    fn with_room(sizes: Sizes) -> Arc<Self> {
        let room = [sizes.flows, sizes.embryonic, sizes.crowd];
        let all = || LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let is_spare = |one: &&Arc<Self>| Arc::strong_count(one) == 1 && one.room == room;
        if let Some(spare) = all().iter().find(is_spare).map(Arc::clone) {
            return spare;
        }
        let new = Arc::new(Self::new(room));
        all().push(Arc::clone(&new));
        new
    }

    fn new(room: [u32; 3]) -> Self {
        // Tables count against it before Linux 5.11. Where it may not be lifted, loading tells whether it matters.
        setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).ok();
        let mut loader = EbpfLoader::new();
        loader.override_global("HZ", &HZ, true);
        let skb = SkbLayout::of_kernel().unwrap_or_default();
        for (name, value) in skb.globals() {
            loader.override_global(name, value, true);
        }
        let [flows, embryonic, crowd] = room;
        for (name, entries) in [
            ("attachments", 16),
            ("rulesets", 1024),
            ("peers", 4096),
            ("prefixes", 4096),
            ("rows", 16384),
            ("portsets", 1024),
            ("chunks", 1024),
            ("counters", 2 * Reason::COUNT),
            ("events", 1 << 18),
            ("flows", flows),
            ("embryonic", embryonic),
            ("crowd", crowd),
            ("fragments", 4096),
            ("quotas", 16),
            ("limits", Limit::COUNT),
            ("common", 1),
        ] {
            loader.map_max_entries(name, entries);
        }
        let mut ebpf = loader
            .load(OBJECT)
            .expect("load the eBPF object (are you root?)");
        for direction in Direction::BOTH {
            let program = ebpf
                .program_mut(super::name(direction))
                .expect("the object has the program");
            let program: &mut SchedClassifier = program.try_into().expect("it is a classifier");
            program.load().expect("the kernel accepts the program");
        }
        let is_needed = Wire::is_needed(program(&ebpf, Direction::Ingress));
        let wire = is_needed.then(|| Wire::new(&mut ebpf));
        Self { ebpf, wire, room }
    }

    pub(super) fn program(&self, direction: Direction) -> &SchedClassifier {
        program(&self.ebpf, direction)
    }

    /// A second hand for a table of this kind.
    fn table(&self, kind: fn(MapData) -> Map, name: &str) -> Map {
        let Some(
            Map::Array(table)
            | Map::HashMap(table)
            | Map::LruHashMap(table)
            | Map::LpmTrie(table)
            | Map::PerCpuArray(table)
            | Map::RingBuf(table),
        ) = self.ebpf.map(name)
        else {
            panic!("the object has no table {name}, or one of another kind");
        };
        let fd = table.fd().as_fd().try_clone_to_owned();
        kind(MapData::from_fd(fd.expect("a second descriptor")).expect(name))
    }

    fn number(&self, name: &str) -> u32 {
        let Some(Map::HashMap(table)) = self.ebpf.map(name) else {
            panic!("{name} is a hash");
        };
        table.info().expect("a map tells its number").id()
    }
}

fn program(ebpf: &Ebpf, direction: Direction) -> &SchedClassifier {
    let program = ebpf
        .program(super::name(direction))
        .expect("the object has the program");
    program.try_into().expect("it is a classifier")
}

impl Kernel {
    /// The programs with fresh tables, which hold what is the same for everybody.
    ///
    /// # Panics
    /// When the kernel refuses the object, or there is no right to load it.
    pub fn new(sizes: Sizes) -> Self {
        let loaded = Loaded::with_room(sizes);
        let take = |kind, name| loaded.table(kind, name);
        let mut kernel = Self {
            attachments: take(Map::Array, "attachments")
                .try_into()
                .expect("attachments"),
            rulesets: take(Map::Array, "rulesets").try_into().expect("rulesets"),
            peers: take(Map::HashMap, "peers").try_into().expect("peers"),
            taken: take(Map::LpmTrie, "taken").try_into().expect("taken"),
            ways: take(Map::LpmTrie, "ways").try_into().expect("ways"),
            prefixes: take(Map::LpmTrie, "prefixes").try_into().expect("prefixes"),
            rows: take(Map::HashMap, "rows").try_into().expect("rows"),
            port_sets: take(Map::Array, "portsets").try_into().expect("portsets"),
            chunks: take(Map::Array, "chunks").try_into().expect("chunks"),
            flows: take(Map::HashMap, "flows").try_into().expect("flows"),
            embryonic: take(Map::HashMap, "embryonic")
                .try_into()
                .expect("embryonic"),
            crowd: take(Map::LruHashMap, "crowd").try_into().expect("crowd"),
            fragments: take(Map::LruHashMap, "fragments")
                .try_into()
                .expect("fragments"),
            quotas: take(Map::Array, "quotas").try_into().expect("quotas"),
            limits: take(Map::Array, "limits").try_into().expect("limits"),
            common: take(Map::Array, "common").try_into().expect("common"),
            written_by_others: ["peers", "rows"].map(|name| loaded.number(name)),
            counters: take(Map::PerCpuArray, "counters")
                .try_into()
                .expect("counters"),
            events: take(Map::RingBuf, "events").try_into().expect("events"),
            host: HostTables {
                flows: FlowMemory::with_capacity(sizes.flows),
                embryonic: FlowMemory::with_capacity(sizes.embryonic),
                crowd: FlowMemory::with_capacity(sizes.crowd),
                quotas: [(SLOT, Quota::default())].into(),
                limits: sizes.limits().map(|(_, value)| value),
                second: HZ,
                now: Cell::new(HZ.into()),
                ..HostTables::default()
            },
            loaded,
            counted: [0; 2 * Reason::COUNT as usize],
            next_port_set: PortSetId::FIRST.0,
            next_chunk: FIRST_CHUNK,
            last_generation: 0,
        };
        kernel.empty();
        kernel.fill_constants(sizes);
        kernel
    }

    /// Takes all out of the kernel's tables.
    fn empty(&mut self) {
        fill(&mut self.attachments, [0; ATTACHMENT_WORDS]);
        fill(&mut self.rulesets, [0; 2]);
        fill(&mut self.port_sets, [0; 16]);
        fill(&mut self.chunks, [0; 64]);
        fill(&mut self.quotas, [0; 2]);
        fill(&mut self.limits, 0);
        fill(&mut self.common, 0);
        remove_all(&mut self.peers);
        remove_all(&mut self.rows);
        remove_all(&mut self.fragments);
        for flows in [&mut self.flows, &mut self.embryonic, &mut self.crowd] {
            remove_all(flows);
        }
        for trie in [&mut self.prefixes, &mut self.taken] {
            let prefixes: Vec<_> = trie.keys().flatten().collect();
            for prefix in prefixes {
                trie.remove(&prefix).expect("the prefix is deleted");
            }
        }
        let ways: Vec<_> = self.ways.keys().flatten().collect();
        for way in ways {
            self.ways.remove(&way).expect("the way is opened");
        }
        for index in 0..self.counters.len() {
            let none = vec![0; nr_cpus().expect("a number of CPUs")];
            let none = none.try_into().expect("a value for each CPU");
            self.counters.set(index, none, 0).expect("a counter");
        }
        self.take_events();
    }

    /// What the table set's maker writes into every set.
    fn fill_constants(&mut self, sizes: Sizes) {
        let constants = constants();
        for (number, chunk) in constants.chunks {
            self.put_chunk(number, chunk);
        }
        for (set, chunks) in constants.port_sets {
            self.put_port_set(set, chunks);
        }
        let (address, length) = constants.prefix;
        self.put_prefix(address, length, Class::NONE);
        for (limit, value) in sizes.limits() {
            self.limits
                .set(limit as u32, value, 0)
                .expect("the limit is written");
        }
    }
}

fn fill<V: aya::Pod>(table: &mut Array<MapData, V>, value: V) {
    for index in 0..table.len() {
        table.set(index, value, 0).expect("the element is written");
    }
}

fn remove_all<K: aya::Pod, V: aya::Pod>(table: &mut HashMap<MapData, K, V>) {
    let keys: Vec<K> = table.keys().flatten().collect();
    for key in keys {
        table.remove(&key).expect("the element is deleted");
    }
}
