// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The world as it is at a step.

use std::collections::{BTreeMap, BTreeSet};

use podgate_policy::model::{Labels, ObjectName};
use serde_json::Value;

use super::case::{Edit, Kind, LabelsEdit, Node, PodEdit};

/// The world at a step.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Labels of namespaces, without the one that Kubernetes adds.
    pub namespaces: BTreeMap<String, Labels>,
    /// Pods.
    pub pods: BTreeMap<ObjectName, PodState>,
    /// Policies, as the `spec` of a NetworkPolicy with places in it.
    pub policies: BTreeMap<ObjectName, Value>,
    /// Services, as the `spec` of a Service without addresses.
    pub services: BTreeMap<ObjectName, Value>,
}

/// A pod at a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodState {
    /// Its labels.
    pub labels: Labels,
    /// Where it runs.
    pub node: Node,
    /// How it is on the network.
    pub kind: Kind,
}

/// The namespaces of the standard world.
pub const NAMESPACES: [&str; 3] = ["x", "y", "z"];
/// The pods of each of them.
pub const PODS: [&str; 3] = ["a", "b", "c"];

impl State {
    /// The standard world: nine pods, by turns on the one node and on the other; no policy.
    pub fn standard() -> Self {
        let names = NAMESPACES
            .iter()
            .flat_map(|namespace| PODS.map(|pod| ObjectName::new(*namespace, pod)));
        let pods = names.enumerate().map(|(i, name)| {
            let pod = PodState {
                labels: [("pod".to_owned(), name.name.clone())].into(),
                node: Node::BOTH[i % 2],
                kind: Kind::Runs,
            };
            (name, pod)
        });
        let namespaces = NAMESPACES.iter().map(|name| {
            let labels = [("ns".to_owned(), (*name).to_owned())].into();
            ((*name).to_owned(), labels)
        });
        Self {
            namespaces: namespaces.collect(),
            pods: pods.collect(),
            policies: BTreeMap::new(),
            services: BTreeMap::new(),
        }
    }

    /// The pods that have a network of their own on one of the nodes.
    pub fn running(&self) -> BTreeSet<ObjectName> {
        let runs = |(_, pod): &(&ObjectName, &PodState)| pod.kind == Kind::Runs;
        self.pods
            .iter()
            .filter(runs)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The world after `edit`.
    ///
    /// # Errors
    /// What is taken away and is not there, and what a running pod cannot become.
    pub fn edited(&self, edit: &Edit) -> Result<Self, String> {
        let mut state = self.clone();
        for (name, edit) in &edit.namespaces {
            match edit {
                None => take(&mut state.namespaces, "namespace", name)?,
                Some(edit) => {
                    let new = || [("ns".to_owned(), name.clone())].into();
                    let labels = state.namespaces.entry(name.clone()).or_insert_with(new);
                    relabel(labels, &edit.labels)?;
                }
            }
        }
        for (name, edit) in &edit.pods {
            match edit {
                None => take(&mut state.pods, "pod", name)?,
                Some(edit) => state.edit_pod(name, edit)?,
            }
        }
        for (kind, objects, edits) in [
            ("policy", &mut state.policies, &edit.policies),
            ("Service", &mut state.services, &edit.services),
        ] {
            for (name, edit) in edits {
                match edit {
                    None => take(objects, kind, name)?,
                    Some(spec) => {
                        objects.insert(name.clone(), spec.clone());
                    }
                }
            }
        }
        Ok(state)
    }

    fn edit_pod(&mut self, name: &ObjectName, edit: &PodEdit) -> Result<(), String> {
        match self.pods.get_mut(name) {
            None => {
                let mut labels = [("pod".to_owned(), name.name.clone())].into();
                relabel(&mut labels, &edit.labels)?;
                let pod = PodState {
                    labels,
                    node: edit.node.unwrap_or(Node::One),
                    kind: edit.kind.clone().unwrap_or(Kind::Runs),
                };
                self.pods.insert(name.clone(), pod);
            }
            Some(pod) => {
                relabel(&mut pod.labels, &edit.labels)?;
                if edit.node.is_some() {
                    return Err(format!("pod {name} is on its node for good"));
                }
                match (&pod.kind, &edit.kind) {
                    (_, None) => {}
                    (Kind::OnPaper { .. }, Some(kind @ Kind::OnPaper { .. })) => {
                        pod.kind = kind.clone();
                    }
                    (Kind::Runs | Kind::HostNetwork | Kind::OnPaper { .. }, Some(_)) => {
                        return Err(format!("pod {name} cannot become another kind of pod"));
                    }
                }
            }
        }
        Ok(())
    }
}

fn take<K: Ord + std::fmt::Display, V>(
    objects: &mut BTreeMap<K, V>,
    kind: &str,
    name: &K,
) -> Result<(), String> {
    match objects.remove(name) {
        Some(_) => Ok(()),
        None => Err(format!("{kind} {name} is not there to be taken away")),
    }
}

fn relabel(labels: &mut Labels, edit: &LabelsEdit) -> Result<(), String> {
    for (key, value) in edit {
        match value {
            Some(value) => {
                labels.insert(key.clone(), value.clone());
            }
            None => take(labels, "label", key)?,
        }
    }
    Ok(())
}
