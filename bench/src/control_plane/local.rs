// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods of the measured node: namespaces with an interface each, attached by the plugin.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use podgate_datapath::record::AttachmentId;
use podgate_demo::netns::NetNs;
use serde_json::json;

use super::world::PodSpec;
use crate::cni::{self, Environment};

/// The interface in the pod.
const INTERFACE: &str = "eth0";

/// A place for a pod: a namespace with addresses.
#[derive(Debug)]
pub(crate) struct Place {
    netns: NetNs,
    host_end: String,
}

impl Place {
    /// The place number `number`, with the pod's addresses. The caller is in the node's namespace.
    pub(crate) fn new(number: u32, pod: &PodSpec) -> Result<Self> {
        let path = PathBuf::from(format!("/run/podgate-bench/pod-{number}"));
        let place = Self {
            netns: NetNs::create(path)?,
            host_end: format!("pod{number}"),
        };
        let [four, six] = pod.addresses;
        let host = &place.host_end;
        let netns = place.netns.path().display();
        sh(&format!(
            "ip link add {host} type veth peer name {INTERFACE} netns {netns} && ip link set {host} up && \
             ip route add {four}/32 dev {host} && ip -6 route add {six}/128 dev {host}"
        ))?;
        place.netns.run(|| {
            sh(&format!(
                "ip link set {INTERFACE} up && ip addr add {four}/32 dev {INTERFACE} && \
                 ip -6 addr add {six}/128 dev {INTERFACE} nodad"
            ))
        })??;
        Ok(place)
    }

    /// Calls the plugin for a pod in this place, and waits for its end.
    pub(crate) fn call(
        &self,
        plugin: &Path,
        verb: &str,
        pod: &PodSpec,
        uid: &str,
        wait_ms: u32,
    ) -> Result<()> {
        let stdin = self.configuration(pod, wait_ms);
        cni::end(cni::begin(
            plugin,
            self.environment(verb, pod, uid),
            &stdin,
        )?)
    }

    fn configuration(&self, pod: &PodSpec, wait_ms: u32) -> Vec<u8> {
        let [four, six] = pod.addresses;
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": self.host_end},
                {"name": INTERFACE, "sandbox": self.netns.path()},
            ],
            "ips": [
                {"address": format!("{four}/32"), "interface": 1},
                {"address": format!("{six}/128"), "interface": 1},
            ],
        });
        json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "podgate", "waitMs": wait_ms, "prevResult": result,
        })
        .to_string()
        .into_bytes()
    }

    fn environment(&self, verb: &str, pod: &PodSpec, uid: &str) -> Environment {
        let PodSpec {
            namespace, name, ..
        } = pod;
        [
            ("CNI_COMMAND", verb.to_owned()),
            ("CNI_CONTAINERID", identity(pod).container_id),
            ("CNI_IFNAME", INTERFACE.to_owned()),
            ("CNI_NETNS", self.netns.path().display().to_string()),
            (
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"
                ),
            ),
        ]
    }
}

/// The pod's attachment.
pub(crate) fn identity(pod: &PodSpec) -> AttachmentId {
    AttachmentId {
        container_id: format!("sandbox-of-{}", pod.name),
        ifname: INTERFACE.to_owned(),
    }
}

fn sh(command: &str) -> Result<()> {
    let output = Command::new("sh").args(["-c", command]).output()?;
    ensure!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
