// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use podgate_conflist::{Mode, Names};
use podgate_datapath::Paths;
use tracing::level_filters::LevelFilter;

/// Puts podgate on a node, keeps it in the chain of CNI plugins that the runtime reads, takes it away.
#[derive(Debug, Parser)]
#[command(name = "podgate-install", version)]
pub(crate) struct Command {
    /// The least severe log line that is written.
    #[arg(long, env = "PODGATE_LOG_LEVEL", default_value = "info", global = true)]
    pub(crate) log_level: LevelFilter,
    /// What to do.
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Puts the plugin in place, then itself into the chain, once.
    Install(Install),
    /// The same, and keeps both as they should be until SIGTERM, which takes nothing away.
    Keep(Install),
    /// Ends with 0 if the next pod is set up by podgate, else with 1 and the reason.
    Check(Chain),
    /// Takes podgate away from the node: chain, filters, tables, files, plugin. Pods run on, and are open.
    Remove(Remove),
}

/// Where the runtime finds CNI.
#[derive(Debug, Clone, Args)]
pub(crate) struct Directories {
    /// The runtime's directory of conflists.
    #[arg(
        long,
        env = "PODGATE_CONF_DIR",
        value_name = "DIR",
        default_value = "/etc/cni/net.d"
    )]
    pub(crate) conf_dir: PathBuf,
    /// The runtime's directory of plugins.
    #[arg(
        long,
        env = "PODGATE_BIN_DIR",
        value_name = "DIR",
        default_value = "/opt/cni/bin"
    )]
    pub(crate) bin_dir: PathBuf,
}

/// How the plugin comes into the chain.
#[derive(Debug, Clone, Args)]
pub(crate) struct Chain {
    /// Where the runtime finds CNI.
    #[command(flatten)]
    pub(crate) directories: Directories,
    /// By a conflist of its own, by the network's drop-in directory (containerd 2.1 and newer), in the network's own file, or not by
    /// podgate-install at all.
    #[arg(long, env = "PODGATE_CHAIN_MODE", value_enum, default_value = "own")]
    mode: ChainMode,
    /// The conflist of mode own: the runtime reads the first file by name.
    #[arg(
        long,
        env = "PODGATE_OWN_FILE",
        value_name = "NAME",
        default_value = "05-podgate.conflist",
        value_parser = own_file
    )]
    own_file: String,
    /// With mode own, write podgate also into a conflist that sorts before its own.
    #[arg(long, env = "PODGATE_CHAIN_EARLIER")]
    pub(crate) chain_earlier: bool,
    /// The plugin's object in the chain, in JSON.
    #[arg(
        long,
        env = "PODGATE_ENTRY",
        value_name = "JSON",
        default_value = r#"{"type": "podgate"}"#
    )]
    pub(crate) entry: String,
}

/// What is put in place.
#[derive(Debug, Clone, Args)]
pub(crate) struct Install {
    /// How the plugin comes into the chain.
    #[command(flatten)]
    pub(crate) chain: Chain,
    /// The plugin's program; without it the file podgate beside this program.
    #[arg(long, env = "PODGATE_PLUGIN", value_name = "FILE")]
    pub(crate) plugin: Option<PathBuf>,
}

/// What is taken away.
#[derive(Debug, Clone, Args)]
pub(crate) struct Remove {
    /// Where the runtime finds CNI.
    #[command(flatten)]
    pub(crate) directories: Directories,
    /// The conflist of mode own.
    #[arg(
        long,
        env = "PODGATE_OWN_FILE",
        value_name = "NAME",
        default_value = "05-podgate.conflist",
        value_parser = own_file
    )]
    own_file: String,
    /// Where plugin and enforcer keep their files.
    #[arg(
        long,
        env = "PODGATE_RUN_DIR",
        value_name = "DIR",
        default_value = "/run/podgate"
    )]
    run_dir: PathBuf,
    /// Where the kernel tables are pinned.
    #[arg(
        long,
        env = "PODGATE_BPFFS_DIR",
        value_name = "DIR",
        default_value = "/sys/fs/bpf/podgate"
    )]
    bpffs_dir: PathBuf,
    /// Where libcni keeps what it knows of running sandboxes.
    #[arg(
        long = "cni-cache-dir",
        env = "PODGATE_CNI_CACHE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/cni"
    )]
    pub(crate) cache_dir: PathBuf,
    /// Stay until the last sandbox is gone that podgate has set up, take the stub away then, and wait for SIGTERM.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ChainMode {
    Own,
    DropIn,
    Edit,
    None,
}

fn own_file(name: &str) -> Result<String, String> {
    if name.contains('/') || !name.ends_with(".conflist") {
        return Err("it is a file's name that ends in .conflist, without a directory".into());
    }
    Ok(name.to_owned())
}

fn names(own: &str) -> Names {
    Names {
        own: own.to_owned(),
        ..Names::default()
    }
}

impl Chain {
    pub(crate) fn mode(&self) -> Mode {
        match self.mode {
            ChainMode::Own => Mode::Own,
            ChainMode::DropIn => Mode::DropIn,
            ChainMode::Edit => Mode::Edit,
            ChainMode::None => Mode::None,
        }
    }

    pub(crate) fn names(&self) -> Names {
        names(&self.own_file)
    }
}

impl Remove {
    pub(crate) fn names(&self) -> Names {
        names(&self.own_file)
    }

    pub(crate) fn paths(&self) -> Paths {
        Paths {
            run: self.run_dir.clone(),
            bpffs: self.bpffs_dir.clone(),
        }
    }
}
