// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An enforcer on a node of the cluster.

use std::path::Path;

use super::kubectl::run;
use super::{Cluster, wait_for};
use crate::node::binary;

/// What `/readyz` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Everything that it knows is in force; what it says.
    Ready(String),
    /// Not ready, or gone: what it says.
    Not(String),
}

/// An enforcer that runs; killed when it is dropped.
#[derive(Debug)]
pub struct Enforcer {
    cluster: String,
    node: &'static str,
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_log();
        }
        // One that has ended needs no killing.
        self.run(&["kill", self.node]).ok();
    }
}

impl Enforcer {
    /// Starts one with these flags, and waits until it is ready.
    pub fn start(cluster: &Cluster, node: &'static str, flags: &[&str]) -> Self {
        Self::with(cluster, node, &[], flags)
    }

    /// Starts one with these flags, and waits for nothing.
    pub fn begin(cluster: &Cluster, node: &'static str, flags: &[&str]) -> Self {
        Self::with(cluster, node, &["--no-wait"], flags)
    }

    fn with(cluster: &Cluster, node: &'static str, options: &[&str], flags: &[&str]) -> Self {
        let enforcer = Self {
            cluster: cluster.name.clone(),
            node,
        };
        // One that an earlier run of the tests has left on a cluster that stays.
        enforcer.run(&["kill", node]).expect("kill an enforcer");
        let binary = binary("podgate-enforcer");
        let binary = path(&binary);
        let start = ["start", node, "--binary", binary];
        enforcer
            .run(&[&start, options, &["--"], flags].concat())
            .unwrap_or_else(|said| panic!("the enforcer of {node}: {said}"));
        enforcer
    }

    /// The node that it runs on.
    pub fn node(&self) -> &'static str {
        self.node
    }

    /// Ends it by SIGTERM, and waits until it has ended.
    pub fn stop(self) {
        self.run(&["stop", self.node]).expect("stop an enforcer");
    }

    /// Whether it is ready, and why not.
    pub fn readiness(&self) -> Readiness {
        match self.run(&["readyz", self.node]) {
            Ok(said) => Readiness::Ready(said),
            Err(said) => Readiness::Not(said),
        }
    }

    /// Waits until it is ready.
    pub fn wait_until_ready(&self, limit: std::time::Duration) {
        wait_for("the enforcer is ready", limit, || {
            matches!(self.readiness(), Readiness::Ready(_))
        });
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.run(&["log", self.node]).unwrap_or_default()
    }

    /// Prints how its log ends, for a test that fails.
    pub(super) fn show_log(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.len().saturating_sub(25);
        let node = self.node;
        eprintln!(
            "the log of the enforcer of {node} ends so:\n{}",
            lines[last..].join("\n")
        );
    }

    /// What `/metrics` says; empty when nobody answers.
    pub fn metrics(&self) -> String {
        self.run(&["metrics", self.node]).unwrap_or_default()
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = std::process::Command::new(super::script("enforcer"));
        run(command.args(["--name", &self.cluster]).args(arguments), "")
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
