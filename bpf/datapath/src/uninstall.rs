// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Takes away all that podgate has on a node: guard, filters, marks, pins and files. Pods run on, and are open.
//!
//! The guard goes first: it drops what no filter has passed, so filters that went before it would cut their pods off. What fails
//! does not stop the rest, and a second call finds what is left.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use podgate_abi::Direction;

use crate::{
    Failed, Paths,
    error::if_there,
    filter,
    guard::{self, Family},
    lock::Lock,
    mark,
    netlink::{Ifindex, Link, NetlinkError, Socket},
    nft::NftError,
};

/// What could not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// A file, a pin, a lock.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// An enforcer would put back what is removed.
    #[error("an enforcer is running, as the lock {} says: stop it first", .0.display())]
    EnforcerRuns(PathBuf),
    /// Netlink.
    #[error("take podgate's filters off interface {ifindex}")]
    Netlink {
        /// Which interface; 0 for all.
        ifindex: Ifindex,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// The guard of one family.
    #[error("delete table {} podgate", family.name())]
    Guard {
        /// Which family.
        family: Family,
        /// Why.
        #[source]
        source: NftError,
    },
}

/// What was there.
#[derive(Debug, Default)]
pub struct Uninstalled {
    /// How many interfaces had our filters or our mark, and have neither now.
    pub interfaces: usize,
    /// What is left, and why.
    pub errors: Vec<UninstallError>,
}

/// As long as it lives, no enforcer runs that shares the run directory, if there is one.
#[derive(Debug)]
pub struct NoEnforcer {
    _lock: Option<File>,
}

impl NoEnforcer {
    /// Has no enforcer start.
    ///
    /// # Errors
    /// When one is running, or the lock cannot be had.
    pub fn ensure(paths: &Paths) -> Result<Self, UninstallError> {
        // Taking the lock would make the directory.
        let lock = if paths.run.exists() {
            Some(lock_out_enforcers(paths)?)
        } else {
            None
        };
        Ok(Self { _lock: lock })
    }
}

/// Takes all away. No plugin may be started meanwhile or be running: one that waits for the lock would begin again from nothing.
///
/// # Errors
/// When the plugins' lock cannot be had: then nothing is taken away.
pub fn uninstall(paths: &Paths, _alone: &NoEnforcer) -> Result<Uninstalled, UninstallError> {
    let mut uninstalled = Uninstalled::default();
    let lock = if paths.run.exists() {
        Some(Lock::take(paths)?)
    } else {
        None
    };
    for family in Family::ALL {
        let removed = guard::remove(family);
        let failed = |source| UninstallError::Guard { family, source };
        uninstalled.errors.extend(removed.err().map(failed));
    }
    if uninstalled.errors.is_empty() {
        remove_from_interfaces(&mut uninstalled);
    }
    // While a filter is left, its pins and records say whose it is.
    if uninstalled.errors.is_empty() {
        for directory in [&paths.bpffs, &paths.run] {
            let removed = remove_all(directory).err().map(Into::into);
            uninstalled.errors.extend(removed);
        }
    }
    drop(lock);
    Ok(uninstalled)
}

/// Has no enforcer start, and refuses where one runs.
fn lock_out_enforcers(paths: &Paths) -> Result<File, UninstallError> {
    let path = paths.enforcer_lock();
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Failed::at("open lock", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(UninstallError::EnforcerRuns(path)),
        Err(TryLockError::Error(error)) => Err(Failed::at("lock", &path)(error).into()),
    }
}

fn remove_from_interfaces(uninstalled: &mut Uninstalled) {
    let failed = |ifindex| move |source| UninstallError::Netlink { ifindex, source };
    let all = Socket::open().and_then(|mut socket| Ok((socket.links()?, socket)));
    let (links, mut socket) = match all.map_err(failed(Ifindex(0))) {
        Ok(found) => found,
        Err(error) => return uninstalled.errors.push(error),
    };
    for link in links {
        match remove_from(&mut socket, &link).map_err(failed(link.ifindex)) {
            Ok(true) => uninstalled.interfaces += 1,
            Ok(false) => {}
            Err(error) => uninstalled.errors.push(error),
        }
    }
}

/// Takes our filters and our mark off an interface; whether there was one of them.
fn remove_from(socket: &mut Socket, link: &Link) -> Result<bool, NetlinkError> {
    let mut had_ours = mark::slot(link).is_some();
    for direction in Direction::BOTH {
        if filter::ours(socket, link.ifindex, direction)?.is_some() {
            had_ours = true;
            filter::remove(socket, link.ifindex, direction)?;
        }
    }
    if !had_ours {
        return Ok(false);
    }
    filter::remove_unused_clsact(socket, link.ifindex)?;
    // Last: an interface that still has it is found again.
    if mark::slot(link).is_some() {
        socket.set_group(link.ifindex, 0)?;
    }
    Ok(true)
}

fn remove_all(directory: &Path) -> Result<(), Failed> {
    // Who makes a file meanwhile is a plugin or an enforcer that nobody stopped.
    let removed = match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            fs::remove_dir_all(directory)
        }
        removed => removed,
    };
    if_there(removed).map_err(Failed::at("remove", directory))
}
