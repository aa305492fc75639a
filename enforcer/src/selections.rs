// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which policies select which attachments, and with that the directions in which each of these is isolated or may be:
//! kept as policies and pods change, without compiling anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use podgate_datapath::isolated::Namespaces;
use podgate_datapath::record::{Record, Slot};
use podgate_policy::compile::applies;
use podgate_policy::connection::Subject;
use podgate_policy::difference::parts;
use podgate_policy::isolation::{self, Isolation};
use podgate_policy::model::{NetworkPolicy, ObjectName};

use crate::cluster::{Cluster, View};

/// Who is selected by what.
#[derive(Debug, Default)]
pub struct Selections {
    policies: OrdMap<ObjectName, Arc<NetworkPolicy>>,
    subjects: OrdMap<Slot, Arc<Subject>>,
    /// The subjects of each namespace.
    by_namespace: BTreeSet<(String, Slot)>,
    /// The policies that select each subject.
    selecting: BTreeMap<Slot, BTreeMap<ObjectName, Arc<NetworkPolicy>>>,
    /// The directions in which some policy of a namespace isolates; none is empty.
    of_namespaces: BTreeMap<String, Isolation>,
    /// How often that has changed.
    version: u64,
}

/// What may be other than before.
#[derive(Debug, Default)]
pub struct Concerned {
    /// Of subjects that changed, and of those that a policy selects that changed, before or after it did.
    pub slots: BTreeSet<Slot>,
    /// Where policies or subjects changed.
    pub namespaces: BTreeSet<String>,
}

impl Selections {
    /// Brings them up to `view`, and adds to `concerned` what may be other than before.
    pub fn update(&mut self, view: &View, concerned: &mut Concerned) {
        self.follow_subjects(view, concerned);
        let namespaces = self.follow_policies(view, concerned);
        self.subjects = view.subjects.clone();
        self.policies = view.world.policies.clone();
        for namespace in namespaces {
            let policies = policies_of(&self.policies, &namespace);
            let isolation = isolation::of_policies(policies.map(|(_, policy)| policy.as_ref()));
            let isolation = isolation.any().then_some(isolation);
            if self.of_namespaces.get(&namespace).copied() != isolation {
                self.version += 1;
                match isolation {
                    Some(isolation) => self.of_namespaces.insert(namespace, isolation),
                    None => self.of_namespaces.remove(&namespace),
                };
            }
        }
    }

    fn follow_subjects(&mut self, view: &View, concerned: &mut Concerned) {
        for difference in self.subjects.diff(&view.subjects) {
            let (slot, old, new) = parts(difference);
            if let Some(old) = old {
                let namespace = old.name.namespace.clone();
                concerned.namespaces.insert(namespace.clone());
                self.by_namespace.remove(&(namespace, *slot));
                self.selecting.remove(slot);
            }
            if let Some(new) = new {
                let namespace = new.name.namespace.clone();
                concerned.namespaces.insert(namespace.clone());
                let selecting = policies_of(&view.world.policies, &namespace)
                    .filter(|(_, policy)| applies(policy, new))
                    .map(|(name, policy)| (name.clone(), Arc::clone(policy)));
                self.selecting.insert(*slot, selecting.collect());
                self.by_namespace.insert((namespace, *slot));
            }
            concerned.slots.insert(*slot);
        }
    }

    /// The namespaces of policies that changed.
    fn follow_policies(&mut self, view: &View, concerned: &mut Concerned) -> BTreeSet<String> {
        let mut namespaces = BTreeSet::new();
        for difference in self.policies.diff(&view.world.policies) {
            let (name, _, new) = parts(difference);
            for slot in slots_in(&self.by_namespace, &name.namespace) {
                let Some((subject, selecting)) =
                    view.subjects.get(&slot).zip(self.selecting.get_mut(&slot))
                else {
                    continue;
                };
                let before = match new.filter(|policy| applies(policy, subject)) {
                    Some(policy) => {
                        concerned.slots.insert(slot);
                        selecting.insert(name.clone(), Arc::clone(policy))
                    }
                    None => selecting.remove(name),
                };
                if before.is_some() {
                    concerned.slots.insert(slot);
                }
            }
            concerned.namespaces.insert(name.namespace.clone());
            namespaces.insert(name.namespace.clone());
        }
        namespaces
    }

