// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods of the cluster, and connections between them.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, io};

use podgate_demo::netns::enter;
use serde_json::Value;

use super::kubectl::run;
use super::{AGNHOST, Cluster, wait_for};

/// How long a server may take from the start of its container until it listens, on a busy machine.
const LISTENS: Duration = Duration::from_secs(30);

/// How long who was refused waits until he tries again.
const PAUSE: Duration = Duration::from_millis(50);

/// A pod that is to be started: agnhost's server, on TCP 80 and UDP 80 of both families.
#[derive(Debug, Clone)]
pub struct PodSpec {
    name: String,
    node: Option<&'static str>,
    labels: Vec<(String, String)>,
    /// More of the container, as YAML.
    container: String,
    /// More of the pod, as YAML.
    pod: String,
}

impl PodSpec {
    /// One with this name, labeled `app: NAME`, wherever the scheduler wants it.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            node: None,
            labels: vec![("app".to_owned(), name.to_owned())],
            container: String::new(),
            pod: "terminationGracePeriodSeconds: 0".to_owned(),
        }
    }

    /// On this node.
    #[must_use]
    pub fn on(mut self, node: &'static str) -> Self {
        self.node = Some(node);
        self
    }

    /// With one more label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With a name for the port of its server.
    #[must_use]
    pub fn port_name(mut self, name: &str) -> Self {
        let port = format!(", ports: [{{name: {name}, containerPort: 80}}]");
        self.container.push_str(&port);
        self
    }

    /// Ready only when the kubelet has asked its server.
    #[must_use]
    pub fn probed(mut self) -> Self {
        self.container
            .push_str(", readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}");
        self
    }

    /// Goes on serving for so many seconds when it is told to end.
    #[must_use]
    pub fn lingers(mut self, seconds: u32) -> Self {
        self.pod = format!("terminationGracePeriodSeconds: {seconds}");
        let hook = format!(", lifecycle: {{preStop: {{sleep: {{seconds: {seconds}}}}}}}");
        self.container.push_str(&hook);
        self
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn yaml(&self) -> String {
        let mut labels = String::new();
        for (key, value) in &self.labels {
            write!(labels, "{key}: {value}, ").expect("a string takes everything");
        }
        let node = self.node.map_or_else(String::new, |node| {
            format!("nodeSelector: {{kubernetes.io/hostname: {node}}}, ")
        });
        let Self {
            name,
            container,
            pod,
            ..
        } = self;
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{{labels}}}}}, spec: {{\
             {node}{pod}, automountServiceAccountToken: false, containers: [{{name: server, \
             image: '{AGNHOST}', args: [netexec, --http-port=80, --udp-port=80]{container}}}]}}}}"
        )
    }
}

/// A pod that is ready.
#[derive(Debug)]
pub struct Pod<'a> {
    cluster: &'a Cluster,
    namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The node it runs on.
    pub node: String,
    /// Its addresses, of both families.
    pub addresses: Vec<IpAddr>,
}

impl<'a> Pod<'a> {
    pub(crate) fn read(cluster: &'a Cluster, namespace: &str, name: &str) -> Self {
        let pod = cluster.get(&["-n", namespace, "pod", name]);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let addresses = pod["status"]["podIPs"].as_array().expect("addresses");
        Self {
            cluster,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: text(&pod["metadata"]["uid"]),
            node: text(&pod["spec"]["nodeName"]),
            addresses: addresses
                .iter()
                .map(|ip| text(&ip["ip"]).parse().expect("an address"))
                .collect(),
        }
    }

    /// What a command in the pod prints.
    ///
    /// # Errors
    /// What it says when it fails.
    pub fn exec(&self, command: &[&str]) -> Result<String, String> {
        let exec = ["-n", &self.namespace, "exec", &self.name, "--"];
        self.cluster.try_kubectl(&[&exec, command].concat())
    }

