// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who deleted an address from `peers` owes it to every attachment to judge its flows again, once a grace period is
//! over: the next pod with the address would go on with the flows of the last one.
//!
//! The deleted entry tells nobody any more. So the address is noted in a file before, and the note goes when the debt is
//! paid. An ADD of an address that is noted pays: whoever deleted it may be dead. All of it under the lock.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
};

use crate::{Failed, Paths, error::if_there, lock::Lock};

/// Who deleted addresses; a note each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owed {
    /// A plugin, which pays at once unless it is killed.
    ByPlugin,
    /// The enforcer, which pays after the next grace period that begins.
    ByEnforcer,
    /// The enforcer, which pays after the grace period that is under way.
    InGrace,
}

impl Owed {
    /// Every note.
    pub(crate) const ALL: [Self; 3] = [Self::ByPlugin, Self::ByEnforcer, Self::InGrace];
}

/// Notes that this address is about to be deleted. Where there is no room for it, the note is emptied, which needs none:
/// then it may name every address.
pub(crate) fn note(paths: &Paths, owed: Owed, address: IpAddr, _lock: &Lock) -> Result<(), Failed> {
    let path = paths.owed(owed);
    let open = || {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600).open(&path)
    };
    if fs::metadata(&path).is_ok_and(|note| note.len() == 0) {
        // It names every address already.
        return Ok(());
    }
    let append = || open()?.write_all(format!("{address}\n").as_bytes());
    append()
        .or_else(|_| open()?.set_len(0))
        .map_err(Failed::at("note a deleted address in", &path))
}

/// Whether anybody owes for one of these addresses. A note that cannot be read may have named it.
pub(crate) fn is_any(paths: &Paths, addresses: &[IpAddr], _lock: &Lock) -> bool {
    let names_one = |note: &str| {
        let mut noted = note.lines().map(|line| line.parse::<IpAddr>().ok());
        note.is_empty() || noted.any(|address| address.is_none_or(|it| addresses.contains(&it)))
    };
    Owed::ALL
        .iter()
        .any(|owed| match fs::read_to_string(paths.owed(*owed)) {
            Ok(note) => names_one(&note),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        })
}

/// A grace period begins, and pays what the enforcer owes up to now. Not if a note is left of an earlier one: then the
/// next.
///
/// # Errors
/// When the note cannot be renamed. Its debts are paid later then.
pub fn grace_begins(paths: &Paths, _lock: &Lock) -> Result<(), Failed> {
    let [from, to] = [Owed::ByEnforcer, Owed::InGrace].map(|owed| paths.owed(owed));
    if to.exists() {
        return Ok(());
    }
    if_there(fs::rename(&from, &to)).map_err(Failed::at("rename note of deleted addresses", &from))
}

/// Takes note that a debt is paid: all flows are judged again that are older than a grace period.
///
/// # Errors
/// When the note cannot be deleted. ADDs of its addresses pay once more then.
pub fn paid(paths: &Paths, owed: Owed, _lock: &Lock) -> Result<(), Failed> {
    let path = paths.owed(owed);
    if_there(fs::remove_file(&path)).map_err(Failed::at("delete note of deleted addresses", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn run() -> (tempfile::TempDir, Paths, Lock) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        let lock = Lock::take(&paths).unwrap();
        (dir, paths, lock)
    }

    /// A debt is of one address, and lasts until the grace period that begins after it is paid.
    #[test]
    fn a_debt_of_one_address_lasts_until_a_later_grace_period() {
        let (_dir, paths, lock) = run();
        let is_owed = |address| is_any(&paths, &[address], &lock);
        note(&paths, Owed::ByEnforcer, ONE, &lock).unwrap();
        assert!(is_owed(ONE) && !is_owed(OTHER));
        grace_begins(&paths, &lock).unwrap();
        note(&paths, Owed::ByEnforcer, OTHER, &lock).unwrap();
        assert!(is_owed(ONE) && is_owed(OTHER));
        // What came meanwhile waits for the next, also if one is begun before this one is paid.
        grace_begins(&paths, &lock).unwrap();
        paid(&paths, Owed::InGrace, &lock).unwrap();
        assert!(!is_owed(ONE) && is_owed(OTHER));
        grace_begins(&paths, &lock).unwrap();
        paid(&paths, Owed::InGrace, &lock).unwrap();
        assert!(!is_owed(OTHER));
        grace_begins(&paths, &lock).unwrap();
        paid(&paths, Owed::InGrace, &lock).unwrap();
    }

    #[test]
    fn a_note_without_room_names_every_address_until_it_is_paid() {
        let (_dir, paths, lock) = run();
        note(&paths, Owed::ByEnforcer, ONE, &lock).unwrap();
        // What is left when the file system is full.
        OpenOptions::new()
            .write(true)
            .open(paths.owed(Owed::ByEnforcer))
            .and_then(|file| file.set_len(0))
            .unwrap();
        note(&paths, Owed::ByEnforcer, OTHER, &lock).unwrap();
        assert!(is_any(&paths, &[ONE], &lock));
        paid(&paths, Owed::ByEnforcer, &lock).unwrap();
        note(&paths, Owed::ByEnforcer, OTHER, &lock).unwrap();
        assert!(!is_any(&paths, &[ONE], &lock));
    }

    #[test]
    fn a_note_that_cannot_be_read_may_name_every_address() {
        for note in ["", "10.0.0.9\n10.0.", "\0"] {
            let (_dir, paths, lock) = run();
            fs::write(paths.owed(Owed::ByPlugin), note).unwrap();
            assert!(is_any(&paths, &[ONE], &lock), "{note:?}");
        }
    }
}
