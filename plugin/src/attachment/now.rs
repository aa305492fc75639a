// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What decides on an attachment's packets at this moment, read from the words that its own filters obey.

use std::{error::Error, fmt};

use podgate_abi::{ABI, Direction, RulesetId};
use podgate_datapath::{
    Failed, Paths,
    filter::{self, Filter},
    netlink::Socket,
    record::Record,
    tables::TableSet,
};

use crate::error::{Code, PluginError, chain};

/// What becomes of the packets of new connections, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NewConnections {
    /// All of them pass.
    Open,
    /// None passes.
    Denied,
    /// Compiled rules decide.
    ByPolicy,
}

impl From<RulesetId> for NewConnections {
    fn from(ruleset: RulesetId) -> Self {
        match ruleset {
            RulesetId::ALLOW_ALL => Self::Open,
            RulesetId::DENY_ALL => Self::Denied,
            RulesetId(_) => Self::ByPolicy,
        }
    }
}

impl fmt::Display for NewConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Denied => "denied",
            Self::ByPolicy => "decided by a ruleset",
        })
    }
}

/// What decides in both directions, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    ingress: NewConnections,
    egress: NewConnections,
}

impl fmt::Display for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ingress, egress } = self;
        write!(f, "the pod's ingress is {ingress} and its egress {egress}")
    }
}

/// Reads it. The enforcer may change it at any time.
///
/// # Errors
/// When filters or tables cannot be read, or are no longer this attachment's.
pub(crate) fn now(paths: &Paths, record: &Record) -> Result<Now, PluginError> {
    Ok(Now {
        ingress: ruleset(paths, record, Direction::Ingress)?.into(),
        egress: ruleset(paths, record, Direction::Egress)?.into(),
    })
}

/// The ruleset that the filter of a direction obeys: that of the table set whose program it runs, which is not the
/// current one while an enforcer goes from one set to the next.
fn ruleset(paths: &Paths, record: &Record, direction: Direction) -> Result<RulesetId, PluginError> {
    let mut socket = Socket::open().map_err(unreadable)?;
    let filter = filter::filters(&mut socket, record.host_ifindex, direction)
        .map_err(unreadable)?
        .into_iter()
        .find(|filter| filter.slot() == Some(record.slot))
        .ok_or_else(|| unknown("its filter is gone"))?;
    let set = set_of(paths, &filter)
        .map_err(unreadable)?
        .ok_or_else(|| unknown("no table set has its filter's program"))?;
    let word = set.read_word(record.slot, direction).map_err(unreadable)?;
    let attachment = set.read_attachment(record.slot).map_err(unreadable)?;
    if attachment.origin().birth() == record.birth.0 {
        Ok(word.ruleset())
    } else {
        Err(unknown("its slot is another attachment's"))
    }
}

fn unreadable(error: impl Error) -> PluginError {
    unknown(&chain(&error))
}

fn unknown(why: &str) -> PluginError {
    let message = format!("what is in force for the pod cannot be read: {why}");
    PluginError::new(Code::Attach, message)
}

/// The table set whose program a filter runs.
fn set_of(paths: &Paths, filter: &Filter) -> Result<Option<TableSet>, Failed> {
    let sets = TableSet::list_sets(paths)?;
    let of_ours = sets.into_iter().filter(|name| name.abi == ABI);
    let mut sets = of_ours.map(|name| TableSet::at(paths, name));
    // A set may be unpinned while we look.
    Ok(sets.find(|set| {
        let program = set.program_id(filter.direction).ok();
        program.is_some() && program == filter.program
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_is_told_by_its_own_ruleset() {
        let now = |ingress: RulesetId, egress: RulesetId| {
            Now {
                ingress: ingress.into(),
                egress: egress.into(),
            }
            .to_string()
        };
        assert_eq!(
            now(RulesetId::DENY_ALL, RulesetId::ALLOW_ALL),
            "the pod's ingress is denied and its egress open"
        );
        assert_eq!(
            now(RulesetId(2), RulesetId::DENY_ALL),
            "the pod's ingress is decided by a ruleset and its egress denied"
        );
    }
}
