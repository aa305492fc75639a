// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cluster as this node knows it: what the source says, beside what the node itself knows better.
//!
//! ```text
//! Objects (source) ──────────┐
//! Attachments (their files) ─┼──► View { World, Subjects }: what the compiler reads
//! node addresses (netlink) ──┘
//! ```
//! Pure. Addresses of pods on this node come from their attachments, never from `status`. The view is kept as changes
//! come, and what comes costs what it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use podgate_datapath::record::{AttachmentId, PodName, Record, Slot};
use podgate_policy::connection::Subject;
use podgate_policy::model::{ObjectName, Pod, ServiceOptions, World};

use crate::convert::pod::IdentifiedPod;
use crate::node::Addresses;
use crate::source::{Change, Objects};

mod claims;
mod foreign;

use claims::Claims;
pub use foreign::ForeignSetting;

/// Everything that is known.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    source: Objects,
    node_addresses: BTreeSet<IpAddr>,
    attachments: BTreeMap<AttachmentId, Record>,
    claims: Claims,
    view: View,
    foreign: ForeignSetting,
}

/// What the compiler reads. A copy costs next to nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Namespaces, pods, policies and node addresses.
    pub world: World,
    /// Who is judged by which policies: as what the source said last of their pods. Attachments that are not here
    /// stay under their baseline.
    pub subjects: OrdMap<Slot, Arc<Subject>>,
    /// Attachments of pods that the source has never known.
    pub unknown: OrdSet<Slot>,
}

impl Cluster {
    /// The source now says this.
    pub fn set_source(&mut self, source: Objects) {
        let changes = self.source.differences(&source);
        self.apply(changes);
    }

    /// The source now says these things other than before.
    pub fn apply(&mut self, changes: Vec<Change>) {
        let (mut pods, mut nodes_changed) = (BTreeSet::new(), false);
        for change in changes {
            nodes_changed |= matches!(change, Change::Node(..));
            match &change {
                Change::Pod(name, _) => {
                    if let Some(known) = self.source.pods.get(name) {
                        self.claims.unlist(name, &known.pod.addresses);
                    }
                    pods.insert(name.clone());
                }
                Change::Namespace(..)
                | Change::Policy(..)
                | Change::Listed(..)
                | Change::Node(..)
                | Change::Service(..)
                | Change::EndpointSlice(..) => {}
            }
            self.source.apply(change);
        }
        for name in &pods {
            if let Some(known) = self.source.pods.get(name) {
                self.claims.list(name, &known.pod.addresses);
            }
        }
        if nodes_changed {
            let addresses = self.source.nodes.values().flat_map(|node| node.iter());
            self.view.world.cluster_nodes = addresses.copied().collect();
        }
        self.view.world.namespaces = self.source.namespaces.clone();
        self.view.world.policies = self.source.policies.clone();
        self.view.world.listed = self.source.listed.clone();
        self.view.world.services = self.source.services.clone();
        self.view.world.endpoint_slices = self.source.endpoint_slices.clone();
        self.refresh(pods);
    }

    /// The node has this name, and Services mean this there.
    pub fn set_node(&mut self, name: String, services: ServiceOptions) {
        self.view.world.node_name = Some(name);
        self.view.world.service_options = services;
    }

    /// The node's name, if the source has no Node of that name.
    pub fn missing_node(&self) -> Option<&str> {
        let name = self.view.world.node_name.as_deref()?;
        (!self.source.nodes.contains_key(name)).then_some(name)
    }

    /// The node now has these addresses. Says whether it had others before.
    pub fn set_node_addresses(&mut self, addresses: Addresses) -> bool {
        let Addresses {
            own,
            scopes,
            tunnel_ports,
        } = addresses;
        let world = &mut self.view.world;
        let changed = self.node_addresses != own
            || world.node_scopes != scopes
            || world.tunnel_ports != tunnel_ports;
        world.node_scopes = scopes;
        world.tunnel_ports = tunnel_ports;
        self.node_addresses = own;
        self.refresh_node_addresses();
        changed
    }

