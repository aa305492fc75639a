// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Properties of the engine on a node in memory: ADDs, DELs, changes of policy and facts, operations that fail, kills and
//! restarts in any order. `decide()` is asked after every write, and what it says is compared with the oracle.

mod driver;
mod moments;

use std::fmt;
use std::time::Duration;

use podgate_policy::arbitrary::{self, Edit};
use podgate_policy::model::{Pod, World};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::dataplane::model::Faults;
use driver::Driver;

/// Of the histories of a short run.
const SEED: u64 = 12;

/// Something that happens.
#[derive(Debug, Clone)]
enum Happening {
    /// The source says something else.
    Edit(Edit),
    /// The runtime adds a pod, once the engine has had the lock so many times more, or after its turns.
    Add(usize, u32),
    /// The same, with the addresses of another pod, of which the source says something new just now.
    TakeOver(usize, u32, usize, Box<Pod>),
    /// It removes one.
    Remove(usize, u32),
    /// Somebody takes away the record of isolated namespaces.
    LoseIsolated,
    /// Operations fail from now on.
    Fault(Faults),
    /// The grace period is over that the engine waits for.
    GraceOver,
    /// Time passes.
    Wait(Duration),
    /// The enforcer is killed after so many operations of what happens next, and another one starts.
    Kill(u32),
    /// Nothing happens until all is in force.
    Rest,
}

fn happening() -> impl Strategy<Value = Happening> {
    let pods = arbitrary::NAMESPACES.len() * arbitrary::PODS.len();
    let faults = (0..60_u32, 1..6_u32).prop_map(|(after, number)| Faults { after, number });
    let take_over = (0..pods, 0..4_u32, 0..pods).prop_flat_map(|(pod, locks, other)| {
        let other_pod = arbitrary::pod(other);
        other_pod.prop_map(move |it| Happening::TakeOver(pod, locks, other, Box::new(it)))
    });
    prop_oneof![
        10 => arbitrary::edit().prop_map(Happening::Edit),
        5 => (0..pods, 0..4_u32).prop_map(|(pod, locks)| Happening::Add(pod, locks)),
        2 => take_over,
        2 => (0..pods, 0..4_u32).prop_map(|(pod, locks)| Happening::Remove(pod, locks)),
        1 => Just(Happening::LoseIsolated),
        2 => faults.prop_map(Happening::Fault),
        4 => Just(Happening::GraceOver),
        2 => (1..3000_u64).prop_map(|ms| Happening::Wait(Duration::from_millis(ms))),
        2 => (0..40_u32).prop_map(Happening::Kill),
        2 => Just(Happening::Rest),
    ]
}

/// 100,000 events, the same in each run; in a long run 10,000,000 others.
fn config() -> ProptestConfig {
    let is_long = std::env::var_os("PODGATE_LONG").is_some();
    let is_seeded = is_long || std::env::var_os("PROPTEST_RNG_SEED").is_some();
    let default = ProptestConfig::default();
    ProptestConfig {
        failure_persistence: None,
        rng_seed: if is_seeded {
            default.rng_seed
        } else {
            RngSeed::Fixed(SEED)
        },
        max_shrink_time: 60_000,
        ..ProptestConfig::with_cases(if is_long { 500_000 } else { 5_000 })
    }
}

/// What there is at first, and what happens then.
struct History {
    world: World,
    /// Of whatever else is drawn on the way.
    seed: u64,
    happenings: Vec<Happening>,
}

/// A line for each thing.
impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let World {
            namespaces,
            pods,
            policies,
            services,
            endpoint_slices,
            node_addresses,
            node_scopes,
            tunnel_ports,
            cluster_nodes,
            listed,
            node_name,
            service_options,
        } = &self.world;
        writeln!(f, "with seed {}", self.seed)?;
        writeln!(f, "node {node_name:?}, {service_options:?}")?;
        writeln!(f, "addresses {node_addresses:?}, scopes {node_scopes:?}")?;
        writeln!(f, "tunnels {tunnel_ports:?}, nodes {cluster_nodes:?}")?;
        for (name, namespace) in namespaces {
            writeln!(f, "{name}: {namespace:?}")?;
        }
        for (name, pod) in pods {
            writeln!(f, "{name}: {pod:?}")?;
        }
        for (name, policy) in policies {
            writeln!(f, "{name}: {policy:?}")?;
        }
        for (name, service) in services {
            writeln!(f, "{name}: {service:?}")?;
        }
        for (name, slice) in endpoint_slices {
            writeln!(f, "{name}: {slice:?}")?;
        }
        writeln!(f, "listed: {listed:?}")?;
        for (number, happening) in self.happenings.iter().enumerate() {
            writeln!(f, "{number}. {happening:?}")?;
        }
        Ok(())
    }
}

fn history() -> impl Strategy<Value = History> {
    let happenings = vec(happening(), 20);
    (arbitrary::world(), any::<u64>(), happenings).prop_map(|(world, seed, happenings)| History {
        world,
        seed,
        happenings,
    })
}

fn live(history: &History) -> Result<(), String> {
    let mut driver = Driver::new(history.world.clone(), history.seed);
    driver.start()?;
    for (number, happening) in history.happenings.iter().enumerate() {
        driver
            .happen(happening.clone())
            .map_err(|wrong| format!("{wrong}, in event {number}: {happening:?}"))?;
    }
    driver
        .rest()
        .map_err(|wrong| format!("{wrong}, in the end"))
}

proptest! {
    #![proptest_config(config())]

    /// Whatever happens in whatever order: no packet passes that no state since all was in force allows, none is dropped that
    /// all of them allow, what is answered "in force" is, and at rest verdicts are the oracle's.
    #[test]
    fn no_history_gives_a_wrong_verdict(history in history()) {
        let lived = live(&history);
        prop_assert!(lived.is_ok(), "{}", lived.unwrap_err());
    }
}
