// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The bpffs directory: there or mounted, and the names of table sets in it.
//!
//! Names there must not hold a dot: the kernel keeps those for itself.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use podgate_abi::ABI;

use crate::{Failed, Paths, error::if_there, paths::CURRENT};

/// Where a bpffs is mounted on every node.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// What the directory of a table set is called while it is made, before its name.
const UNFINISHED: &str = "unfinished-";

/// The name of a table set: the version of its layouts, and a number that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName {
    /// Version of the layouts.
    pub abi: u32,
    /// Its number.
    pub number: u32,
}

impl std::fmt::Display for SetName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.abi, self.number)
    }
}

impl SetName {
    fn parse(name: &str) -> Option<Self> {
        let (abi, number) = name.split_once('-')?;
        let name = Self {
            abi: abi.parse().ok()?,
            number: number.parse().ok()?,
        };
        Some(name)
    }

    /// Its directory.
    #[must_use]
    pub fn path(self, paths: &Paths) -> PathBuf {
        paths.bpffs.join(self.to_string())
    }

    /// The directory in which it is made, until it is complete.
    pub(crate) fn unfinished(self, paths: &Paths) -> PathBuf {
        paths.bpffs.join(format!("{UNFINISHED}{self}"))
    }
}

fn is_bpffs(path: &Path) -> Result<bool, Failed> {
    statfs(path)
        .map(|found| found.filesystem_type() == BPF_FS_MAGIC)
        .map_err(|errno| Failed::at("look at file system of", path)(errno.into()))
}

/// Sees to it that the directory is there, on a bpffs. Mounts one at `/sys/fs/bpf`, if it belongs there.
pub(crate) fn ensure(paths: &Paths) -> Result<(), Failed> {
    let directory = &paths.bpffs;
    if directory.is_dir() && is_bpffs(directory)? {
        return Ok(());
    }
    if directory.starts_with(MOUNT_POINT) && !is_bpffs(Path::new(MOUNT_POINT))? {
        mount(
            Some("bpf"),
            MOUNT_POINT,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=0700"),
        )
        .map_err(|errno| Failed::new("mount bpffs at", MOUNT_POINT, errno.into()))?;
    }
    fs::create_dir_all(directory).map_err(Failed::at("make directory", directory))?;
    if is_bpffs(directory)? {
        return Ok(());
    }
    let why =
        "it is not on a bpffs; mount one there (mount -t bpf bpf DIR), or give another directory";
    Err(Failed::at("use directory", directory)(io::Error::other(
        why,
    )))
}

/// Every table set that is pinned, the unfinished ones not.
pub(crate) fn list(paths: &Paths) -> Result<Vec<SetName>, Failed> {
    let mut sets: Vec<_> = names(paths)?
        .iter()
        .filter_map(|name| SetName::parse(name))
        .collect();
    sets.sort_unstable();
    Ok(sets)
}

fn names(paths: &Paths) -> Result<Vec<String>, Failed> {
    names_in(&paths.bpffs)
}

fn names_in(directory: &Path) -> Result<Vec<String>, Failed> {
    let failed = || Failed::at("list pins in", directory);
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| {
                Ok(entry
                    .map_err(failed())?
                    .file_name()
                    .to_string_lossy()
                    .into_owned())
            })
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed()(error)),
    }
}

/// The current table set, if one is named. A name that leads nowhere, or is none of a set, is none.
pub(crate) fn current(paths: &Paths) -> Result<Option<SetName>, Failed> {
    let link = paths.current();
    let target = match fs::read_link(&link) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failed::at("read link", &link)(error)),
    };
    // A link that was changed by hand and names no table set is replaced when the next set is named.
    let name = target.to_str().and_then(SetName::parse);
    Ok(name.filter(|name| name.path(paths).is_dir()))
}

