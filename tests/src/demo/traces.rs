// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What processes hold in the kernel: namespaces, BPF maps and programs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::loaded_maps;
use aya::programs::loaded_programs;

use crate::node::wait_until;

/// The processes that carry a marker in their environment, and what they held at one moment.
#[derive(Debug)]
pub struct Traces {
    marker: String,
    /// Process numbers.
    pub processes: BTreeSet<u32>,
    /// Namespaces that are not those of the test: `net:[4026532000]`.
    pub namespaces: BTreeSet<String>,
    /// Numbers of BPF maps, which the kernel does not give twice.
    pub maps: BTreeSet<u32>,
    /// Numbers of BPF programs that use one of those maps.
    pub programs: BTreeSet<u32>,
}

impl Traces {
    /// Of all processes with `marker` in their environment.
    pub fn of(marker: &str) -> Self {
        let processes = marked(marker);
        let own: BTreeSet<_> = namespaces_of("self").collect();
        let namespaces = processes
            .iter()
            .flat_map(|pid| namespaces_of(&pid.to_string()))
            .filter(|namespace| !own.contains(namespace))
            .collect();
        let held: BTreeSet<_> = processes.iter().flat_map(|pid| maps_of(*pid)).collect();
        let mut maps = held.clone();
        let mut programs = BTreeSet::new();
        for program in loaded_programs().flatten() {
            let uses = program.map_ids().ok().flatten().unwrap_or_default();
            if uses.iter().any(|map| held.contains(map)) {
                programs.insert(program.id());
                maps.extend(uses);
            }
        }
        Self {
            marker: marker.to_owned(),
            processes,
            namespaces,
            maps,
            programs,
        }
    }

    /// Waits until nothing of it is left; the kernel frees some of it a grace period later.
    ///
    /// # Panics
    /// When something stays.
    pub fn wait_until_gone(&self) {
        wait_until("no process of the demo is left", || {
            marked(&self.marker).is_empty()
        });
        wait_until(
            "no process is in a namespace of the demo, and nothing is mounted from it",
            || {
                let held: BTreeSet<_> = all_processes()
                    .into_iter()
                    .flat_map(|pid| namespaces_of(&pid.to_string()).collect::<Vec<_>>())
                    .collect();
                let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read the mounts");
                !mounts.contains(&self.marker)
                    && !mounts.contains("podgate-demo")
                    && self
                        .namespaces
                        .iter()
                        .all(|namespace| !held.contains(namespace) && !mounts.contains(namespace))
            },
        );
        wait_until("no BPF program of the demo is left", || {
            loaded_programs()
                .flatten()
                .all(|program| !self.programs.contains(&program.id()))
        });
        wait_until("no BPF map of the demo is left", || {
            loaded_maps()
                .flatten()
                .all(|map| !self.maps.contains(&map.id()))
        });
    }
}

fn all_processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("list processes").flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn marked(marker: &str) -> BTreeSet<u32> {
    let carries = |pid: &u32| {
        // One that has just ended has none.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable.ends_with(marker.as_bytes()))
    };
    all_processes().into_iter().filter(carries).collect()
}

/// The targets of all links in a directory that can be read.
fn links(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok())
}

/// The namespaces that a process is in, and those that it holds open.
fn namespaces_of(process: &str) -> impl Iterator<Item = String> + use<> {
    let process = Path::new("/proc").join(process);
    links(&process.join("ns"))
        .chain(links(&process.join("fd")))
        .map(|target| target.display().to_string())
        .filter(|target| target.contains(":[") && !target.starts_with("socket"))
        .filter(|target| !target.starts_with("pipe") && !target.starts_with("anon_inode"))
}

/// The maps that a process holds open.
fn maps_of(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter_map(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("map_id:"))?;
            line.trim().parse().ok()
        })
        .collect()
}
