//! ADD repeated on an interface that is attached already: what stood stands until the new one does, or stands on.

use std::{io, os::fd::AsFd};

use podgate_abi::Direction;

use super::AddError;
use crate::{
    Failed, Paths,
    filter::{self, Obstacle, PRIORITY, Put, Qdisc},
    netlink::{Ifindex, Socket},
    record::{self, Record},
    tables::TableSet,
};

/// Whether the programs would be heard if they were put where they hang already. Asked before anything is touched.
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
        .obstacles;
    by.retain(|obstacle| match obstacle {
        // Where ours are missing, those behind their place count as before it.
        Obstacle::Filter(filter) => filter.priority <= PRIORITY,
        Obstacle::Qdisc(_) | Obstacle::Tcx { .. } => true,
    });
    if by.is_empty() {
        Ok(())
    } else {
        Err(AddError::Shadowed { ifindex, by })
    }
}

/// Has `old` stand again, after `new` came to nothing in its place: its filters, its file, and nothing of the other.
pub(super) fn put_back(
    paths: &Paths,
    set: &TableSet,
    socket: &mut Socket,
    old: &Record,
    new: &Record,
) -> Result<(), AddError> {
    let ifindex = old.host_ifindex;
    let netlink = |doing| {
        move |source| AddError::Netlink {
            doing,
            ifindex,
            source,
        }
    };
    if set.read_attachment(old.slot)?.origin().birth() != old.birth.0 {
        let why = "the current table set has no record of it";
        return Err(
            Failed::new("put back attachment", &old.identity, io::Error::other(why)).into(),
        );
    }
    for direction in Direction::BOTH {
        let how = match filter::ours(socket, ifindex, direction).map_err(netlink("ask for"))? {
            Some(found) if found.slot() == Some(old.slot) => continue,
            Some(_) => Put::Replace,
            None => Put::New,
        };
        let program = set.program(direction)?;
        filter::put(socket, ifindex, direction, old.slot, program.as_fd(), how)
            .map_err(netlink("put back the filter of"))?;
    }
    if !matches!(record::read(paths, &old.identity), Ok(Some(found)) if found == *old) {
        record::write(paths, old)?;
    }
    set.clear_attachment(new.slot)?;
    Ok(())
}
