// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What tests of several modules begin with.

use std::sync::Arc;

use podgate_datapath::netlink::Ifindex;
use podgate_datapath::record::{self, AttachmentId, Generation, Record, Slot};
use podgate_policy::model::{NetworkPolicy, ObjectName, Pod, Selector};

use crate::convert::pod::IdentifiedPod;

/// A policy that lets nobody in to any pod of its namespace.
pub(crate) fn deny() -> Arc<NetworkPolicy> {
    Arc::new(NetworkPolicy {
        members: Selector::everything().into(),
        isolates_ingress: true,
        isolates_egress: false,
        ingress: Vec::new(),
        egress: Vec::new(),
    })
}

/// A pod as a source has it, without a node.
pub(crate) fn pod(namespace: &str, name: &str, pod: Pod) -> (ObjectName, Arc<IdentifiedPod>) {
    let name = ObjectName::new(namespace, name);
    let pod = IdentifiedPod {
        name: name.clone(),
        config_hash: None,
        node: None,
        pod: Arc::new(pod),
    };
    (name, Arc::new(pod))
}

/// An attachment in `slot`, of a pod without a name, as an ADD of a runtime leaves it.
pub(crate) fn record(slot: u32) -> Record {
    Record {
        identity: AttachmentId {
            container_id: format!("c{slot}"),
            ifname: "eth0".into(),
        },
        network: "net".into(),
        pod: None,
        netns_inode: 1,
        pod_ifindex: Ifindex(2),
        host_ifindex: Ifindex(7),
        host_mac: None,
        pod_mac: None,
        broadcasts: Vec::new(),
        addresses: Vec::new(),
        baseline: record::Baseline::Allow,
        slot: Slot(slot),
        birth: Generation(slot),
    }
}
