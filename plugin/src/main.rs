// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The chained CNI plugin: see the library.

use std::{env, io, process::ExitCode};

use podgate::{Exit, Io};

fn main() -> ExitCode {
    let exit = podgate::run(Io {
        getenv: &|name| env::var_os(name),
        stdin: &mut io::stdin().lock(),
        stdout: &mut io::stdout().lock(),
        stderr: &mut io::stderr().lock(),
    });
    match exit {
        Exit::Success => ExitCode::SUCCESS,
        Exit::Failure => ExitCode::FAILURE,
    }
}
