// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Worlds and connections: what `decide()` says on tables that were compiled and planned is what the oracle says.

use std::sync::Arc;

use podgate_abi::{Decision, Direction, Hook, Slot, decide};
use podgate_enforcer::plan::Planner;
use podgate_policy::arbitrary;
use podgate_policy::compile::compile_subject;
use podgate_policy::connection::{Baseline, Verdict};
use podgate_policy::evaluate;
use podgate_policy::model::World;
use podgate_tests::frame::packet;
use podgate_tests::kernel::{CAPACITIES, HostTables};
use podgate_tests::opening::{addresses_of, is_not_the_policys, opens};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Values of one input at most.
const VALUES: usize = 64;

/// The value of a strategy that a seed stands for.
fn any<S: Strategy>(seed: &[u8], strategy: S) -> S::Value {
    let mut bytes = [0; 32];
    bytes[..seed.len()].copy_from_slice(seed);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let tree = strategy.new_tree(&mut runner).expect("a value");
    tree.current()
}

/// Each five bytes say what kind of value comes, and its seed: an edit of the world, or a connection that is tried with every pod of
/// what comes of all edits.
pub fn run(data: &[u8]) {
    let (mut world, mut connections) = (World::default(), Vec::new());
    let values = data.chunks_exact(5).take(VALUES);
    for (kind, seed) in values.map(|value| (value[0], &value[1..])) {
        match kind % 8 {
            0 => world = any(seed, arbitrary::world()),
            1..=4 => any(seed, arbitrary::edit()).apply(&mut world),
            5 => connections.push(any(seed, arbitrary::way())),
            _ => connections.push(any(seed, arbitrary::connection())),
        }
    }
    let is_strict = data.first().is_some_and(|kind| kind & 128 != 0);
    let baseline = if is_strict {
        Baseline::Deny
    } else {
        Baseline::Allow
    };
    let subjects = arbitrary::subjects(&world, baseline);
    let mut tables = HostTables::with_room_for(1024);
    for (slot, subject) in (1..).map(Slot).zip(&subjects) {
        tables.attach(slot, &addresses_of(&world, subject));
    }
    let rulesets = (1..).map(Slot).zip(&subjects);
    let rulesets =
        rulesets.map(|(slot, subject)| (slot, Arc::new(compile_subject(&world, subject))));
    let rulesets = rulesets.collect();
    let mut planner = Planner::new(CAPACITIES);
    let settled = tables.settle(&mut planner, &world, &rulesets);
    settled.expect("there is room");
    for (slot, subject) in (1..).map(Slot).zip(&subjects) {
        let own = addresses_of(&world, subject);
        for connection in &connections {
            if is_not_the_policys(&world, &own, connection) {
                continue;
            }
            let pod = own[usize::from(connection.peer.is_ipv6())];
            let payload = opens(connection.transport);
            let frame = match connection.direction {
                Direction::Ingress => packet(connection.peer, pod, payload),
                Direction::Egress => packet(pod, connection.peer, payload),
            };
            let frame = frame.frame();
            let hook = Hook {
                slot,
                direction: connection.direction,
                ethertype: u16::from_be_bytes([frame[12], frame[13]]),
                received_from: 7,
                interface: 1,
            };
            tables.forget_flows();
            let reason = match decide(&&tables, frame.as_slice(), &hook) {
                Decision::Pass(reason) | Decision::Drop(reason) => reason,
            };
            let expected = evaluate(&world, subject, connection);
            assert_eq!(
                Verdict::when(reason.passes()),
                expected,
                "the tables (left: {reason:?}) against the oracle (right) for {} in {connection:?}, {world:#?}",
                subject.name
            );
        }
    }
}
