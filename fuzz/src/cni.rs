// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a runtime, or whoever writes its conflists, gives the plugin on stdin.

use std::ffi::OsString;

use podgate::{Exit, Io};
use serde_json::Value;

/// ADD and CHECK of a pod whose network namespace is not there: all of the input is read, and nothing done. They answer with one
/// JSON value, which is a CNI error.
pub fn run(data: &[u8]) {
    for verb in ["ADD", "CHECK"] {
        let getenv = |name: &str| {
            let value = match name {
                "CNI_COMMAND" => verb,
                "CNI_CONTAINERID" => "fuzz",
                "CNI_NETNS" => "/nonexistent/netns",
                "CNI_IFNAME" => "eth0",
                "CNI_PATH" => "/nonexistent",
                _ => return None,
            };
            Some(OsString::from(value))
        };
        let (mut stdin, mut stdout, mut stderr) = (data, Vec::new(), Vec::new());
        let exit = podgate::run(Io {
            getenv: &getenv,
            stdin: &mut stdin,
            stdout: &mut stdout,
            stderr: &mut stderr,
        });
        assert_eq!(exit, Exit::Failure);
        let error: Value = serde_json::from_slice(&stdout).expect("one JSON value");
        for (field, is_right) in [
            ("cniVersion", error["cniVersion"].is_string()),
            ("code", error["code"].as_u64().is_some_and(|code| code > 0)),
            (
                "msg",
                error["msg"].as_str().is_some_and(|text| !text.is_empty()),
            ),
        ] {
            assert!(is_right, "{field}: {error}");
        }
    }
}
