// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From an API server to the kernel of one node: how long it takes until something is in force, and what it costs.
//!
//! ```text
//! api: 200 namespaces, 1,000 policies, pods ──► API server ──► enforcer ──► kernel tables ──► kernel: in force?
//! local: 110 pods of node1 ──► plugin ──────────────────────────┘
//! ```
//! Everything is done with 1,000 and again with 5,000 pods in the cluster: what one change costs is to be the same.

mod api;
mod arrivals;
mod enforcer;
mod kernel;
mod local;
mod measure;
mod table;
mod world;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use podgate_datapath::Paths;

use api::Administrator;
use kernel::Kernel;
use local::{Place, identity};
use measure::Bench;
use table::Table;
use world::World;

const WORLD: World = World {
    namespaces: 200,
    local: 110,
};
/// How many pods come to the node beside those that are always there, at once.
const SPARE: u32 = 50;

/// What is measured, and how often.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The plugin's binary, static.
    #[arg(long, value_name = "FILE")]
    plugin: PathBuf,
    /// The enforcer's binary.
    #[arg(long, value_name = "FILE")]
    enforcer: PathBuf,
    /// How the enforcer reaches the API server.
    #[arg(long, value_name = "FILE")]
    enforcer_kubeconfig: PathBuf,
    /// How the administrator does.
    #[arg(long, value_name = "FILE")]
    admin_kubeconfig: PathBuf,
    /// The network namespace that the administrator is in.
    #[arg(long, value_name = "FILE")]
    admin_netns: PathBuf,
    /// Where the enforcer's log goes.
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// Pods in the cluster, one measurement after the other; at least 1,000.
    #[arg(long, value_delimiter = ',', default_value = "1000,5000")]
    pods: Vec<u32>,
    /// Single changes of each kind.
    #[arg(long, default_value_t = 500)]
    changes: u32,
    /// ADDs of each kind.
    #[arg(long, default_value_t = 200)]
    adds: u32,
    /// How long pods come and go.
    #[arg(long, default_value_t = 60)]
    churn_seconds: u32,
    /// How many come and go each second, together.
    #[arg(long, default_value_t = 100)]
    churn: u32,
}

/// Measures, and prints the table.
pub(crate) fn print(options: &Options) -> Result<()> {
    ensure!(
        options.pods.first() >= Some(&1000) && options.pods.is_sorted(),
        "--pods are to grow, from 1000 on"
    );
    let paths = Paths {
        run: "/run/podgate".into(),
        bpffs: "/sys/fs/bpf/podgate".into(),
    };
    let admin = Administrator::new(&options.admin_kubeconfig, options.admin_netns.clone())?;
    progress("namespaces and policies", || admin.fill(WORLD))?;
    let places: Vec<Place> = progress("the node's interfaces", || {
        let ours = (0..WORLD.local).map(|number| WORLD.pod(number));
        let late = (0..SPARE).map(|place| WORLD.late_pod(place, place));
        let pods = ours.chain(late).zip(0..);
        pods.map(|(pod, number)| Place::new(number, &pod)).collect()
    })?;
    let (ours, spare) = places.split_at(WORLD.local as usize);
    progress("the node's pods, before there is an enforcer", || {
        ours.iter().zip(0..).try_for_each(|(place, number)| {
            let pod = WORLD.pod(number);
            let uid = admin.create_pod(pod.clone())?;
            place.call(&options.plugin, "ADD", &pod, &uid, 0)?;
            admin.say_running(pod)
        })
    })?;
    let mut kernel = Kernel::open(&paths)?;
    let slots = (0..WORLD.local)
        .map(|number| kernel.slot(&identity(&WORLD.pod(number))))
        .collect::<Result<Vec<_>>>()?;
    let mut table = Table::default();
    let mut there = WORLD.local;
    for &pods in &options.pods {
        progress(&format!("{pods} pods"), || {
            admin.create_pods((there..pods).map(|number| WORLD.pod(number)))
        })?;
        there = pods;
        table.column(format!("{pods} pods"));
        Bench {
            options,
            pods,
            admin: &admin,
            kernel: &mut kernel,
            slots: &slots,
            spare,
            table: &mut table,
        }
        .run()?;
    }
    table.print();
    Ok(())
}

fn progress<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let result = work()?;
    eprintln!("==> {what}: {:.1} s", begun.elapsed().as_secs_f64());
    Ok(result)
}
