//! The cluster as this node knows it: what the source says, beside what the node itself knows better.
//!
//! ```text
//! Objects (source) ──────────┐
//! Attachments (their files) ─┼──► View { World, Subjects }: what the compiler reads
//! node addresses (netlink) ──┘
//! ```
//! Pure. Addresses of pods on this node come from their attachments, never from `status`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use podgate_datapath::record::{self, Identity, PodName, Record, Slot};
use podgate_policy::connection::{Baseline, Subject};
use podgate_policy::model::{ObjectName, Pod, ServiceOptions, World};

use crate::convert::pod::IdentifiedPod;
use crate::source::{Change, Objects};

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Cluster {
    source: Objects,
    node_addresses: BTreeSet<IpAddr>,
    attachments: BTreeMap<Identity, Attachment>,
}

/// An attachment, and what its pod was when the source last knew it.
#[derive(Debug)]
struct Attachment {
    record: Record,
    last_known: Option<Subject>,
}

/// What the compiler reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Namespaces, pods, policies and node addresses.
    pub world: World,
    /// Who is judged by which policies; attachments that are not here stay under their baseline.
    pub subjects: BTreeMap<Slot, Subject>,
    /// Attachments of pods that the source has never known.
    pub unknown: BTreeSet<Slot>,
}

impl Cluster {
    /// The source now says this.
    pub fn set_source(&mut self, source: Objects) {
        self.source = source;
    }

    /// The source now says these things other than before.
    pub fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.source.apply(change);
        }
    }

    /// The node now has these addresses. Says whether it had others before.
    pub fn set_node_addresses(&mut self, addresses: BTreeSet<IpAddr>) -> bool {
        let changed = self.node_addresses != addresses;
        self.node_addresses = addresses;
        changed
    }

    /// These are all attachments now. Says which slots are new, or are another attachment's than before.
    pub fn set_attachments(&mut self, records: Vec<Record>) -> BTreeSet<Slot> {
        let mut before = std::mem::take(&mut self.attachments);
        let mut new = BTreeSet::new();
        for record in records {
            let last_known = match before.remove(&record.identity) {
                Some(known) if known.record == record => known.last_known,
                Some(_) | None => {
                    new.insert(record.slot);
                    None
                }
            };
            self.attachments
                .insert(record.identity.clone(), Attachment { record, last_known });
        }
        new
    }

    /// Every attachment.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.attachments
            .values()
            .map(|attachment| &attachment.record)
    }

    /// The attachment of this identity.
    pub fn record(&self, identity: &Identity) -> Option<&Record> {
        self.attachments
            .get(identity)
            .map(|attachment| &attachment.record)
    }

    /// What the compiler reads now. An attachment whose pod has gone from the source is judged as what it was last.
    pub fn view(&mut self) -> View {
        let owners = self.owners();
        let mut world = World {
            namespaces: self.source.namespaces.clone(),
            pods: OrdMap::new(),
            policies: self.source.policies.clone(),
            services: self.source.services.clone(),
            endpoint_slices: self.source.endpoint_slices.clone(),
            node_addresses: self
                .node_addresses
                .iter()
                .filter(|address| !owners.contains_key(address))
                .copied()
                .collect(),
            listed: self.source.listed.clone(),
            node_name: None,
            service_options: ServiceOptions::default(),
        };
        for (name, identified) in &self.source.pods {
            let addresses = self.addresses_of(name, identified, &owners);
            let pod = if addresses == identified.pod.addresses {
                Arc::clone(&identified.pod)
            } else {
                Arc::new(Pod {
                    addresses,
                    ..identified.pod.as_ref().clone()
                })
            };
            world.pods.insert(name.clone(), pod);
        }
        let mut view = View {
            world,
            ..View::default()
        };
        for attachment in self.attachments.values_mut() {
            let slot = attachment.record.slot;
            if let Some((name, pod)) = pod_of(&attachment.record, &self.source) {
                let baseline = baseline_of(&attachment.record);
                attachment.last_known = Some(Subject::new(name, &pod.pod, baseline));
            }
            match &attachment.last_known {
                Some(subject) => {
                    view.subjects.insert(slot, subject.clone());
                }
                None => {
                    view.unknown.insert(slot);
                }
            }
        }
        view
    }

    /// Which attachment has an address: the youngest of those that claim it, as the sandbox of the others is gone.
    fn owners(&self) -> BTreeMap<IpAddr, &Record> {
        let mut owners: BTreeMap<IpAddr, &Record> = BTreeMap::new();
        for Attachment { record, .. } in self.attachments.values() {
            for address in record.addresses.iter().filter(|a| names_one_pod(**a)) {
                let owner = owners.entry(*address).or_insert(record);
                if record.birth.0 > owner.birth.0 {
                    *owner = record;
                }
            }
        }
        owners
    }

    /// The addresses of a pod: those of its attachments, or, without one, those of its status that no attachment has.
    fn addresses_of(
        &self,
        name: &ObjectName,
        identified: &IdentifiedPod,
        owners: &BTreeMap<IpAddr, &Record>,
    ) -> Vec<IpAddr> {
        let is_its_own = |record: &Record| {
            record
                .pod
                .as_ref()
                .is_some_and(|pod| is(pod, name, identified))
        };
        let has_attachment = self.attachments.values().any(|a| is_its_own(&a.record));
        if has_attachment && !identified.pod.host_network {
            owners
                .iter()
                .filter(|(_, record)| is_its_own(record))
                .map(|(address, _)| *address)
                .collect()
        } else {
            let unowned = identified
                .pod
                .addresses
                .iter()
                .filter(|a| !owners.contains_key(a));
            unowned.copied().collect()
        }
    }
}

/// What holds for the attachment in a direction in which nothing isolates it.
pub fn baseline_of(record: &Record) -> Baseline {
    match record.baseline {
        record::Baseline::Allow => Baseline::Standard,
        record::Baseline::Deny => Baseline::Strict,
    }
}

/// Link-local addresses mean another pod on every link: nobody is known by one.
fn names_one_pod(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
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

fn pod_of<'a>(record: &Record, source: &'a Objects) -> Option<(ObjectName, &'a IdentifiedPod)> {
    let runtime = record.pod.as_ref()?;
    let name = ObjectName::new(&runtime.namespace, &runtime.name);
    let identified = source.pods.get(&name)?;
    is(runtime, &name, identified).then(|| (name, identified.as_ref()))
}

#[cfg(test)]
mod tests;
