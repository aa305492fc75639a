// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The enforcer as a child process, and the directory of manifests that it watches.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::http;
use crate::scenario::Policy;

/// The node's name, as `spec.nodeName` of the pods has it.
const NODE_NAME: &str = "stars-node";
/// Where the enforcer says whether it is ready.
const HEALTH: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8163);
/// Where it serves metrics.
const METRICS: &str = "127.0.0.1:8162";
/// How long it may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to end when asked. It gives itself ten seconds.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// How many of its last log lines are shown when something is wrong.
const LOG_LINES: usize = 40;

/// The enforcer, running in this process's namespaces.
pub(crate) struct Enforcer {
    child: Child,
    log: PathBuf,
}

impl Enforcer {
    /// Starts `binary` on `manifests` and waits until it is ready. Its log goes to the file `log`.
    pub(crate) async fn start(binary: &Path, manifests: &Manifests, log: PathBuf) -> Result<Self> {
        let out = File::create(&log)?;
        let child = Command::new(binary)
            .args(["--source", "manifests", "--manifests"])
            .arg(&manifests.directory)
            .args([
                "--run-dir",
                "/run/podgate",
                "--bpffs-dir",
                "/sys/fs/bpf/podgate",
            ])
            .args(["--node-name", NODE_NAME, "--metrics-bind-addr", METRICS])
            .args(["--health-probe-bind-addr", &HEALTH.to_string()])
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start the enforcer {}", binary.display()))?;
        let mut enforcer = Self { child, log };
        enforcer.wait_until_ready().await?;
        Ok(enforcer)
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        let mut said = "nothing".to_owned();
        while Instant::now() < deadline {
            if let Some(status) = self.ended()? {
                bail!(
                    "the enforcer ended ({status}); its log:\n{}",
                    self.last_log_lines()
                );
            }
            match http::get(HEALTH, "/readyz").await {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => said = answer.body,
                Err(error) => said = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!(
            "the enforcer is not ready after {READY_LIMIT:?} ({said}); its log:\n{}",
            self.last_log_lines()
        )
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("look after the enforcer")
    }

    /// The end of its log.
    pub(crate) fn last_log_lines(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Asks it to end, and ends it if it does not.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.child.id() {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).context("stop the enforcer")?;
        }
        match tokio::time::timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(ended) => ended.map(drop).context("wait for the enforcer to end"),
            Err(_elapsed) => {
                self.child.kill().await.context("kill the enforcer")?;
                bail!("the enforcer did not end within {STOP_LIMIT:?} and was killed")
            }
        }
    }
}

/// The directory that the enforcer watches, filled from `demo/manifests`.
#[derive(Clone)]
pub(crate) struct Manifests {
    directory: PathBuf,
    from: PathBuf,
}

impl Manifests {
    /// A new directory `directory` with the namespaces and pods of the manifests in `from`, and no policy.
    pub(crate) fn create(directory: PathBuf, from: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        let manifests = Self { directory, from };
        manifests.put("cluster.yaml", "cluster.yaml")?;
        Ok(manifests)
    }

    /// Adds the file of `policy`.
    pub(crate) fn apply(&self, policy: Policy) -> Result<()> {
        let file = format!("{}.yaml", policy.id());
        self.put(&format!("policies/{file}"), &file)
    }

    /// Takes the file of `policy` away.
    pub(crate) fn remove(&self, policy: Policy) -> Result<()> {
        let file = self.directory.join(format!("{}.yaml", policy.id()));
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))
    }

    /// Copies in one step: whoever watches sees the whole file or none.
    fn put(&self, source: &str, name: &str) -> Result<()> {
        let source = self.from.join(source);
        let unfinished = self.directory.join(format!(".{name}.unfinished"));
        fs::copy(&source, &unfinished).with_context(|| format!("copy {}", source.display()))?;
        fs::rename(&unfinished, self.directory.join(name))
            .with_context(|| format!("put {name} into place"))
    }
}
