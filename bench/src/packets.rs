// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a packet costs: `BPF_PROG_TEST_RUN` of the programs of a real table set, beside an empty program.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use podgate_abi::{
    Address, Class, Direction, PeerWord, PolicyWord, PortSetId, Reason, RowKey, RowSets, RowWords,
    RulesetId,
};
use podgate_datapath::Sizes;
use podgate_datapath::lock::Lock;
use podgate_datapath::netlink::Ifindex;
use podgate_datapath::record::{AttachmentId, Baseline, Generation, Record, Slot};
use podgate_datapath::tables::{TableSet, Unnamed};

use crate::empty;
use crate::frames::Ends;
use crate::node::Place;
use crate::sample::Sample;

/// How often each row is measured; the rows take turns.
const ROUNDS: usize = 11;

/// How many flows are begun, one run each.
const NEW_FLOWS: u16 = 20_000;

const FAMILIES: [(&str, [&str; 3]); 2] = [
    ("IPv4", ["10.1.0.10", "10.1.0.20", "10.1.0.30"]),
    ("IPv6", ["fd00:1::10", "fd00:1::20", "fd00:1::30"]),
];

/// A frame that is judged over and over.
struct Case {
    name: String,
    direction: Direction,
    frame: Vec<u8>,
    expected: Reason,
    times: Sample,
}

struct Bench {
    set: Unnamed,
    programs: [SchedClassifier; 2],
    empty: SchedClassifier,
}

/// Prints what an established, a new and a denied packet cost.
pub(crate) fn print(repeat: u32) -> Result<()> {
    on_one_cpu(|| measure(repeat))
}

/// Measures on one CPU; threads that `measure` starts stay there too.
pub(crate) fn on_one_cpu(measure: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(0)?;
    let before = sched_getaffinity(Pid::from_raw(0)).context("ask which CPUs there are")?;
    sched_setaffinity(Pid::from_raw(0), &one).context("stay on one CPU")?;
    let measured = measure();
    sched_setaffinity(Pid::from_raw(0), &before).context("use all CPUs again")?;
    measured
}

fn measure(repeat: u32) -> Result<()> {
    let place = Place::new()?;
    let bench = Bench::new(&place)?;
    println!(
        "\npackets, ns each: median of {ROUNDS} test runs of {repeat}, best{:>14}{:>8}{:>18}",
        "median", "best", "without empty"
    );
    let mut cases = Vec::new();
    for family in FAMILIES {
        cases.extend(bench.prepare(family)?);
    }
    let mut empty = Sample::default();
    for _ in 0..ROUNDS {
        let frame = &cases[0].frame;
        empty.push(run(&bench.empty, frame, repeat)? / repeat);
        for case in &mut cases {
            let before = bench.count(case.direction, case.expected)?;
            let program = &bench.programs[case.direction as usize];
            case.times.push(run(program, &case.frame, repeat)? / repeat);
            let judged = bench.count(case.direction, case.expected)? - before;
            ensure!(
                judged == u64::from(repeat),
                "{}: {judged} of {repeat} packets ended as {:?}",
                case.name,
                case.expected
            );
        }
    }
    let floor = empty.median();
    line("an empty program", &empty, None);
    for case in &cases {
        line(&case.name, &case.times, Some(floor));
    }

    println!("\nnew flows, ns each: {NEW_FLOWS} test runs of one packet, as the kernel timed them");
    for (family, [pod, friend, _]) in FAMILIES {
        for (name, tcp) in [("UDP", false), ("TCP", true)] {
            let (mut new, mut empty) = (Sample::default(), Sample::default());
            for port in 1..=NEW_FLOWS {
                let ends = Ends {
                    from: (friend.parse()?, 20_000 + port),
                    to: (pod.parse()?, 81),
                };
                let frame = if tcp {
                    ends.tcp(true, false)?
                } else {
                    ends.udp()?
                };
                empty.push(run_once(&bench.empty, &frame)?);
                new.push(run_once(
                    &bench.programs[Direction::Ingress as usize],
                    &frame,
                )?);
            }
            line("an empty program", &empty, None);
            line(
                &format!("{family} {name} new flow"),
                &new,
                Some(empty.median()),
            );
        }
    }
    Ok(())
}

fn line(name: &str, times: &Sample, floor: Option<f64>) {
    let nanoseconds = 1000.0;
    let median = times.median() * nanoseconds;
    let best = times.percentile(0) * nanoseconds;
    let net = floor.map_or(String::new(), |floor| {
        format!("{:.0}", median - floor * nanoseconds)
    });
    println!("{name:<60}{median:>14.0}{best:>8.0}{net:>18}");
}

/// `struct __sk_buff` up to `ifindex`: the packet came from elsewhere, and not from the node itself.
fn context() -> [u8; 44] {
    let mut context = [0; 44];
    context[36..40].copy_from_slice(&7_u32.to_ne_bytes());
    context[40..44].copy_from_slice(&1_u32.to_ne_bytes());
    context
}

