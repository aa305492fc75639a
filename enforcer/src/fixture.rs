// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What tests of several modules begin with.

use std::sync::Arc;

use podgate_datapath::netlink::Ifindex;
use podgate_datapath::record::{self, AttachmentId, Generation, Record, Slot};
use podgate_policy::model::{NetworkPolicy, Selector};

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
