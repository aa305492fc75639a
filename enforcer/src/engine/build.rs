// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Start, restart, upgrade, and tables that must grow: one procedure (`docs/adr/0011`).
//!
//! ```text
//! sources, attachment files ──► planner of an empty set ──► new set: filled, checked, named current
//!                                                             └──► filters swapped, one attachment after another
//! ```
//! Until its swap an attachment is judged by its old set, untouched. What is here happens under the lock, so that no
//! attachment comes or goes meanwhile; what takes long came before it ([`super::draft`]).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use podgate_datapath::Sizes;
use podgate_datapath::flows::Copied;
use podgate_datapath::isolated::Isolation;
use podgate_datapath::record::{Record, Slot};

use super::dataplane::{Dataplane, Set};
use super::draft::{Basis, Drafted};
use super::taken::{self, Taken};
use crate::cluster::Cluster;
use crate::plan::{Capacities, Occupancy, Plan, PlanError, Planner, Table, Write};

/// Generations further ahead than this are behind: the counter goes round.
const SANE: u32 = 1 << 31;

/// A table set that is in force, and the planner that knows what it holds.
#[derive(Debug)]
pub(super) struct Built<S> {
    pub(super) set: S,
    pub(super) planner: Planner,
    pub(super) sizes: Sizes,
    /// Where its programs take the node's devices to take tunnels.
    pub(super) tunnel_ports: BTreeSet<u16>,
    /// Which addresses its programs take for those of others.
    pub(super) taken: Taken,
    /// Why its programs do not look at checksums that are still to be computed, if they do not.
    pub(super) blind: Option<String>,
}

/// Attachments whose filters are still an older set's, and why.
pub(super) type Unswapped = BTreeMap<Slot, String>;

/// Puts in force what was drafted, for the attachments that there are. When it fails, the set before stays current and in force.
pub(super) fn put_in_force<D: Dataplane>(
    node: &D,
    lock: &D::Lock,
    drafted: Drafted<D>,
    cluster: &Cluster,
    isolated: impl Fn(&Record) -> Isolation,
) -> Result<(Built<D::Set>, Unswapped)> {
    let Drafted {
        set,
        planner,
        sizes,
        taken,
        world,
        words,
        ..
    } = drafted;
    if let Err(error) = node.write_sizes(&sizes) {
        // A plugin reads them only where it finds no table set.
        tracing::warn!(
            error = format!("{error:#}"),
            "the sizes of tables cannot be written for the plugin; it would begin with those of before"
        );
    }
    if let Some(current) = node.with_foreign_flows()? {
        tracing::warn!(
            current,
            "the flows of the current table set have another version's layout: connections are judged anew",
        );
    }
    let blind = node.blindness();
    if let Some(error) = &blind {
        tracing::warn!(
            error,
            "the kernel's BTF does not give the layout of sk_buff, so checksum offload is not checked: a pod with CAP_NET_RAW can \
             have a checksum written over the ports of a packet after its verdict; use a kernel with CONFIG_DEBUG_INFO_BTF, or drop CAP_NET_RAW",
        );
    }
    for record in cluster.records() {
        set.put_attachment(record, isolated(record))?;
        follow_master(&*set, record);
    }
    outgrow(&*set, cluster.records())?;
    let is_known = |slot: &Slot| planner.attachments().contains_key(slot);
    for ((slot, direction), ruleset) in words {
        if is_known(&slot) {
            let flip = Write::Flip {
                slot,
                direction,
                ruleset,
            };
            D::fill(&set, &flip).context("fill the new table set")?;
        }
    }
    // What an older word of theirs allowed is not taken up again with the generation of their birth.
    for record in cluster.records().filter(|it| !is_known(&it.slot)) {
        set.renew(record.slot)?;
    }
    set.put_tunnel_ports(&world.tunnel_ports)?;
    taken.set_modes(&*set, &cluster.foreign_modes());
    copy_flows(&*set, None);
    let before = node.current().ok().flatten();
    let set = node.name_current(set, lock)?;
    let mut unswapped = Unswapped::new();
    for record in cluster.records() {
        if let Err(error) = take_over(&set, record, lock) {
            tracing::error!(
                attachment = %record.identity,
                error = format!("{error:#}"),
                "an attachment stays with its older table set",
            );
            unswapped.insert(record.slot, format!("{error:#}"));
            taken::end(before.as_ref(), record);
        }
    }
    copy_flows(&set, None);
    node.unpin_unused(lock);
    tracing::info!(set = %set.name(), attachments = cluster.records().count(), "a new table set is in force");
    let built = Built {
        set,
        planner,
        sizes,
        tunnel_ports: world.tunnel_ports,
        taken,
        blind,
    };
    Ok((built, unswapped))
}

