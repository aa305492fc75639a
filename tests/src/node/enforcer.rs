// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The enforcer as a child process, and the directory of manifests that it follows.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::memory::MemoryLimit;
use super::{Node, binary, namespaces, wait_until};

const HEALTH: ([u8; 4], u16) = ([127, 0, 0, 1], 8163);
const METRICS: ([u8; 4], u16) = ([127, 0, 0, 1], 8162);

/// A running enforcer, killed when it is dropped.
#[derive(Debug)]
pub struct Enforcer {
    child: Child,
    log: PathBuf,
    /// Dropped after it has ended.
    limit: Option<MemoryLimit>,
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        // One that has ended needs no killing.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.len().saturating_sub(25);
            eprintln!("the enforcer's log ends so:\n{}", lines[last..].join("\n"));
        }
    }
}

impl Enforcer {
    /// Starts one on the node's manifests, and waits until it is ready.
    pub fn start(node: &Node) -> Self {
        let enforcer = Self::begin(node, &[]);
        enforcer.when_ready(node)
    }

    /// Starts one that is killed when it takes more memory than so many bytes, and waits until it is ready.
    pub fn start_within(node: &Node, bytes: u64) -> Self {
        let mut enforcer = Self::begin(node, &[]);
        enforcer.confine(bytes);
        enforcer.when_ready(node)
    }

    /// Starts one within so many bytes of memory, whose API server has this URL, and waits until it is ready.
    pub fn start_within_by_api_server(node: &Node, bytes: u64, url: &str) -> Self {
        let mut enforcer = Self::begin_with_api_server(node, url);
        enforcer.confine(bytes);
        enforcer.when_ready(node)
    }

    fn confine(&mut self, bytes: u64) {
        let limit = MemoryLimit::new(&format!("enforcer-{}", next_number()), bytes);
        limit.hold(self.child.id());
        self.limit = Some(limit);
    }

    fn when_ready(mut self, node: &Node) -> Self {
        wait_until("the enforcer is ready", || {
            if let Some(status) = self.child.try_wait().expect("look after the enforcer") {
                panic!("the enforcer ended: {status}");
            }
            self.readiness(node).0 == 200
        });
        self
    }

    /// Starts one that sees what a pod of the host network sees: its own processes and mounts, and no namespaces of
    /// other pods, by name or by process. Waits until it is ready.
    pub fn start_in_a_pod(node: &Node) -> Self {
        let hide = format!(
            "mount -t tmpfs hidden '{}' && exec \"$@\"",
            namespaces().display()
        );
        let unshare = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            &hide,
            "sh",
        ];
        fs::create_dir_all(namespaces()).expect("make the directory of namespaces");
        let enforcer = Self::begin_by(node, &unshare, Self::manifests_of(node), &[]);
        enforcer.when_ready(node)
    }

    /// Starts one, with more flags, and waits for nothing.
    pub fn begin(node: &Node, flags: &[&str]) -> Self {
        Self::begin_by(node, &[], Self::manifests_of(node), flags)
    }

    fn manifests_of(node: &Node) -> [OsString; 3] {
        let manifests = node.manifests().into_os_string();
        ["manifests".into(), "--manifests".into(), manifests]
    }

    /// Starts one whose API server does not answer.
    pub fn begin_without_api_server(node: &Node) -> Self {
        Self::begin_with_api_server(node, "http://127.0.0.1:1")
    }

    /// Starts one whose API server has this URL.
    pub fn begin_with_api_server(node: &Node, url: &str) -> Self {
        let kubeconfig = node.dir().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        });
        fs::write(&kubeconfig, config.to_string()).expect("write a kubeconfig");
        let source = [
            "networkpolicies".into(),
            "--kubeconfig".into(),
            kubeconfig.into_os_string(),
        ];
        Self::begin_by(node, &[], source, &[])
    }

    /// Starts one by these words before its own.
    fn begin_by(node: &Node, by: &[&str], source: [OsString; 3], flags: &[&str]) -> Self {
        let paths = node.paths();
        let log = node.dir().join(format!("enforcer-{}.log", next_number()));
        let out = File::create(&log).expect("create a log");
        let enforcer = binary("podgate-enforcer").into_os_string();
        let mut words = by.iter().map(OsString::from).chain([enforcer]);
        let mut command = Command::new(words.next().expect("a program"));
        command
            .args(words)
            .arg("--source")
            .args(source)
            .arg("--run-dir")
            .arg(paths.run)
            .arg("--bpffs-dir")
            .arg(paths.bpffs)
            .args(["--node-name", "node"]);
        if flags.is_empty() {
            command.args(["--metrics-bind-addr", "127.0.0.1:8162"]);
            command.args(["--health-probe-bind-addr", "127.0.0.1:8163"]);
        }
        command
            .args(flags)
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a log"))
            .stderr(out);
        let child = node.run(|| command.spawn()).expect("start the enforcer");
        Self {
            child,
            log,
            limit: None,
        }
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) {
        self.child.kill().expect("kill the enforcer");
        self.child.wait().expect("wait for the enforcer");
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it until `SIGCONT`. What was stopped is killed like any other.
    ///
    /// # Panics
    /// When a thread of it still runs after a while.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        // A thread that runs on another CPU stops some time after the signal was sent.
        wait_until("every thread is stopped", || {
            let threads = fs::read_dir(format!("/proc/{}/task", self.child.id()));
            let mut threads = threads.expect("list the enforcer's threads");
            threads.all(|thread| {
                let stat = thread.map(|thread| fs::read_to_string(thread.path().join("stat")));
                // The state follows the name, which is in parentheses (proc_pid_stat(5)).
                stat.is_ok_and(|stat| stat.is_ok_and(|stat| stat.contains(") T ")))
            })
        });
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process ID");
        kill(Pid::from_raw(pid), signal).expect("signal the enforcer");
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        let ended = self.child.try_wait().expect("look after the enforcer");
        ended.is_none()
    }

    /// Status and text of `/readyz`; status 0 when nobody answers.
    pub fn readiness(&self, node: &Node) -> (u16, String) {
        get(node, HEALTH.into(), "/readyz").unwrap_or_default()
    }

    /// Whether it is not ready, and this is among the reasons.
    pub fn is_not_ready(&self, node: &Node, reason: &str) -> bool {
        let (status, why) = self.readiness(node);
        status == 503 && why.contains(reason)
    }

    /// What `/metrics` says; empty when nobody answers.
    pub fn metrics(&self, node: &Node) -> String {
        let answer = get(node, METRICS.into(), "/metrics").unwrap_or_default();
        answer.1
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("read the log")
    }
}

