// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is left under the plugin's name while a runtime may still ask it to take down what podgate set up.
//!
//! CRI-O calls the chain that it remembers from the ADD; without a program of the name its pods would never end.

use std::ffi::OsString;
use std::io::{Read, Write};

use anyhow::{Context, Result};
use podgate_conflist::Entry;

/// CNI's "try again later" (specification 1.1.0, "Error").
const TRY_AGAIN_LATER: u32 = 11;

/// Answers the runtime. There is nothing left to take down, to check or to collect. An ADD comes from a chain that the runtime has
/// read before podgate was taken out of it: it fails, and the runtime tries again with what it reads then.
pub(crate) fn answer(
    verb: &OsString,
    stdin: &mut dyn Read,
    stdout: &mut dyn Write,
) -> Result<bool> {
    match verb.to_str() {
        Some("ADD") => {}
        Some("VERSION") => {
            let versions = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
            let reply = serde_json::json!({"cniVersion": "1.1.0", "supportedVersions": versions});
            stdout.write_all(reply.to_string().as_bytes())?;
            return Ok(true);
        }
        Some(_) | None => return Ok(true),
    }
    let mut config = Vec::new();
    stdin.read_to_end(&mut config).context("read stdin")?;
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
    let version = config["cniVersion"].as_str().unwrap_or("1.1.0");
    let reply = serde_json::json!({
        "cniVersion": version,
        "code": TRY_AGAIN_LATER,
        "msg": format!(
            "{} was taken away from this node, and the chain that this ADD is part of still names it: take it out of the conflist \
             of network {}",
            Entry::TYPE, config["name"]
        ),
    });
    stdout.write_all(reply.to_string().as_bytes())?;
    Ok(false)
}
