// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Calls of a plugin, as a runtime makes them.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The `CNI_*` variables.
pub(crate) type Environment = [(&'static str, String); 5];

/// Starts the call.
pub(crate) fn begin(program: &Path, environment: Environment, stdin: &[u8]) -> Result<Child> {
    let mut child = Command::new(program)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    // A program that does nothing reads nothing.
    child.stdin.take().context("a pipe")?.write_all(stdin).ok();
    Ok(child)
}

/// Waits until the call's output is read and it has ended well.
pub(crate) fn end(mut child: Child) -> Result<()> {
    let mut said = String::new();
    for pipe in [
        child
            .stdout
            .take()
            .map(|pipe| Box::new(pipe) as Box<dyn Read>),
        child
            .stderr
            .take()
            .map(|pipe| Box::new(pipe) as Box<dyn Read>),
    ] {
        pipe.context("a pipe")?.read_to_string(&mut said)?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "{status}: {said}");
    Ok(())
}
