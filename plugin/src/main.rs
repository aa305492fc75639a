// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The chained CNI plugin: see the library.

use std::io::{self, Write};
use std::{env, process::ExitCode};

use podgate::{Exit, Io};

fn main() -> ExitCode {
    // A runtime gives none: it says everything in the environment and on stdin.
    if env::args_os().len() > 1 {
        let about = concat!(
            "podgate ",
            env!("CARGO_PKG_VERSION"),
            ", a chained CNI plugin: container runtimes call it, by the name that a conflist gives it"
        );
        return match writeln!(io::stdout(), "{about}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
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