/// Names a table set current, in one step.
pub(crate) fn name_current(paths: &Paths, name: SetName) -> Result<(), Failed> {
    let link = paths.current();
    let temporary = paths.bpffs.join(format!("{UNFINISHED}{CURRENT}"));
    if_there(fs::remove_file(&temporary)).map_err(Failed::at("remove link", &temporary))?;
    symlink(name.to_string(), &temporary)
        .and_then(|()| fs::rename(&temporary, &link))
        .map_err(Failed::at("name the current table set by", &link))
}

/// Removes what a crash left of table sets that were being made, and says which number comes next: none of theirs, so that
/// a process that still makes one of them fails.
pub(crate) fn next(paths: &Paths) -> Result<SetName, Failed> {
    let mut last = None;
    for name in names(paths)? {
        let unfinished = name.strip_prefix(UNFINISHED);
        // A set is pinned complete: an empty directory is one whose pins were removed by hand.
        if SetName::parse(&name).is_some() && fs::remove_dir(paths.bpffs.join(&name)).is_ok() {
            continue;
        }
        let set = SetName::parse(unfinished.unwrap_or(&name));
        last = last.max(set.map(|set| set.number));
        if unfinished.is_some_and(|it| it != CURRENT) {
            remove(&paths.bpffs.join(name))?;
        }
    }
    let number = last.unwrap_or(0).checked_add(1).ok_or_else(|| {
        let why = io::Error::other("the last table set has the last number");
        Failed::at("number a table set in", &paths.bpffs)(why)
    })?;
    Ok(SetName { abi: ABI, number })
}

/// Unpins a table set. What the kernel still uses lives on. Its name goes first, so that nobody meets half of it.
pub(crate) fn unpin(paths: &Paths, name: SetName) -> Result<(), Failed> {
    let (path, unfinished) = (name.path(paths), name.unfinished(paths));
    fs::rename(&path, &unfinished).map_err(Failed::at("unpin", &path))?;
    remove(&unfinished)
}

/// Unpins the tables that all sets of earlier builds shared: they stood beside the sets, as `shared-<layout>`, where now
/// each set has its own. Not while such a set is pinned.
pub(crate) fn unpin_common(paths: &Paths) -> Result<(), Failed> {
    for set in list(paths)? {
        let own = names_in(&set.path(paths))?;
        if !own.iter().any(|name| is_shared(name)) {
            return Ok(());
        }
    }
    let mut common = names(paths)?.into_iter().filter(|name| is_shared(name));
    common.try_for_each(|name| remove(&paths.bpffs.join(name)))
}

fn is_shared(name: &str) -> bool {
    name.strip_prefix("shared-")
        .is_some_and(|layout| layout.parse::<u32>().is_ok())
}

fn remove(directory: &Path) -> Result<(), Failed> {
    fs::remove_dir_all(directory).map_err(Failed::at("unpin", directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No set gets the number of one that another process may still make.
    #[test]
    fn a_set_gets_no_number_that_another_process_may_still_use() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        let number = || next(&paths).unwrap().number;
        fs::create_dir_all(&paths.bpffs).unwrap();
        assert_eq!(number(), 1);
        // The third has lost its pins.
        for name in [
            "4-2",
            "unfinished-4-7",
            "4-4294967295",
            "unfinished-current",
        ] {
            fs::create_dir_all(paths.bpffs.join(name)).unwrap();
        }
        fs::write(paths.bpffs.join("4-2/peers"), "").unwrap();
        assert_eq!(number(), 8);
        assert!(!paths.bpffs.join("unfinished-4-7").exists());
        assert_eq!(number(), 3);
    }

    #[test]
    fn shared_tables_of_earlier_builds_go_with_their_last_set() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        let at = |name: &str| paths.bpffs.join(name);
        for name in ["1-7", "3-8/shared-3", "shared-1", "shared-x"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        unpin_common(&paths).unwrap();
        assert!(at("shared-1").exists());
        fs::remove_dir(at("1-7")).unwrap();
        unpin_common(&paths).unwrap();
        assert!(!at("shared-1").exists());
        assert!(at("shared-x").exists() && at("3-8/shared-3").exists());
    }
}
