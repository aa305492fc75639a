// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A Kubernetes namespace of a test.

use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{Cluster, Pod, PodSpec};

/// How long a pod may take to be ready on a busy machine.
const POD_READY: Duration = Duration::from_secs(60);

/// A namespace; deleted, with all that is in it, when the value is dropped.
#[derive(Debug)]
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in [
                &["get", "pods,networkpolicies,services", "-o", "wide"][..],
                &["get", "events"],
            ] {
                let said = self.try_kubectl(what);
                eprintln!("{}", said.unwrap_or_else(|said| said));
            }
        }
        // Nobody waits: pods take their time to end, and no other test uses the name.
        let delete = ["delete", "namespace", &self.name, "--wait=false"];
        self.cluster.try_kubectl(&delete).ok();
    }
}

impl Cluster {
    /// A new namespace whose name begins so, with a label `name` that says the same.
    pub fn namespace(&self, name: &str) -> Namespace<'_> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let own = format!(
            "{name}-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        self.apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {own}, labels: {{name: {name}}}}}}}"
        ));
        let namespace = Namespace {
            cluster: self,
            name: own,
        };
        // Pods are refused until the controller manager has made the ServiceAccount that they run as.
        super::wait_for("a ServiceAccount for pods", POD_READY, || {
            namespace
                .try_kubectl(&["get", "serviceaccount", "default"])
                .is_ok()
        });
        namespace
    }
}

impl<'a> Namespace<'a> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster.
    pub fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    /// `kubectl` in this namespace; panics with what it says if it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments)
            .unwrap_or_else(|said| panic!("kubectl {}: {said}", arguments.join(" ")))
    }

    /// `kubectl` in this namespace.
    ///
    /// # Errors
    /// What it says when it fails.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.cluster
            .try_kubectl(&[&["-n", &self.name], arguments].concat())
    }

    /// `kubectl` in this namespace, not started yet.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.cluster.command("kubectl");
        command.args(["-n", &self.name]).args(arguments);
        command
    }

    /// Makes or changes the objects of these YAML documents, in this namespace.
    pub fn apply(&self, yaml: &str) {
        let apply = ["-n", &self.name, "apply", "-f", "-"];
        self.cluster
            .kubectl_with(&apply, yaml)
            .unwrap_or_else(|said| panic!("kubectl apply: {said}\n{yaml}"));
    }

    /// Starts pods side by side, and waits until all of them are ready.
    pub fn start<const N: usize>(&self, specs: [PodSpec; N]) -> [Pod<'a>; N] {
        let documents: Vec<String> = specs.iter().map(PodSpec::yaml).collect();
        self.apply(&documents.join("\n---\n"));
        specs.map(|spec| self.ready(spec.name()))
    }

    /// A pod, once it is ready.
    pub fn ready(&self, name: &str) -> Pod<'a> {
        let timeout = format!("--timeout={}s", POD_READY.as_secs());
        let pod = format!("pod/{name}");
        self.kubectl(&["wait", "--for=condition=Ready", &timeout, &pod]);
        Pod::read(self.cluster, &self.name, name)
    }

    /// The cluster addresses of a Service.
    pub fn service_addresses(&self, name: &str) -> Vec<IpAddr> {
        let service = self.cluster.get(&["-n", &self.name, "service", name]);
        let addresses = service["spec"]["clusterIPs"].as_array().expect("a list");
        let addresses = addresses.iter().map(|address| address.as_str());
        addresses
            .map(|address| address.and_then(|text| text.parse().ok()))
            .map(|address| address.expect("an address"))
            .collect()
    }
}
