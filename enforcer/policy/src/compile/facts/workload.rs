// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Workloads: pods of one namespace with the same labels and named ports, which answer every selector alike.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::compile::predicate::{PortName, Predicate, Questions};
use crate::compile::signature::Signature;
use crate::model::{Labels, NamedPort, ObjectName, Pod, Selector, World};

/// What selectors and port names can see of a pod.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    namespace: Arc<str>,
    /// Any pod of it.
    pod: Arc<Pod>,
}

impl Workload {
    /// The workload of a pod.
    pub(super) fn of(name: &ObjectName, pod: &Arc<Pod>) -> Self {
        Self {
            namespace: name.namespace.as_str().into(),
            pod: Arc::clone(pod),
        }
    }

    /// Before all workloads of a namespace: no labels, and no ports, are the least.
    pub(super) fn first_of(namespace: &str) -> Self {
        Self {
            namespace: namespace.into(),
            pod: Arc::default(),
        }
    }

    pub(super) fn is_in(&self, namespace: &str) -> bool {
        *self.namespace == *namespace
    }

    pub(super) fn matches(&self, pods: &Selector) -> bool {
        pods.matches_sorted(&self.pod.labels)
    }

    /// The ports that it calls by a name that is asked for.
    pub(super) fn ports<'a>(
        &'a self,
        questions: &'a Questions,
    ) -> impl Iterator<Item = NamedPort> + 'a {
        let is_asked = |port: &&NamedPort| questions.port_names.contains(&PortName::of(port));
        self.pod.ports.iter().filter(is_asked).cloned()
    }

    /// Whether it calls a port by a name for which `asked` holds.
    pub(super) fn has_port(&self, asked: impl Fn(&NamedPort) -> bool) -> bool {
        self.pod.ports.iter().any(asked)
    }

    /// What it answers to all that is asked, blocks apart.
    pub(super) fn signature(&self, world: &World, questions: &Questions) -> Signature {
        let own = |predicate: &&Arc<Predicate>| match predicate.as_ref() {
            Predicate::Pods { namespace, .. } => self.is_in(namespace),
            Predicate::OwnNode
            | Predicate::OtherNode
            | Predicate::Block { .. }
            | Predicate::ClusterPods { .. }
            | Predicate::Listed(_) => false,
        };
        let own_ones = questions.predicates.range(
            Arc::new(Predicate::Pods {
                namespace: self.namespace.to_string(),
                pods: Selector::everything().into(),
            })..,
        );
        let cluster_wide = |predicate: &&Arc<Predicate>| match predicate.as_ref() {
            Predicate::ClusterPods { .. } => true,
            Predicate::OwnNode
            | Predicate::OtherNode
            | Predicate::Block { .. }
            | Predicate::Pods { .. }
            | Predicate::Listed(_) => false,
        };
        let cluster_wide_ones = questions.predicates.range(
            Arc::new(Predicate::ClusterPods {
                namespaces: Selector::everything().into(),
                pods: Selector::everything().into(),
            })..,
        );
        let asked = own_ones
            .take_while(own)
            .chain(cluster_wide_ones.take_while(cluster_wide));
        let holding = asked.filter(|predicate| self.answers(predicate, world));
        Signature::new(holding.cloned(), self.ports(questions))
    }

    /// Whether a predicate about pods holds for it.
    fn answers(&self, predicate: &Predicate, world: &World) -> bool {
        match predicate {
            Predicate::Pods { namespace, pods } => self.is_in(namespace) && self.matches(pods),
            Predicate::ClusterPods { namespaces, pods } => {
                let namespace = world.namespaces.get(&*self.namespace);
                namespace.is_some_and(|known| namespaces.matches_sorted(&known.labels))
                    && self.matches(pods)
            }
            Predicate::OwnNode
            | Predicate::OtherNode
            | Predicate::Block { .. }
            | Predicate::Listed(_) => false,
        }
    }

    fn key(&self) -> (&str, &Labels, &[NamedPort]) {
        (&self.namespace, &self.pod.labels, &self.pod.ports)
    }
}

impl PartialEq for Workload {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Workload {}

impl PartialOrd for Workload {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Workload {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.pod, &other.pod) && self.namespace == other.namespace {
            return Ordering::Equal;
        }
        self.key().cmp(&other.key())
    }
}
