// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who claims which address, looked up from either side.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podgate_datapath::record::{AttachmentId, Record};
use podgate_policy::model::ObjectName;

use super::name_of;

/// The claims of attachments, and of pods by their `status`.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims {
    /// Which attachments have an address, by their births.
    attached: BTreeSet<(IpAddr, u32, AttachmentId)>,
    /// Which pods have an address by their `status`.
    listed: BTreeSet<(IpAddr, ObjectName)>,
    /// Which attachments are said to be a pod's.
    by_pod: BTreeSet<(ObjectName, AttachmentId)>,
}

impl Claims {
    /// An attachment is new.
    pub(super) fn add(&mut self, record: &Record) {
        self.attached.extend(claims_of(record));
        if let Some(pod) = &record.pod {
            self.by_pod.insert((name_of(pod), record.identity.clone()));
        }
    }

    /// An attachment is gone.
    pub(super) fn remove(&mut self, record: &Record) {
        for claim in claims_of(record) {
            self.attached.remove(&claim);
        }
        if let Some(pod) = &record.pod {
            self.by_pod.remove(&(name_of(pod), record.identity.clone()));
        }
    }

    /// The status of a pod has these addresses.
    pub(super) fn list(&mut self, name: &ObjectName, addresses: &[IpAddr]) {
        let claims = addresses.iter().map(|address| (*address, name.clone()));
        self.listed.extend(claims);
    }

    /// The status of a pod has these addresses no more.
    pub(super) fn unlist(&mut self, name: &ObjectName, addresses: &[IpAddr]) {
        for address in addresses {
            self.listed.remove(&(*address, name.clone()));
        }
    }

    /// Which attachment has an address: the youngest of those that claim it, as the sandbox of the others is gone.
    pub(super) fn owner(&self, address: IpAddr) -> Option<&AttachmentId> {
        self.claiming(address).last()
    }

    /// The attachments that claim an address, the oldest first.
    pub(super) fn claiming(&self, address: IpAddr) -> impl Iterator<Item = &AttachmentId> {
        self.attached
            .range((address, 0, nobody())..)
            .take_while(move |(claimed, ..)| *claimed == address)
            .map(|(.., identity)| identity)
    }

    /// The pods whose status has an address.
    pub(super) fn listing(&self, address: IpAddr) -> impl Iterator<Item = &ObjectName> {
        self.listed
            .range((address, ObjectName::new("", ""))..)
            .take_while(move |(listed, _)| *listed == address)
            .map(|(_, name)| name)
    }

    /// The attachments that are said to be a pod's.
    pub(super) fn attachments_of<'a>(
        &'a self,
        name: &'a ObjectName,
    ) -> impl Iterator<Item = &'a AttachmentId> {
        self.by_pod
            .range((name.clone(), nobody())..)
            .take_while(move |(of, _)| of == name)
            .map(|(_, identity)| identity)
    }
}

fn claims_of(record: &Record) -> impl Iterator<Item = (IpAddr, u32, AttachmentId)> {
    record
        .addresses
        .iter()
        .filter(|address| names_one_pod(**address))
        .map(|address| (*address, record.birth.0, record.identity.clone()))
}

/// Link-local addresses mean another pod on every link: nobody is known by one.
fn names_one_pod(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

/// Before every identity.
fn nobody() -> AttachmentId {
    AttachmentId {
        container_id: String::new(),
        ifname: String::new(),
    }
}
