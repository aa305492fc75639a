// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Plays the network policy controller of EKS on a cluster of `tests/cluster`: reads what there is, and writes
//! PolicyEndpoints of its shape. What they say is worked out by what the enforcer's own tests use for that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use podgate_enforcer::convert;
use podgate_policy::model::{ObjectName, Protocol, World};
use serde_json::{Value, json};

use crate::cases::expect::Family;
use crate::cluster::Administrator;

#[path = "../../enforcer/src/policyendpoints/tests/controller.rs"]
mod specs;

/// What the controller reads, and what it writes.
const KINDS: [&str; 5] = [
    "Namespace",
    "Pod",
    "Service",
    "NetworkPolicy",
    "PolicyEndpoint",
];

/// The controller. It acts when [`Controller::reconcile`] is called.
pub struct Controller {
    api: Administrator,
    chunk: usize,
    family: Family,
}

/// What it wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Objects that are new.
    pub created: usize,
    /// Objects that say something else.
    pub replaced: usize,
    /// Objects that are gone.
    pub deleted: usize,
}

/// A NetworkPolicy that is not being deleted.
struct Owner {
    name: ObjectName,
    uid: String,
    policy: Arc<podgate_policy::model::NetworkPolicy>,
}

/// Everything in the cluster that matters to it.
#[derive(Default)]
struct Read {
    world: World,
    hosts: BTreeMap<ObjectName, String>,
    services: Vec<specs::Service>,
    owners: Vec<Owner>,
    /// Namespaces that are being deleted, into which nothing can be written.
    ending: BTreeSet<String>,
    /// PolicyEndpoints by the UID of their owner.
    slices: BTreeMap<String, Vec<Value>>,
}

impl Controller {
    /// A controller with `--endpoint-chunk-size` `chunk`, of a cluster of IPv4.
    pub fn new(api: Administrator, chunk: usize) -> Self {
        Self {
            api,
            chunk,
            family: Family::V4,
        }
    }

    /// The controller of a cluster of this family: pods and Services have no address of the other one.
    #[must_use]
    pub fn of(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    /// Reads everything, and writes what is missing, other, or too much. The garbage collector of the cluster does
    /// what remains of policies that are gone.
    ///
    /// # Errors
    /// When the API server refuses, which it also does when somebody else has changed an object meanwhile: call again.
    pub fn reconcile(&self) -> Result<Written> {
        let read = self.read()?;
        let controller = specs::Controller {
            chunk: self.chunk,
            services: read.services,
        };
        let host_of = |name: &ObjectName| {
            let host = read.hosts.get(name).and_then(|host| host.parse().ok());
            host.unwrap_or(IpAddr::from([0, 0, 0, 0]))
        };
        let (mut create, mut replace, mut delete) = (Vec::new(), Vec::new(), Vec::new());
        let lives = |owner: &&Owner| !read.ending.contains(&owner.name.namespace);
        for owner in read.owners.iter().filter(lives) {
            let specs = controller.specs(&read.world, &owner.name, &owner.policy, host_of);
            let mut known = read.slices.get(&owner.uid).into_iter().flatten();
            for spec in specs {
                match known.next() {
                    None => create.push(owner.slice(spec)),
                    Some(slice) if slice["spec"] != spec => {
                        let mut slice = slice.clone();
                        slice["spec"] = spec;
                        replace.push(slice);
                    }
                    Some(_) => {}
                }
            }
            delete.extend(known.cloned());
        }
        let written = Written {
            created: create.len(),
            replaced: replace.len(),
            deleted: delete.len(),
        };
        self.api.delete(&delete)?;
        create.iter().try_for_each(|new| self.api.create(new))?;
        replace.iter().try_for_each(|new| self.api.replace(new))?;
        Ok(written)
    }

    fn is_known(&self, address: IpAddr) -> bool {
        address.is_ipv4() == (self.family == Family::V4)
    }

    fn read(&self) -> Result<Read> {
        let mut read = Read::default();
        for kind in KINDS {
            for item in self.api.list(kind)? {
                read.take(kind, item, |address| self.is_known(address))?;
            }
        }
        Ok(read)
    }
}

impl Owner {
    /// A new slice, which the API server gives a name.
    fn slice(&self, spec: Value) -> Value {
        json!({
            "apiVersion": "networking.k8s.aws/v1alpha1",
            "kind": "PolicyEndpoint",
            "metadata": {
                "generateName": format!("{}-", self.name.name),
                "namespace": self.name.namespace,
                "ownerReferences": [{
                    "apiVersion": "networking.k8s.io/v1",
                    "kind": "NetworkPolicy",
                    "name": self.name.name,
                    "uid": self.uid,
                    "controller": true,
                    "blockOwnerDeletion": true,
                }],
            },
            "spec": spec,
        })
    }
}

impl Read {
    fn take(&mut self, kind: &str, item: Value, is_known: impl Fn(IpAddr) -> bool) -> Result<()> {
        match kind {
            "Namespace" => {
                let object: Namespace = serde_json::from_value(item)?;
                let named = convert::namespace::convert(&object).value;
                if object.metadata.deletion_timestamp.is_some() {
                    self.ending.insert(named.name.clone());
                }
                self.world.namespaces.insert(named.name, named.namespace);
            }
            "Pod" => {
                let object: Pod = serde_json::from_value(item)?;
                let host = object.status.as_ref().and_then(|s| s.host_ip.clone());
                let mut pod = convert::pod::convert(&object).value;
                Arc::make_mut(&mut pod.pod)
                    .addresses
                    .retain(|address| is_known(*address));
                self.hosts
                    .insert(pod.name.clone(), host.unwrap_or_default());
                self.world.pods.insert(pod.name, pod.pod);
            }
            "Service" => {
                let object: Service = serde_json::from_value(item)?;
                self.services.extend(service(&object, is_known));
            }
            "NetworkPolicy" => {
                let object: NetworkPolicy = serde_json::from_value(item)?;
                if object.metadata.deletion_timestamp.is_none() {
                    let named = convert::network_policy::convert(&object).value;
                    self.owners.push(Owner {
                        name: named.name,
                        uid: object.metadata.uid.unwrap_or_default(),
                        policy: named.policy,
                    });
                }
            }
            "PolicyEndpoint" => {
                let owner = item.pointer("/metadata/ownerReferences/0/uid");
                let owner = owner.and_then(Value::as_str).unwrap_or_default().to_owned();
                self.slices.entry(owner).or_default().push(item);
            }
            other => bail!("{other} was not to be listed"),
        }
        Ok(())
    }
}

/// A Service with a cluster address. Target ports that are names are not looked up.
fn service(object: &Service, is_known: impl Fn(IpAddr) -> bool) -> Option<specs::Service> {
    let spec = object.spec.as_ref()?;
    let mut addresses = spec.cluster_ips.iter().flatten();
    let cluster_ip = addresses.find_map(|text| text.parse().ok().filter(|at| is_known(*at)))?;
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(_) => return None,
        };
        let number = u16::try_from(port.port).ok()?;
        let target = match &port.target_port {
            None => number,
            Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(target)) => {
                u16::try_from(*target).ok()?
            }
            Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(_)) => {
                return None;
            }
        };
        Some((protocol, number, target))
    });
    Some(specs::Service {
        namespace: object.metadata.namespace.clone()?,
        selector: spec.selector.clone().unwrap_or_default(),
        cluster_ip,
        ports: ports.collect(),
    })
}
