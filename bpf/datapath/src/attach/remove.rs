// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DEL.

use podgate_abi::Direction;

use super::{RemoveError, check_names};
use crate::{
    Failed, Paths, filter,
    lock::Lock,
    mark,
    netlink::{Ifindex, LinkError, Socket},
    ownership::{attached_slots, mismatch},
    record::{self, AttachmentId, Record, Slot},
    tables::TableSet,
};

/// Detaches. What is not there is no error; what fails does not stop the rest. The file goes last, and only if all
/// else is gone, so that the sweep finds what is left.
///
/// # Errors
/// The first step that did not work.
pub fn remove(paths: &Paths, identity: &AttachmentId) -> Result<(), RemoveError> {
    check_names(identity)?;
    if !paths.attachment(identity).exists() {
        return Ok(());
    }
    let lock = Lock::take(paths)?;
    remove_under(paths, identity, &lock)
}

/// Empties a slot in every table set of this version's layout.
pub(crate) fn clear_everywhere(paths: &Paths, slot: Slot) -> Vec<Failed> {
    match TableSet::list_sets(paths) {
        Ok(sets) => sets
            .into_iter()
            .filter(|name| name.abi == podgate_abi::ABI)
            .filter_map(|name| TableSet::at(paths, name).clear_attachment(slot).err())
            .collect(),
        Err(error) => vec![error],
    }
}

pub(crate) fn remove_under(
    paths: &Paths,
    identity: &AttachmentId,
    _lock: &Lock,
) -> Result<(), RemoveError> {
    let record = match record::read(paths, identity) {
        Ok(Some(record)) => record,
        Ok(None) => return Ok(()),
        // Nobody can say what it was. Its filters, if there are any, keep dropping or judging by their record until
        // the sweep finds that no file names them.
        Err(_) => return record::delete(paths, identity).map_err(Into::into),
    };
    let mut errors = Vec::new();
    let mut slots = vec![record.slot];
    match Socket::open() {
        Ok(mut socket) => {
            match unfinished(paths, &mut socket, &record) {
                Ok(left) => slots.extend(left),
                Err(error) => errors.push(error),
            }
            errors.extend(remove_filters_of(&mut socket, record.host_ifindex, &slots));
        }
        Err(source) => errors.push(RemoveError::Netlink {
            ifindex: record.host_ifindex,
            source,
        }),
    }
    for slot in slots {
        errors.extend(clear_everywhere(paths, slot).into_iter().map(Into::into));
    }
    if errors.is_empty() {
        record::delete(paths, identity)?;
    }
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// The slots of what a repeated ADD was to replace, and did not come to, because it was killed: filters or the mark of the
/// attachment's own interface name them, and no other attachment's file does.
fn unfinished(
    paths: &Paths,
    socket: &mut Socket,
    record: &Record,
) -> Result<Vec<Slot>, RemoveError> {
    let ifindex = record.host_ifindex;
    let netlink = |source| RemoveError::Netlink { ifindex, source };
    let link = match socket.link_by_index(ifindex) {
        Ok(link) => link,
        Err(LinkError::Missing(_)) => return Ok(Vec::new()),
        Err(LinkError::Netlink { source, .. }) => return Err(netlink(source)),
    };
    let mut slots: Vec<Slot> = attached_slots(socket, ifindex).map_err(netlink)?;
    slots.extend(mark::slot(&link));
    slots.retain(|slot| *slot != record.slot);
    if slots.is_empty() {
        return Ok(slots);
    }
    if mismatch(socket, &link, record).map_err(netlink)?.is_some() {
        return Ok(Vec::new());
    }
    for other in record::list(paths)? {
        match other {
            Ok(other) if other.identity == record.identity => {}
            Ok(other) => slots.retain(|slot| *slot != other.slot),
            // It may name any of them.
            Err(_) => return Ok(Vec::new()),
        }
    }
    Ok(slots)
}

/// Removes the filters that carry the record's slot from the record's interface, if they are there.
pub(crate) fn remove_filters(socket: &mut Socket, record: &Record) -> Vec<RemoveError> {
    remove_filters_of(socket, record.host_ifindex, &[record.slot])
}

/// Removes our filters if they name these slots. If one names another, none is removed: one direction alone would be
/// open.
fn remove_filters_of(socket: &mut Socket, ifindex: Ifindex, slots: &[Slot]) -> Vec<RemoveError> {
    let netlink = |source| RemoveError::Netlink { ifindex, source };
    // The interface's number may be another one's by now: the slot tells.
    match attached_slots(socket, ifindex) {
        Ok(attached_slots) if attached_slots.iter().all(|slot| slots.contains(slot)) => {}
        Ok(_) => return Vec::new(),
        Err(error) => return vec![netlink(error)],
    }
    let mut errors = Vec::new();
    for direction in Direction::BOTH {
        let removed = match filter::ours(socket, ifindex, direction) {
            Ok(Some(_)) => filter::remove(socket, ifindex, direction),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        errors.extend(removed.err().map(netlink));
    }
    // Last: what is marked and not judged goes nowhere.
    if errors.is_empty() {
        errors.extend(mark::remove(socket, ifindex, slots).err().map(netlink));
    }
    errors
}