    /// These are all attachments now. Says which slots are new, or are another attachment's than before.
    pub fn set_attachments(&mut self, records: Vec<Record>) -> BTreeSet<Slot> {
        let mut gone = std::mem::take(&mut self.attachments);
        let (mut new, mut pods, mut addresses) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for record in records {
            match gone.remove(&record.identity) {
                Some(known) if known == record => {
                    self.attachments.insert(known.identity.clone(), known);
                }
                Some(other) => {
                    gone.insert(record.identity.clone(), other);
                    new.push(record);
                }
                None => new.push(record),
            }
        }
        for record in gone.into_values() {
            self.claims.remove(&record);
            self.view.subjects.remove(&record.slot);
            self.view.unknown.remove(&record.slot);
            addresses.extend(record.addresses);
            pods.extend(record.pod.as_ref().map(name_of));
        }
        let slots = new.iter().map(|record| record.slot).collect();
        for record in new {
            self.claims.add(&record);
            addresses.extend(record.addresses.iter().copied());
            pods.extend(record.pod.as_ref().map(name_of));
            self.view.unknown.insert(record.slot);
            self.attachments.insert(record.identity.clone(), record);
        }
        if !addresses.is_empty() {
            for address in addresses {
                pods.extend(self.claims.listing(address).cloned());
                let claiming = self.claims.claiming(address);
                let records = claiming.filter_map(|identity| self.record(identity));
                pods.extend(
                    records
                        .filter_map(|record| record.pod.as_ref())
                        .map(name_of),
                );
            }
            self.refresh_node_addresses();
        }
        self.refresh(pods);
        slots
    }

    /// Where the node's devices take tunnels.
    pub fn tunnel_ports(&self) -> &BTreeSet<u16> {
        &self.view.world.tunnel_ports
    }

