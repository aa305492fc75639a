// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a container runtime does with a conflist: run its plugins in order for ADD, in reverse for DEL, and hand
//! each the result of the one before, untouched.

mod conflist;
mod error;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

pub use conflist::Conflist;
use conflist::plugin_type;
pub use error::CniError;

/// `CNI_COMMAND`, as far as it concerns one attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach.
    Add,
    /// Look whether it is still attached.
    Check,
    /// Detach.
    Del,
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
        })
    }
}

/// One interface of one pod, as the runtime names it to the plugins.
#[derive(Debug, Clone)]
pub struct Sandbox {
    container_id: String,
    netns: PathBuf,
    ifname: String,
    args: BTreeMap<String, String>,
}

impl Sandbox {
    /// The interface `ifname` of container `container_id`, whose network namespace is the file `netns`.
    pub fn new(
        container_id: impl Into<String>,
        netns: impl Into<PathBuf>,
        ifname: impl Into<String>,
    ) -> Self {
        let args = BTreeMap::from([("IgnoreUnknown".into(), "1".into())]);
        Self {
            container_id: container_id.into(),
            netns: netns.into(),
            ifname: ifname.into(),
            args,
        }
    }

    /// Says in `CNI_ARGS` which pod it is, as container runtimes do for the kubelet.
    #[must_use]
    pub fn of_pod(self, namespace: &str, name: &str) -> Self {
        let infra = self.container_id.clone();
        self.arg("K8S_POD_NAMESPACE", namespace)
            .arg("K8S_POD_NAME", name)
            .arg("K8S_POD_INFRA_CONTAINER_ID", &infra)
    }

    /// Sets one key of `CNI_ARGS`.
    #[must_use]
    pub fn arg(mut self, key: &str, value: &str) -> Self {
        self.args.insert(key.into(), value.into());
        self
    }

    fn cni_args(&self) -> String {
        let args: Vec<_> = self
            .args
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        args.join(";")
    }
}

/// A conflist, and the directories that its plugins are in. Plugins run in the caller's network namespace: call
/// it where the node is (see [`crate::netns::NetNs::run`]).
#[derive(Debug, Clone)]
pub struct Chain {
    conflist: Conflist,
    directories: Vec<PathBuf>,
}

impl Chain {
    /// The chain of `conflist`, with plugins from `directories`, searched in this order.
    pub fn new(
        conflist: Conflist,
        directories: impl IntoIterator<Item = impl Into<PathBuf>>,
    ) -> Self {
        Self {
            conflist,
            directories: directories.into_iter().map(Into::into).collect(),
        }
    }

    /// ADD: every plugin in order. Returns what the last one printed.
    ///
    /// # Errors
    /// The first plugin that fails ends it. A runtime then calls [`Chain::del`] without a result.
    pub fn add(&self, sandbox: &Sandbox) -> Result<Box<RawValue>, CniError> {
        let mut result = None;
        for config in &self.conflist.plugins {
            let output = self.invoke(config, Verb::Add, sandbox, result.as_deref())?;
            let plugin = || plugin_type(config).to_owned();
            result = Some(
                RawValue::from_string(output.clone()).map_err(|_| CniError::Result {
                    plugin: plugin(),
                    verb: Verb::Add,
                    output,
                })?,
            );
        }
        result.ok_or_else(|| CniError::Conflist {
            path: PathBuf::from(&self.conflist.name),
            reason: "it has no plugins".into(),
        })
    }

    /// CHECK: every plugin in order, each with the result of the whole ADD.
    ///
    /// # Errors
    /// The first plugin that is not content ends it.
    pub fn check(&self, sandbox: &Sandbox, result: &RawValue) -> Result<(), CniError> {
        for config in &self.conflist.plugins {
            self.invoke(config, Verb::Check, sandbox, Some(result))?;
        }
        Ok(())
    }

