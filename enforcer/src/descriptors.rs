// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The file descriptors that the process may have.
//!
//! Locks, netlink, the sockets of plugins and attachment files need descriptors to put policy in force. So the process
//! takes all that its hard limit allows, and what answers the network gets a small share of them (`admin`).

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Below this, a node full of pods and a busy API client come near the limit.
const COMFORTABLE: u64 = 1024;

/// How many descriptors the process may have.
#[derive(Debug, Clone, Copy)]
pub struct Descriptors(u64);

impl Descriptors {
    /// Raises the soft limit, which most supervisors leave at 1,024, to the hard one.
    ///
    /// # Errors
    /// When the limits cannot be read. A limit that cannot be raised is logged.
    pub fn raise() -> Result<Self> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)
            .context("read the limit on open files (RLIMIT_NOFILE)")?;
        let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(error) => {
                tracing::warn!(%error, soft, hard, "the limit on open files cannot be raised");
                soft
            }
        };
        if limit < COMFORTABLE {
            tracing::warn!(
                limit,
                "few files may be open at a time; raise the hard limit (LimitNOFILE= of a systemd unit, or the runtime's \
                 rlimits) to {COMFORTABLE} or more"
            );
        }
        Ok(Self(limit))
    }

    /// The limit.
    pub fn limit(self) -> u64 {
        self.0
    }
}
