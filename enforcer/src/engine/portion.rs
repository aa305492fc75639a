// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Portions of a change of facts: what many pods change at once is planned over several turns.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use podgate_policy::difference::parts;
use podgate_policy::model::{ObjectName, Pod, World};

use super::dataplane::Dataplane;
use crate::plan::{Plan, PlanError, Planner};

/// A portion that takes longer than this is too large.
const LONG: Duration = Duration::from_millis(10);

/// How many pods the first portion has.
const FIRST: usize = 64;

/// How many pods a portion has: what each costs depends on all policies, so that it is measured.
#[derive(Debug)]
pub(super) struct Portion(usize);

impl Default for Portion {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Portion {
    /// Plans a portion of the way from some facts to others, with those at the addresses `first`. The plan, what the facts are
    /// then, and whether that is all.
    pub(super) fn plan(
        &mut self,
        node: &impl Dataplane,
        planner: &mut Planner,
        (old, new): (&World, &World),
        first: &BTreeSet<IpAddr>,
    ) -> Result<(Plan, World, Size), PlanError> {
        let (world, size) = self.towards(old, new, first);
        let began = node.now();
        let plan = planner.facts_change(&world)?;
        self.took(node.now().saturating_duration_since(began));
        Ok((plan, world, size))
    }

    /// Takes note of how long one took.
    fn took(&mut self, time: Duration) {
        if time > LONG {
            self.0 = (self.0 / 2).max(1);
        } else if time < LONG / 4 {
            self.0 = self.0.saturating_mul(2);
        }
    }

    /// `new`, but of the pods that differ only a portion, and at least those at these addresses. Everything else differs first,
    /// as the API server promises no order between kinds. An address goes from one pod to another in one portion, so that it is
    /// what it was before or what it will be.
    fn towards(&self, old: &World, new: &World, first: &BTreeSet<IpAddr>) -> (World, Size) {
        let changes = Changes::between(&old.pods, &new.pods);
        if changes.pods.len() <= self.0 {
            return (new.clone(), Size::Whole);
        }
        let pods = changes.some(&old.pods, first, self.0);
        let world = World {
            pods,
            ..new.clone()
        };
        (world, Size::Part)
    }
}

/// How much of a change a portion has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// All that is left of it.
    Whole,
    /// More comes.
    Part,
}

/// The pods that differ.
struct Changes<'a> {
    /// What they were and what they are.
    pods: BTreeMap<&'a ObjectName, Change<'a>>,
    /// Which of them have, or had, an address.
    at: BTreeMap<IpAddr, Vec<&'a ObjectName>>,
}

/// What a pod was and what it is.
#[derive(Clone, Copy)]
struct Change<'a> {
    old: Option<&'a Arc<Pod>>,
    new: Option<&'a Arc<Pod>>,
}

impl<'a> Change<'a> {
    /// The addresses that were or are its own: those of its node are not.
    fn addresses(self) -> impl Iterator<Item = IpAddr> + 'a {
        let both = self.old.into_iter().chain(self.new);
        let selectable = both.filter(|pod| pod.is_selectable());
        selectable.flat_map(|pod| pod.addresses.iter().copied())
    }
}

impl<'a> Changes<'a> {
    fn between(
        old: &'a OrdMap<ObjectName, Arc<Pod>>,
        new: &'a OrdMap<ObjectName, Arc<Pod>>,
    ) -> Self {
        let pods: BTreeMap<_, _> = old
            .diff(new)
            .map(parts)
            .map(|(name, old, new)| (name, Change { old, new }))
            .collect();
        let mut at: BTreeMap<IpAddr, Vec<&ObjectName>> = BTreeMap::new();
        for (name, change) in &pods {
            for address in change.addresses() {
                at.entry(address).or_default().push(name);
            }
        }
        Self { pods, at }
    }

    /// `pods` with those at the addresses `first`, and then others, until there are `room`.
    fn some(
        mut self,
        pods: &OrdMap<ObjectName, Arc<Pod>>,
        first: &BTreeSet<IpAddr>,
        room: usize,
    ) -> OrdMap<ObjectName, Arc<Pod>> {
        let mut pods = pods.clone();
        let at_first = first.iter().filter_map(|address| self.at.get(address));
        let urgent: Vec<&ObjectName> = at_first.flatten().copied().collect();
        let mut taken = 0;
        for name in urgent {
            taken += self.take(name, &mut pods);
        }
        while taken < room {
            let Some((name, _)) = self.pods.first_key_value() else {
                break;
            };
            taken += self.take(name, &mut pods);
        }
        pods
    }

