// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Changes of facts, as the order of their writes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::ordset::DiffItem;
use podgate_abi::{Direction, RulesetId, Slot};
use podgate_policy::compile::facts::Facts;
use podgate_policy::compile::ports::{PortSet, Row};
use podgate_policy::compile::predicate::Predicate;
use podgate_policy::compile::ruleset::{Judge, Ruleset};
use podgate_policy::compile::signature::Signature;
use podgate_policy::connection::tunnel;
use podgate_policy::model::World;

use super::moved::Moved;
use super::record::Fresh;
use super::ways::Ways;
use super::{Installed, Plan, PlanError};

/// What is remembered of one address for its established flows. Whoever may write EndpointSlices could let it grow; beyond
/// this they are judged by what the address says now.
pub(super) const MOST_SPARED: usize = 16;

/// Other facts under the same rulesets.
pub(super) fn of_facts(after: &mut Installed, world: &World) -> Result<Plan, PlanError> {
    let before = &after.clone();
    let mut writes = Vec::new();
    let (facts, evaluated) = before.facts.under(world, before.facts.questions());
    let mut moved = Moved::between(&before.facts, &facts, before.record.lacking());
    moved.addresses.extend(before.record.forgotten());
    let mut losing = BTreeSet::new();
    for address in &moved.addresses {
        let changes = before.changes_of(*address, facts.signature_of(*address));
        after.linger(*address, &changes);
        losing.extend(changes.into_iter().filter(Change::may_lose));
    }
    for loser in revoked(before, &losing) {
        after.renewals.insert(loser, after.record.now());
    }
    let ways = Ways::between(&before.facts, &facts);
    let revoked = ways.revoked(&before.attachments);
    for loser in revoked.into_iter().chain(led_at_nodes(before, &facts)) {
        after.renewals.insert(loser, after.record.now());
    }
    after.facts = facts;
    ways.write_before(&mut writes);
    after.move_some(&mut moved, usize::MAX, &mut Fresh::default(), &mut writes)?;
    ways.write_after(&mut writes);
    Ok(Plan { writes, evaluated })
}

impl Installed {
    /// What established flows to an address may be of: what it says, and what it said when they were last spared.
    fn said(&self, address: IpAddr) -> BTreeSet<Arc<Signature>> {
        let mut said = self
            .grandfathered
            .get(&address)
            .cloned()
            .unwrap_or_default();
        said.insert(match self.record.peer(address) {
            Some(signature) => Arc::clone(signature),
            None => blocks_of(self.facts.signature_of(address)),
        });
        said
    }

    /// All that established flows to an address may be of, each as it becomes `new`.
    fn changes_of(&self, address: IpAddr, new: &Arc<Signature>) -> BTreeSet<Change> {
        let said = self.said(address).into_iter();
        let changes: BTreeSet<Change> = said.map(|old| Change::between(old, new)).collect();
        let spared: BTreeSet<_> = changes.iter().flat_map(|change| &change.spared).collect();
        if spared.len() <= MOST_SPARED {
            return changes;
        }
        let cut = |change| Change {
            spared: None,
            ..change
        };
        changes.into_iter().map(cut).collect()
    }

    /// Remembers what flows to an address may still be of, now that it has changed.
    fn linger(&mut self, address: IpAddr, changes: &BTreeSet<Change>) {
        let spared = changes.iter().flat_map(|change| &change.spared);
        let spared: BTreeSet<_> = spared.cloned().collect();
        if spared.is_empty() {
            self.grandfathered.remove(&address);
        } else {
            self.grandfathered.insert(address, spared);
        }
    }
}

/// All attachments, if a NodePort leads into a tunnel and there are addresses at which no ruleset has a row for it: those of
/// another node, and those that this node takes for itself without having them, of which the programs ask the routes
/// for each packet.
fn led_at_nodes(before: &Installed, now: &Facts) -> BTreeSet<(Slot, Direction)> {
    let [was, is] = [&before.facts, now].map(Facts::world);
    let mut nodes = was.cluster_nodes.diff(&is.cluster_nodes);
    let is_new = !is.node_scopes.is_subset(&was.node_scopes)
        || nodes.any(|difference| matches!(difference, DiffItem::Add(_)));
    let mut ways = now.ways().iter().map(|(way, _)| way.0);
    if !is_new || !ways.any(|address| address.is_unspecified()) {
        return BTreeSet::new();
    }
    let slots = before.attachments.keys();
    slots
        .flat_map(|slot| Direction::BOTH.map(|direction| (*slot, direction)))
        .collect()
}

