// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ADD repeated on an interface that is attached already: what stood stands until the new one does, or stands on.

use std::{io, os::fd::AsFd};

use podgate_abi::Direction;

use super::{AddError, clear_everywhere};
use crate::{
    Failed, Paths,
    filter::{self, Put},
    mark,
    netlink::Socket,
    record::{self, Record},
    tables::TableSet,
};

/// Leaves `old` where it stood, after `new` came to nothing in its place. Whatever of it cannot be put back, no filter is
/// removed: one that carries the new slot drops everything, and one that carries the old one judges as before.
pub(super) fn stand_on(
    paths: &Paths,
    set: &TableSet,
    socket: &mut Socket,
    old: &Record,
    new: &Record,
) {
    if put_back(paths, set, socket, old, new).is_err() {
        let _ = keep_file(paths, old);
        let _ = clear_everywhere(paths, new.slot);
    }
}

fn keep_file(paths: &Paths, old: &Record) -> Result<(), Failed> {
    if matches!(record::read(paths, &old.identity), Ok(Some(found)) if found == *old) {
        return Ok(());
    }
    record::write(paths, old)
}

/// Has `old` stand again: its filters, its file, and nothing of `new`.
fn put_back(
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
    socket
        .set_group(ifindex, mark::group(old.slot))
        .map_err(netlink("mark"))?;
    keep_file(paths, old)?;
    set.clear_attachment(new.slot)?;
    Ok(())
}
