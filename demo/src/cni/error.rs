// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong with a chain.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use super::Verb;

/// Why a chain could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// The conflist is missing or is not one.
    #[error("read conflist {}: {reason}", path.display())]
    Conflist {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No directory of the search path holds the plugin.
    #[error("find CNI plugin {plugin:?} in {}: no such file", search_path.to_string_lossy())]
    NotFound {
        /// Its type in the conflist.
        plugin: String,
        /// The directories that were searched.
        search_path: OsString,
    },
    /// The plugin could not be run.
    #[error("run CNI plugin {plugin:?} for {verb}")]
    Run {
        /// Its type in the conflist.
        plugin: String,
        /// `CNI_COMMAND`.
        verb: Verb,
        /// Why.
        source: io::Error,
    },
    /// The plugin ran and answered with an error.
    #[error("CNI plugin {plugin:?} failed {verb} with code {code}: {msg}; {details}")]
    Refused {
        /// Its type in the conflist.
        plugin: String,
        /// `CNI_COMMAND`.
        verb: Verb,
        /// The code of the CNI specification, or 999 if the plugin gave none.
        code: u32,
        /// What it said in short.
        msg: String,
        /// What it said at length, with what it wrote to stderr.
        details: String,
    },
    /// The plugin succeeded, and what it printed is not a result.
    #[error("decode the result of CNI plugin {plugin:?} for {verb}: {output:?}")]
    Result {
        /// Its type in the conflist.
        plugin: String,
        /// `CNI_COMMAND`.
        verb: Verb,
        /// What it printed.
        output: String,
    },
}
