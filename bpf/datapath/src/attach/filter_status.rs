// SPDX-License-Identifier: Apache-2.0 OR MIT
//! CHECK: whether an attachment is as ADD left it, and whether the kernel listens to us.

use podgate_abi::Direction;

use super::{AddError, CheckError, open_socket};
use crate::{
    Paths,
    filter::{self, Conflict, PRIORITY, Qdisc},
    guard,
    lock::Lock,
    netlink::{Ifindex, Kind, LinkError, Socket},
    record::{self, AttachmentId, Record},
    tables::TableSet,
};

/// Whether the kernel asks our programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterStatus {
    /// It does, and before all others.
    InForce,
    /// Others come first and can end the matter.
    Shadowed {
        /// They.
        by: Vec<Conflict>,
    },
    /// A filter is missing, or names another slot.
    Gone {
        /// The first direction that has none.
        direction: Direction,
    },
}

/// Whether an attachment is as ADD left it.
///
/// # Errors
/// Says what is not.
pub fn check(paths: &Paths, identity: &AttachmentId) -> Result<Record, CheckError> {
    let _lock = Lock::take(paths)?;
    let record =
        record::read(paths, identity)?.ok_or_else(|| CheckError::Missing(identity.clone()))?;
    let ifindex = record.host_ifindex;
    if let Some(set) = TableSet::open_current(paths)? {
        let attachment = set.read_attachment(record.slot)?;
        if attachment.origin().birth() != record.birth.0 {
            return Err(CheckError::NoRecord(record.slot));
        }
    }
    match filter_status(&record)? {
        FilterStatus::InForce => Ok(record),
        FilterStatus::Shadowed { by } => Err(AddError::Shadowed { ifindex, by }.into()),
        FilterStatus::Gone { direction } => Err(CheckError::Gone { ifindex, direction }),
    }
}

/// Whether the kernel asks our programs about an attachment's packets.
///
/// # Errors
/// When the interface cannot be read.
pub fn filter_status(record: &Record) -> Result<FilterStatus, AddError> {
    let ifindex = record.host_ifindex;
    let mut socket = open_socket(ifindex)?;
    let qdisc = filter::qdisc(&mut socket, ifindex).map_err(|source| AddError::Netlink {
        doing: "ask for the qdisc of",
        ifindex,
        source,
    })?;
    standing_of(&mut socket, record, qdisc)
}

pub(super) fn standing_of(
    socket: &mut Socket,
    record: &Record,
    qdisc: Qdisc,
) -> Result<FilterStatus, AddError> {
    let ifindex = record.host_ifindex;
    let found = filter::situation(socket, ifindex, qdisc)
        .map_err(|source| AddError::ReadBack { ifindex, source })?;
    for direction in Direction::BOTH {
        let ours = &found.ours[direction as usize];
        if ours.as_ref().and_then(filter::Filter::slot) != Some(record.slot) {
            return Ok(FilterStatus::Gone { direction });
        }
    }
    if found.conflicts.is_empty() {
        return Ok(FilterStatus::InForce);
    }
    Ok(FilterStatus::Shadowed {
        by: found.conflicts,
    })
}

/// Tells the programs what the host end of an attachment is a port of now.
///
/// # Errors
/// When the interface cannot be looked up, or the table cannot be written.
pub fn follow_master(set: &TableSet, record: &Record) -> Result<(), AddError> {
    let mut socket = open_socket(record.host_ifindex)?;
    let link = socket.link_by_index(record.host_ifindex)?;
    let keeps_on_link = link.master.is_some()
        && guard::keeps_on_link().map_err(|source| AddError::Guard {
            family: guard::Family::Bridge.name(),
            source,
        })?;
    store_master(&mut socket, set, record, (link.master, keeps_on_link))
}

/// The same, of a master that is known, and of bridges' guard, whether that keeps frames on the link. A bridge must not learn from
/// frames that the guard does not see before.
pub(super) fn store_master(
    socket: &mut Socket,
    set: &TableSet,
    record: &Record,
    (master, keeps_on_link): (Option<Ifindex>, bool),
) -> Result<(), AddError> {
    let Some(ifindex) = master else {
        return Ok(set.store_master(record.slot, None, false)?);
    };
    let netlink = |source| AddError::Netlink {
        doing: "ask for the master of an attachment's interface,",
        ifindex,
        source,
    };
    let is_bridge = match socket.link_by_index(ifindex) {
        Ok(link) => link.kind == Kind::Other("bridge".into()),
        // It is gone since; the interface's own change of master follows.
        Err(LinkError::Missing(_)) => false,
        Err(LinkError::Netlink { source, .. }) => return Err(netlink(source)),
    };
    set.store_master(record.slot, master, is_bridge && keeps_on_link)?;
    socket
        .learn_nothing_link_local(ifindex)
        .map_err(|source| AddError::Netlink {
            doing: "stop learning from link-local frames at",
            ifindex,
            source,
        })
}

/// Whether the programs would be heard if they were hung up.
pub(super) fn would_be_heard(socket: &mut Socket, ifindex: Ifindex) -> Result<(), AddError> {
    let qdisc = filter::qdisc(socket, ifindex).map_err(|source| AddError::Netlink {
        doing: "ask for the qdisc of",
        ifindex,
        source,
    })?;
    if let Qdisc::Other(kind) = qdisc {
        return Err(AddError::QdiscTaken { ifindex, kind });
    }
    let mut by = filter::situation(socket, ifindex, qdisc)
        .map_err(|source| AddError::ReadBack { ifindex, source })?
        .conflicts;
    by.retain(|conflict| match conflict {
        // Where ours are missing, those behind their place count as before it.
        Conflict::Filter(filter) => filter.priority <= PRIORITY,
        Conflict::Qdisc(_) | Conflict::Tcx { .. } => true,
    });
    if by.is_empty() {
        Ok(())
    } else {
        Err(AddError::Shadowed { ifindex, by })
    }
}
