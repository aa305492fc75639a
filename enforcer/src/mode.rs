// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The enforcing mode: which baseline attachments should have.

use std::collections::BTreeSet;

use clap::ValueEnum;
use podgate_policy::connection::Baseline;

/// What a pod that no policy selects may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EnforcingMode {
    /// Everything, as Kubernetes has it.
    Standard,
    /// Nothing.
    Strict,
}

/// Which baseline attachments should have by this enforcer's flags. What they do have is in their records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mode {
    /// The mode of the node.
    pub enforcing: EnforcingMode,
    /// Namespaces that are always standard.
    pub exempt_namespaces: BTreeSet<String>,
}

impl Mode {
    /// The baseline of a pod in `namespace`.
    pub fn baseline(&self, namespace: &str) -> Baseline {
        match self.enforcing {
            EnforcingMode::Strict if !self.exempt_namespaces.contains(namespace) => Baseline::Deny,
            EnforcingMode::Strict | EnforcingMode::Standard => Baseline::Allow,
        }
    }
}
