// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which tables there are: their names, their sizes, and whether a set hands them on.

use std::path::{Path, PathBuf};

use podgate_abi::Reason;

use crate::Sizes;

/// The tables. Their names in the object are the names of their pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MapName {
    /// Slot to attachment.
    Attachments,
    /// Ruleset to the row for any peer that no other row names.
    Rulesets,
    /// Address to class.
    Peers,
    /// Addresses that pods, nodes and Services have.
    Taken,
    /// Addresses and UDP ports that lead into tunnels at nodes.
    Ways,
    /// CIDR to broad class.
    Prefixes,
    /// Ruleset and class to row.
    Rows,
    /// Port set to chunks.
    PortSets,
    /// Chunk to ports.
    Chunks,
    /// Packets by direction and reason.
    Counters,
    /// Verdict events.
    Events,
    /// Tracked connections.
    Flows,
    /// Connections seen in one direction only.
    Embryonic,
    /// What attachments have beyond their share or their quota.
    Crowd,
    /// Verdicts on first fragments.
    Fragments,
    /// Entries in `flows` and `embryonic`, by slot.
    Quotas,
    /// What one attachment may have: [`podgate_abi::Limit`].
    Limits,
    /// Entries in `flows` beyond the guarantees of all slots: one word.
    Common,
    /// The last generation, and the last slot that was given out. Not used by the programs.
    Generation,
}

impl MapName {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Attachments,
        Self::Rulesets,
        Self::Peers,
        Self::Taken,
        Self::Ways,
        Self::Prefixes,
        Self::Rows,
        Self::PortSets,
        Self::Chunks,
        Self::Counters,
        Self::Events,
        Self::Flows,
        Self::Embryonic,
        Self::Crowd,
        Self::Fragments,
        Self::Quotas,
        Self::Limits,
        Self::Common,
        Self::Generation,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attachments => "attachments",
            Self::Rulesets => "rulesets",
            Self::Peers => "peers",
            Self::Taken => "taken",
            Self::Ways => "ways",
            Self::Prefixes => "prefixes",
            Self::Rows => "rows",
            Self::PortSets => "portsets",
            Self::Chunks => "chunks",
            Self::Counters => "counters",
            Self::Events => "events",
            Self::Flows => "flows",
            Self::Embryonic => "embryonic",
            Self::Crowd => "crowd",
            Self::Fragments => "fragments",
            Self::Quotas => "quotas",
            Self::Limits => "limits",
            Self::Common => "common",
            Self::Generation => "generation",
        }
    }

    /// Whether a table set hands it on to the next, if that wants it as large.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        match self {
            Self::Attachments
            | Self::Rulesets
            | Self::Peers
            | Self::Taken
            | Self::Ways
            | Self::Prefixes
            | Self::Rows
            | Self::PortSets
            | Self::Chunks
            | Self::Counters
            | Self::Events
            | Self::Limits => false,
            Self::Flows
            | Self::Embryonic
            | Self::Crowd
            | Self::Fragments
            | Self::Quotas
            | Self::Common
            | Self::Generation => true,
        }
    }

    /// Whether the programs know it.
    pub(crate) const fn is_in_object(self) -> bool {
        !matches!(self, Self::Generation)
    }

    /// How many elements (bytes, for `events`) it gets; none where the object says it.
    pub(crate) fn size(self, sizes: &Sizes) -> Option<u32> {
        match self {
            Self::Attachments | Self::Quotas => Some(sizes.slots()),
            Self::Rulesets => Some(sizes.rulesets),
            Self::Peers => Some(sizes.peers),
            Self::Prefixes => Some(sizes.prefixes),
            Self::Rows => Some(sizes.rows),
            Self::PortSets => Some(sizes.portsets),
            Self::Chunks => Some(sizes.chunks),
            Self::Counters => Some(2 * Reason::COUNT),
            Self::Events => Some(sizes.events),
            Self::Flows => Some(sizes.flows),
            Self::Embryonic => Some(sizes.embryonic),
            Self::Crowd => Some(sizes.crowd),
            Self::Fragments => Some(sizes.fragments),
            Self::Taken | Self::Ways | Self::Limits | Self::Common | Self::Generation => None,
        }
    }
}

/// Where a set pins the tables that it hands on, under the version of their layout: so that a set of whatever version
/// tells whether they can be read.
pub(crate) fn directory_of_shared(set: &Path) -> PathBuf {
    set.join(format!("shared-{}", podgate_abi::SHARED_ABI))
}