fn get(node: &Node, address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = node.run(|| TcpStream::connect(address))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status.unwrap_or(0), body.to_owned()))
}

/// A number for the name of a log.
fn next_number() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Node {
    /// The directory of the node's manifests.
    pub fn manifests(&self) -> PathBuf {
        let path = self.dir().join("manifests");
        fs::create_dir_all(&path).expect("make the directory of manifests");
        path
    }

    /// Puts a manifest there in one step, in place of one of the same name.
    pub fn apply(&self, name: &str, text: &str) {
        let path = self.manifests().join(format!("{name}.yaml"));
        let unfinished = self.manifests().join(format!(".{name}.unfinished"));
        fs::write(&unfinished, text).expect("write a manifest");
        fs::rename(unfinished, path).expect("name a manifest");
    }

    /// A node whose policy denies the pod `web` everything in both directions and says nothing of these other pods.
    pub fn that_denies_web(others: &[&str]) -> Self {
        let node = Self::new();
        node.apply("namespace", &namespace("default"));
        for name in ["web"].iter().chain(others) {
            node.apply(name, &pod(name, &format!("app: {name}")));
        }
        let deny = "policyTypes: [Ingress, Egress]";
        node.apply("policy", &policy("p", "app: web", deny));
        node
    }

    /// Takes a manifest away.
    pub fn withdraw(&self, name: &str) {
        let path = self.manifests().join(format!("{name}.yaml"));
        fs::remove_file(path).expect("remove a manifest");
    }
}

/// The manifest of a namespace.
pub fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

/// The manifest of a pod of namespace `default` on the node, with these labels, such as `app: web`.
pub fn pod(name: &str, labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {{{labels}}}}}\n\
         spec: {{nodeName: node, containers: [{{name: c, image: none}}]}}\n"
    )
}

/// The manifest of a policy of namespace `default` for the pods with these labels; `spec` is the rest of it.
pub fn policy(name: &str, labels: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: {name}, namespace: default}}\n\
         spec: {{podSelector: {{matchLabels: {{{labels}}}}}, {spec}}}\n"
    )
}

/// The `spec` of a policy that lets pods with these labels in, and nobody else.
pub fn lets_in(labels: &str) -> String {
    format!(
        "policyTypes: [Ingress], ingress: [{{from: [{{podSelector: {{matchLabels: {{{labels}}}}}}}]}}]"
    )
}
