// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is printed: one JSON value on stdout, or nothing. Everything else goes to stderr.

use std::io::{self, Write};

use serde::Serialize;

use crate::{
    config::{CniVersion, SUPPORTED},
    error::PluginError,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorReply<'a> {
    cni_version: CniVersion,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VersionReply {
    cni_version: CniVersion,
    supported_versions: &'static [CniVersion],
}

/// Prints `error` in the protocol version that the caller speaks.
pub(crate) fn error(
    out: &mut dyn Write,
    version: CniVersion,
    error: &PluginError,
) -> io::Result<()> {
    json(
        out,
        &ErrorReply {
            cni_version: version,
            code: error.code as u32,
            msg: &error.message,
            details: &error.details,
        },
    )
}

/// Prints the versions that the plugin speaks.
pub(crate) fn version(out: &mut dyn Write) -> io::Result<()> {
    json(
        out,
        &VersionReply {
            cni_version: CniVersion::LATEST,
            supported_versions: SUPPORTED,
        },
    )
}

fn json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.flush()
}
