// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the enforcer does with attachments and sets that others left: swap, sweep, unpin.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
};

use podgate_abi::Direction;

use crate::{
    Failed, Paths,
    attach::{RemoveError, clear_everywhere, remove_under},
    bpffs::{self, SetName},
    filter::{self, Put, Qdisc},
    lock::Lock,
    mark,
    netlink::{Ifindex, Link, LinkError, NetlinkError, Socket},
    ownership::mismatch,
    record::{self, Record},
    slots,
    tables::TableSet,
};

/// Why an attachment's programs could not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// A file, a pin or a table.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The interface could not be looked up.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Netlink.
    #[error("replace the programs on interface {ifindex}")]
    Netlink {
        /// Which interface.
        ifindex: Ifindex,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// The interface is not the attachment's any more.
    #[error("interface {ifindex} is not attachment {identity}'s: {why}")]
    Another {
        /// Which interface.
        ifindex: Ifindex,
        /// Which attachment.
        identity: record::AttachmentId,
        /// What tells them apart.
        why: &'static str,
    },
    /// What is hung up on another qdisc runs in the wrong place: at egress on an `ingress` qdisc, for one.
    #[error("interface {ifindex} has qdisc {kind} in the place of clsact; remove that qdisc")]
    QdiscTaken {
        /// Which interface.
        ifindex: Ifindex,
        /// The qdisc's kind.
        kind: String,
    },
}

/// The host end of an attachment, if it is still the attachment's.
fn own_link(record: &Record) -> Result<(Socket, Link), SwapError> {
    let ifindex = record.host_ifindex;
    let netlink = |source| SwapError::Netlink { ifindex, source };
    let mut socket = Socket::open().map_err(netlink)?;
    let link = socket.link_by_index(ifindex)?;
    if let Some(why) = mismatch(&mut socket, &link, record).map_err(netlink)? {
        return Err(SwapError::Another {
            ifindex,
            identity: record.identity.clone(),
            why,
        });
    }
    Ok((socket, link))
}

impl TableSet {
    /// Replaces an attachment's programs by this set's, each in one step: a packet meets the old one or the new one.
    /// Filters that name another slot, left by an ADD that was repeated and killed, name this one afterwards.
    /// Never makes a filter. The attachment's record and policy must be complete in this set.
    ///
    /// # Errors
    /// When the interface is not the attachment's any more, or the kernel refuses.
    pub fn swap(&self, record: &Record, _lock: &Lock) -> Result<(), SwapError> {
        let ifindex = record.host_ifindex;
        let netlink = |source| SwapError::Netlink { ifindex, source };
        let (mut socket, link) = own_link(record)?;
        let mut programs: Vec<(Direction, OwnedFd)> = Vec::new();
        for direction in Direction::BOTH {
            programs.push((direction, self.program(direction)?));
        }
        for (direction, program) in &programs {
            filter::put(
                &mut socket,
                ifindex,
                *direction,
                record.slot,
                program.as_fd(),
                Put::Replace,
            )
            .map_err(netlink)?;
        }
        // Not before the filters run programs that tell the guard of what they pass.
        mark::put(&mut socket, &link, record).map_err(netlink)?;
        Ok(())
    }
}

/// What a sweep found.
#[derive(Debug, Default)]
pub struct Swept {
    /// Attachments that were there no more, and are removed.
    pub removed: Vec<Record>,
    /// What did not work: files that cannot be read, removals that failed.
    pub errors: Vec<RemoveError>,
}