/// The attachments and directions whose ruleset allows less than before with some address.
///
/// Who has an address is not asked: what an established flow may do depends on the class of its peer alone.
fn revoked(before: &Installed, changes: &BTreeSet<Change>) -> BTreeSet<(Slot, Direction)> {
    let mut concerned: BTreeMap<RulesetId, BTreeSet<Change>> = BTreeMap::new();
    for change in changes {
        let Change { old, new, .. } = change;
        let mut rulesets = before.record.rulesets_about(old);
        rulesets.extend(before.record.rulesets_about(new));
        if old.is_own_node() != new.is_own_node() || old.is_node() != new.is_node() {
            // What is always allowed with the own node, and what never is with any, has no number of its own.
            rulesets.insert(RulesetId::ALLOW_ALL);
        }
        if change.becomes_node() {
            rulesets.extend(before.record.rulesets_held());
        }
        for ruleset in rulesets {
            concerned.entry(ruleset).or_default().insert(change.clone());
        }
    }
    let mut revoked = BTreeSet::new();
    for (ruleset, changes) in &concerned {
        let mut lost: BTreeMap<Direction, bool> = BTreeMap::new();
        for (slot, direction) in before.record.holders_of(*ruleset) {
            let has_lost = *lost.entry(direction).or_insert_with(|| {
                let compiled = before.ruleset_of(slot, direction);
                compiled.is_some_and(|ruleset| {
                    let judge = &mut Judge::of(ruleset);
                    changes.iter().any(|change| {
                        let before = allowed(judge, direction, &change.old);
                        let lost = before.without(&allowed(judge, direction, &change.new));
                        let spared = change.spared_by(judge, direction);
                        !lost.without(&spared).is_none() || change.ends_tunnels(judge, direction)
                    })
                })
            });
            if has_lost {
                revoked.insert((slot, direction));
            }
        }
    }
    revoked
}

/// What an address said, and says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    old: Arc<Signature>,
    new: Arc<Signature>,
    /// What established flows are judged by meanwhile, where that is not `new`.
    spared: Option<Arc<Signature>>,
}

impl Change {
    fn between(old: Arc<Signature>, new: &Arc<Signature>) -> Self {
        Self {
            spared: new.sparing(&old).map(Arc::new),
            new: Arc::clone(new),
            old,
        }
    }

    /// Whether a ruleset may allow less with it: more predicates never do.
    fn may_lose(&self) -> bool {
        self.old != self.new && !only_gains(&self.old, &self.new)
    }

    /// Whether the address is a node's from now on.
    fn becomes_node(&self) -> bool {
        self.new.is_node() && !self.old.is_node()
    }

    /// Whether flows may be among those that a ruleset lets the peer begin which the programs drop from now on, whatever the
    /// ruleset says: from a tunnel that ends at a node. Rows have the pod's ports and not the peer's, so any of UDP may be.
    fn ends_tunnels(&self, judge: &mut Judge<'_>, direction: Direction) -> bool {
        let row = match direction {
            Direction::Ingress if self.becomes_node() => judge.row(&self.old),
            Direction::Ingress | Direction::Egress => return false,
        };
        let mut protocols = tunnel::PROTOCOLS.iter();
        !row.udp.is_empty() || protocols.any(|protocol| row.rest.contains((*protocol).into()))
    }

    /// What established flows may go on with, though a ruleset allows it no more: nothing that is known denies it.
    fn spared_by(&self, judge: &mut Judge<'_>, direction: Direction) -> Row {
        match (direction, &self.spared) {
            (Direction::Egress, Some(spared)) => allowed(judge, direction, spared),
            (Direction::Egress, None) | (Direction::Ingress, _) => Row::none(),
        }
    }
}

/// What an address says without an entry of its own.
fn blocks_of(signature: &Arc<Signature>) -> Arc<Signature> {
    let blocks = signature
        .predicates()
        .iter()
        .filter(|predicate| match predicate.as_ref() {
            Predicate::Block { .. } => true,
            Predicate::OwnNode
            | Predicate::OtherNode
            | Predicate::ClusterPods { .. }
            | Predicate::Pods { .. }
            | Predicate::Listed(_) => false,
        });
    Arc::new(Signature::new(blocks.cloned(), []))
}

/// Whether `new` has all that `old` has, and the node's addresses are the same: then no ruleset allows less.
fn only_gains(old: &Signature, new: &Signature) -> bool {
    old.is_own_node() == new.is_own_node()
        && old.is_node() == new.is_node()
        && old.translation() == new.translation()
        && old
            .predicates()
            .iter()
            .all(|predicate| new.predicates().binary_search(predicate).is_ok())
        && old
            .ports()
            .iter()
            .all(|port| new.ports().binary_search(port).is_ok())
}

/// What the kernel lets a ruleset allow with a peer: without any policy, all but tunnels from the pod to a node. Those that
/// the node's devices take are not asked for here: an address that becomes a node's loses the usual ones with them.
fn allowed(judge: &mut Judge<'_>, direction: Direction, peer: &Signature) -> Row {
    let row = judge.row(peer);
    if *judge.ruleset() != Ruleset::Allowed || direction == Direction::Ingress || !peer.is_node() {
        return row;
    }
    let protocols = tunnel::PROTOCOLS.map(u16::from);
    row.without(&Row {
        udp: PortSet::of(tunnel::UDP_PORTS),
        rest: PortSet::of(protocols),
        ..Row::none()
    })
}
