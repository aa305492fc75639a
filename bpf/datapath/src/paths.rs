// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where things are kept.

use std::path::PathBuf;

use crate::owed::Owed;

/// What the link to the current table set is called.
pub(crate) const CURRENT: &str = "current";

/// The two directories that plugin and enforcer share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Attachment files, the lock, the configuration of sizes.
    pub run: PathBuf,
    /// Pins of tables and programs; on a bpffs.
    pub bpffs: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            run: "/run/podgate".into(),
            bpffs: "/sys/fs/bpf/podgate".into(),
        }
    }
}

impl Paths {
    /// Attachment files.
    #[must_use]
    pub fn attachments(&self) -> PathBuf {
        self.run.join("attachments")
    }

    /// The lock under which attachments and pins change.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// The lock that the one enforcer of a node has for life.
    #[must_use]
    pub fn enforcer_lock(&self) -> PathBuf {
        self.run.join("enforcer.lock")
    }

    /// The sizes of tables, as the enforcer wants them.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.run.join("config")
    }

    /// Which namespaces have policies that may isolate a pod.
    #[must_use]
    pub fn isolated(&self) -> PathBuf {
        self.run.join("isolated")
    }

    /// The notes of those who owe it to attachments to judge their flows again.
    pub(crate) fn owed(&self, owed: Owed) -> PathBuf {
        self.run.join(match owed {
            Owed::ByPlugin => "owed-by-plugin",
            Owed::ByEnforcer => "owed-by-enforcer",
            Owed::InGrace => "owed-in-grace",
        })
    }

    /// The link that names the current table set.
    #[must_use]
    pub fn current(&self) -> PathBuf {
        self.bpffs.join(CURRENT)
    }

    /// The counter of generations, of which a node has one, whatever becomes of table sets.
    #[must_use]
    pub fn generation(&self) -> PathBuf {
        self.bpffs.join("generation")
    }
}

#[cfg(test)]
impl Paths {
    /// Those of a test.
    pub(crate) fn below(dir: &tempfile::TempDir) -> Self {
        Self {
            run: dir.path().join("run"),
            bpffs: dir.path().join("bpffs"),
        }
    }
}
