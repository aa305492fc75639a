// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From the environment and stdin to one reply.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
};

use crate::{
    attachment,
    config::{CniVersion, Config, Refused},
    error::{Code, PluginError},
    invocation::{Getenv, Sandbox, Verb},
    log::Log,
    reply, verbs,
};

/// What a process has to do with the world; tests bring their own.
pub struct Io<'a> {
    /// Reads a variable of the environment.
    pub getenv: &'a dyn Fn(&str) -> Option<OsString>,
    /// The network configuration.
    pub stdin: &'a mut dyn Read,
    /// Gets one JSON value, or nothing.
    pub stdout: &'a mut dyn Write,
    /// Gets lines for people.
    pub stderr: &'a mut dyn Write,
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Status 0.
    Success,
    /// Status 1; stdout has the error.
    Failure,
}

/// Does what `CNI_COMMAND` says.
pub fn run(io: Io<'_>) -> Exit {
    let Io {
        getenv,
        stdin,
        stdout,
        stderr,
    } = io;
    let mut log = Log::new(stderr);
    let outcome = Verb::read(getenv)
        .map_err(|error| Refused {
            version: CniVersion::LATEST,
            error,
        })
        .and_then(|verb| dispatch(verb, getenv, stdin, stdout, &mut log));
    let Err(Refused { version, error }) = outcome else {
        return Exit::Success;
    };
    log.line(&error.message);
    if let Err(error) = reply::error(stdout, version, &error) {
        log.line(&format!("write to stdout: {error}"));
    }
    Exit::Failure
}

fn dispatch(
    verb: Verb,
    getenv: Getenv<'_>,
    stdin: &mut dyn Read,
    stdout: &mut dyn Write,
    log: &mut Log<'_>,
) -> Result<(), Refused> {
    match verb {
        // Answered before stdin is read, which may be empty, or stay open.
        Verb::Version => reply::version(stdout).map_err(|error| Refused {
            version: CniVersion::LATEST,
            error: unwritable(&error),
        }),
        Verb::Del => {
            let (mut bytes, mut problems) = (Vec::new(), Vec::new());
            if let Err(error) = stdin.read_to_end(&mut bytes) {
                problems.push(format!("read stdin: {error}"));
            }
            verbs::del::del(getenv, &bytes, problems, log);
            Ok(())
        }
        Verb::Add => with_config(stdin, |config| {
            let sandbox = Sandbox::read(getenv)?;
            let result = verbs::add::add(&sandbox, config, log)?.get();
            stdout
                .write_all(result.as_bytes())
                .and_then(|()| stdout.flush())
                .map_err(|error| unwritable(&error))
        }),
        Verb::Check => with_config(stdin, |config| {
            since(config, CniVersion::V0_4_0, "CHECK")?;
            let sandbox = Sandbox::read(getenv)?;
            attachment::check(&config.settings.paths, &sandbox.identity)
        }),
        Verb::Gc => with_config(stdin, |config| {
            since(config, CniVersion::V1_1_0, "GC")?;
            verbs::gc::gc(config, log)
        }),
        Verb::Status => with_config(stdin, |config| {
            since(config, CniVersion::V1_1_0, "STATUS")?;
            verbs::status::status(config)
        }),
    }
}

/// Reads the configuration, and does `serve` with it; an error is told in the configuration's version.
fn with_config(
    stdin: &mut dyn Read,
    serve: impl FnOnce(&Config<'_>) -> Result<(), PluginError>,
) -> Result<(), Refused> {
    let mut bytes = Vec::new();
    stdin.read_to_end(&mut bytes).map_err(|error| Refused {
        version: CniVersion::LATEST,
        error: PluginError::new(Code::Io, format!("read stdin: {error}")),
    })?;
    let config = Config::read(&bytes)?;
    serve(&config).map_err(|error| Refused {
        version: config.version,
        error,
    })
}

/// Refuses a verb that the configuration's version does not have.
fn since(config: &Config<'_>, first: CniVersion, verb: &str) -> Result<(), PluginError> {
    if config.version >= first {
        Ok(())
    } else {
        Err(PluginError::new(
            Code::IncompatibleVersion,
            format!("the configuration's cniVersion has no {verb}"),
        ))
    }
}

fn unwritable(error: &io::Error) -> PluginError {
    PluginError::new(Code::Io, format!("write to stdout: {error}"))
}

#[cfg(test)]
mod tests;