    /// Whether a TCP connection from the pod to this place is made within the time. While it is refused it is tried
    /// again: a container that has started may not listen yet.
    ///
    /// # Panics
    /// When somebody refuses it for long, or nobody can be asked: that is no verdict.
    pub fn connects(&self, address: IpAddr, port: u16, limit: Duration) -> bool {
        let deadline = Instant::now() + LISTENS;
        loop {
            match self.connect(address, port, limit) {
                Ok(_) => return true,
                Err(e) if e.kind() == io::ErrorKind::TimedOut => return false,
                Err(e)
                    if e.kind() == io::ErrorKind::ConnectionRefused
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(PAUSE);
                }
                Err(e) => panic!("connect from {} to {address} {port}: {e}", self.name),
            }
        }
    }

    /// A TCP connection from the pod to this place.
    ///
    /// # Errors
    /// What the kernel says, or that the time is over.
    pub fn connect(&self, address: IpAddr, port: u16, limit: Duration) -> io::Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&SocketAddr::new(address, port), limit))
    }

    /// What a shell command prints, in the pod's network namespace and with the machine's files.
    pub fn sh(&self, command: &str) -> String {
        self.run(|| run(Command::new("sh").args(["-c", command]), ""))
            .unwrap_or_else(|said| panic!("{command} in {}: {said}", self.name))
    }

    /// Runs `work` on a thread in the pod's network namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = self.network();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&namespace).expect("enter the pod's namespace");
                work()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// The file of the pod's network namespace.
    pub fn network(&self) -> PathBuf {
        let process = self.processes().into_iter().next();
        let process =
            process.unwrap_or_else(|| panic!("no process is in a cgroup of pod {}", self.name));
        PathBuf::from(format!("/proc/{process}/ns/net"))
    }

    /// Ends the pod's sandbox, and waits until the kubelet has made it another one, with other addresses: the same pod,
    /// as the API server has it.
    pub fn in_another_sandbox(self, limit: Duration) -> Self {
        let old = self.pause().expect("a pod has a sandbox");
        run(Command::new("kill").args(["-KILL", &old]), "").expect("end a sandbox");
        let mut addresses = Vec::new();
        wait_for("another sandbox has addresses", limit, || {
            let new = self.pause().filter(|new| *new != old);
            addresses = new.map_or_else(Vec::new, |new| addresses_of(&new));
            addresses.len() == self.addresses.len()
                && addresses.iter().all(|new| !self.addresses.contains(new))
        });
        Self { addresses, ..self }
    }

    /// The process that keeps the sandbox.
    fn pause(&self) -> Option<String> {
        let is_pause = |process: &String| {
            let name = fs::read_to_string(format!("/proc/{process}/comm"));
            name.is_ok_and(|name| name.trim() == "pause")
        };
        self.processes().into_iter().find(is_pause)
    }

    /// The processes of the pod: the kubelet puts its containers into a cgroup that has the UID in its name.
    fn processes(&self) -> Vec<String> {
        let directory = format!("pod{}", self.uid);
        let cgroups = hierarchies()
            .into_iter()
            .filter_map(|hierarchy| find(&hierarchy, &directory));
        let mut processes = cgroups.map(|cgroup| processes_below(&cgroup));
        processes
            .find(|processes| !processes.is_empty())
            .unwrap_or_default()
    }
}

/// The addresses of the interface that the network namespace of this process has, IPv4 first. None when it is gone.
fn addresses_of(process: &str) -> Vec<IpAddr> {
    let namespace = format!("--net=/proc/{process}/ns/net");
    let show = ["ip", "-j", "addr", "show", "dev", "eth0", "scope", "global"];
    let shown = run(Command::new("nsenter").arg(namespace).args(show), "").unwrap_or_default();
    let shown: Value = serde_json::from_str(&shown).unwrap_or_default();
    let addresses = shown[0]["addr_info"].as_array().into_iter().flatten();
    let mut addresses: Vec<IpAddr> = addresses
        .filter_map(|address| address["local"].as_str()?.parse().ok())
        .collect();
    addresses.sort();
    addresses
}

/// Where hierarchies of cgroups are mounted.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (place, kind) = (fields.next()?, fields.next()?);
            kind.starts_with("cgroup").then(|| PathBuf::from(place))
        })
        .collect()
}

/// The directory of this name below `place`.
fn find(place: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(place).ok()?.flatten();
    for entry in entries.filter(|entry| entry.path().is_dir()) {
        if entry.file_name() == name {
            return Some(entry.path());
        }
        if let Some(found) = find(&entry.path(), name) {
            return Some(found);
        }
    }
    None
}

fn processes_below(cgroup: &Path) -> Vec<String> {
    let containers = fs::read_dir(cgroup).into_iter().flatten().flatten();
    containers
        .filter_map(|container| fs::read_to_string(container.path().join("cgroup.procs")).ok())
        .flat_map(|processes| processes.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}
