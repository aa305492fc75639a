// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes the API server say what a state says, and waits until pods are there.

use std::net::IpAddr;

use anyhow::{Result, anyhow};
use podgate_policy::model::ObjectName;
use serde_json::{Value, json};

use super::InCluster;
use super::mark::MARKS;
use crate::cases::case::{AddressesOf, Kind};
use crate::cases::expect::Family;
use crate::cases::ground::Ground;
use crate::cases::places::Addresses;
use crate::cases::prober::Place;
use crate::cases::state::{PodState, State};
use crate::cases::{service, world};
use crate::cluster::{NODES, Pod};

impl InCluster<'_> {
    /// Makes the API server say what the state says.
    pub(super) fn write(&mut self, state: &State) -> Result<()> {
        self.take_away(state)?;
        let mut objects = Vec::new();
        for (name, labels) in &state.namespaces {
            if self.state.namespaces.get(name) != Some(labels) {
                objects.push(world::namespace(name, labels));
            }
        }
        let new_namespaces: Vec<_> = state
            .namespaces
            .keys()
            .filter(|name| !self.state.namespaces.contains_key(*name))
            .cloned()
            .collect();
        if !new_namespaces.is_empty() {
            self.api.apply(&std::mem::take(&mut objects))?;
            for name in &new_namespaces {
                self.wait_for_account(name)?;
            }
        }
        for (name, spec) in &state.services {
            if self.state.services.get(name) != Some(spec) {
                self.api.apply(&[service::object(name, spec, None)])?;
                let addresses = self.service_addresses(name)?;
                self.places.services.insert(name.clone(), addresses);
            }
        }
        for (name, spec) in &state.policies {
            let filled = self.places.filled(spec);
            let spec = filled.map_err(|reason| anyhow!("policy {name}: {reason}"))?;
            if self.policies.get(name) != Some(&spec) {
                objects.push(world::policy(name, &spec));
                self.policies.insert(name.clone(), spec);
            }
        }
        let mut new_pods = Vec::new();
        let mut statuses = Vec::new();
        for (name, pod) in &state.pods {
            let before = self.state.pods.get(name);
            if before == Some(pod) {
                continue;
            }
            if before.is_none_or(|before| before.labels != pod.labels) {
                objects.push(world::pod(name, pod, node_of(pod)));
            }
            match &pod.kind {
                Kind::Runs | Kind::HostNetwork => {
                    if before.is_none() {
                        new_pods.push(name.clone());
                    }
                }
                Kind::OnPaper {
                    addresses_of,
                    phase,
                } => {
                    statuses.push((name, addresses_of.clone(), *phase));
                }
            }
        }
        self.api.apply(&objects)?;
        self.state.clone_from(state);
        self.settle(&new_pods)?;
        let statuses: Vec<Value> = statuses
            .into_iter()
            .map(|(name, of, phase)| {
                let addresses = match of {
                    AddressesOf::Nobody => None,
                    AddressesOf::Outside => Some(&self.places.outside),
                    AddressesOf::Pod(name) => self.places.pods.get(&name).map(|(_, a)| a),
                };
                json!({
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"namespace": name.namespace, "name": name.name},
                    "status": world::status(phase.name(), addresses),
                })
            })
            .collect();
        self.api.apply_status(&statuses)
    }

    /// Takes away what the state does not have, or has as another kind of thing.
    fn take_away(&mut self, state: &State) -> Result<()> {
        let is_other = |name: &ObjectName, pod: &PodState| match state.pods.get(name) {
            None => true,
            Some(new) => match (&pod.kind, &new.kind) {
                (Kind::OnPaper { .. }, Kind::OnPaper { .. }) => false,
                (old, kind) => old != kind || pod.node != new.node,
            },
        };
        let pods = self.state.pods.iter();
        let gone: Vec<ObjectName> = pods
            .filter(|(name, pod)| is_other(name, pod))
            .map(|(name, _)| name.clone())
            .collect();
        let is_old = |name: &&ObjectName| {
            !state.policies.contains_key(*name) || (self.is_new_case && name.namespace != MARKS)
        };
        let old_policies: Vec<_> = self.policies.keys().filter(is_old).cloned().collect();
        // One that is replaced is another one, or what was applied before would stay beside it.
        let old_services: Vec<_> = self
            .state
            .services
            .iter()
            .filter(|(name, spec)| state.services.get(*name) != Some(*spec))
            .map(|(name, _)| name.clone())
            .collect();
        self.is_new_case = false;
        let mut deleted = Vec::new();
        for (kind, api, names) in [
            (
                "NetworkPolicy",
                "networking.k8s.io/v1",
                old_policies.clone(),
            ),
            ("Pod", "v1", gone.clone()),
            ("Service", "v1", old_services),
        ] {
            deleted.extend(names.iter().map(|name| {
                json!({
                    "apiVersion": api,
                    "kind": kind,
                    "metadata": {"namespace": name.namespace, "name": name.name},
                })
            }));
        }
        for name in self.state.namespaces.keys() {
            if !state.namespaces.contains_key(name) {
                deleted.push(
                    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
                );
            }
        }
        for name in &gone {
            self.state.pods.remove(name);
            self.places.pods.remove(name);
            self.prober.forget(&Place::Pod(name.clone()));
        }
        self.policies.retain(|name, _| !old_policies.contains(name));
        self.api.delete(&deleted)
    }

    fn service_addresses(&self, name: &ObjectName) -> Result<Addresses> {
        let service = self
            .cluster
            .get(&["-n", &name.namespace, "service", &name.name]);
        let addresses: Vec<IpAddr> = serde_json::from_value(service["spec"]["clusterIPs"].clone())?;
        let v4 = addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        let v6 = addresses.iter().find_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(*v6),
        });
        match (v4, v6) {
            (Some(v4), Some(v6)) => Ok(Addresses { v4, v6 }),
            (_, _) => Err(anyhow!("Service {name} has not one address of each family")),
        }
    }

    /// Waits for new pods, and learns where they are.
    fn settle(&mut self, names: &[ObjectName]) -> Result<()> {
        for name in names {
            let named = json!({
                "kind": "Pod",
                "metadata": {"namespace": name.namespace, "name": name.name},
            });
            self.api.wait_until(&named, "be ready", is_ready)?;
            let pod = &self.state.pods[name];
            if pod.kind != Kind::Runs {
                continue;
            }
            let running = Pod::read(self.cluster, &name.namespace, &name.name);
            let address = |family: Family| {
                let mut all = running.addresses.iter();
                all.find(|address| address.is_ipv4() == (family == Family::V4))
            };
            let (Some(std::net::IpAddr::V4(v4)), Some(std::net::IpAddr::V6(v6))) =
                (address(Family::V4), address(Family::V6))
            else {
                return Err(anyhow!("pod {name} has not one address of each family"));
            };
            let ground = Ground::open(&running.network())?;
            let place = (pod.node, Addresses { v4: *v4, v6: *v6 });
            self.places.pods.insert(name.clone(), place);
            self.prober.settle(Place::Pod(name.clone()), ground);
        }
        Ok(())
    }

    /// Pods are refused until the controller manager has made the account that they run as.
    pub(super) fn wait_for_account(&self, namespace: &str) -> Result<()> {
        let named = json!({
            "kind": "ServiceAccount",
            "metadata": {"namespace": namespace, "name": "default"},
        });
        self.api
            .wait_until(&named, "be there", |account| account.is_some())
    }
}

pub(super) const fn node_of(pod: &PodState) -> Option<&'static str> {
    match pod.kind {
        Kind::Runs | Kind::HostNetwork => Some(NODES[pod.node.index()]),
        Kind::OnPaper { .. } => None,
    }
}

fn is_ready(pod: Option<&Value>) -> bool {
    let conditions = pod.and_then(|pod| pod["status"]["conditions"].as_array());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
