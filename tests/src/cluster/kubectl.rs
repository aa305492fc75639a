// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `kubectl`, with what it says when it fails.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::Cluster;

/// How long an API server may take until it serves a new kind, on a busy machine.
const ESTABLISHED: Duration = Duration::from_secs(60);

impl Cluster {
    /// What `kubectl` prints; panics with what it says if it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments)
            .unwrap_or_else(|said| panic!("kubectl {}: {said}", arguments.join(" ")))
    }

    /// What `kubectl` prints.
    ///
    /// # Errors
    /// What it says when it fails.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.kubectl_with(arguments, "")
    }

    /// What `helm` prints.
    ///
    /// # Errors
    /// What it says when it fails.
    pub fn helm(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        run(self.command("helm").args(arguments), input)
    }

    /// Makes or changes the objects of these YAML documents.
    ///
    /// # Errors
    /// What `kubectl` says when it fails.
    pub fn try_apply(&self, yaml: &str) -> Result<(), String> {
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.kubectl_with(&apply, yaml)
            .map(drop)
            .map_err(|said| format!("kubectl apply: {said}\n{yaml}"))
    }

    /// Makes or changes the objects of these YAML documents.
    pub fn apply(&self, yaml: &str) {
        self.try_apply(yaml).unwrap_or_else(|said| panic!("{said}"));
    }

    /// Has the API server know the kind that `install/crds/<plural>.yaml` defines.
    pub fn define(&self, plural: &str) {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let file = checkout.join(format!("install/crds/{plural}.yaml"));
        let definition = fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("read {}: {error}", file.display()));
        self.apply(&definition);
        let name = format!("crd/{plural}.networking.k8s.aws");
        self.wait(ESTABLISHED, &["--for=condition=Established", &name]);
    }

    /// An object, as the API server has it.
    pub fn get(&self, arguments: &[&str]) -> Value {
        let said = self.kubectl(&[&["get", "-o", "json"], arguments].concat());
        serde_json::from_str(&said).expect("kubectl prints JSON")
    }

    /// Waits until `kubectl wait` has seen what it is told to wait for.
    pub fn wait(&self, limit: Duration, arguments: &[&str]) {
        let timeout = format!("--timeout={}s", limit.as_secs());
        self.kubectl(&[&["wait", &timeout], arguments].concat());
    }

    /// What a command in a node's namespaces prints; in those of the control plane for `control-plane`.
    pub fn in_node(&self, node: &str, command: &[&str]) -> String {
        self.try_in_node(node, command)
            .unwrap_or_else(|said| panic!("{} on {node}: {said}", command.join(" ")))
    }

    /// What a command in a node's namespaces prints.
    ///
    /// # Errors
    /// What it says when it fails.
    pub fn try_in_node(&self, node: &str, command: &[&str]) -> Result<String, String> {
        run(self.command("node").arg(node).args(command), "")
    }

    /// `kubectl`, with something to read.
    pub(crate) fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        run(self.command("kubectl").args(arguments), input)
    }
}

/// Runs a command; what it prints, or what it says when it fails.
pub(super) fn run(command: &mut Command, input: &str) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("start {command:?}: {e}"))?;
    let mut pipe = child.stdin.take().expect("a pipe");
    // One that ends without reading says why.
    pipe.write_all(input.as_bytes()).ok();
    drop(pipe);
    let output = child
        .wait_with_output()
        .map_err(|e| format!("wait for {command:?}: {e}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{printed}{said}({})", output.status))
}
