//! A case: a world that begins as the standard one, and steps that change it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use podgate_policy::connection::Verdict;
use podgate_policy::model::{Labels, ObjectName};
use serde_json::Value;

use super::expect::{Fate, Table};

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    /// The file that it stands in.
    pub file: PathBuf,
    /// The line of its name.
    pub line: u64,
    /// What it shows, as a sentence.
    pub name: String,
    /// The items of the checklist that it shows something of.
    pub items: Vec<u8>,
    /// Why the cluster cannot show it, if so.
    pub not_on_cluster: Option<String>,
    /// Sources on the cluster that cannot express it, and why.
    pub not_through: BTreeMap<String, String>,
    /// The world as it begins, then what changes.
    pub steps: Vec<Step>,
}

/// Edits, and what is true after them.
#[derive(Debug, Clone)]
pub struct Step {
    /// What it does, as a sentence; the first one has none.
    pub does: Option<String>,
    /// What changes.
    pub edit: Edit,
    /// Which connections can be opened.
    pub expect: Table<Verdict>,
    /// Connections that are opened here, and kept.
    pub opens: Table<()>,
    /// What has become of the connections that were kept.
    pub opened: Table<Fate>,
    /// The lines at which the three tables begin.
    pub lines: [u64; 3],
}

/// What changes. `None` takes an object away.
#[derive(Debug, Clone, Default)]
pub struct Edit {
    /// Namespaces by name.
    pub namespaces: BTreeMap<String, Option<NamespaceEdit>>,
    /// Pods.
    pub pods: BTreeMap<ObjectName, Option<PodEdit>>,
    /// Policies, as the `spec` of a NetworkPolicy; a policy that is there is replaced.
    pub policies: BTreeMap<ObjectName, Option<Value>>,
}

/// Labels to be set, or with `None` removed.
pub type LabelsEdit = BTreeMap<String, Option<String>>;

/// A namespace that is new, or changes.
#[derive(Debug, Clone, Default)]
pub struct NamespaceEdit {
    /// Its labels.
    pub labels: LabelsEdit,
}

/// A pod that is new, or changes.
#[derive(Debug, Clone, Default)]
pub struct PodEdit {
    /// Its labels.
    pub labels: LabelsEdit,
    /// Where it runs; only of a new one.
    pub node: Option<Node>,
    /// How it is on the network; of a new one [`Kind::Runs`] unless said otherwise.
    pub kind: Option<Kind>,
}

/// A node of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// `node-1`.
    One,
    /// `node-2`.
    Two,
}

impl Node {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::One, Self::Two];

    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::One => Self::Two,
            Self::Two => Self::One,
        }
    }

    /// Its place in arrays.
    pub const fn index(self) -> usize {
        match self {
            Self::One => 0,
            Self::Two => 1,
        }
    }
}

/// How a pod is on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// It has a network of its own, and serves all ports.
    Runs,
    /// It shares its node's network.
    HostNetwork,
    /// An object without a sandbox on these nodes.
    OnPaper {
        /// Whose addresses `status` says that it has.
        addresses_of: AddressesOf,
        /// Its `status.phase`.
        phase: Phase,
    },
}

/// Whose addresses a pod has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressesOf {
    /// None yet.
    Nobody,
    /// The machine outside, as if that were a third node's pod.
    Outside,
    /// Another pod.
    Pod(ObjectName),
}

/// `status.phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not all containers have started.
    Pending,
    /// They have.
    Running,
    /// All have ended well.
    Succeeded,
    /// One has not.
    Failed,
}

impl Phase {
    /// As Kubernetes writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// The world at a step.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Labels of namespaces, without the one that Kubernetes adds.
    pub namespaces: BTreeMap<String, Labels>,
    /// Pods.
    pub pods: BTreeMap<ObjectName, PodState>,
    /// Policies, as the `spec` of a NetworkPolicy with places in it.
    pub policies: BTreeMap<ObjectName, Value>,
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
        for (name, edit) in &edit.policies {
            match edit {
                None => take(&mut state.policies, "policy", name)?,
                Some(spec) => {
                    state.policies.insert(name.clone(), spec.clone());
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
