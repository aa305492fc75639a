//! In which directions the known policies isolate, or may isolate, each attachment and each namespace: kept as they
//! change, without compiling anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use podgate_datapath::isolated::{Isolated, Namespaces};
use podgate_datapath::record::{Record, Slot};
use podgate_policy::compile::applies;
use podgate_policy::connection::Subject;
use podgate_policy::isolation::Isolation;
use podgate_policy::model::{NetworkPolicy, ObjectName};

use crate::cluster::{Cluster, View};

/// What isolates whom.
#[derive(Debug, Default)]
pub struct Isolations {
    policies: OrdMap<ObjectName, Arc<NetworkPolicy>>,
    subjects: OrdMap<Slot, Arc<Subject>>,
    by_namespace: BTreeSet<(String, Slot)>,
    of_subjects: BTreeMap<Slot, Isolation>,
    of_namespaces: BTreeMap<String, Isolation>,
    /// How often that has changed.
    version: u64,
}

impl Isolations {
    /// Brings them up to `view`.
    pub fn update(&mut self, view: &View) {
        let mut concerned = BTreeSet::new();
        for difference in self.subjects.diff(&view.subjects) {
            let (slot, old, new) = match difference {
                DiffItem::Add(slot, new) => (*slot, None, Some(new)),
                DiffItem::Remove(slot, old) => (*slot, Some(old), None),
                DiffItem::Update {
                    old: (_, old),
                    new: (slot, new),
                } => (*slot, Some(old), Some(new)),
            };
            if let Some(old) = old {
                self.by_namespace
                    .remove(&(old.name.namespace.clone(), slot));
            }
            if let Some(new) = new {
                self.by_namespace.insert((new.name.namespace.clone(), slot));
            }
            concerned.insert(slot);
        }
        let mut namespaces = BTreeSet::new();
        for difference in self.policies.diff(&view.world.policies) {
            let (name, either) = match difference {
                DiffItem::Add(name, policy) | DiffItem::Remove(name, policy) => {
                    (name, [Some(policy), None])
                }
                DiffItem::Update {
                    old: (_, old),
                    new: (name, new),
                } => (name, [Some(old), Some(new)]),
            };
            let slots = self
                .by_namespace
                .range((name.namespace.clone(), Slot(0))..)
                .take_while(|(of, _)| *of == name.namespace)
                .map(|(_, slot)| *slot);
            concerned.extend(slots.filter(|slot| {
                let subject = view.subjects.get(slot);
                let mut either = either.iter().flatten();
                subject.is_some_and(|subject| either.any(|policy| applies(policy, subject)))
            }));
            namespaces.insert(name.namespace.clone());
        }
        self.policies = view.world.policies.clone();
        self.subjects = view.subjects.clone();
        for slot in concerned {
            match self.subjects.get(&slot) {
                None => drop(self.of_subjects.remove(&slot)),
                Some(subject) => {
                    let policies = policies_of(&self.policies, &subject.name.namespace);
                    let isolation = Isolation::of_subject(policies, subject);
                    self.of_subjects.insert(slot, isolation);
                }
            }
        }
        for namespace in namespaces {
            let isolation = Isolation::of_unknown(policies_of(&self.policies, &namespace));
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

    /// The directions in which an attachment may be isolated. One whose pod is not known may be wherever any pod of
    /// its namespace may; one of which the runtime did not say whose it is, is no pod that a policy selects.
    pub fn of(&self, record: &Record) -> Isolation {
        let known = self.of_subjects.get(&record.slot);
        known
            .copied()
            .or_else(|| self.of_namespace(record.pod.as_ref()?.namespace.as_str()))
            .unwrap_or(Isolation::NONE)
    }

    /// The same of an attachment that the cluster has not been told of: its slot may have been another one's.
    pub fn of_new(&self, record: &Record, cluster: &Cluster) -> Isolation {
        let Some(pod) = &record.pod else {
            return Isolation::NONE;
        };
        match cluster.subject_of(record) {
            Some(subject) => {
                let policies = policies_of(&self.policies, &pod.namespace);
                Isolation::of_subject(policies, &subject)
            }
            None => self.of_namespace(&pod.namespace).unwrap_or(Isolation::NONE),
        }
    }

    fn of_namespace(&self, namespace: &str) -> Option<Isolation> {
        self.of_namespaces.get(namespace).copied()
    }

    /// Another number for whatever else [`Self::namespaces`] says.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What the plugin is told.
    pub fn namespaces(&self) -> Namespaces {
        let namespaces = self.of_namespaces.iter();
        namespaces
            .map(|(name, isolation)| {
                let isolated = Isolated {
                    to_pod: isolation.ingress,
                    from_pod: isolation.egress,
                };
                (name.clone(), isolated)
            })
            .collect()
    }
}

fn policies_of<'a>(
    policies: &'a OrdMap<ObjectName, Arc<NetworkPolicy>>,
    namespace: &'a str,
) -> impl Iterator<Item = &'a NetworkPolicy> {
    policies
        .range(ObjectName::new(namespace, "")..)
        .take_while(move |(name, _)| name.namespace == namespace)
        .map(|(_, policy)| policy.as_ref())
}

#[cfg(test)]
mod tests {
    use podgate_datapath::netlink::Ifindex;
    use podgate_datapath::record::{Baseline, Generation, Hook, Identity, PodName};
    use podgate_policy::connection;
    use podgate_policy::model::{Labels, Operator, Pod, Requirement, Selector};

    use super::*;

    fn record(slot: u32, namespace: &str) -> Record {
        Record {
            identity: Identity {
                container_id: format!("c{slot}"),
                ifname: "eth0".into(),
            },
            network: "net".into(),
            pod: Some(PodName {
                namespace: namespace.into(),
                name: format!("p{slot}"),
                uid: None,
            }),
            netns_inode: 1,
            pod_ifindex: Ifindex(2),
            host_ifindex: Ifindex(7),
            host_mac: None,
            addresses: Vec::new(),
            baseline: Baseline::Allow,
            hook: Hook::Clsact,
            routes: false,
            slot: Slot(slot),
            birth: Generation(slot),
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

    #[test]
    fn isolation_follows_policies_and_labels_and_is_that_of_the_namespace_while_they_are_unknown() {
        let subject = |app: &str| {
            let pod = Pod {
                labels: Labels::from([("app".to_owned(), app.to_owned())]),
                ..Pod::default()
            };
            let name = ObjectName::new("ns", "p1");
            Arc::new(Subject::new(name, &pod, connection::Baseline::Standard))
        };
        let (mut isolations, mut view) = (Isolations::default(), View::default());
        let of = |isolations: &Isolations| {
            let (known, unknown) = (record(1, "ns"), record(2, "ns"));
            [known, unknown, record(3, "other")].map(|record| isolations.of(&record))
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
        isolations.update(&view);
        assert_eq!(of(&isolations), [none, none, none]);
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
            isolations.update(&view);
            assert_eq!(of(&isolations), expected, "{name}");
        }
        view.subjects.insert(Slot(1), subject("b"));
        isolations.update(&view);
        assert_eq!(of(&isolations), [both, both, none]);
        assert_eq!(isolations.namespaces()["ns"], Isolated::BOTH);
        view.subjects.remove(&Slot(1));
        view.world.policies.clear();
        isolations.update(&view);
        assert_eq!(of(&isolations), [none, none, none]);
        assert!(isolations.namespaces().is_empty());
    }
}
