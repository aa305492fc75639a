// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets through real veth pairs, where `BPF_PROG_TEST_RUN` cannot say where a packet came from (before Linux 5.12).
//!
//! ```text
//! Elsewhere        far-in ──► in ──────(mirred)──┐
//! SameInterface    pod ─────► host ────(mirred)──┼──► egress of host: to_pod ──► pod           seen there: passed
//! Node             a packet socket on host ──────┘
//! from the pod     sender ──► ingress of from: from_pod, then (mirred) ──► out ──► far-out     seen there: passed
//! ```
//!
//! All of it is one network namespace without addresses: no stack answers, and nothing else is sent.

use std::mem;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::tc::{NlOptions, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunOptions};
use podgate_abi::Direction;
use podgate_demo::netns::NetNs;

use super::{Origin, context};
use crate::frame;
use crate::node::{Frames, namespaces, sh};

/// The interfaces' numbers: of `host` and of `from`.
const NUMBERS: [u32; 2] = [100, 101];

/// How long the program's verdict may take on a busy machine.
const JUDGED: Duration = Duration::from_secs(20);

/// How long a packet that was passed may take to the other end, on which it arrives in the same system call.
const PASSED: Duration = Duration::from_millis(10);

/// The interfaces, and the sockets at their ends.
#[derive(Debug)]
pub(super) struct Wire {
    elsewhere: Frames,
    node: Frames,
    pod: Frames,
    sender: Frames,
    far_out: Frames,
}

impl Wire {
    /// Whether this kernel's test runs take no context that says which interface a packet came from, or
    /// `PODGATE_WIRE=veth` asks for real ones.
    pub(super) fn is_needed(program: &SchedClassifier) -> bool {
        static NEEDED: OnceLock<bool> = OnceLock::new();
        let frame = [0; 64];
        let context = context(Origin::Elsewhere);
        *NEEDED.get_or_init(|| {
            let options = TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(&context),
                ..TestRunOptions::new()
            };
            std::env::var_os("PODGATE_WIRE").is_some_and(|asked| asked == "veth")
                || program.test_run(options).is_err()
        })
    }

    /// The interfaces, with the programs on them.
    ///
    /// # Panics
    /// When they cannot be made.
    pub(super) fn new(ebpf: &mut Ebpf) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let netns = NetNs::create(namespaces().join(format!("{process}-wire{number}")))
            .expect("make a namespace for packets");
        let [host, from] = NUMBERS;
        sh(
            &netns,
            &format!(
                "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 && \
                 echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6 && \
                 ip link add host mtu 16000 index {host} type veth peer name pod mtu 16000 && \
                 ip link add from mtu 16000 index {from} type veth peer name sender mtu 16000 && \
                 ip link add in mtu 16000 type veth peer name far-in mtu 16000 && \
                 ip link add out mtu 16000 type veth peer name far-out mtu 16000 && \
                 for link in host pod from sender in far-in out far-out; do ip link set $link up || exit; done && \
                 for link in host in from; do tc qdisc add dev $link clsact || exit; done && \
                 for link in host in; do \
                     tc filter add dev $link ingress prio 9 protocol all u32 match u32 0 0 action mirred egress redirect dev host || exit; \
                 done && \
                 tc filter add dev from ingress prio 9 protocol all u32 match u32 0 0 action mirred egress redirect dev out"
            ),
        );
        netns
            .run(|| {
                attach(ebpf, Direction::Ingress, "host", TcAttachType::Egress);
                attach(ebpf, Direction::Egress, "from", TcAttachType::Ingress);
            })
            .expect("enter the namespace");
        // The namespace's name goes with `netns`; it stays itself, for as long as these are open.
        let frames = |name| Frames::on(&netns, name);
        Self {
            elsewhere: frames("far-in"),
            node: frames("host"),
            pod: frames("pod"),
            sender: frames("sender"),
            far_out: frames("far-out"),
        }
    }

    /// The number of the interface that a direction's program stands on.
    pub(super) const fn interface(direction: Direction) -> u32 {
        NUMBERS[direction as usize]
    }

    /// Sends a frame the way of its origin; whether it comes out at the other end once the program, which counts its
    /// verdicts, has `judged` it.
    ///
    /// # Panics
    /// When the program does not.
    pub(super) fn passes(
        &self,
        direction: Direction,
        origin: Origin,
        frame: &[u8],
        judged: impl Fn() -> bool,
    ) -> bool {
        let (entry, exit) = match (direction, origin) {
            (Direction::Egress, _) => (&self.sender, &self.far_out),
            (Direction::Ingress, Origin::Elsewhere) => (&self.elsewhere, &self.pod),
            (Direction::Ingress, Origin::Node) => (&self.node, &self.pod),
            (Direction::Ingress, Origin::SameInterface) => (&self.pod, &self.pod),
        };
        // The stack takes one tag out of the data of what it receives, before any program sees it.
        let is_received = direction == Direction::Egress || origin != Origin::Node;
        let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
        if is_received && [frame::VLAN, frame::SERVICE_VLAN].contains(&ethertype) {
            entry.send(&frame::tagged(frame::VLAN, frame));
        } else {
            entry.send(frame);
        }
        let deadline = Instant::now() + JUDGED;
        while !judged() {
            assert!(
                Instant::now() < deadline,
                "{direction:?}, {origin:?}: the frame met no program: {frame:02x?}"
            );
        }
        let deadline = Instant::now() + PASSED;
        loop {
            if exit.saw(|seen| seen == frame) {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
        }
    }
}

fn attach(ebpf: &mut Ebpf, direction: Direction, interface: &str, side: TcAttachType) {
    let name = super::name(direction);
    let program = ebpf.program_mut(name).expect("the object has the program");
    let program: &mut SchedClassifier = program.try_into().expect("it is a classifier");
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: 1,
        ..NlOptions::default()
    });
    let link = program
        .attach_with_options(interface, side, options)
        .and_then(|link| program.take_link(link))
        .expect("attach the program");
    // It goes with its interface. Detached later, it would be sought in the namespace of whatever thread does so.
    mem::forget(link);
}
