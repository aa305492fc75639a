// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The committed programs in the kernel under `BPF_PROG_TEST_RUN`, and `decide()` on the host beside them.
//!
//! ```text
//! a write ──► Kernel ──┬──► maps of the loaded object      a frame ──┬──► test run ──► verdict, counter ──┐
//!                      └──► HostTables                               └──► decide() ──► reason ────────────┴─ equal?
//! ```
//!
//! Each [`Kernel`] has tables of its own, pinned nowhere and empty at first, so tests run side by side. Every frame that a test sends
//! through [`Kernel::run`] is judged twice, and the two must agree in the verdict and in the reason.

mod execute;
mod flows;
mod host;
mod load;
mod pod;
mod wire;
mod write;

use std::sync::Arc;

use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, RingBuf};
use aya::programs::{TestRun as _, TestRunOptions};
use podgate_abi::{
    ATTACHMENT_HEAD, Decision, Direction, Event, Hook, MAX_ADDRESSES, Reason, Slot, decide,
};

pub use execute::CAPACITIES;
pub use host::{FlowMemory, HostTables};
pub use load::Sizes;
pub use pod::{Pod, PolicyOf};
pub use write::{Peers, Rows, Taken, Ways};

use load::Loaded;
use wire::Wire;

/// The slot of test runs, which cannot set a class ID.
pub const SLOT: Slot = Slot(0);

/// Jiffies in a second, as the programs are told: so many more than any kernel has, that the time that a test takes
/// is nothing beside the seconds that it lets pass.
pub const HZ: u32 = 1_000_000;

/// Words of an attachment.
pub const ATTACHMENT_WORDS: usize = ATTACHMENT_HEAD + 2 * MAX_ADDRESSES;

/// The interface that the programs believe to stand on: the loopback, which is in every namespace.
const INTERFACE: u32 = 1;

/// How long a frame of this ethertype must be, or `BPF_PROG_TEST_RUN` refuses it.
const fn shortest_run(ethertype: u16) -> usize {
    match ethertype {
        podgate_abi::ethertype::IPV4 => 14 + 20,
        podgate_abi::ethertype::IPV6 => 14 + 40,
        _ => 14,
    }
}

/// Where the node got a packet from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From some other interface.
    Elsewhere,
    /// From nowhere: the node made it.
    Node,
    /// From the interface that it leaves by.
    SameInterface,
}

impl Origin {
    /// The interface's number, as a program sees it.
    pub const fn received_from(self) -> u32 {
        match self {
            Self::Elsewhere => 7,
            Self::Node => 0,
            Self::SameInterface => INTERFACE,
        }
    }
}

/// A table of flows in the kernel: its keys and values as plain bytes and words.
pub type FlowMap = HashMap<MapData, [u8; 24], [u64; 2]>;

/// The programs, loaded, and their tables.
pub struct Kernel {
    loaded: Arc<Loaded>,
    /// The attachments.
    pub attachments: Array<MapData, [u64; ATTACHMENT_WORDS]>,
    /// What a ruleset says of peers that no row names.
    pub rulesets: Array<MapData, [u64; 2]>,
    /// What is known of an address.
    pub peers: Peers,
    /// Addresses that pods, nodes and Services have.
    pub taken: Taken,
    /// Whom addresses and UDP ports are closed to that lead into tunnels at nodes.
    pub ways: Ways,
    /// What is known of a block.
    pub prefixes: LpmTrie<MapData, [u8; 16], u64>,
    /// What a ruleset says of a class.
    pub rows: Rows,
    /// Sets of ports.
    pub port_sets: Array<MapData, [u16; 16]>,
    /// 4,096 ports each.
    pub chunks: Array<MapData, [u64; 64]>,
    /// Answered flows.
    pub flows: FlowMap,
    /// Flows that were not answered.
    pub embryonic: FlowMap,
    /// What attachments have beyond their share or their quota.
    pub crowd: FlowMap,
    /// Verdicts on first fragments.
    pub fragments: HashMap<MapData, [u8; 40], u64>,
    /// Entries of `flows` and `embryonic`, by slot.
    pub quotas: Array<MapData, [u64; 2]>,
    /// What a slot may have.
    pub limits: Array<MapData, u64>,
    /// What all slots have of the answered flows beyond their guarantees.
    pub common: Array<MapData, u64>,
    /// The kernel's numbers of `peers` and `rows`.
    written_by_others: [u32; 2],
    counters: PerCpuArray<MapData, u64>,
    events: RingBuf<MapData>,
    /// The same, for the host.
    pub host: HostTables,
    /// What the counters must show.
    counted: [u64; 2 * Reason::COUNT as usize],
    next_port_set: u16,
    next_chunk: u16,
    last_generation: u32,
}