/// Tells a table set what the host end of an attachment is a port of. While it does not know, neighbor discovery of the
/// pod has the pod's own link only.
pub(super) fn follow_master(set: &impl Set, record: &Record) {
    if let Err(error) = set.follow_master(record) {
        tracing::warn!(
            attachment = %record.identity,
            error = format!("{error:#}"),
            "which bridge the attachment is a port of could not be read or written; it is tried again",
        );
    }
}

/// Makes the filters of an attachment run this set's programs: those that stand by a swap, those that are missing
/// anew.
pub(super) fn take_over<S: Set>(set: &S, record: &Record, lock: &S::Lock) -> Result<()> {
    if set.swap(record, lock).is_ok() {
        return Ok(());
    }
    // Why it did not work is told by one of the two that follow, unless it works now.
    if set.restore(record, lock)? {
        tracing::warn!(attachment = %record.identity, "put back filters that somebody had removed");
    }
    set.swap(record, lock)
}

/// Draws generations until they are younger than every attachment. They are, unless somebody removed the pins with
/// the counter: then no flow would count as one.
fn outgrow<'a>(set: &impl Set, records: impl Iterator<Item = &'a Record>) -> Result<()> {
    let drawn = set.draw_generation()?;
    let behind = records
        .map(|record| record.birth.0)
        .map(|birth| birth.wrapping_sub(drawn))
        .filter(|&by| by < SANE)
        .max();
    for _ in 0..behind.unwrap_or(0) {
        set.draw_generation()?;
    }
    Ok(())
}

/// A planner and all writes that fill an empty set, in tables that have room for twice that, as far as they grow. It is
/// planned once, in tables as large as they can be.
pub(super) fn fit(basis: &Basis) -> Result<(Planner, Vec<Write>, Sizes), PlanError> {
    let mut sizes = basis.sizes;
    let highest = basis.records.iter().map(|record| record.slot).max();
    sizes.attachments = sizes.attachments.max(highest.map_or(0, |slot| slot.0) + 1);
    let mut largest = sizes;
    for table in Table::ALL {
        while grow(&mut largest, table) {}
    }
    let (mut planner, writes) = plan_everything(&largest, basis)?;
    for of in planner.occupancy() {
        let is_tight = |sizes: &mut Sizes| {
            size_of(sizes, of.table)
                .is_some_and(|(size, _)| u64::from(of.used) * 2 > (*size).into())
        };
        while is_tight(&mut sizes) && grow(&mut sizes, of.table) {}
    }
    planner.limit_to(capacities(&sizes));
    Ok((planner, writes, sizes))
}

fn plan_everything(sizes: &Sizes, basis: &Basis) -> Result<(Planner, Vec<Write>), PlanError> {
    let mut planner = Planner::new(capacities(sizes));
    let mut writes = Vec::new();
    let mut note = |planner: &mut Planner, plan: Plan| {
        writes.extend_from_slice(plan.writes());
        planner.commit(plan);
    };
    let facts = planner.facts_change(&basis.world)?;
    note(&mut planner, facts);
    let policy = planner.policy_change(&basis.rulesets)?;
    note(&mut planner, policy);
    Ok((planner, writes))
}

fn capacities(sizes: &Sizes) -> Capacities {
    Capacities {
        rulesets: sizes.rulesets,
        rows: sizes.rows,
        peers: sizes.peers,
        prefixes: sizes.prefixes,
        port_sets: sizes.portsets,
        chunks: sizes.chunks,
    }
}

/// Doubles a table; whether it could.
pub(super) fn grow(sizes: &mut Sizes, table: Table) -> bool {
    let Some((size, most)) = size_of(sizes, table) else {
        return false;
    };
    let larger = size.saturating_mul(2).min(most);
    let grows = larger > *size;
    if grows {
        *size = larger;
    }
    grows
}

/// Whether a table has grown beyond what was asked for and is not filled to a quarter any more.
pub(super) fn is_too_large(asked: &Sizes, now: &Sizes, occupancy: &[Occupancy]) -> bool {
    let (mut asked, mut now) = (*asked, *now);
    occupancy.iter().any(|of| {
        let sizes = size_of(&mut asked, of.table).zip(size_of(&mut now, of.table));
        sizes.is_some_and(|((asked, _), (now, _))| *now > *asked && of.used < *now / 4)
    })
}

/// The size of a table, and its limit; none if it has no size of its own.
fn size_of(sizes: &mut Sizes, table: Table) -> Option<(&mut u32, u32)> {
    Some(match table {
        Table::Rulesets => (&mut sizes.rulesets, 1 << 14),
        // A table of 2^18 takes 50 MB, and the one that it replaces is still there.
        Table::Rows => (&mut sizes.rows, 1 << 18),
        Table::Peers => (&mut sizes.peers, 1 << 22),
        Table::Prefixes => (&mut sizes.prefixes, 1 << 20),
        Table::PortSets => (&mut sizes.portsets, 1 << 16),
        Table::Chunks => (&mut sizes.chunks, 1 << 16),
        Table::Classes => return None,
    })
}

