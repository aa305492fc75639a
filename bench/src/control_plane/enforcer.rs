// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The enforcer that is measured, and what it says and costs.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use super::Options;
use super::world::NODE;

/// How long it may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// It is idle when it has used less than a hundredth of a CPU for so long.
const IDLE: Duration = Duration::from_millis(200);
/// The node's way to the API server.
pub(crate) const UPLINK: &str = "uplink";
const METRICS: u16 = 8162;
const HEALTH: u16 = 8163;

/// A running one; killed when the value is dropped.
#[derive(Debug)]
pub(crate) struct Enforcer {
    child: Child,
    pub(crate) begun: Instant,
    log: PathBuf,
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        // One that has ended already is ended as wished.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What is counted up to a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) cpu: Duration,
    /// Bytes that came in by the node's interface: the API server's, with TLS and headers.
    pub(crate) bytes: u64,
    pub(crate) compiles: Option<f64>,
    pub(crate) transactions: f64,
}

impl Enforcer {
    /// Starts it, in the caller's namespaces.
    pub(crate) fn start(options: &Options) -> Result<Self> {
        let log = options.log.clone();
        let file = File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let begun = Instant::now();
        let child = Command::new(&options.enforcer)
            .args(["--source", "networkpolicies"])
            .env("KUBECONFIG", &options.enforcer_kubeconfig)
            .env("MY_NODE_NAME", NODE)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {}", options.enforcer.display()))?;
        Ok(Self { child, begun, log })
    }

    /// Waits until it says that it is ready.
    pub(crate) fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let said = match get(HEALTH, "/readyz") {
                Ok((200, _)) => return Ok(()),
                Ok((_, said)) => said,
                Err(error) => error.to_string(),
            };
            if Instant::now() > deadline || self.child.try_wait()?.is_some() {
                bail!(
                    "the enforcer is not ready: {said}; its log is {}",
                    self.log.display()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until it has nothing to do.
    pub(crate) fn wait_until_idle(&self) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        let mut before = self.cpu()?;
        loop {
            std::thread::sleep(IDLE);
            let now = self.cpu()?;
            if now - before < IDLE / 100 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "the enforcer does not come to rest; its log is {}",
                    self.log.display()
                );
            }
            before = now;
        }
    }

    /// CPU time that it has used.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        Ok(clock_gettime(clock_getcpuclockid(pid)?)?.into())
    }

    /// Everything that is counted.
    pub(crate) fn spent(&self) -> Result<Spent> {
        // First, because asking for the metrics costs it something too.
        let cpu = self.cpu()?;
        let metrics = metrics()?;
        Ok(Spent {
            cpu,
            bytes: received(UPLINK)?,
            compiles: sum_of(&metrics, "podgate_compiles_total"),
            transactions: sum_of(&metrics, "podgate_transactions_total").unwrap_or_default(),
        })
    }

    /// Resident memory now and at its peak, in bytes.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
            Some(kibibytes << 10)
        };
        let fields = field("VmRSS:").zip(field("VmHWM:"));
        fields.context("the kernel does not say how much memory the enforcer has")
    }
}

/// The metrics page.
pub(crate) fn metrics() -> Result<String> {
    let (status, page) = get(METRICS, "/metrics")?;
    if status != 200 {
        bail!("the metrics page has status {status}");
    }
    Ok(page)
}

/// The sum of a metric over its labels, if there is such a metric.
pub(crate) fn sum_of(page: &str, name: &str) -> Option<f64> {
    sum_with(page, name, "")
}

/// The same of those lines that have this text in their labels.
pub(crate) fn sum_with(page: &str, name: &str, label: &str) -> Option<f64> {
    page.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let rest = rest.strip_prefix('{').map_or_else(
                || rest.strip_prefix(' ').map(|value| ("", value)),
                |labeled| labeled.rsplit_once("} "),
            );
            let (labels, value) = rest?;
            labels
                .contains(label)
                .then(|| value.trim().parse::<f64>().ok())?
        })
        .reduce(|sum, value| sum + value)
}

/// Bytes that came in by an interface of the process's network namespace.
pub(crate) fn received(interface: &str) -> Result<u64> {
    let table = std::fs::read_to_string("/proc/self/net/dev")?;
    let bytes = table.lines().find_map(|line| {
        let (name, figures) = line.split_once(':')?;
        if name.trim() != interface {
            return None;
        }
        figures.split_whitespace().next()?.parse().ok()
    });
    bytes.with_context(|| format!("the node has no interface {interface}"))
}

fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("an answer that is no HTTP")?;
    let status = head.split(' ').nth(1).context("an answer without status")?;
    Ok((status.parse()?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_no_other_is_counted() {
        let page = "# TYPE a counter\na{kind=\"x\"} 2\na{kind=\"y\"} 3\na_b 100\nc 7\n";
        assert_eq!(sum_of(page, "a"), Some(5.0));
        assert_eq!(sum_with(page, "a", "kind=\"y\""), Some(3.0));
        assert_eq!(sum_of(page, "c"), Some(7.0));
        assert_eq!(sum_of(page, "d"), None);
    }
}
