// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A control group that limits the memory of what runs in it.

use std::fs;
use std::path::{Path, PathBuf};

use super::wait_until;

/// A control group, removed when it is dropped: by then what ran in it has ended.
#[derive(Debug)]
pub(super) struct MemoryLimit(PathBuf);

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // A process that was killed leaves its group a moment later.
        wait_until("the control group is empty", || {
            !self.0.exists() || fs::remove_dir(&self.0).is_ok()
        });
    }
}

impl MemoryLimit {
    /// A fresh group of so many bytes.
    pub(super) fn new(name: &str, bytes: u64) -> Self {
        let (hierarchy, limit) = hierarchy();
        let group = hierarchy.join(format!("podgate-test-{}-{name}", std::process::id()));
        fs::create_dir(&group).unwrap_or_else(|e| panic!("make {}: {e}", group.display()));
        let group = Self(group);
        write(&group.0.join(limit), &bytes.to_string());
        group
    }

    /// Puts a process into it.
    pub(super) fn hold(&self, process: u32) {
        write(&self.0.join("cgroup.procs"), &process.to_string());
    }
}

/// Where groups with a limit of memory are made, and what the file of the limit is called.
fn hierarchy() -> (PathBuf, &'static str) {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
    let of_kind = |kind: &str, option: &str| {
        mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let fits = fields.get(2) == Some(&kind)
                && (option.is_empty() || fields.get(3)?.split(',').any(|it| it == option));
            fits.then(|| PathBuf::from(fields[1]))
        })
    };
    match of_kind("cgroup", "memory") {
        Some(of_version_1) => (of_version_1, "memory.limit_in_bytes"),
        None => {
            let unified = of_kind("cgroup2", "").expect("a hierarchy of control groups");
            write(&unified.join("cgroup.subtree_control"), "+memory");
            (unified, "memory.max")
        }
    }
}

fn write(path: &Path, what: &str) {
    fs::write(path, what).unwrap_or_else(|e| panic!("write {what} to {}: {e}", path.display()));
}
