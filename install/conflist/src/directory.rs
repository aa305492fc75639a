// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The files of a CNI directory, in a runtime's order.

use std::collections::BTreeMap;

use crate::network::{Malformed, Network};

/// Whether a runtime takes a file of this name for a network: containerd and CRI-O do, by these endings, dot files included.
#[must_use]
pub fn is_candidate(file: &str) -> bool {
    [".conf", ".conflist", ".json"]
        .iter()
        .any(|it| file.ends_with(it))
}

/// What a directory holds, by paths relative to it: its files, and those of the networks' drop-in directories.
///
/// Of the files that a runtime takes for networks the first by name decides, whether it can be read or not.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    files: BTreeMap<String, Vec<u8>>,
}

impl Directory {
    /// The bytes of a file.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(Vec::as_slice)
    }

    /// The paths, in order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The first network that sorts after `own`: what sorts before it is read in its place, and may be a plugin that delegates
    /// to the first file behind it, as Multus does.
    pub(crate) fn after(&self, own: &str) -> Option<(&str, Result<Network, Malformed>)> {
        self.networks().find(|(file, _)| *file > own)
    }

    /// The first network besides `own`.
    pub(crate) fn besides(&self, own: &str) -> Option<(&str, Result<Network, Malformed>)> {
        self.networks().find(|(file, _)| *file != own)
    }

    /// What the runtime reads.
    pub(crate) fn first(&self) -> Option<(&str, Result<Network, Malformed>)> {
        self.networks().next()
    }

    /// All networks, in a runtime's order.
    pub(crate) fn networks(&self) -> impl Iterator<Item = (&str, Result<Network, Malformed>)> {
        self.files
            .iter()
            .filter(|(path, _)| is_candidate(path) && !path.contains('/'))
            .map(|(file, bytes)| (&**file, Network::parse(file, bytes)))
    }
}

impl<P: Into<String>, B: Into<Vec<u8>>> FromIterator<(P, B)> for Directory {
    fn from_iter<I: IntoIterator<Item = (P, B)>>(files: I) -> Self {
        Self {
            files: files
                .into_iter()
                .map(|(path, bytes)| (path.into(), bytes.into()))
                .collect(),
        }
    }
}
