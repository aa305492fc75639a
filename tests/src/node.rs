// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A node of a test: a network namespace, a bpffs and a run directory of its own, and what runs there.
//!
//! Everything goes away when the value is dropped, a panicking test's too. Nothing has a name that two nodes could
//! share, so tests run side by side.

mod api;
mod ears;
mod enforcer;
mod flow;
mod frames;
mod lease;
mod memory;
mod plugin;
mod pod;
mod traffic;
mod wire;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use podgate_datapath::netlink::Socket;
use podgate_datapath::record::{self, Record};
use podgate_datapath::tables::TableSet;
use podgate_datapath::{Paths, Sizes};
use podgate_demo::cni::{Chain, Conflist};
use podgate_demo::netns::NetNs;
use serde_json::{Value, json};
use tempfile::TempDir;

pub use api::Api;
pub use ears::Ears;
pub use enforcer::{Enforcer, lets_in, namespace, pod, policy};
pub use flow::Traffic;
pub use frames::{Frames, Offload};
pub use lease::Lease;
pub use plugin::{Answer, Call, binary};
pub use pod::{Pod, namespaces};
pub use traffic::{LOST, arrives, connects, is_lost, wait_until};
pub use wire::{Cable, checksum};

/// A file system, mounted as long as this value lives.
#[derive(Debug)]
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: PathBuf, kind: &str) -> Self {
        std::fs::create_dir_all(&at).expect("make a mount point");
        let nothing = None::<&str>;
        mount(
            Some("podgate-test"),
            &at,
            Some(kind),
            MsFlags::empty(),
            nothing,
        )
        .unwrap_or_else(|e| panic!("mount a {kind} (tests of this level run as root): {e}"));
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A mount that somebody else took away is gone as wished.
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}

/// A node. Fields are dropped in this order.
#[derive(Debug)]
pub struct Node {
    /// Its network namespace.
    pub netns: NetNs,
    bpffs: Mounted,
    /// What is in `dir`: a node has its run directory in memory, and no disk makes it wait.
    _memory: Mounted,
    dir: TempDir,
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

impl Node {
    /// A fresh node, on which nothing is pinned, with small tables.
    pub fn new() -> Self {
        Self::with_tables(small_tables())
    }

    /// A fresh node with tables of these sizes.
    pub fn with_tables(sizes: Sizes) -> Self {
        let node = Self::with_large_tables();
        sizes.write(&node.paths()).expect("write sizes");
        node
    }