impl Kernel {
    /// Judges a frame in the kernel and on the host, and tells why it was passed or dropped.
    ///
    /// A frame without a whole IP header is judged on the host only: `BPF_PROG_TEST_RUN` refuses it.
    ///
    /// # Panics
    /// When the two do not agree, or the kernel counted another reason.
    pub fn run(&mut self, direction: Direction, origin: Origin, frame: &[u8]) -> Reason {
        let hook = Hook {
            slot: SLOT,
            direction,
            ethertype: u16::from_be_bytes([frame[12], frame[13]]),
            received_from: match origin {
                Origin::SameInterface => self.interface(direction),
                Origin::Elsewhere | Origin::Node => origin.received_from(),
            },
            interface: self.interface(direction),
        };
        let tables = &self.host;
        let (reason, passes) = match decide(&tables, frame, &hook) {
            Decision::Pass(reason) => (reason, true),
            Decision::Drop(reason) => (reason, false),
        };
        if frame.len() < shortest_run(hook.ethertype) {
            return reason;
        }
        let kernel_passes = self.run_in_kernel(direction, origin, frame);
        let index = direction as u32 * Reason::COUNT + reason as u32;
        self.counted[index as usize] += 1;
        let counted = self.counter(index);
        assert!(
            kernel_passes == passes && counted == self.counted[index as usize],
            "the host says {reason:?}; the kernel {}, and counted {:?}; {direction:?}, {origin:?}, frame {frame:02x?}",
            if kernel_passes { "passes" } else { "drops" },
            self.counted_otherwise(),
        );
        reason
    }

    /// Judges a frame in the kernel alone; whether it passes. The reason is counted, but not compared.
    ///
    /// # Panics
    /// When the kernel refuses the frame, or the program returns what it never should.
    pub fn run_in_kernel(&self, direction: Direction, origin: Origin, frame: &[u8]) -> bool {
        if let Some(wire) = &self.loaded.wire {
            let before = self.counted_in(direction);
            return wire.passes(direction, origin, frame, || {
                self.counted_in(direction) > before
            });
        }
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context(origin)),
            ..TestRunOptions::new()
        };
        let result = self
            .loaded
            .program(direction)
            .test_run(options)
            .unwrap_or_else(|error| panic!("test run of {} bytes: {error:?}", frame.len()));
        match result.return_value.cast_signed() {
            action::UNSPEC => true,
            action::SHOT => false,
            other => panic!("the program returned the action {other}"),
        }
    }

    /// Judges a frame from elsewhere in the kernel alone, many times over. What comes of it is counted.
    ///
    /// # Panics
    /// When the kernel refuses the frame.
    pub fn repeat_in_kernel(&self, direction: Direction, frame: &[u8], times: u32) {
        assert!(
            self.loaded.wire.is_none(),
            "packets that are repeated need test runs"
        );
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context(Origin::Elsewhere)),
            repeat: times,
            ..TestRunOptions::new()
        };
        self.loaded
            .program(direction)
            .test_run(options)
            .expect("the frame is judged");
    }

    /// How many packets of a direction ended with each reason, by its number.
    pub fn counts(&self, direction: Direction) -> Vec<u64> {
        let first = direction as u32 * Reason::COUNT;
        (first..first + Reason::COUNT)
            .map(|index| self.counter(index))
            .collect()
    }

    /// The number of the interface that the direction's program believes to stand on.
    fn interface(&self, direction: Direction) -> u32 {
        self.loaded
            .wire
            .as_ref()
            .map_or(INTERFACE, |_| Wire::interface(direction))
    }

    /// How many packets of a direction were judged.
    fn counted_in(&self, direction: Direction) -> u64 {
        self.counts(direction).iter().sum()
    }

    fn counter(&self, index: u32) -> u64 {
        let counts = self
            .counters
            .get(&index, 0)
            .expect("the counters have the reason");
        counts.iter().sum()
    }

    /// Indices and values of the counters that are not as they must be.
    fn counted_otherwise(&self) -> Vec<(u32, u64)> {
        (0..2 * Reason::COUNT)
            .map(|index| (index, self.counter(index)))
            .filter(|(index, count)| *count != self.counted[*index as usize])
            .collect()
    }

    /// Takes the events that the kernel has reported since the last time.
    ///
    /// # Panics
    /// When an event has another size than it must have.
    pub fn take_events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(bytes) = self.events.next() {
            events.push(bytemuck::pod_read_unaligned(&bytes));
        }
        events
    }
}

/// The name of a direction's program.
const fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "to_pod",
        Direction::Egress => "from_pod",
    }
}

/// The first bytes of a `__sk_buff`, with `ingress_ifindex` and `ifindex`.
fn context(origin: Origin) -> [u8; 44] {
    let mut context = [0; 44];
    context[36..40].copy_from_slice(&origin.received_from().to_ne_bytes());
    context[40..44].copy_from_slice(&INTERFACE.to_ne_bytes());
    context
}

/// What the programs return.
mod action {
    /// `TC_ACT_UNSPEC`.
    pub(super) const UNSPEC: i32 = -1;
    /// `TC_ACT_SHOT`.
    pub(super) const SHOT: i32 = 2;
}