    /// Every attachment.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.attachments.values()
    }

    /// The attachment of this identity.
    pub fn record(&self, identity: &AttachmentId) -> Option<&Record> {
        self.attachments.get(identity)
    }

    /// Pods of this node that run in a network of their own, and that no attachment is of: the chain that added them has no
    /// podgate in it, and no policy applies to them.
    pub fn without_attachment(&self) -> impl Iterator<Item = &ObjectName> {
        let node = self.view.world.node_name.as_deref();
        let here = self.source.pods.iter().filter(move |(_, identified)| {
            let is_here = node.is_some() && identified.node.as_deref() == node;
            is_here && identified.pod.is_selectable() && !identified.pod.addresses.is_empty()
        });
        here.filter(move |(name, identified)| {
            let attachments = attachments_of(&self.attachments, &self.claims, name, identified);
            attachments.count() == 0
        })
        .map(|(name, _)| name)
    }

    /// The pods of attachments that the source has never known. An attachment of no pod, as a chain without Kubernetes
    /// makes it, is none.
    pub fn without_object(&self) -> impl Iterator<Item = ObjectName> {
        let unknown = self
            .records()
            .filter(|record| self.view.unknown.contains(&record.slot));
        unknown.filter_map(|record| record.pod.as_ref().map(name_of))
    }

    /// How the pod of an attachment is judged, if the source knows it; whether or not the attachment is among these.
    pub fn subject_of(&self, record: &Record) -> Option<Subject> {
        let pod = record.pod.as_ref()?;
        let name = name_of(pod);
        let identified = self.source.pods.get(&name)?;
        is(pod, &name, identified).then(|| Subject::new(name, &identified.pod, record.baseline))
    }

    /// What the compiler reads now. An attachment whose pod has gone from the source is judged as what it was last.
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// A pod as the compiler reads it now.
    pub fn pod(&self, name: &ObjectName) -> Option<&Arc<Pod>> {
        self.view.world.pods.get(name)
    }

    /// Works out what these pods are now, as peers and as subjects.
    fn refresh(&mut self, pods: BTreeSet<ObjectName>) {
        for name in pods {
            let Some(identified) = self.source.pods.get(&name).cloned() else {
                self.view.world.pods.remove(&name);
                continue;
            };
            let addresses = self.addresses_of(&name, &identified);
            let pod = if addresses == identified.pod.addresses {
                Arc::clone(&identified.pod)
            } else {
                Arc::new(Pod {
                    addresses,
                    ..identified.pod.as_ref().clone()
                })
            };
            if self.view.world.pods.get(&name) != Some(&pod) {
                self.view.world.pods.insert(name.clone(), pod);
            }
            self.refresh_subjects(&name, &identified);
        }
    }

    fn refresh_subjects(&mut self, name: &ObjectName, identified: &IdentifiedPod) {
        for record in attachments_of(&self.attachments, &self.claims, name, identified) {
            let baseline = record.baseline;
            let subject = Subject::new(name.clone(), &identified.pod, baseline);
            let known = self.view.subjects.get(&record.slot);
            if known.is_none_or(|known| **known != subject) {
                self.view.subjects.insert(record.slot, Arc::new(subject));
                self.view.unknown.remove(&record.slot);
            }
        }
    }

    /// The node's addresses, without those of attachments.
    fn refresh_node_addresses(&mut self) {
        let own = self.node_addresses.iter();
        self.view.world.node_addresses = own
            .filter(|address| self.claims.owner(**address).is_none())
            .copied()
            .collect();
    }

    /// The addresses of a pod: those of its attachments, or, without one, those of its status that no attachment has.
    fn addresses_of(&self, name: &ObjectName, identified: &IdentifiedPod) -> Vec<IpAddr> {
        let own: Vec<&Record> =
            attachments_of(&self.attachments, &self.claims, name, identified).collect();
        if own.is_empty() || identified.pod.host_network {
            let listed = identified.pod.addresses.iter();
            let unowned = listed.filter(|address| self.claims.owner(**address).is_none());
            return unowned.copied().collect();
        }
        let claimed: BTreeSet<IpAddr> = own
            .iter()
            .flat_map(|record| record.addresses.iter().copied())
            .collect();
        let is_own = |address: &IpAddr| {
            let owner = self.claims.owner(*address);
            owner.is_some_and(|owner| own.iter().any(|record| record.identity == *owner))
        };
        claimed.into_iter().filter(is_own).collect()
    }
}

/// Whether the runtime and the source mean the same pod. Where both know its UID, a namesake is told by it.
pub(crate) fn is(runtime: &PodName, name: &ObjectName, source: &IdentifiedPod) -> bool {
    // The runtime knows a static pod by the hash of its file.
    let uid = source.pod.uid.as_ref().map(|uid| uid.0.as_ref());
    let known_as = source.config_hash.as_deref().or(uid);
    let namesakes = match (runtime.uid.as_deref(), known_as) {
        (Some(runtime), Some(source)) => runtime != source,
        (Some(_) | None, None) | (None, Some(_)) => false,
    };
    runtime.namespace == name.namespace && runtime.name == name.name && !namesakes
}

/// The attachments of the pod that the source means.
fn attachments_of<'a>(
    attachments: &'a BTreeMap<AttachmentId, Record>,
    claims: &'a Claims,
    name: &'a ObjectName,
    identified: &'a IdentifiedPod,
) -> impl Iterator<Item = &'a Record> {
    claims
        .attachments_of(name)
        .filter_map(|identity| attachments.get(identity))
        .filter(move |record| {
            let pod = record.pod.as_ref();
            pod.is_some_and(|pod| is(pod, name, identified))
        })
}

pub(crate) fn name_of(pod: &PodName) -> ObjectName {
    ObjectName::new(&pod.namespace, &pod.name)
}

#[cfg(test)]
mod tests;