    /// DEL: every plugin in reverse order, with the result of ADD if there was one.
    ///
    /// # Errors
    /// The first plugin that fails ends it, as in libcni.
    pub fn del(&self, sandbox: &Sandbox, result: Option<&RawValue>) -> Result<(), CniError> {
        for config in self.conflist.plugins.iter().rev() {
            self.invoke(config, Verb::Del, sandbox, result)?;
        }
        Ok(())
    }

    /// Runs the one plugin that `config` configures, and returns what it printed.
    ///
    /// # Errors
    /// When the plugin is not there, cannot be run, or exits other than with 0.
    pub fn invoke(
        &self,
        config: &Map<String, Value>,
        verb: Verb,
        sandbox: &Sandbox,
        prev_result: Option<&RawValue>,
    ) -> Result<String, CniError> {
        let plugin = plugin_type(config);
        let search_path = env::join_paths(&self.directories).unwrap_or_default();
        let binary = self
            .directories
            .iter()
            .map(|directory| directory.join(plugin))
            .find(|file| file.is_file())
            .ok_or_else(|| CniError::NotFound {
                plugin: plugin.into(),
                search_path: search_path.clone(),
            })?;
        let failed = |source| CniError::Run {
            plugin: plugin.into(),
            verb,
            source,
        };
        let stdin = serde_json::to_vec(&Stdin {
            name: &self.conflist.name,
            cni_version: &self.conflist.cni_version,
            prev_result,
            config,
        })
        .map_err(|e| failed(e.into()))?;

        let mut command = Command::new(binary);
        command
            .env("CNI_COMMAND", verb.to_string())
            .env("CNI_CONTAINERID", &sandbox.container_id)
            .env("CNI_NETNS", &sandbox.netns)
            .env("CNI_IFNAME", &sandbox.ifname)
            .env("CNI_ARGS", sandbox.cni_args())
            .env("CNI_PATH", search_path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn_when_written(&mut command).map_err(failed)?;
        if let Some(mut pipe) = child.stdin.take() {
            match pipe.write_all(&stdin) {
                // A plugin that fails early need not read its configuration; its answer says more.
                Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(failed(e)),
                Ok(()) | Err(_) => {}
            }
        }
        let output = child.wait_with_output().map_err(failed)?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(printed);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let answer: ErrorAnswer = serde_json::from_str(&printed).unwrap_or_else(|_| ErrorAnswer {
            code: 999,
            msg: output.status.to_string(),
            details: printed,
        });
        Err(CniError::Refused {
            plugin: plugin.into(),
            verb,
            code: answer.code,
            msg: answer.msg,
            details: format!("{} {}", answer.details, stderr.trim()),
        })
    }
}

/// The addresses that a result gives the pod.
///
/// # Errors
/// When the result has no `ips` with an `address` each, of the form `10.0.0.2/32`.
pub fn addresses(result: &RawValue) -> Result<Vec<IpAddr>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Ips {
        ips: Vec<Ip>,
    }
    #[derive(Deserialize)]
    struct Ip {
        address: String,
    }
    let parsed: Ips = serde_json::from_str(result.get())?;
    parsed
        .ips
        .iter()
        .map(|ip| {
            let address = ip.address.split('/').next().unwrap_or_default();
            address.parse().map_err(|e| {
                serde::de::Error::custom(format!("address {:?} of the result: {e}", ip.address))
            })
        })
        .collect()
}

/// What a plugin reads.
#[derive(Serialize)]
struct Stdin<'a> {
    name: &'a str,
    #[serde(rename = "cniVersion")]
    cni_version: &'a str,
    #[serde(rename = "prevResult", skip_serializing_if = "Option::is_none")]
    prev_result: Option<&'a RawValue>,
    #[serde(flatten)]
    config: &'a Map<String, Value>,
}

/// What a plugin prints when it fails.
#[derive(Deserialize)]
struct ErrorAnswer {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

/// Starts `command`, again for up to a second while somebody still has its file open for writing, as libcni does.
fn spawn_when_written(command: &mut Command) -> io::Result<Child> {
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        match command.spawn() {
            Err(e)
                if e.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(10));
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests;
