// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The world of a case where there is no cluster: addresses are given out here, and the objects go through the reader
//! of the source `manifests`, and so through the converters.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use podgate_enforcer::manifests::Manifests;
use podgate_enforcer::source::Objects;
use serde_json::Value;

use super::case::{AddressesOf, Kind, Node};
use super::expect::Family;
use super::places::{Addresses, NodePlace, Places};
use super::state::{PodState, State};
use super::{service, world};

/// What the judges on the host know of a case.
#[derive(Debug)]
pub struct Simulated {
    /// Where everybody is.
    pub places: Places,
    /// What the case says.
    pub state: State,
    /// What the source says.
    pub objects: Objects,
    manifests: Manifests,
    files: BTreeMap<PathBuf, Value>,
    given_out: [u8; 2],
    given_to_services: u8,
}

impl Default for Simulated {
    fn default() -> Self {
        let node = |number: u8| NodePlace {
            addresses: Addresses {
                v4: Ipv4Addr::new(192, 168, 0, number),
                v6: Ipv6Addr::new(0xfd00, 0x192, 0, 0, 0, 0, 0, number.into()),
            },
            pods: [
                format!("10.244.{number}.0/24"),
                format!("fd00:244:{number}::/64"),
            ],
        };
        Self {
            places: Places {
                nodes: [node(1), node(2)],
                outside: Addresses {
                    v4: Ipv4Addr::new(192, 0, 2, 7),
                    v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7),
                },
                pods: BTreeMap::new(),
                services: BTreeMap::new(),
            },
            state: State::standard(),
            objects: Objects::default(),
            manifests: Manifests::default(),
            files: BTreeMap::new(),
            given_out: [1, 1],
            given_to_services: 0,
        }
    }
}

impl Simulated {
    /// The world is now so.
    ///
    /// # Errors
    /// When a policy names a place that is not there, or the source refuses an object.
    pub fn follow(&mut self, state: &State) -> Result<()> {
        self.state.clone_from(state);
        self.give_out_addresses(state);
        let files = self.files_of(state)?;
        for path in self.files.keys().filter(|path| !files.contains_key(*path)) {
            self.manifests.remove_file(path);
        }
        for (path, object) in &files {
            if self.files.get(path) != Some(object) {
                self.manifests
                    .apply_file(path, object.to_string().as_bytes());
            }
        }
        self.files = files;
        let snapshot = self.manifests.snapshot();
        if let Some(error) = snapshot.errors.first() {
            bail!("the source manifests refuses an object: {error}");
        }
        self.objects = snapshot.objects;
        Ok(())
    }

    /// A pod that is new gets the next address of its node; no address is given out twice.
    fn give_out_addresses(&mut self, state: &State) {
        let running = state.running();
        self.places.pods.retain(|name, _| running.contains(name));
        for name in running {
            let node = state.pods[&name].node;
            let given_out = &mut self.given_out[node.index()];
            self.places.pods.entry(name).or_insert_with(|| {
                *given_out += 1;
                (node, pod_addresses(node, *given_out))
            });
        }
        let services = &mut self.places.services;
        services.retain(|name, _| state.services.contains_key(name));
        for name in state.services.keys() {
            let given_out = &mut self.given_to_services;
            services.entry(name.clone()).or_insert_with(|| {
                *given_out += 1;
                Addresses {
                    v4: Ipv4Addr::new(10, 96, 0, *given_out),
                    v6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, (*given_out).into()),
                }
            });
        }
    }

    fn files_of(&self, state: &State) -> Result<BTreeMap<PathBuf, Value>> {
        let mut files = BTreeMap::new();
        for node in Node::BOTH {
            let name = node_name(node);
            let addresses = &self.places.nodes[node.index()].addresses;
            files.insert(
                format!("node-{name}.json").into(),
                world::node(name, addresses),
            );
        }
        for (name, labels) in &state.namespaces {
            files.insert(
                format!("namespace-{name}.json").into(),
                world::namespace(name, labels),
            );
        }
        for (name, pod) in &state.pods {
            let node = match pod.kind {
                Kind::Runs | Kind::HostNetwork => Some(node_name(pod.node)),
                Kind::OnPaper { .. } => None,
            };
            let mut object = world::pod(name, pod, node);
            object["status"] = self.status(name, pod);
            let path = format!("pod-{}-{}.json", name.namespace, name.name);
            files.insert(path.into(), object);
        }
        for (name, spec) in &state.policies {
            let filled = self.places.filled(spec);
            let spec = filled.map_err(|reason| anyhow!("policy {name}: {reason}"))?;
            let path = format!("policy-{}-{}.json", name.namespace, name.name);
            files.insert(path.into(), world::policy(name, &spec));
        }
        for (name, spec) in &state.services {
            let object = service::object(name, spec, self.places.services.get(name));
            let path = format!("service-{}-{}.json", name.namespace, name.name);
            files.insert(path.into(), object);
            for member in service::members(state, name) {
                let (node, addresses) = &self.places.pods[member.0];
                for family in Family::BOTH {
                    let node = node_name(*node);
                    let object = service::slice(name, spec, member, node, addresses, family);
                    let path = format!(
                        "slice-{}-{}.json",
                        name.namespace, object["metadata"]["name"]
                    );
                    files.insert(path.into(), object);
                }
            }
        }
        Ok(files)
    }

    fn status(&self, name: &podgate_policy::model::ObjectName, pod: &PodState) -> Value {
        let of = |name| self.places.pods.get(name).map(|(_, addresses)| addresses);
        match &pod.kind {
            Kind::Runs => world::status("Running", of(name)),
            Kind::HostNetwork => {
                let node = &self.places.nodes[pod.node.index()];
                world::status("Running", Some(&node.addresses))
            }
            Kind::OnPaper {
                addresses_of,
                phase,
            } => {
                let addresses = match addresses_of {
                    AddressesOf::Nobody => None,
                    AddressesOf::Outside => Some(&self.places.outside),
                    AddressesOf::Pod(name) => of(name),
                };
                world::status(phase.name(), addresses)
            }
        }
    }
}

const fn node_name(node: Node) -> &'static str {
    match node {
        Node::One => "node-1",
        Node::Two => "node-2",
    }
}

fn pod_addresses(node: Node, last: u8) -> Addresses {
    let number = match node {
        Node::One => 1,
        Node::Two => 2,
    };
    Addresses {
        v4: Ipv4Addr::new(10, 244, number, last),
        v6: Ipv6Addr::new(0xfd00, 0x244, number.into(), 0, 0, 0, 0, last.into()),
    }
}