/// How long the whole call took.
fn run(program: &SchedClassifier, frame: &[u8], repeat: u32) -> Result<Duration> {
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context()),
        repeat,
        ..TestRunOptions::new()
    };
    let start = Instant::now();
    program.test_run(options)?;
    Ok(start.elapsed())
}

/// How long one packet took, without the call: the kernel's own figure.
fn run_once(program: &SchedClassifier, frame: &[u8]) -> Result<Duration> {
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context()),
        ..TestRunOptions::new()
    };
    Ok(program.test_run(options)?.duration)
}

impl Bench {
    /// A table set of the default sizes, with a pod in the slot of test runs.
    fn new(place: &Place) -> Result<Self> {
        let paths = place.paths();
        let lock = Lock::take(&paths)?;
        let set = TableSet::create(&paths, &lock, &Sizes::default())?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        let ruleset = RulesetId::FIRST;
        let row = |set| RowSets {
            tcp: set,
            udp: set,
            sctp: set,
            rest: set,
        };
        let (friends, broad) = (Class(5), Class(9));
        set.put_default_row(ruleset, RowWords::new(RowKey(0), row(PortSetId::NONE)))?;
        let key = RowKey::new(ruleset, friends);
        set.put_row(key, RowWords::new(key, row(PortSetId::ALL)))?;
        for (_, [pod, friend, _]) in FAMILIES {
            addresses.push(pod.parse()?);
            let friend: IpAddr = friend.parse()?;
            let word = PeerWord::new(Address::from(friend), friends, broad, false);
            set.put_peer(friend, word)?;
        }
        let slot = Slot(0);
        set.write_attachment(&Record {
            identity: AttachmentId {
                container_id: "bench".into(),
                ifname: "eth0".into(),
            },
            network: "bench".into(),
            pod: None,
            netns_inode: 0,
            pod_ifindex: Ifindex(1),
            host_ifindex: Ifindex(1),
            host_mac: None,
            pod_mac: None,
            broadcasts: Vec::new(),
            addresses,
            baseline: Baseline::Deny,
            slot,
            birth: Generation(1),
        })?;
        for direction in Direction::BOTH {
            set.store_word(slot, direction, PolicyWord::new(ruleset, 2))?;
        }
        let pins = set.name().path(&paths);
        let programs = [
            SchedClassifier::from_pin(pins.join("to_pod"))?,
            SchedClassifier::from_pin(pins.join("from_pod"))?,
        ];
        let empty = empty::load(&place.bpffs().join("empty"))?;
        Ok(Self {
            set,
            programs,
            empty,
        })
    }

    fn count(&self, direction: Direction, reason: Reason) -> Result<u64> {
        Ok(self.set.counters(direction)?[reason as usize])
    }

    fn send(&self, direction: Direction, frame: &[u8]) -> Result<()> {
        run(&self.programs[direction as usize], frame, 1).map(drop)
    }

    /// Begins and answers a connection each way, and says what is to be measured.
    fn prepare(&self, (family, [pod, friend, stranger]): (&str, [&str; 3])) -> Result<Vec<Case>> {
        let out = Ends {
            from: (pod.parse()?, 40_000),
            to: (friend.parse()?, 80),
        };
        self.send(Direction::Egress, &out.udp()?)?;
        self.send(Direction::Ingress, &out.turned().udp()?)?;
        self.send(Direction::Egress, &out.udp()?)?;
        self.send(Direction::Egress, &out.tcp(true, false)?)?;
        self.send(Direction::Ingress, &out.turned().tcp(true, true)?)?;
        self.send(Direction::Egress, &out.tcp(false, true)?)?;
        let case = |name: &str, direction, frame, expected| Case {
            name: format!("{family} {name}"),
            direction,
            frame,
            expected,
            times: Sample::default(),
        };
        let denied = Ends {
            from: (stranger.parse()?, 40_000),
            to: (pod.parse()?, 80),
        };
        let established = Reason::Established;
        Ok(vec![
            case(
                "TCP established, from the pod",
                Direction::Egress,
                out.tcp(false, true)?,
                established,
            ),
            case(
                "TCP established, to the pod",
                Direction::Ingress,
                out.turned().tcp(false, true)?,
                established,
            ),
            case(
                "UDP established, from the pod",
                Direction::Egress,
                out.udp()?,
                established,
            ),
            case(
                "UDP established, to the pod",
                Direction::Ingress,
                out.turned().udp()?,
                established,
            ),
            case(
                "TCP denied, to the pod",
                Direction::Ingress,
                denied.tcp(true, false)?,
                Reason::Policy,
            ),
            case(
                "UDP denied, to the pod",
                Direction::Ingress,
                denied.udp()?,
                Reason::Policy,
            ),
        ])
    }
}
