// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where measurements happen: a bpffs, a run directory and a network namespace of their own, gone with the value.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use podgate_datapath::Paths;
use podgate_demo::netns::NetNs;
use serde_json::json;
use tempfile::TempDir;

use crate::cni::Environment;

/// How long the enforcer may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(20);
const HEALTH: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8163);

/// A directory with a bpffs and a run directory in it.
#[derive(Debug)]
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("podgate-bench-")
            .tempdir()?;
        let place = Self(directory);
        // The run directory is on a tmpfs, as `/run` is: writing a file to a disk takes longer than all of ADD.
        for (kind, at, options) in [
            ("bpf", place.bpffs(), None),
            ("tmpfs", place.paths().run, Some("mode=0700")),
        ] {
            std::fs::create_dir(&at)?;
            mount(
                Some("podgate-bench"),
                &at,
                Some(kind),
                MsFlags::empty(),
                options,
            )
            .with_context(|| format!("mount {kind} on {}", at.display()))?;
        }
        Ok(place)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.0.path()
    }

    /// The root of the bpffs.
    pub(crate) fn bpffs(&self) -> PathBuf {
        self.directory().join("bpf")
    }

    /// Where plugin and enforcer keep their things.
    pub(crate) fn paths(&self) -> Paths {
        Paths {
            run: self.directory().join("run"),
            bpffs: self.bpffs().join("podgate"),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A mount that somebody else took away is gone as wished.
        umount2(&self.bpffs(), MntFlags::MNT_DETACH).ok();
        umount2(&self.paths().run, MntFlags::MNT_DETACH).ok();
    }
}

/// A node with pods that have their interface and no policy yet. Fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) netns: NetNs,
    pub(crate) pods: Vec<Pod>,
    place: Place,
}

/// A pod's namespace, with `eth0`.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) netns: NetNs,
    pub(crate) address: Ipv4Addr,
    name: String,
    host_end: String,
}

impl Node {
    /// A node with this many pods, at most 250.
    pub(crate) fn new(pods: u8) -> Result<Self> {
        let place = Place::new()?;
        let netns = NetNs::create(place.directory().join("netns/node"))?;
        let mut node = Self {
            netns,
            pods: Vec::new(),
            place,
        };
        for number in 0..pods {
            let path = node.place.directory().join(format!("netns/pod-{number}"));
            let pod = Pod {
                netns: NetNs::create(path)?,
                name: format!("pod-{number}"),
                address: Ipv4Addr::new(10, 96, 0, number + 1),
                host_end: format!("veth{number}"),
            };
            let command = format!(
                "ip link add {host} type veth peer name eth0 netns {netns} && ip link set {host} up && \
                 ip route add {address}/32 dev {host}",
                host = pod.host_end,
                netns = pod.netns.path().display(),
                address = pod.address,
            );
            sh(&node.netns, &command)?;
            let address = pod.address;
            sh(
                &pod.netns,
                &format!("ip link set eth0 up && ip addr add {address}/32 dev eth0"),
            )?;
            node.pods.push(pod);
        }
        Ok(node)
    }

    /// Routes between pods.
    pub(crate) fn forward(&self) -> Result<()> {
        sh(&self.netns, "echo 1 > /proc/sys/net/ipv4/ip_forward")?;
        for pod in &self.pods {
            let answer = format!("/proc/sys/net/ipv4/conf/{}/proxy_arp", pod.host_end);
            sh(&self.netns, &format!("echo 1 > {answer}"))?;
            sh(&pod.netns, "ip route add default dev eth0")?;
        }
        Ok(())
    }

    /// Both ends of every pod have this MTU.
    pub(crate) fn set_mtu(&self, mtu: u16) -> Result<()> {
        for pod in &self.pods {
            let set = |device: &str| format!("ip link set {device} mtu {mtu}");
            sh(&self.netns, &set(&pod.host_end))?;
            sh(&pod.netns, &set("eth0"))?;
        }
        Ok(())
    }

    /// What a runtime sends on stdin for this pod.
    pub(crate) fn stdin(&self, pod: &Pod, wait_ms: u32) -> Vec<u8> {
        let paths = self.place.paths();
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": pod.host_end},
                {"name": "eth0", "sandbox": pod.netns.path()},
            ],
            "ips": [{"address": format!("{}/32", pod.address), "interface": 1}],
        });
        let config = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "podgate", "waitMs": wait_ms,
            "runDir": paths.run, "bpffsDir": paths.bpffs, "prevResult": result,
        });
        config.to_string().into_bytes()
    }

    /// Starts the enforcer, with manifests that name every pod and a policy that selects them all.
    pub(crate) fn start_enforcer(&self, binary: &Path) -> Result<Enforcer> {
        let manifests = self.place.directory().join("manifests");
        std::fs::create_dir(&manifests)?;
        let mut yaml = String::from("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: bench\n");
        for pod in &self.pods {
            write!(
                yaml,
                "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {}\n  namespace: bench\n  labels:\n    app: bench\n\
                 spec:\n  nodeName: bench-node\n  containers:\n    - name: main\n      image: none\n",
                pod.name
            )?;
        }
        yaml += "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: bench\n  namespace: bench\n\
                 spec:\n  podSelector:\n    matchLabels:\n      app: bench\n  policyTypes: [Ingress, Egress]\n\
                 \x20 ingress:\n    - from:\n        - podSelector: {}\n      ports:\n        - port: 80\n\
                 \x20 egress:\n    - to:\n        - ipBlock:\n            cidr: 10.0.0.0/8\n";
        std::fs::write(manifests.join("bench.yaml"), yaml)?;
        let paths = self.place.paths();
        let log = std::fs::File::create(self.place.directory().join("enforcer.log"))?;
        let child = self.netns.run(|| {
            Command::new(binary)
                .args([
                    "--source",
                    "manifests",
                    "--node-name",
                    "bench-node",
                    "--manifests",
                ])
                .arg(&manifests)
                .arg("--run-dir")
                .arg(&paths.run)
                .arg("--bpffs-dir")
                .arg(&paths.bpffs)
                .args([
                    "--metrics-bind-addr",
                    "127.0.0.1:8162",
                    "--health-probe-bind-addr",
                ])
                .arg(HEALTH.to_string())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
        })?;
        let enforcer = Enforcer(child.with_context(|| format!("start {}", binary.display()))?);
        let deadline = Instant::now() + READY_LIMIT;
        while !self.netns.run(is_ready)? {
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(self.place.directory().join("enforcer.log"))?;
                bail!("the enforcer is not ready after {READY_LIMIT:?}; its log:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(enforcer)
    }
}

impl Pod {
    /// What a runtime puts into the plugin's environment.
    pub(crate) fn environment(&self, verb: &str) -> Environment {
        [
            ("CNI_COMMAND", verb.to_owned()),
            ("CNI_CONTAINERID", format!("c-{}", self.name)),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_NETNS", self.netns.path().display().to_string()),
            (
                "CNI_ARGS",
                format!("K8S_POD_NAMESPACE=bench;K8S_POD_NAME={}", self.name),
            ),
        ]
    }
}

/// The running enforcer; it is killed when the value is dropped.
#[derive(Debug)]
pub(crate) struct Enforcer(Child);

impl Drop for Enforcer {
    fn drop(&mut self) {
        // One that has ended already is ended as wished.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Whether the enforcer in this namespace says that it is ready.
fn is_ready() -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(HEALTH)?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn sh(netns: &NetNs, command: &str) -> Result<()> {
    let output = netns.run(|| Command::new("sh").args(["-c", command]).output())??;
    ensure!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
