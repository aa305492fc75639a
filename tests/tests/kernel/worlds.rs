// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random worlds, through the real compiler and the real plans into the kernel's tables: what the programs say of
//! hand-made packets is what the oracle says of the connections that they open.

use std::collections::BTreeMap;
use std::sync::Arc;

use podgate_abi::{Direction, Reason, RulesetId, Slot};
use podgate_enforcer::plan::{Plan, Planner, Write};
use podgate_policy::arbitrary;
use podgate_policy::compile::compile_subject;
use podgate_policy::connection::Verdict;
use podgate_policy::evaluate;
use podgate_tests::frame::packet;
use podgate_tests::kernel::{CAPACITIES, Kernel, Origin, Pod, PolicyOf};
use podgate_tests::opening::{addresses_of, is_not_the_policys, opens};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::setting::on_a_router;

/// Worlds, one after another in the same tables, and connections that are tried with every pod of each.
const WORLDS: usize = 300;
const CONNECTIONS: usize = 20;

/// Executes a plan, write by write; the flips go into `policies`.
fn execute(
    kernel: &mut Kernel,
    policies: &mut BTreeMap<(Slot, Direction), RulesetId>,
    plan: &Plan,
) {
    for write in plan.writes() {
        match write {
            Write::Chunk { number, chunk } => kernel.put_chunk(*number, **chunk),
            Write::PortSet { number, chunks } => kernel.put_port_set(*number, *chunks),
            Write::DefaultRow { ruleset, row } => kernel.put_default_row(*ruleset, *row),
            Write::Row { key, row } => kernel.put_row_words(*key, *row),
            Write::RemoveRow { key } => kernel.remove_row(*key),
            Write::Peer { address, word } => kernel.put_peer_word(*address, *word),
            Write::RemovePeer { address } => kernel.remove_peer(*address),
            Write::Prefix { key, word } => kernel.put_prefix_word(*key, *word),
            Write::RemovePrefix { key } => kernel.remove_prefix(*key),
            Write::Way { key, word } => kernel.put_way(*key, *word),
            Write::RemoveWay { key } => kernel.remove_way(*key),
            Write::Flip {
                slot,
                direction,
                ruleset,
            } => {
                policies.insert((*slot, *direction), *ruleset);
            }
            Write::Renew { .. } => {}
        }
    }
}

/// A value of a strategy.
fn any<S: Strategy>(runner: &mut TestRunner, strategy: S) -> S::Value {
    let tree = strategy.new_tree(runner).expect("a value");
    tree.current()
}

#[test]
fn the_kernel_says_what_the_oracle_says_over_random_worlds() {
    on_a_router(compare_random_worlds);
}

fn compare_random_worlds() {
    let mut runner = TestRunner::default();
    let mut kernel = Kernel::default();
    kernel.host.forwards = true;
    let mut planner = Planner::new(CAPACITIES);
    let mut policies = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for _ in 0..WORLDS {
        let world = any(&mut runner, arbitrary::world());
        let baseline = any(&mut runner, arbitrary::baseline());
        let subjects = arbitrary::subjects(&world, baseline);
        let attachments = (1_u32..)
            .zip(&subjects)
            .map(|(slot, subject)| (Slot(slot), Arc::new(compile_subject(&world, subject))))
            .collect();
        let plan = planner.facts_change(&world).expect("there is room");
        execute(&mut kernel, &mut policies, &plan);
        planner.commit(plan);
        let plan = planner.policy_change(&attachments).expect("there is room");
        execute(&mut kernel, &mut policies, &plan);
        planner.commit(plan);
        while planner.waits_for_grace() {
            planner.grace_begins();
            let plan = planner.after_grace().expect("there is room");
            execute(&mut kernel, &mut policies, &plan);
            planner.commit(plan);
        }

        for (slot, subject) in (1..).zip(&subjects) {
            let own = addresses_of(&world, subject);
            let of = |direction| policies[&(Slot(slot), direction)];
            let pod_of_the_world = Pod {
                addresses: own.clone(),
                policy: PolicyOf {
                    to_pod: of(Direction::Ingress),
                    from_pod: of(Direction::Egress),
                },
            };
            for _ in 0..CONNECTIONS {
                let connection = any(&mut runner, arbitrary::connection());
                if is_not_the_policys(&world, &own, &connection) {
                    continue;
                }
                let pod = own[usize::from(connection.peer.is_ipv6())];
                let payload = opens(connection.transport);
                let frame = match connection.direction {
                    Direction::Ingress => packet(connection.peer, pod, payload),
                    Direction::Egress => packet(pod, connection.peer, payload),
                };
                // Two random connections may be one flow: a pod born now has none.
                kernel.attach(&pod_of_the_world);
                let reason = kernel.run(connection.direction, Origin::Elsewhere, &frame.frame());
                let expected = evaluate(&world, subject, &connection);
                assert_eq!(
                    Verdict::when(reason.passes()),
                    expected,
                    "kernel (left: {reason:?}) against oracle (right) for {} in {connection:?}, world {world:#?}",
                    subject.name,
                );
                *seen.entry(reason as u8).or_insert(0) += 1;
            }
        }
    }
    for reason in [
        Reason::Allowed,
        Reason::Policy,
        Reason::DenyAll,
        Reason::Tunnel,
    ] {
        let count = seen.get(&(reason as u8)).copied().unwrap_or(0);
        assert!(count > 0, "no connection ended with {reason:?}: {seen:?}");
    }
}