/// Removes the attachments whose interface is gone, or is another one by now, and files that were left unfinished. Filters
/// that an interface of an attachment has lost are no reason: the enforcer puts them back.
///
/// # Errors
/// When the files or the interfaces cannot be listed.
pub fn sweep(paths: &Paths, lock: &Lock) -> Result<Swept, RemoveError> {
    let netlink = |source| RemoveError::Netlink {
        ifindex: Ifindex(0),
        source,
    };
    let mut socket = Socket::open().map_err(netlink)?;
    let links = socket.links().map_err(netlink)?;
    let links = links.into_iter().map(|link| (link.ifindex, link)).collect();
    let mut swept = Swept::default();
    let mut records = Vec::new();
    for record in record::list(paths)? {
        match record {
            Ok(record) => records.push(record),
            Err(error) => swept.errors.push(error.into()),
        }
    }
    remove_strangers(paths, lock, &mut socket, &links, records, &mut swept)?;
    // Records that a crash left without a file. Not while a file cannot be read: it may name any of them.
    if swept.errors.is_empty() {
        let named = slots::names(paths, &mut socket)?;
        for name in TableSet::list_sets(paths)? {
            if name.abi == podgate_abi::ABI {
                let set = TableSet::at(paths, name);
                let born = match set.born() {
                    // It has lost its pin. The set is unpinned once another one is in force.
                    Err(error) if error.is_missing() => continue,
                    born => born?,
                };
                for slot in born.into_iter().filter(|slot| !named.contains(&slot.0)) {
                    set.clear_attachment(slot)?;
                }
            }
        }
    }
    if let Err(error) = record::remove_unfinished(paths, lock) {
        swept.errors.push(error.into());
    }
    Ok(swept)
}

/// Removes those of these attachments whose interface is gone, or is another one by now. They are all that their
/// interfaces have. It costs by their number, where [`sweep`] costs by that of all.
///
/// # Errors
/// When an interface cannot be looked up.
pub fn sweep_some(paths: &Paths, lock: &Lock, records: Vec<Record>) -> Result<Swept, RemoveError> {
    let mut socket = Socket::open().map_err(|source| RemoveError::Netlink {
        ifindex: Ifindex(0),
        source,
    })?;
    let mut links = BTreeMap::new();
    for ifindex in records.iter().map(|record| record.host_ifindex) {
        match socket.link_by_index(ifindex) {
            Ok(link) => drop(links.insert(ifindex, link)),
            Err(LinkError::Missing(_)) => {}
            Err(LinkError::Netlink { source, .. }) => {
                return Err(RemoveError::Netlink { ifindex, source });
            }
        }
    }
    let mut swept = Swept::default();
    remove_strangers(paths, lock, &mut socket, &links, records, &mut swept)?;
    Ok(swept)
}

/// Removes the attachments that none of these interfaces has any more.
fn remove_strangers(
    paths: &Paths,
    lock: &Lock,
    socket: &mut Socket,
    links: &BTreeMap<Ifindex, Link>,
    records: Vec<Record>,
    swept: &mut Swept,
) -> Result<(), RemoveError> {
    let mut youngest = BTreeMap::new();
    for record in &records {
        let birth: &mut u32 = youngest.entry(record.host_ifindex).or_default();
        *birth = record.birth.0.max(*birth);
    }
    for record in records {
        let ifindex = record.host_ifindex;
        let removed = match links.get(&ifindex) {
            // An interface has one attachment: the youngest. What filters are still there are to become its own, and
            // drop everything until then.
            Some(_) if youngest.get(&ifindex) != Some(&record.birth.0) => forget(paths, &record),
            Some(link) => {
                let mismatch = mismatch(socket, link, &record);
                match mismatch.map_err(|source| RemoveError::Netlink { ifindex, source })? {
                    None => continue,
                    Some(_) => remove_under(paths, &record.identity, lock),
                }
            }
            None => remove_under(paths, &record.identity, lock),
        };
        match removed {
            Ok(()) => swept.removed.push(record),
            Err(error) => swept.errors.push(error),
        }
    }
    Ok(())
}

/// Removes an attachment's record and its file, if that is not a younger one's by now. Its filters stay.
fn forget(paths: &Paths, record: &Record) -> Result<(), RemoveError> {
    if let Some(error) = clear_everywhere(paths, record.slot).into_iter().next() {
        return Err(error.into());
    }
    let file = record::read(paths, &record.identity)?;
    if file.is_some_and(|file| file.birth == record.birth) {
        record::delete(paths, &record.identity)?;
    }
    Ok(())
}

