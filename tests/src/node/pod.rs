// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A pod: a network namespace with an interface that the chain made.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use podgate_datapath::netlink::Socket;
use podgate_datapath::record::{self, AttachmentId, Record};
use podgate_demo::cni::{self, CniError, Conflist, Sandbox};
use podgate_demo::netns::NetNs;
use serde_json::value::RawValue;

use super::{Node, mac_of, sh};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// Where the tests' named namespaces are: among the run's own files, so that the run that made them, and no other one,
/// takes away what a test that was killed has left.
pub fn namespaces() -> PathBuf {
    std::env::temp_dir().join("podgate-netns")
}

/// A pod on a node. Dropping it takes its namespace away, and the interface with it; nobody calls DEL.
#[derive(Debug)]
pub struct Pod {
    /// Its network namespace.
    pub netns: NetNs,
    /// How the runtime names it.
    pub sandbox: Sandbox,
    /// Its container's ID.
    pub container_id: String,
    /// What ADD printed; none before.
    pub result: Option<Box<RawValue>>,
    /// Its addresses, the IPv4 one first.
    pub addresses: Vec<IpAddr>,
}

impl Pod {
    /// A pod without an interface.
    pub fn bare(namespace: &str, name: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let container_id = format!("c{number}-{name}");
        let path = namespaces().join(format!("{}-{container_id}", std::process::id()));
        let netns = NetNs::create(path).expect("make a pod's namespace");
        let sandbox = Sandbox::new(&container_id, netns.path(), "eth0").of_pod(namespace, name);
        Self {
            netns,
            sandbox,
            container_id,
            result: None,
            addresses: Vec::new(),
        }
    }

    /// A pod of namespace `default`, after a successful ADD.
    pub fn start(node: &Node, conflist: &Conflist, name: &str) -> Self {
        Self::start_in(node, conflist, "default", name)
    }

    /// A pod of a Kubernetes namespace, after a successful ADD.
    pub fn start_in(node: &Node, conflist: &Conflist, namespace: &str, name: &str) -> Self {
        let mut pod = Self::bare(namespace, name);
        if let Err(error) = pod.add(node, conflist) {
            panic!("ADD of {name}: {error}");
        }
        pod
    }

    /// Runs ADD.
    ///
    /// # Errors
    /// When a plugin fails; nobody has called DEL then.
    pub fn add(&mut self, node: &Node, conflist: &Conflist) -> Result<(), CniError> {
        let chain = node.chain(conflist);
        let result = node.run(|| chain.add(&self.sandbox))?;
        self.addresses = cni::addresses(&result).expect("addresses of a result");
        self.addresses.sort();
        self.result = Some(result);
        Ok(())
    }

    /// Runs DEL with the result of ADD.
    ///
    /// # Errors
    /// When a plugin fails.
    pub fn del(&self, node: &Node, conflist: &Conflist) -> Result<(), CniError> {
        let chain = node.chain(conflist);
        node.run(|| chain.del(&self.sandbox, self.result.as_deref()))
    }

    /// Its identity.
    pub fn identity(&self) -> AttachmentId {
        AttachmentId {
            container_id: self.container_id.clone(),
            ifname: "eth0".into(),
        }
    }

    /// Its record; panics if it has none.
    pub fn record(&self, node: &Node) -> Record {
        record::read(&node.paths(), &self.identity())
            .expect("read the record")
            .expect("there is a record")
    }

    /// The name of the node's end of its interface, as the kernel has it.
    pub fn host_end(&self, node: &Node) -> String {
        let look = || {
            let mut socket = Socket::open().expect("a netlink socket");
            socket.link_by_name("eth0").expect("eth0").link
        };
        let ifindex = self.netns.run(look).expect("enter the pod");
        node.run(|| {
            let mut socket = Socket::open().expect("a netlink socket");
            let link = socket.link_by_index(ifindex.expect("another end"));
            link.expect("the other end").name
        })
    }

    /// Its hardware address.
    pub fn mac(&self) -> [u8; 6] {
        mac_of(&self.netns, "eth0")
    }

    /// Runs a shell command in the pod.
    pub fn sh(&self, command: &str) -> String {
        sh(&self.netns, command)
    }
}
