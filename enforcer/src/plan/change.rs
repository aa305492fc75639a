//! The two kinds of change, each as the order of its writes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use podgate_abi::{Direction as Side, Ruleset, Slot};
use podgate_policy::compile::facts::Facts;
use podgate_policy::compile::ports::{PortSet, Row};
use podgate_policy::compile::predicate::{Predicate, Questions, Signature};
use podgate_policy::compile::ruleset::Ruleset as Compiled;
use podgate_policy::compile::{SubjectRulesets, questions_of};
use podgate_policy::connection::{Direction, TUNNEL_PROTOCOLS, TUNNEL_UDP_PORTS};
use podgate_policy::model::World;

use super::{Installed, Plan, PlanError, Step, Write, kernel_direction};

/// Both directions, in the order in which an attachment's rulesets are kept.
const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Other rulesets under the same facts.
pub(super) fn of_policy(
    before: &Installed,
    attachments: &[(Slot, SubjectRulesets)],
) -> Result<(Installed, Plan), PlanError> {
    let mut after = before.clone();
    let mut steps = Vec::new();
    after.attachments = shared(attachments);
    if after.attachments == before.attachments {
        return Ok((
            after,
            Plan {
                steps,
                in_force_after: 0,
            },
        ));
    }
    after.questions = questions_of(after.rulesets());

    let mut refined = before.questions.clone();
    refined.add(&after.questions);
    let finer = facts_under(before, &refined);
    after
        .record
        .install(after.attachments.values().flatten(), &finer, &mut steps)?;
    after.record.point(&finer, &mut steps)?;

    for (slot, rulesets) in &after.attachments {
        let known = before.attachments.get(slot);
        for (index, direction) in BOTH.into_iter().enumerate() {
            if known.map(|known| &known[index]) != Some(&rulesets[index]) {
                let ruleset = after.record.number_of(&rulesets[index]);
                steps.push(Step::Write(Write::Flip {
                    slot: *slot,
                    direction: kernel_direction(direction),
                    ruleset: ruleset.expect("a ruleset is installed before it is put in force"),
                }));
            }
        }
    }
    let in_force_after = steps.len();

    let live: BTreeSet<Ruleset> = after
        .rulesets()
        .filter_map(|ruleset| after.record.number_of(ruleset))
        .collect();
    if !after.record.dead_rulesets(&live).is_empty() {
        steps.push(Step::Grace);
        after.record.discard_rulesets(&live, &mut steps);
    }
    after.facts = if after.questions == refined {
        finer
    } else {
        facts_under(before, &after.questions)
    };
    after.record.install([], &after.facts, &mut steps)?;
    after.record.point(&after.facts, &mut steps)?;
    discard_classes(&mut after, &mut steps);
    Ok((
        after,
        Plan {
            steps,
            in_force_after,
        },
    ))
}

/// Other facts under the same rulesets.
pub(super) fn of_facts(before: &Installed, world: &World) -> Result<(Installed, Plan), PlanError> {
    let mut after = before.clone();
    let mut steps = Vec::new();
    after.world = World {
        policies: OrdMap::new(),
        ..world.clone()
    };
    after.facts = Facts::of(&after.world, &after.questions);
    after.record.install([], &after.facts, &mut steps)?;
    after.record.point(&after.facts, &mut steps)?;
    let in_force_after = steps.len();

    let losers = losers(before, &after.facts);
    if !losers.is_empty() {
        steps.push(Step::Grace);
        for (slot, direction) in losers {
            steps.push(Step::Write(Write::Renew { slot, direction }));
        }
    }
    discard_classes(&mut after, &mut steps);
    Ok((
        after,
        Plan {
            steps,
            in_force_after,
        },
    ))
}

impl Installed {
    fn rulesets(&self) -> impl Iterator<Item = &Compiled> {
        self.attachments.values().flatten().map(AsRef::as_ref)
    }
}

/// The facts of the record under other questions.
fn facts_under(installed: &Installed, questions: &Questions) -> Facts {
    if *questions == installed.questions {
        return installed.facts.clone();
    }
    Facts::of(&installed.world, questions)
}