/// Puts back an attachment's filters that somebody removed, and has both name its slot; whether any was missing. For
/// the enforcer that holds the enforcer's lock.
///
/// # Errors
/// When the interface is not the attachment's any more, or the kernel refuses.
pub fn restore(set: &TableSet, record: &Record, _lock: &Lock) -> Result<bool, SwapError> {
    let ifindex = record.host_ifindex;
    let netlink = |source| SwapError::Netlink { ifindex, source };
    let (mut socket, _) = own_link(record)?;
    match filter::ensure_clsact(&mut socket, ifindex).map_err(netlink)? {
        Qdisc::Clsact => {}
        Qdisc::None => {
            let kind = filter::KEEPS_GOING.into();
            return Err(SwapError::QdiscTaken { ifindex, kind });
        }
        Qdisc::Other(kind) => return Err(SwapError::QdiscTaken { ifindex, kind }),
    }
    let mut missing = false;
    for direction in Direction::BOTH {
        match filter::ours(&mut socket, ifindex, direction).map_err(netlink)? {
            Some(found) if found.slot() == Some(record.slot) => {}
            found => {
                missing |= found.is_none();
                let how = match found {
                    Some(_) => Put::Replace,
                    None => Put::New,
                };
                let program = set.program(direction)?;
                filter::put(
                    &mut socket,
                    ifindex,
                    direction,
                    record.slot,
                    program.as_fd(),
                    how,
                )
                .map_err(netlink)?;
            }
        }
    }
    Ok(missing)
}

/// Marks the host end of an attachment again whose mark somebody removed; whether that was so. Its filters run this
/// version's programs.
///
/// # Errors
/// When the interface is not the attachment's any more, or the kernel refuses.
pub fn restore_mark(record: &Record, _lock: &Lock) -> Result<bool, SwapError> {
    let ifindex = record.host_ifindex;
    let netlink = |source| SwapError::Netlink { ifindex, source };
    let (mut socket, link) = own_link(record)?;
    mark::put(&mut socket, &link, record).map_err(netlink)
}

/// Unpins every table set that is not current and whose programs no filter runs. Tells which.
///
/// # Errors
/// When filters cannot be listed: then nothing is unpinned.
pub fn unpin_unused_sets(paths: &Paths, _lock: &Lock) -> Result<Vec<SetName>, SwapError> {
    let netlink = |source| SwapError::Netlink {
        ifindex: Ifindex(0),
        source,
    };
    let current = bpffs::current(paths)?;
    let mut socket = Socket::open().map_err(netlink)?;
    let filters = filter::all_bpf(&mut socket).map_err(netlink)?;
    let filters = filters.into_iter().map(|(_, filter)| filter);
    let mut running: BTreeMap<u32, bool> = BTreeMap::new();
    for filter in filters {
        if let Some(program) = filter.program {
            *running.entry(program).or_default() |= filter.is_ours();
        }
    }
    let mut unused = Vec::new();
    // Sets without the pin of a program, as an interrupted removal leaves them: whether a filter runs it is unknown.
    let mut incomplete = Vec::new();
    for name in bpffs::list(paths)? {
        match TableSet::at(paths, name).program_ids() {
            Ok(programs) => {
                let is_running = programs.map(|program| running.remove(&program).is_some());
                if Some(name) != current && is_running == [false; 2] {
                    unused.push(name);
                }
            }
            Err(error) if error.is_missing() => incomplete.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    // Every filter of ours runs a program of a set that is complete.
    if running.values().all(|is_ours| !is_ours) {
        unused.extend(incomplete.into_iter().filter(|name| Some(*name) != current));
    }
    for name in &unused {
        bpffs::unpin(paths, *name)?;
    }
    bpffs::unpin_common(paths)?;
    Ok(unused)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Whoever wrote them was killed: they are written under the lock.
    #[test]
    fn a_sweep_removes_files_that_were_left_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        let lock = Lock::take(&paths).unwrap();
        fs::create_dir_all(paths.attachments()).unwrap();
        let [unfinished, other] = ["a:eth0.new", "notes"].map(|it| paths.attachments().join(it));
        for path in [&unfinished, &other] {
            fs::write(path, b"{").unwrap();
        }
        let swept = sweep(&paths, &lock).unwrap();
        assert!(swept.errors.is_empty(), "{:?}", swept.errors);
        assert!(!unfinished.exists() && other.exists());
    }
}