    /// The subjects of a namespace.
    pub fn slots_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = Slot> + 'a {
        slots_in(&self.by_namespace, namespace)
    }

    /// The policies that select a subject, by name; none if it is no subject.
    pub fn selecting(&self, slot: Slot) -> Option<impl Iterator<Item = &Arc<NetworkPolicy>>> {
        self.selecting.get(&slot).map(BTreeMap::values)
    }

    /// The directions in which an attachment may be isolated. One whose pod is not known may be wherever any pod of
    /// its namespace may; one of which the runtime did not say whose it is, is no pod that a policy selects.
    pub fn isolation_of(&self, record: &Record) -> Isolation {
        let known = self.selecting(record.slot);
        let known = known.map(|policies| isolation::of_policies(policies.map(AsRef::as_ref)));
        let namespace = || Some(record.pod.as_ref()?.namespace.as_str());
        known
            .or_else(|| self.of_namespaces.get(namespace()?).copied())
            .unwrap_or(Isolation::NONE)
    }

    /// The same of an attachment that the cluster does not have yet: its slot may have been another one's.
    pub fn isolation_of_new(&self, record: &Record, cluster: &Cluster) -> Isolation {
        let Some(pod) = &record.pod else {
            return Isolation::NONE;
        };
        let policies = policies_of(&self.policies, &pod.namespace);
        let policies = policies.map(|(_, policy)| policy.as_ref());
        match cluster.subject_of(record) {
            Some(subject) => isolation::of_subject(policies, &subject),
            None => isolation::of_policies(policies),
        }
    }

    /// Another number for whatever else [`Self::namespaces`] says.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What the plugin finds.
    pub fn namespaces(&self) -> Namespaces {
        let namespaces = self.of_namespaces.iter();
        namespaces
            .map(|(name, isolation)| (name.clone(), *isolation))
            .collect()
    }
}

fn policies_of<'a>(
    policies: &'a OrdMap<ObjectName, Arc<NetworkPolicy>>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a ObjectName, &'a Arc<NetworkPolicy>)> {
    policies
        .range(ObjectName::new(namespace, "")..)
        .take_while(move |(name, _)| name.namespace == namespace)
}

fn slots_in<'a>(
    by_namespace: &'a BTreeSet<(String, Slot)>,
    namespace: &'a str,
) -> impl Iterator<Item = Slot> + 'a {
    by_namespace
        .range((namespace.to_owned(), Slot(0))..)
        .take_while(move |(of, _)| of == namespace)
        .map(|(_, slot)| *slot)
}

#[cfg(test)]
mod tests {
    use podgate_datapath::record::PodName;
    use podgate_policy::connection;
    use podgate_policy::model::{Labels, Operator, Pod, Requirement, Selector};

    use super::*;
    use crate::fixture;

    fn record(slot: u32, namespace: &str) -> Record {
        Record {
            pod: Some(PodName {
                namespace: namespace.into(),
                name: format!("p{slot}"),
                uid: None,
            }),
            ..fixture::record(slot)
        }
    }

    fn policy(app: &str, ingress: bool, egress: bool) -> Arc<NetworkPolicy> {
        let requirement = Requirement {
            key: "app".into(),
            operator: Operator::In(vec![app.into()]),
        };
        Arc::new(NetworkPolicy {
            members: Selector::Requirements(vec![requirement]).into(),
            isolates_ingress: ingress,
            isolates_egress: egress,
            ingress: Vec::new(),
            egress: Vec::new(),
        })
    }

    /// Isolation follows policies and labels, and is that of the namespace while they are unknown.
    #[test]
    fn isolation_follows_policies_and_labels_or_the_namespace() {
        let subject = |app: &str| {
            let pod = Pod {
                labels: Labels::from([("app".to_owned(), app.to_owned())]),
                ..Pod::default()
            };
            let name = ObjectName::new("ns", "p1");
            Arc::new(Subject::new(name, &pod, connection::Baseline::Allow))
        };
        let (mut selections, mut view) = (Selections::default(), View::default());
        let of = |selections: &Selections| {
            let (known, unknown) = (record(1, "ns"), record(2, "ns"));
            [known, unknown, record(3, "other")].map(|record| selections.isolation_of(&record))
        };
        let ingress = Isolation {
            ingress: true,
            egress: false,
        };
        let egress = Isolation {
            ingress: false,
            egress: true,
        };
        let (none, both) = (Isolation::NONE, Isolation::BOTH);
        view.subjects.insert(Slot(1), subject("a"));
        selections.update(&view, &mut Concerned::default());
        assert_eq!(of(&selections), [none, none, none]);
        let (first, second) = (
            ObjectName::new("ns", "first"),
            ObjectName::new("ns", "second"),
        );
        for (name, now, expected) in [
            (
                &first,
                Some(policy("b", true, false)),
                [none, ingress, none],
            ),
            (
                &second,
                Some(policy("a", false, true)),
                [egress, both, none],
            ),
            (&first, Some(policy("a", true, false)), [both, both, none]),
            (&second, None, [ingress, ingress, none]),
            (&first, Some(policy("b", true, true)), [none, both, none]),
        ] {
            match now {
                Some(policy) => view.world.policies.insert(name.clone(), policy),
                None => view.world.policies.remove(name),
            };
            selections.update(&view, &mut Concerned::default());
            assert_eq!(of(&selections), expected, "{name}");
        }
        view.subjects.insert(Slot(1), subject("b"));
        selections.update(&view, &mut Concerned::default());
        assert_eq!(of(&selections), [both, both, none]);
        assert_eq!(selections.namespaces()["ns"], Isolation::BOTH);
        view.subjects.remove(&Slot(1));
        view.world.policies.clear();
        selections.update(&view, &mut Concerned::default());
        assert_eq!(of(&selections), [none, none, none]);
        assert!(selections.namespaces().is_empty());
    }
}
