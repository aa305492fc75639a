//! What a new view changes: the facts, the rulesets, or nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use podgate_datapath::record::Slot;
use podgate_policy::compile::{SubjectRulesets, applies, compile_subject};
use podgate_policy::connection::Subject;
use podgate_policy::model::{NetworkPolicy, ObjectName, World};

use crate::cluster::View;
use crate::plan::Rulesets;

/// How facts differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FactsChange {
    /// Not at all.
    None,
    /// Something is gone, and nothing is new or other than it was: it may wait for more of its kind.
    MerelyGone,
    /// Something is new, or other than it was: it acts at once.
    Now,
}

impl FactsChange {
    /// From one world to another; their policies are no facts.
    pub(super) fn between(old: &World, new: &World) -> Self {
        let same_node =
            old.node_name == new.node_name && old.service_options == new.service_options;
        let same = old.pods == new.pods
            && old.namespaces == new.namespaces
            && old.services == new.services
            && old.endpoint_slices == new.endpoint_slices
            && old.node_addresses == new.node_addresses
            && old.listed == new.listed
            && same_node;
        if same {
            return Self::None;
        }
        let kept = same_node
            && is_part(&new.pods, &old.pods)
            && is_part(&new.namespaces, &old.namespaces)
            && is_part(&new.listed, &old.listed)
            && is_part(&new.services, &old.services)
            && is_part(&new.endpoint_slices, &old.endpoint_slices)
            && new
                .node_addresses
                .iter()
                .all(|address| old.node_addresses.contains(address));
        if kept { Self::MerelyGone } else { Self::Now }
    }
}

fn is_part<K: Ord, V: PartialEq>(part: &OrdMap<K, V>, whole: &OrdMap<K, V>) -> bool {
    whole.diff(part).all(|difference| match difference {
        DiffItem::Remove(..) => true,
        DiffItem::Add(..) | DiffItem::Update { .. } => false,
    })
}

/// The compiled policies of all subjects. What cannot have changed is not compiled again.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    policies: OrdMap<ObjectName, Arc<NetworkPolicy>>,
    subjects: OrdMap<Slot, Arc<Subject>>,
    /// The subjects of each namespace.
    by_namespace: BTreeSet<(String, Slot)>,
    rulesets: Rulesets,
}

impl Compiled {
    /// Brings them up to `view`; how many subjects were compiled.
    pub(super) fn update(&mut self, view: &View) -> usize {
        let concerned = self.concerned(view);
        self.policies = view.world.policies.clone();
        self.subjects = view.subjects.clone();
        for slot in &concerned {
            match self.subjects.get(slot) {
                None => drop(self.rulesets.remove(&slot.0)),
                Some(subject) => {
                    let rulesets = compile_subject(&view.world, subject);
                    if self.rulesets.get(&slot.0).map(AsRef::as_ref) != Some(&rulesets) {
                        self.rulesets.insert(slot.0, Arc::new(rulesets));
                    }
                }
            }
        }
        concerned.len()
    }

    /// The slots whose rulesets may be other ones than before: of subjects that changed, and of those that a policy
    /// selects that changed, before or after it did.
    fn concerned(&mut self, view: &View) -> BTreeSet<Slot> {
        let mut concerned = BTreeSet::new();
        for difference in self.subjects.diff(&view.subjects) {
            let (slot, old, new) = match difference {
                DiffItem::Add(slot, new) => (slot, None, Some(new)),
                DiffItem::Remove(slot, old) => (slot, Some(old), None),
                DiffItem::Update {
                    old: (_, old),
                    new: (slot, new),
                } => (slot, Some(old), Some(new)),
            };
            if let Some(old) = old {
                self.by_namespace
                    .remove(&(old.name.namespace.clone(), *slot));
            }
            if let Some(new) = new {
                self.by_namespace
                    .insert((new.name.namespace.clone(), *slot));
            }
            concerned.insert(*slot);
        }
        for difference in self.policies.diff(&view.world.policies) {
            let (name, old, new) = match difference {
                DiffItem::Add(name, new) => (name, None, Some(new)),
                DiffItem::Remove(name, old) => (name, Some(old), None),
                DiffItem::Update {
                    old: (_, old),
                    new: (name, new),
                } => (name, Some(old), Some(new)),
            };
            let slots = slots_in(&self.by_namespace, &name.namespace);
            concerned.extend(slots.filter(|slot| {
                let subject = view.subjects.get(slot);
                subject.is_some_and(|subject| {
                    let mut both = old.into_iter().chain(new);
                    both.any(|policy| applies(policy, subject))
                })
            }));
        }
        concerned
    }

    /// All of them. A copy costs next to nothing.
    pub(super) fn rulesets(&self) -> &Rulesets {
        &self.rulesets
    }

    /// The rulesets of one slot.
    pub(super) fn of(&self, slot: Slot) -> Option<&Arc<SubjectRulesets>> {
        self.rulesets.get(&slot.0)
    }
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
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::IpAddr;

