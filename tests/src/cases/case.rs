// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A case: a world that begins as the standard one, and steps that change it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use podgate_policy::connection::Verdict;
use podgate_policy::model::ObjectName;
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
    /// Services, as the `spec` of a Service; one that is there is replaced.
    pub services: BTreeMap<ObjectName, Option<Value>>,
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