    /// A fresh node on which nobody said how large tables are to be.
    pub fn with_large_tables() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("podgate-node-")
            .tempdir()
            .expect("make a directory for a node");
        let memory = Mounted::new(dir.path().to_owned(), "tmpfs");
        let bpffs = Mounted::new(dir.path().join("bpf"), "bpf");
        let netns = NetNs::create(dir.path().join("netns")).expect("make the node's namespace");
        let node = Self {
            netns,
            bpffs,
            _memory: memory,
            dir,
        };
        for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            node.sysctl(family, "1");
        }
        node
    }

    /// A directory of the node's.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where plugin and enforcer keep their things.
    pub fn paths(&self) -> Paths {
        Paths {
            run: self.dir.path().join("run"),
            bpffs: self.bpffs.0.join("podgate"),
        }
    }

    /// Runs `work` in the node's network namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(work).expect("enter the node's namespace")
    }

    /// Writes `/proc/sys/net/<name>` in the node's namespace.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/{name}");
        self.run(|| std::fs::write(&path, value))
            .unwrap_or_else(|e| panic!("write {value} to {path}: {e}"));
    }

    /// Runs `ip`, `tc` or the like in the node's namespace; returns what it printed.
    pub fn sh(&self, command: &str) -> String {
        sh(&self.netns, command)
    }

    /// A chain of `ptp` and podgate with these settings; both families.
    pub fn ptp(&self, settings: Value) -> Conflist {
        self.conflist(json!({"type": "ptp", "ipam": self.ipam()}), settings)
    }

    /// A chain of `bridge` and podgate with these settings; both families.
    pub fn bridge(&self, settings: Value) -> Conflist {
        let main = json!({
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": self.ipam(),
        });
        self.conflist(main, settings)
    }

    /// How its pods get addresses of both families.
    pub fn ipam(&self) -> Value {
        json!({
            "type": "host-local",
            "dataDir": self.dir.path().join("ipam"),
            "ranges": [[{"subnet": "10.96.0.0/24"}], [{"subnet": "fd96::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        })
    }

    /// A chain of these two, which leaves no waiting for an enforcer that is not there.
    pub fn conflist(&self, main: Value, settings: Value) -> Conflist {
        let plugins = json!([main, self.podgate(settings)]);
        let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": plugins});
        serde_json::from_value(list).expect("a conflist")
    }

    /// The configuration of our plugin on this node.
    pub fn podgate(&self, settings: Value) -> Value {
        let paths = self.paths();
        let mut config = json!({
            "type": "podgate", "waitMs": 0, "runDir": paths.run, "bpffsDir": paths.bpffs,
        });
        if let (Some(config), Value::Object(settings)) = (config.as_object_mut(), settings) {
            config.extend(settings);
        }
        config
    }

    /// What runs a conflist on this node.
    pub fn chain(&self, conflist: &Conflist) -> Chain {
        let ours = binary("podgate").parent().expect("a directory").to_owned();
        Chain::new(conflist.clone(), [PathBuf::from("/usr/lib/cni"), ours])
    }

    /// Every attachment that has a file.
    pub fn records(&self) -> Vec<Record> {
        let listed = record::list(&self.paths()).expect("list attachments");
        listed
            .into_iter()
            .map(|record| record.expect("read an attachment"))
            .collect()
    }

    /// The current table set.
    pub fn tables(&self) -> TableSet {
        TableSet::open_current(&self.paths())
            .expect("open the current table set")
            .expect("a table set is current")
    }

    /// The hardware address of an interface of the node's.
    pub fn mac(&self, interface: &str) -> [u8; 6] {
        mac_of(&self.netns, interface)
    }

    /// Whether a filter of ours stands on an interface of the node.
    pub fn has_filter(&self, interface: &str) -> bool {
        ["ingress", "egress"].iter().any(|side| {
            self.sh(&format!("tc filter show dev {interface} {side}"))
                .contains("podgate_")
        })
    }

    /// What an interface of the node's says of checksums that are still to be computed: nothing, so that the kernel
    /// computes them before it sends.
    pub fn computes_checksums(&self, interface: &str) {
        self.sh(&format!("ethtool -K {interface} tx off"));
    }

    /// Names of the node's interfaces of the kind veth.
    pub fn veths(&self) -> Vec<String> {
        let listed = self.sh("ip -j link show type veth");
        let links: Vec<Value> = serde_json::from_str(&listed).unwrap_or_default();
        links
            .iter()
            .filter_map(|link| link["ifname"].as_str().map(str::to_owned))
            .collect()
    }

    /// A host outside of the node: 192.0.2.2 and 2001:db8::2 on its `eth0`, which the node's `wan` leads to.
    /// The number of `wan` leaves the low ones to pods.
    pub fn outside(&self) -> NetNs {
        let outside = NetNs::create(self.dir.path().join("outside")).expect("make a namespace");
        let path = outside.path().display();
        self.sh(&format!(
            "ip link add wan index 100 type veth peer name eth0 netns {path} && ip link set wan up && \
             ip addr add 192.0.2.1/24 dev wan && ip addr add 2001:db8::1/64 dev wan nodad"
        ));
        sh(
            &outside,
            "ip link set eth0 up && ip addr add 192.0.2.2/24 dev eth0 && \
             ip addr add 2001:db8::2/64 dev eth0 nodad && \
             ip route add default via 192.0.2.1 && ip -6 route add default via 2001:db8::1",
        );
        outside
    }
}

/// Connection tracking in a namespace, as kube-proxy or a service mesh bring it: it puts fragments together.
pub fn track_connections(netns: &NetNs) {
    sh(
        netns,
        "nft add table inet t && nft 'add chain inet t c { type filter hook prerouting priority 0; }' && \
         nft add rule inet t c ct state new counter",
    );
}

/// Sizes of tables that are made and filled quickly.
pub fn small_tables() -> Sizes {
    Sizes {
        attachments: 512,
        rulesets: 128,
        peers: 1024,
        prefixes: Sizes::default().prefixes,
        rows: 2048,
        portsets: 128,
        chunks: 128,
        events: 64 * 1024,
        flows: 4096,
        embryonic: 4096,
        crowd: 4096,
        fragments: 512,
        flows_per_attachment: 1024,
    }
}

/// Settings of a plugin whose ADD answers when the pod's policy is in force, and fails when it does not come to that:
/// without them, a machine that is busy makes pods that have their baseline only.
pub fn in_force(mut settings: Value) -> Value {
    settings["waitMs"] = 25_000.into();
    settings["onTimeout"] = "fail".into();
    settings
}

/// The chain without podgate.
pub fn unpoliced(mut conflist: Conflist) -> Conflist {
    conflist
        .plugins
        .retain(|plugin| plugin["type"] != "podgate");
    conflist
}

/// The addresses of the outside host of [`Node::outside`].
pub fn outside_addresses() -> [IpAddr; 2] {
    [
        IpAddr::from([192, 0, 2, 2]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]),
    ]
}

/// The hardware address of an interface in a namespace.
pub fn mac_of(netns: &NetNs, interface: &str) -> [u8; 6] {
    let look = || {
        let mut socket = Socket::open().expect("a netlink socket");
        let link = socket.link_by_name(interface).expect("the interface");
        link.mac.expect("a hardware address")
    };
    netns.run(look).expect("enter a namespace")
}

/// Runs a shell command in a namespace; panics with what it said if it fails.
pub fn sh(netns: &NetNs, command: &str) -> String {
    let output = netns
        .run(|| Command::new("sh").args(["-c", command]).output())
        .expect("enter a namespace")
        .expect("run sh");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
