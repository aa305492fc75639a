// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How large the tables are.

use std::{fs, io};

use podgate_abi::Slot;
use serde::{Deserialize, Serialize};

use crate::{Failed, Paths, lock::make_private_dir, record::replace_private};

/// Elements of each table. The defaults use about 27 MB, of which 14 are shared by all sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sizes {
    /// Slots, slot 0 included; at most 65,536.
    pub attachments: u32,
    /// Rulesets.
    pub rulesets: u32,
    /// Addresses with a class.
    pub peers: u32,
    /// CIDRs. A trie takes the memory of what it has, so this is as large as it can be.
    pub prefixes: u32,
    /// Rows of all rulesets.
    pub rows: u32,
    /// Sets of ports.
    pub portsets: u32,
    /// Chunks of 4,096 ports.
    pub chunks: u32,
    /// Bytes of the ring buffer of events; a power of two, and of pages.
    pub events: u32,
    /// Tracked connections.
    pub flows: u32,
    /// Connections seen in one direction only.
    pub embryonic: u32,
    /// The same, of attachments that have used up their share of these.
    pub crowd: u32,
    /// Fragmented datagrams.
    pub fragments: u32,
    /// Tracked connections that one attachment may have, as long as there is room beyond the guarantees of the others.
    pub flows_per_attachment: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            attachments: 16_384,
            rulesets: 2_048,
            peers: 32_768,
            prefixes: 1 << 20,
            rows: 65_536,
            portsets: 4_096,
            chunks: 2_048,
            events: 256 * 1024,
            flows: 65_536,
            embryonic: 32_768,
            crowd: 32_768,
            fragments: 4_096,
            flows_per_attachment: 16_384,
        }
    }
}

impl Sizes {
    /// Reads the sizes that the enforcer wants; the defaults if it never said.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn read(paths: &Paths) -> Result<Self, Failed> {
        let path = paths.config();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failed::at("read sizes of tables from", &path)(error)),
        };
        let sizes: Self = serde_json::from_slice(&bytes)
            .map_err(|error| Failed::at("read sizes of tables from", &path)(error.into()))?;
        Ok(sizes)
    }

    /// Writes the sizes for whoever loads next.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, paths: &Paths) -> Result<(), Failed> {
        make_private_dir(&paths.run)?;
        let path = paths.config();
        serde_json::to_vec_pretty(self)
            .map_err(io::Error::from)
            .and_then(|bytes| replace_private(&path, &bytes))
            .map_err(Failed::at("write sizes of tables to", &path))
    }

    /// What one attachment may have of `flows` unless somebody says otherwise: a quarter.
    #[must_use]
    pub fn flows_of_one(flows: u32) -> u32 {
        (flows / 4).max(1)
    }

    /// Slots, within what a class ID can say.
    pub(crate) fn slots(&self) -> u32 {
        self.attachments.clamp(2, Slot::MAX.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_written_and_default_without_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        assert_eq!(Sizes::read(&paths).unwrap(), Sizes::default());
        let sizes = Sizes {
            flows: 99,
            ..Sizes::default()
        };
        sizes.write(&paths).unwrap();
        assert_eq!(Sizes::read(&paths).unwrap(), sizes);
        fs::write(paths.config(), b"{\"flowz\": 1}").unwrap();
        assert!(Sizes::read(&paths).is_err());
    }

    #[test]
    fn sizes_that_cannot_be_written_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        // A directory has the name of the file.
        fs::create_dir_all(paths.config()).unwrap();
        Sizes::default().write(&paths).unwrap_err();
        let left = fs::read_dir(&paths.run).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [paths.config()]);
    }
}
