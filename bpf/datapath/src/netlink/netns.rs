// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Network namespaces, and entering one for a moment.

use std::{
    fs::File,
    io,
    marker::PhantomData,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    process,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

/// Which network namespace it is, on this boot of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetnsId {
    /// The device of the kernel's namespace file system.
    pub device: u64,
    /// The namespace's number on it.
    pub inode: u64,
}

/// An open network namespace. It lives while this is open, whatever happens to its path.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
    id: NetnsId,
}

/// Why a namespace could not be opened or entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The file could not be opened or looked at.
    #[error("open network namespace {}", path.display())]
    Open {
        /// The path that was given.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The path leads to something else, such as the empty file that a bind mount left.
    #[error("{} is no network namespace", .0.display())]
    NotANamespace(PathBuf),
    /// The namespace could not be entered.
    #[error("enter network namespace {}", path.display())]
    Enter {
        /// The path that was given.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
}

impl Netns {
    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, NetnsError> {
        // Not `self`: that is the main thread's.
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace that `path` leads to.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let failed = |source| NetnsError::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let kind = fstatfs(&file)
            .map_err(|errno| failed(errno.into()))?
            .filesystem_type();
        if kind != NSFS_MAGIC {
            return Err(NetnsError::NotANamespace(path.to_owned()));
        }
        let metadata = file.metadata().map_err(failed)?;
        let id = NetnsId {
            device: metadata.dev(),
            inode: metadata.ino(),
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            id,
        })
    }

    /// Which namespace it is. Two with the same answer are one.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `inside` with the calling thread in this namespace, and returns home, also from a panic. A process that
    /// cannot return home is aborted: its next steps would touch the pod's interfaces instead of the node's.
    pub fn enter<T>(&self, inside: impl FnOnce() -> T) -> Result<T, NetnsError> {
        let home = Self::current()?;
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|source| NetnsError::Enter {
            path: self.path.clone(),
            source,
        })?;
        let _return = Return {
            home: &home,
            not_send: PhantomData,
        };
        Ok(inside())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Brings the thread that made it home when it is dropped; it must not be dropped by another thread.
struct Return<'a> {
    home: &'a Netns,
    not_send: PhantomData<*const ()>,
}

impl Drop for Return<'_> {
    fn drop(&mut self) {
        if let Err(errno) = setns(&self.home.file, CloneFlags::CLONE_NEWNET) {
            eprintln!("podgate: return from a pod's network namespace: {errno}; aborting");
            process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_the_same_by_every_path() {
        let own = Netns::current().unwrap();
        assert_eq!(
            own.id(),
            Netns::open(Path::new("/proc/self/ns/net")).unwrap().id()
        );
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        assert!(matches!(
            Netns::open(Path::new("/dev/null")),
            Err(NetnsError::NotANamespace(_))
        ));
        assert!(matches!(
            Netns::open(Path::new("/nonexistent/ns")),
            Err(NetnsError::Open { .. })
        ));
    }

    #[test]
    fn another_kind_of_namespace_cannot_be_entered() {
        let uts = Netns::open(Path::new("/proc/thread-self/ns/uts")).unwrap();
        assert!(matches!(
            uts.enter(|| ()),
            Err(NetnsError::Enter {
                source: Errno::EINVAL | Errno::EPERM,
                ..
            })
        ));
    }
}