/// Copies the flows of sets whose tables of flows have another size: all, or those of one attachment that came over
/// later. Without them connections are judged anew, which is no reason to keep old policies in force.
pub(super) fn copy_flows(set: &impl Set, only: Option<Slot>) {
    match set.copy_flows(only) {
        Ok(Copied { copied: 0, left: 0 }) => {}
        Ok(Copied { copied, left }) => {
            tracing::info!(copied, left, "copied the flows of older table sets")
        }
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "flows of older table sets could not be copied: connections are judged anew"
            );
        }
    }
}

/// Whether the set holds as much as the planner thinks. An ADD may have deleted its addresses since.
pub(super) fn check(set: &impl Set, planner: &Planner) -> Result<()> {
    for of in planner.occupancy() {
        let may_lack = of.table == Table::Peers;
        let Some(found) = set.entries(of.table)? else {
            continue;
        };
        if found > of.used || found < of.used && !may_lack {
            bail!(
                "check the new table set {}: table {} holds {found} entries and not {}; it is not used",
                set.name(),
                of.table.name(),
                of.used
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use imbl::OrdMap;
    use podgate_policy::compile::compile_subject;
    use podgate_policy::connection::{Baseline, Subject};
    use podgate_policy::model::{
        Namespaces, NetworkPolicy, ObjectName, Peer, Pod, Rule, Selector, World,
    };

    use super::*;
    use crate::plan::Rulesets;

    /// Pods with an address each, all of them peers of a policy.
    fn world(pods: u16) -> World {
        let policy = NetworkPolicy {
            members: Selector::everything().into(),
            isolates_ingress: true,
            isolates_egress: false,
            ingress: vec![Rule {
                peers: vec![Peer::Pods {
                    namespaces: Namespaces::Own,
                    pods: Selector::everything(),
                }],
                ports: Vec::new(),
            }],
            egress: Vec::new(),
        };
        let pod = |number: u16| {
            let [high, low] = number.to_be_bytes();
            let pod = Pod {
                addresses: vec![IpAddr::from([10, 0, high, low])],
                ..Pod::default()
            };
            (ObjectName::new("ns", format!("p{number}")), Arc::new(pod))
        };
        World {
            pods: (0..pods).map(pod).collect(),
            policies: OrdMap::unit(ObjectName::new("ns", "policy"), Arc::new(policy)),
            ..World::default()
        }
    }

    #[test]
    fn tables_grow_until_they_have_room_for_twice_what_is_in_force() {
        let world = world(300);
        let (name, pod) = world.pods.get_min().unwrap();
        let subject = Subject::new(name.clone(), pod, Baseline::Allow);
        let rulesets = Rulesets::unit(Slot(1), Arc::new(compile_subject(&world, &subject)));
        let small = Sizes {
            peers: 16,
            ..Sizes::default()
        };
        let basis = Basis {
            sizes: small,
            records: Vec::new(),
            world: world.clone(),
            rulesets,
        };
        let (planner, writes, sizes) = fit(&basis).unwrap();
        assert_eq!(sizes.peers, 1024);
        assert_eq!(
            sizes,
            Sizes {
                peers: 1024,
                ..Sizes::default()
            }
        );
        assert!(!writes.is_empty());
        let peers = planner
            .occupancy()
            .into_iter()
            .find(|of| of.table == Table::Peers);
        assert_eq!(peers.unwrap().used, 300);
    }

    /// A table is too large when it has grown and is not filled to a quarter.
    #[test]
    fn a_grown_table_filled_below_a_quarter_is_too_large() {
        let asked = Sizes::default();
        let grown = Sizes {
            rows: asked.rows * 2,
            ..asked
        };
        let rows = |used, capacity| Occupancy {
            table: Table::Rows,
            used,
            capacity,
        };
        assert!(!is_too_large(&asked, &asked, &[rows(0, asked.rows)]));
        let quarter = grown.rows / 4;
        assert!(is_too_large(
            &asked,
            &grown,
            &[rows(quarter - 1, grown.rows)]
        ));
        assert!(!is_too_large(&asked, &grown, &[rows(quarter, grown.rows)]));
    }

    #[test]
    fn what_cannot_grow_is_an_error_in_the_end() {
        let mut sizes = Sizes::default();
        assert!(!grow(&mut sizes, Table::Classes));
        while grow(&mut sizes, Table::Rulesets) {}
        assert_eq!(sizes.rulesets, 1 << 14);
    }
}