    use podgate_policy::compile::ruleset::Ruleset;
    use podgate_policy::connection::Baseline;
    use podgate_policy::model::{ListName, Namespace, Pod, Selector};

    use super::*;

    fn world() -> World {
        let pod = |last| Pod {
            addresses: vec![IpAddr::from([10, 0, 0, last])],
            ..Pod::default()
        };
        World {
            namespaces: OrdMap::unit("ns".to_owned(), Namespace::new("ns", BTreeMap::new())),
            pods: OrdMap::from_iter([
                (ObjectName::new("ns", "a"), Arc::new(pod(1))),
                (ObjectName::new("ns", "b"), Arc::new(pod(2))),
            ]),
            node_addresses: vec![IpAddr::from([192, 0, 2, 1])],
            listed: OrdMap::unit(IpAddr::from([192, 0, 2, 9]), listed(&["l", "m"])),
            ..World::default()
        }
    }

    fn listed(names: &[&str]) -> Arc<BTreeSet<ListName>> {
        Arc::new(names.iter().map(|name| ListName((*name).into())).collect())
    }

    fn changed(change: impl FnOnce(&mut World)) -> FactsChange {
        let mut new = world();
        change(&mut new);
        FactsChange::between(&world(), &new)
    }

    fn deny() -> Arc<NetworkPolicy> {
        Arc::new(NetworkPolicy {
            members: Selector::everything().into(),
            isolates_ingress: true,
            isolates_egress: false,
            ingress: Vec::new(),
            egress: Vec::new(),
        })
    }

    #[test]
    fn what_merely_goes_away_may_wait_and_nothing_else_may() {
        let a = ObjectName::new("ns", "a");
        assert_eq!(changed(|_| {}), FactsChange::None);
        assert_eq!(
            changed(|w| drop(w.policies.insert(a.clone(), deny()))),
            FactsChange::None
        );
        assert_eq!(
            changed(|w| drop(w.pods.remove(&a))),
            FactsChange::MerelyGone
        );
        assert_eq!(
            changed(|w| w.node_addresses.clear()),
            FactsChange::MerelyGone
        );
        assert_eq!(changed(|w| w.namespaces.clear()), FactsChange::MerelyGone);
        assert_eq!(changed(|w| w.listed.clear()), FactsChange::MerelyGone);
        let relabelled = Arc::new(Pod {
            labels: [("x".to_owned(), "y".to_owned())].into(),
            ..world().pods[&a].as_ref().clone()
        });
        assert_eq!(
            changed(|w| drop(w.pods.insert(a.clone(), relabelled))),
            FactsChange::Now
        );
        let reused = |w: &mut World| {
            let gone = w.pods.remove(&a).unwrap();
            w.pods.insert(ObjectName::new("ns", "c"), gone);
        };
        assert_eq!(changed(reused), FactsChange::Now);
        let service = |w: &mut World| drop(w.services.insert(a.clone(), Arc::default()));
        assert_eq!(changed(service), FactsChange::Now);
        let slice = |w: &mut World| drop(w.endpoint_slices.insert(a.clone(), Arc::default()));
        assert_eq!(changed(slice), FactsChange::Now);
        let named = |w: &mut World| w.node_name = Some("here".into());
        assert_eq!(changed(named), FactsChange::Now);
        let more = |w: &mut World| w.node_addresses.push(IpAddr::from([192, 0, 2, 2]));
        assert_eq!(changed(more), FactsChange::Now);
        for lists in [listed(&["l"]), listed(&["l", "m", "n"])] {
            let address = IpAddr::from([192, 0, 2, 9]);
            let change = |w: &mut World| drop(w.listed.insert(address, lists));
            assert_eq!(changed(change), FactsChange::Now);
        }
    }

    #[test]
    fn rulesets_follow_policies_labels_and_attachments() {
        let subject = |name: &str| {
            Arc::new(Subject::new(
                ObjectName::new("ns", name),
                &Pod::default(),
                Baseline::Standard,
            ))
        };
        let mut view = View {
            world: world(),
            subjects: OrdMap::unit(Slot(1), subject("a")),
            ..View::default()
        };
        let mut compiled = Compiled::default();
        compiled.update(&view);
        assert_eq!(compiled.of(Slot(1)).unwrap().ingress, Ruleset::Allowed);
        view.world
            .policies
            .insert(ObjectName::new("ns", "deny"), deny());
        view.subjects.insert(Slot(2), subject("b"));
        compiled.update(&view);
        for slot in [Slot(1), Slot(2)] {
            assert_ne!(compiled.of(slot).unwrap().ingress, Ruleset::Allowed);
            assert_eq!(compiled.of(slot).unwrap().egress, Ruleset::Allowed);
        }
        let elsewhere = Subject {
            name: ObjectName::new("other", "b"),
            ..subject("b").as_ref().clone()
        };
        view.subjects = OrdMap::unit(Slot(2), Arc::new(elsewhere));
        compiled.update(&view);
        assert_eq!(compiled.of(Slot(1)), None);
        assert_eq!(compiled.of(Slot(2)).unwrap().ingress, Ruleset::Allowed);
    }
}
