// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One operation on one object that did not work.

use std::{fmt::Display, io, path::Path};

/// What was being done, to which object, and why it did not work.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {object}")]
pub struct Failed {
    /// What was being done.
    pub doing: &'static str,
    /// To which object.
    pub object: String,
    /// Why it did not work.
    #[source]
    pub source: io::Error,
}

impl Failed {
    /// Whether this process or the system has run out of descriptors or memory, which says nothing of the object.
    #[must_use]
    pub fn is_exhaustion(&self) -> bool {
        let code = self.source.raw_os_error();
        matches!(code, Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
    }

    pub(crate) fn new(doing: &'static str, object: impl Display, source: io::Error) -> Self {
        Self {
            doing,
            object: object.to_string(),
            source,
        }
    }

    pub(crate) fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::new(doing, path.display(), source)
    }

    /// Whether the object does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// What need not be there is no error when it is missing.
pub(crate) fn if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
