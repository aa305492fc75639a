// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a new view changes of the facts.

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use podgate_policy::model::World;

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
        let same_node = old.node_name == new.node_name
            && old.service_options == new.service_options
            && old.tunnel_ports == new.tunnel_ports
            && old.node_scopes == new.node_scopes;
        let same = old.pods == new.pods
            && old.namespaces == new.namespaces
            && old.services == new.services
            && old.endpoint_slices == new.endpoint_slices
            && old.node_addresses == new.node_addresses
            && old.cluster_nodes == new.cluster_nodes
            && old.listed == new.listed
            && same_node;
        if same {
            return Self::None;
        }
        let kept = same_node
            && old.cluster_nodes == new.cluster_nodes
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::IpAddr;
    use std::sync::Arc;

    use podgate_policy::model::{ListName, Namespace, ObjectName, Pod};

    use super::*;
    use crate::fixture::deny;

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
        let relabeled = Arc::new(Pod {
            labels: [("x".to_owned(), "y".to_owned())].into(),
            ..world().pods[&a].as_ref().clone()
        });
        assert_eq!(
            changed(|w| drop(w.pods.insert(a.clone(), relabeled))),
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
}
