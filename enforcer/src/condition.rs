// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether the node is policed as its source says: what the engine says of itself, and health, metrics and Events show.

use crate::warning::Warning;

/// Whether the node is policed as its source says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// This enforcer has put nothing in force yet: its source is not synced, for these reasons if there are any.
    Starting(Vec<String>),
    /// Every pod that the source knows has its policy, and the source has no error.
    Ready {
        /// What somebody should mend all the same.
        warnings: Vec<Warning>,
    },
    /// Something is not as the source says.
    Degraded {
        /// What, each a sentence for people.
        reasons: Vec<String>,
        /// What somebody should mend beside that.
        warnings: Vec<Warning>,
    },
}

impl Condition {
    /// What somebody should mend though it keeps no node from being ready.
    pub fn warnings(&self) -> &[Warning] {
        match self {
            Self::Starting(_) => &[],
            Self::Ready { warnings } | Self::Degraded { warnings, .. } => warnings,
        }
    }
}
