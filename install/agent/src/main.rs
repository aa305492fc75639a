// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Puts podgate on a node, keeps it there, takes it away.

mod args;
mod chain;
mod files;
mod keep;
mod plugin;
mod remove;
mod stub;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use podgate_conflist::{Chain, Healing};

use crate::args::{Action, Command, Install};
use crate::chain::{Keeper, Report};
use crate::keep::Kept;

fn main() -> ExitCode {
    if let Some(verb) = std::env::var_os("CNI_COMMAND") {
        return stub(&verb);
    }
    let command = Command::parse();
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_max_level(command.log_level)
        .init();
    match run(command.action) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A runtime calls this program by the plugin's name.
fn stub(verb: &std::ffi::OsString) -> ExitCode {
    match stub::answer(verb, &mut io::stdin(), &mut io::stdout()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("podgate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<ExitCode> {
    match action {
        Action::Install(install) => {
            let step = prepare(&install)?.heal()?;
            Report::default().say(&step.chain);
        }
        Action::Keep(install) => {
            let (waker, wakes) = keep::wakes()?;
            prepare(&install)?.keep(&waker, &wakes)?;
        }
        Action::Check(chain) => {
            let step = keeper(&chain)?.look()?;
            return Ok(match step.chain {
                Chain::Joined { file, .. } => {
                    println!("podgate is in the chain of {file}");
                    ExitCode::SUCCESS
                }
                Chain::Absent(why) => {
                    eprintln!("podgate is not in the chain: {why}");
                    ExitCode::FAILURE
                }
            });
        }
        Action::Remove(args) => {
            let wakes = args.wait.then(keep::wakes).transpose()?;
            remove::remove(&args)?;
            if let Some((_, wakes)) = wakes {
                remove::outlive_sandboxes(&args, &wakes)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn keeper(chain: &args::Chain) -> Result<Keeper> {
    let entry = plugin::check_entry(&chain.entry)?;
    let names = chain.names();
    let healing = Healing::new(chain.mode(), entry, names.clone(), chain.chain_earlier);
    Ok(Keeper::new(
        chain.directories.conf_dir.clone(),
        healing,
        &names,
    ))
}

fn prepare(install: &Install) -> Result<Kept> {
    let chain = keeper(&install.chain)?;
    let directories = &install.chain.directories;
    let source = match &install.plugin {
        Some(file) => file.clone(),
        None => beside_this_program()?,
    };
    Ok(Kept {
        program: plugin::Program::new(&source, &directories.bin_dir)?,
        chain,
        watched: [directories.conf_dir.clone(), directories.bin_dir.clone()],
    })
}

fn beside_this_program() -> Result<PathBuf> {
    let this = std::env::current_exe().context("find this program")?;
    Ok(this.with_file_name("podgate"))
}
