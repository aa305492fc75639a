//! Who deleted an address from `peers` owes it to every attachment to judge its flows again, once a grace period is
//! over: the next pod with the address would go on with the flows of the last one.
//!
//! The deleted entry tells nobody any more. So the debt is noted in a file before, and the note goes when the debt is
//! paid. While there is one, an ADD pays: whoever made it may be dead. All of it under the lock.

use std::{fs, io};

use crate::{Failed, Paths, lock::Lock, record::write_private};

/// Who deleted addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Debtor {
    /// A plugin, which pays at once unless it is killed.
    Plugin,
    /// The enforcer, which pays after its next grace period.
    Enforcer,
}

impl Debtor {
    /// Both.
    pub(crate) const BOTH: [Self; 2] = [Self::Plugin, Self::Enforcer];
}

/// Notes a debt.
pub(crate) fn note(paths: &Paths, by: Debtor, _lock: &Lock) -> Result<(), Failed> {
    let path = paths.owed(by);
    if path.exists() {
        return Ok(());
    }
    write_private(&path, b"").map_err(Failed::at("note deleted addresses in", &path))
}

/// Whether anybody owes.
pub(crate) fn is_any(paths: &Paths, _lock: &Lock) -> bool {
    Debtor::BOTH.iter().any(|by| paths.owed(*by).exists())
}

/// Takes note that a debt is paid: all flows are judged again that are older than a grace period.
///
/// # Errors
/// When the note cannot be deleted. The next ADD pays once more then.
pub fn paid(paths: &Paths, by: Debtor, _lock: &Lock) -> Result<(), Failed> {
    let path = paths.owed(by);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failed::at("delete note of deleted addresses", &path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
