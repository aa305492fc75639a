//! Loads the committed object with tables of its own.

use std::cell::Cell;

use aya::maps::Map;
use aya::programs::SchedClassifier;
use aya::{EbpfLoader, include_bytes_aligned};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use podgate_abi::{Budget, Class, Direction, FIRST_CHUNK, Limit, PortSet, Reason};
use podgate_datapath::SkbLayout;

use super::execute::constants;
use super::wire::Wire;
use super::{FlowMemory, HZ, HostTables, Kernel, SLOT};

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

impl Kernel {
    /// Loads the programs with fresh tables, which hold what is the same for everybody.
    ///
    /// # Panics
    /// When the kernel refuses the object, or there is no right to load it.
    pub fn new(sizes: Sizes) -> Self {
        // Tables count against it before Linux 5.11. Where it may not be lifted, loading tells whether it matters.
        setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).ok();
        let mut loader = EbpfLoader::new();
        loader.override_global("HZ", &HZ, true);
        let skb = SkbLayout::of_kernel().unwrap_or_default();
        for (name, value) in skb.globals() {
            loader.override_global(name, value, true);
        }
        for (name, entries) in [
            ("attachments", 16),
            ("rulesets", 1024),
            ("peers", 4096),
            ("taken", 64),
            ("prefixes", 4096),
            ("rows", 16384),
            ("portsets", 1024),
            ("chunks", 1024),
            ("counters", 2 * Reason::COUNT),
            ("events", 1 << 18),
            ("flows", sizes.flows),
            ("embryonic", sizes.embryonic),
            ("crowd", sizes.crowd),
            ("fragments", 4096),
            ("budgets", 16),
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
        let wire = Wire::is_needed(OBJECT).then(|| Wire::new(&mut ebpf));
        let number = |name: &str| -> u32 {
            let map = ebpf.map(name).expect(name);
            let Map::HashMap(map) = map else {
                panic!("{name} is a hash");
            };
            map.info().expect("a map tells its number").id()
        };
        let written_by_others = [number("peers"), number("rows")];
        let mut take = |name: &str| -> Map { ebpf.take_map(name).expect(name) };
        let mut kernel = Self {
            attachments: take("attachments").try_into().expect("attachments"),
            rulesets: take("rulesets").try_into().expect("rulesets"),
            peers: take("peers").try_into().expect("peers"),
            taken: take("taken").try_into().expect("taken"),
            prefixes: take("prefixes").try_into().expect("prefixes"),
            rows: take("rows").try_into().expect("rows"),
            port_sets: take("portsets").try_into().expect("portsets"),
            chunks: take("chunks").try_into().expect("chunks"),
            flows: take("flows").try_into().expect("flows"),
            embryonic: take("embryonic").try_into().expect("embryonic"),
            crowd: take("crowd").try_into().expect("crowd"),
            fragments: take("fragments").try_into().expect("fragments"),
            budgets: take("budgets").try_into().expect("budgets"),
            limits: take("limits").try_into().expect("limits"),
            common: take("common").try_into().expect("common"),
            written_by_others,
            counters: take("counters").try_into().expect("counters"),
            events: take("events").try_into().expect("events"),
            host: HostTables {
                flows: FlowMemory::with_capacity(sizes.flows),
                embryonic: FlowMemory::with_capacity(sizes.embryonic),
                crowd: FlowMemory::with_capacity(sizes.crowd),
                budgets: [(SLOT, Budget::default())].into(),
                limits: sizes.limits().map(|(_, value)| value),
                second: HZ,
                now: Cell::new(HZ.into()),
                ..HostTables::default()
            },
            ebpf,
            wire,
            counted: [0; 2 * Reason::COUNT as usize],
            next_port_set: PortSet::FIRST.0,
            next_chunk: FIRST_CHUNK,
            last_generation: 0,
        };
        kernel.fill_constants(sizes);
        kernel
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