/// Deletes what stands under classes that nothing has, after a grace period, if there are any: a program may still
/// hold the class that an address had. Renewed flows need no grace period of their own, but share one.
fn discard_classes(after: &mut Installed, steps: &mut Vec<Step>) {
    if after.record.dead_classes().is_empty() {
        return;
    }
    let moved_since_grace = steps
        .iter()
        .rev()
        .take_while(|step| **step != Step::Grace)
        .any(|step| match step {
            Step::Grace => false,
            Step::Write(write) => match write {
                Write::Peer { .. }
                | Write::RemovePeer { .. }
                | Write::Prefix { .. }
                | Write::RemovePrefix { .. } => true,
                Write::Chunk { .. }
                | Write::PortSet { .. }
                | Write::DefaultRow { .. }
                | Write::Row { .. }
                | Write::RemoveRow { .. }
                | Write::Flip { .. }
                | Write::Renew { .. } => false,
            },
        });
    if moved_since_grace {
        steps.push(Step::Grace);
    }
    after.record.discard_classes(steps);
}

/// The same rulesets, equal ones once.
fn shared(attachments: &[(Slot, SubjectRulesets)]) -> BTreeMap<Slot, [Arc<Compiled>; 2]> {
    let mut distinct: BTreeSet<Arc<Compiled>> = BTreeSet::new();
    let mut share = |ruleset: &Compiled| match distinct.get(ruleset) {
        Some(known) => Arc::clone(known),
        None => {
            let new = Arc::new(ruleset.clone());
            distinct.insert(Arc::clone(&new));
            new
        }
    };
    attachments
        .iter()
        .map(|(slot, rulesets)| (*slot, BOTH.map(|direction| share(rulesets.of(direction)))))
        .collect()
}

/// The attachments and directions whose ruleset allows less than before with some address.
///
/// Who has an address is not asked: what an established flow may do depends on the class of its peer alone.
fn losers(before: &Installed, facts: &Facts) -> Vec<(Slot, Side)> {
    let changes = changes(before, facts);
    let mut lost: BTreeMap<(Direction, &Compiled), bool> = BTreeMap::new();
    let mut losers = Vec::new();
    for (slot, rulesets) in &before.attachments {
        for (direction, ruleset) in BOTH.into_iter().zip(rulesets) {
            let has_lost = *lost.entry((direction, ruleset)).or_insert_with(|| {
                changes.iter().any(|(old, new)| {
                    let (old, new) = (
                        allowed(ruleset, direction, old),
                        allowed(ruleset, direction, new),
                    );
                    !old.without(&new).is_none()
                })
            });
            if has_lost {
                losers.push((*slot, kernel_direction(direction)));
            }
        }
    }
    losers
}

/// What addresses said and say, wherever that changed and may allow less: more predicates never do.
fn changes(before: &Installed, facts: &Facts) -> BTreeSet<(Arc<Signature>, Arc<Signature>)> {
    let known = before.facts.addresses().map(|(address, _)| address);
    let addresses: BTreeSet<IpAddr> = known
        .chain(facts.addresses().map(|(address, _)| address))
        .collect();
    addresses
        .into_iter()
        .map(|address| {
            let old = match before.record.peer(address) {
                Some(signature) => Arc::clone(signature),
                None => blocks_of(before.facts.signature_of(address)),
            };
            (old, Arc::clone(facts.signature_of(address)))
        })
        .filter(|(old, new)| old != new && !only_gains(old, new))
        .collect()
}

/// What an address says without an entry of its own.
fn blocks_of(signature: &Arc<Signature>) -> Arc<Signature> {
    let blocks = signature
        .predicates()
        .iter()
        .filter(|predicate| match predicate.as_ref() {
            Predicate::Block { .. } => true,
            Predicate::OwnNode
            | Predicate::ClusterPods { .. }
            | Predicate::Pods { .. }
            | Predicate::Listed(_) => false,
        });
    Arc::new(Signature::new(blocks.cloned(), []))
}

/// Whether `new` has all that `old` has, and the node's addresses are the same: then no ruleset allows less.
fn only_gains(old: &Signature, new: &Signature) -> bool {
    old.is_own_node() == new.is_own_node()
        && old
            .predicates()
            .iter()
            .all(|predicate| new.predicates().binary_search(predicate).is_ok())
        && old
            .ports()
            .iter()
            .all(|port| new.ports().binary_search(port).is_ok())
}

/// What the kernel lets a ruleset allow with a peer: without any policy, all but tunnels from the pod to its node.
fn allowed(ruleset: &Compiled, direction: Direction, peer: &Signature) -> Row {
    let row = ruleset.row(peer);
    if *ruleset != Compiled::Allowed || direction == Direction::Ingress || !peer.is_own_node() {
        return row;
    }
    let protocols = TUNNEL_PROTOCOLS.map(u16::from);
    row.without(&Row {
        udp: PortSet::of(TUNNEL_UDP_PORTS),
        rest: PortSet::of(protocols),
        ..Row::none()
    })
}
