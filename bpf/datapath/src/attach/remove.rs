//! DEL.

use podgate_abi::Direction;

use super::{RemoveError, check_names};
use crate::{
    Failed, Paths, filter,
    lock::Lock,
    netlink::Socket,
    record::{self, Identity, Record},
    tables::TableSet,
};

/// Detaches. What is not there is no error; what fails does not stop the rest. The file goes last, and only if all
/// else is gone, so that the sweep finds what is left.
///
/// # Errors
/// The first step that did not work.
pub fn remove(paths: &Paths, identity: &Identity) -> Result<(), RemoveError> {
    check_names(identity)?;
    if !paths.attachment(identity).exists() {
        return Ok(());
    }
    let lock = Lock::take(paths)?;
    remove_under(paths, identity, &lock)
}

/// Empties a slot in every table set of this version's layout.
pub(crate) fn clear_everywhere(paths: &Paths, slot: record::Slot) -> Vec<Failed> {
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
    identity: &Identity,
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
    match Socket::open() {
        Ok(mut socket) => errors.extend(remove_filters(&mut socket, &record)),
        Err(source) => errors.push(RemoveError::Netlink {
            ifindex: record.host_ifindex,
            source,
        }),
    }
    errors.extend(
        clear_everywhere(paths, record.slot)
            .into_iter()
            .map(Into::into),
    );
    if errors.is_empty() {
        record::delete(paths, identity)?;
    }
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// Removes the filters that carry the record's slot from the record's interface, if they are there.
pub(crate) fn remove_filters(socket: &mut Socket, record: &Record) -> Vec<RemoveError> {
    let ifindex = record.host_ifindex;
    let mut errors = Vec::new();
    for direction in Direction::BOTH {
        // The interface's number may be another one's by now: the slot tells.
        let removed = match filter::ours(socket, ifindex, direction) {
            Ok(Some(found)) if found.slot() == Some(record.slot) => {
                filter::remove(socket, ifindex, direction)
            }
            Ok(Some(_) | None) => Ok(()),
            Err(error) => Err(error),
        };
        errors.extend(
            removed
                .err()
                .map(|source| RemoveError::Netlink { ifindex, source }),
        );
    }
    errors
}