    /// Changes a pod, and all that share addresses with it. How many.
    fn take(&mut self, name: &'a ObjectName, pods: &mut OrdMap<ObjectName, Arc<Pod>>) -> usize {
        let mut taken = 0;
        let mut names = vec![name];
        while let Some(name) = names.pop() {
            let Some(change) = self.pods.remove(name) else {
                continue;
            };
            taken += 1;
            match change.new {
                Some(new) => drop(pods.insert(name.clone(), Arc::clone(new))),
                None => drop(pods.remove(name)),
            }
            let sharing = change
                .addresses()
                .filter_map(|address| self.at.remove(&address));
            names.extend(sharing.flatten());
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use podgate_policy::compile::facts::Facts;
    use podgate_policy::compile::predicate::{Predicate, Questions};
    use podgate_policy::model::{Namespace, Operator, Requirement, Selector};
    use proptest::prelude::*;

    use super::*;

    /// Pods by number, each with an address and a label, some on their node's network.
    fn world(pods: &[(u8, u8, u8, bool)]) -> World {
        let pod = |(name, address, label, on_host): &(u8, u8, u8, bool)| {
            let pod = Pod {
                addresses: vec![IpAddr::from([10, 0, 0, *address])],
                labels: [("l".to_owned(), label.to_string())].into(),
                host_network: *on_host,
                ..Pod::default()
            };
            (ObjectName::new("ns", name.to_string()), Arc::new(pod))
        };
        World {
            namespaces: OrdMap::unit("ns".to_owned(), Namespace::new("ns", BTreeMap::new())),
            pods: pods.iter().map(pod).collect(),
            ..World::default()
        }
    }

    /// Asks for each label.
    fn questions() -> Questions {
        let predicates = (0..4_u8).map(|label| {
            let pods = Selector::Requirements(vec![Requirement {
                key: "l".into(),
                operator: Operator::In(vec![label.to_string()]),
            }]);
            Arc::new(Predicate::Pods {
                namespace: "ns".into(),
                pods: pods.into(),
            })
        });
        Questions {
            predicates: predicates.collect(),
            ..Questions::default()
        }
    }

    fn some_world() -> impl Strategy<Value = World> {
        let pod = (0..12_u8, 0..8_u8, 0..4_u8, prop::bool::weighted(0.2));
        prop::collection::vec(pod, 0..12).prop_map(|pods| world(&pods))
    }

    proptest! {
        /// An address is what it was or what it will be, and those that go first are at once what they will be.
        #[test]
        fn an_address_is_what_it_was_or_will_be_in_every_portion(
            (old, new) in (some_world(), some_world()),
            size in 1..4_usize,
            first in prop::collection::btree_set(0..8_u8, 0..2),
        ) {
            let first: BTreeSet<IpAddr> =
                first.into_iter().map(|it| IpAddr::from([10, 0, 0, it])).collect();
            let questions = questions();
            let [before, after] = [&old, &new].map(|world| Facts::of(world, &questions));
            let addresses: HashSet<IpAddr> = (0..8).map(|it| IpAddr::from([10, 0, 0, it])).collect();
            let mut now = old.clone();
            for portion in 1.. {
                let (next, part) = Portion(size).towards(&now, &new, &first);
                prop_assert!(next.pods != now.pods || part == Size::Whole);
                now = next;
                let facts = Facts::of(&now, &questions);
                for address in &addresses {
                    let said = facts.signature_of(*address);
                    let [was, will_be] = [&before, &after].map(|it| it.signature_of(*address));
                    prop_assert!(said == was || said == will_be);
                    prop_assert!(said == will_be || !first.contains(address));
                }
                if part == Size::Whole {
                    break;
                }
                prop_assert!(portion < 24);
            }
            prop_assert!(now == new);
        }
    }

    #[test]
    fn a_slow_portion_shrinks_and_a_fast_one_grows() {
        let mut portion = Portion(3);
        for (took, pods) in [(20, 1), (20, 1), (5, 1), (1, 2), (1, 4)] {
            portion.took(Duration::from_millis(took));
            assert_eq!(portion.0, pods);
        }
    }
}
