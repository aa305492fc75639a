//! The compiled policies of the node's own pods, kept as policies and pods change.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use podgate_datapath::record::Slot;
use podgate_policy::compile::{SubjectRulesets, applies, compile_subject};
use podgate_policy::connection::Subject;
use podgate_policy::model::{NetworkPolicy, ObjectName};

use crate::cluster::View;
use crate::plan::Rulesets;

/// The compiled policies of all subjects. What cannot have changed is not compiled again.
#[derive(Debug, Default)]
pub struct Compiled {
    policies: OrdMap<ObjectName, Arc<NetworkPolicy>>,
    subjects: OrdMap<Slot, Arc<Subject>>,
    /// The subjects of each namespace.
    by_namespace: BTreeSet<(String, Slot)>,
    /// What was compiled of each.
    compiled: Rulesets,
    /// What attachments are to have whatever is compiled of them.
    withheld: Rulesets,
    /// What they are to have.
    rulesets: Rulesets,
}

impl Compiled {
    /// Brings them up to `view`; how many subjects were compiled.
    pub fn update(&mut self, view: &View) -> usize {
        let concerned = self.concerned(view);
        self.policies = view.world.policies.clone();
        self.subjects = view.subjects.clone();
        for slot in &concerned {
            match self.subjects.get(slot) {
                None => drop(self.compiled.remove(&slot.0)),
                Some(subject) => {
                    let rulesets = compile_subject(&view.world, subject);
                    if self.compiled.get(&slot.0).map(AsRef::as_ref) != Some(&rulesets) {
                        self.compiled.insert(slot.0, Arc::new(rulesets));
                    }
                }
            }
            self.follow(slot.0);
        }
        concerned.len()
    }

    /// These attachments are to have these rulesets, whatever is compiled of them; all others what is compiled.
    pub fn withhold(&mut self, withheld: Rulesets) {
        let before = std::mem::replace(&mut self.withheld, withheld);
        let differing = before
            .diff(&self.withheld)
            .map(|difference| match difference {
                DiffItem::Add(slot, _)
                | DiffItem::Remove(slot, _)
                | DiffItem::Update { new: (slot, _), .. } => *slot,
            });
        for slot in differing.collect::<Vec<_>>() {
            self.follow(slot);
        }
    }

    fn follow(&mut self, slot: u32) {
        let wanted = self
            .withheld
            .get(&slot)
            .or_else(|| self.compiled.get(&slot));
        match wanted {
            None => drop(self.rulesets.remove(&slot)),
            Some(wanted) => {
                if self.rulesets.get(&slot) != Some(wanted) {
                    self.rulesets.insert(slot, Arc::clone(wanted));
                }
            }
        }
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
    pub fn rulesets(&self) -> &Rulesets {
        &self.rulesets
    }

    /// What is compiled of one slot, whether or not it is to have that.
    pub fn what_is_compiled(&self, slot: Slot) -> Option<&Arc<SubjectRulesets>> {
        self.compiled.get(&slot.0)
    }

    /// Those that are not compiled: of attachments whose pods are not known.
    pub fn withheld(&self) -> &Rulesets {
        &self.withheld
    }

    /// The rulesets of one slot.
    pub fn of(&self, slot: Slot) -> Option<&Arc<SubjectRulesets>> {
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
    use podgate_policy::compile::ruleset::Ruleset;
    use podgate_policy::connection::Baseline;
    use podgate_policy::model::{Labels, Operator, Pod, Requirement, Selector};

    use super::*;
    use crate::fixture::deny;

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

    #[test]
    fn a_policy_compiles_the_subjects_that_it_selects_before_or_after_and_no_other() {
        let labelled = |app: &str| Labels::from([("app".to_owned(), app.to_owned())]);
        let subject = |namespace: &str, app: &str| {
            let pod = Pod {
                labels: labelled(app),
                ..Pod::default()
            };
            let name = ObjectName::new(namespace, app);
            Arc::new(Subject::new(name, &pod, Baseline::Standard))
        };
        let for_app = |app: &str| {
            let requirement = Requirement {
                key: "app".into(),
                operator: Operator::In(vec![app.into()]),
            };
            Arc::new(NetworkPolicy {
                members: Selector::Requirements(vec![requirement]).into(),
                ..deny().as_ref().clone()
            })
        };
        let mut view = View {
            subjects: OrdMap::from_iter([
                (Slot(1), subject("ns", "a")),
                (Slot(2), subject("ns", "b")),
                (Slot(3), subject("ns", "c")),
                (Slot(4), subject("other", "a")),
            ]),
            ..View::default()
        };
        let mut compiled = Compiled::default();
        assert_eq!(compiled.update(&view), 4);
        assert_eq!(compiled.update(&view), 0);
        let name = ObjectName::new("ns", "policy");
        for (app, compiles) in [("a", 1), ("b", 2), ("nobody", 1), ("nobody else", 0)] {
            view.world.policies.insert(name.clone(), for_app(app));
            assert_eq!(compiled.update(&view), compiles, "{app}");
        }
    }
}
