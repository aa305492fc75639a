// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the engine says of itself: its condition, and figures.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use imbl::ordmap::DiffItem;
use podgate_abi::{Direction, Reason};
use podgate_datapath::guard::Family;
use podgate_datapath::record::Slot;

use super::Engine;
use super::dataplane::{Dataplane, Set};
use super::state::Hindrance;
use crate::condition::Condition;
use crate::source::SourceStatus;
use crate::stored::CLOSED_POLICIES;
use crate::warning::{Matter, Warning};

/// How often figures are published while there is more to do.
const OFTEN: Duration = Duration::from_millis(200);

/// The kernel's counters as they were when they were added to ours. A new table set begins at zero.
#[derive(Debug, Default)]
pub(super) struct Counted {
    packets: [Vec<u64>; 2],
    unjudged: BTreeMap<Family, u64>,
}

impl Counted {
    /// The table set is another one.
    pub(super) fn forget(&mut self) {
        self.packets = Default::default();
    }

    /// How much each counter of a direction has grown.
    fn growth(&mut self, direction: Direction, now: Vec<u64>) -> Vec<u64> {
        let before = std::mem::replace(&mut self.packets[direction as usize], now.clone());
        let before = before.into_iter().chain(std::iter::repeat(0));
        now.iter()
            .zip(before)
            .map(|(now, before)| now.saturating_sub(before))
            .collect()
    }
}

/// Every reason with its name in metrics.
const REASONS: &[(Reason, &str)] = &[
    (Reason::Established, "established"),
    (Reason::Allowed, "allowed"),
    (Reason::Unpoliced, "unpoliced"),
    (Reason::Node, "node"),
    (Reason::Own, "own"),
    (Reason::Neighbor, "neighbor"),
    (Reason::Related, "related"),
    (Reason::Fragment, "fragment"),
    (Reason::OnLink, "on_link"),
    (Reason::Policy, "policy"),
    (Reason::DenyAll, "deny_all"),
    (Reason::NoRecord, "no_record"),
    (Reason::NotIp, "not_ip"),
    (Reason::Spoofed, "spoofed"),
    (Reason::ForgedNeighbor, "forged_neighbor"),
    (Reason::Tunnel, "tunnel"),
    (Reason::BadIpHeader, "bad_ip_header"),
    (Reason::BadTransportHeader, "bad_transport_header"),
    (Reason::TooManyHeaders, "too_many_headers"),
    (Reason::SourceRoute, "source_route"),
    (Reason::MappedAddress, "mapped_address"),
    (Reason::FragmentWithoutFirst, "fragment_without_first"),
    (Reason::Torn, "torn"),
    (Reason::AmbiguousHeaders, "ambiguous_headers"),
    (Reason::OffloadMetadata, "offload_metadata"),
    (Reason::NotForPod, "not_for_pod"),
    (Reason::ForeignHardwareAddress, "foreign_hardware_address"),
    (Reason::TooManyReports, "too_many_reports"),
];

impl<D: Dataplane> Engine<D> {
    /// How many attachments have another policy in force than the one that is known.
    fn dirty(&self) -> usize {
        let differences = self.standing.rulesets.diff(self.compiled.rulesets());
        let dirty = differences.filter_map(|difference| match difference {
            DiffItem::Add(slot, _) | DiffItem::Update { new: (slot, _), .. } => Some(*slot),
            DiffItem::Remove(..) => None,
        });
        let dirty: BTreeSet<Slot> = dirty.chain(self.compiled.due()).collect();
        dirty.len()
    }

    fn condition_now(&self) -> Condition {
        let SourceStatus {
            errors,
            mut warnings,
        } = self.known.source.clone();
        if let Some(error) = &self.standing.built.blind {
            warnings.push(Warning::from(format!(
                "checksum offload is not checked: a pod with CAP_NET_RAW can have the ports of a packet overwritten after its verdict: {error}"
            )));
        }
        for (namespace, why) in self.compiled.suspended() {
            warnings.push(Warning::suspended(namespace, why, CLOSED_POLICIES));
        }
        let of_node = self
            .surroundings
            .links
            .reports()
            .iter()
            .chain(&self.surroundings.guard.unsupported);
        warnings.extend(of_node.cloned().map(Warning::from));
        warnings.extend(self.surroundings.own_node.warning().map(Warning::from));
        for unpaired in [&self.surroundings.unattached, &self.surroundings.unheard_of] {
            warnings.extend(unpaired.warning().map(Warning::from));
        }
        warnings.extend(self.standing.built.taken.warning().map(Warning::from));
        warnings.extend(self.known.cluster.foreign_warnings());
        warnings.extend(self.surroundings.crowded.warnings());
        // While it is only being worked out, no reason to be not ready: whoever may write a policy could cause that for ever.
        let dirty = self.dirty();
        if dirty > 0 {
            warnings.push(Warning::from(format!(
                "{dirty} attachments are dirty: a change of policy is not in force there yet"
            )));
        }
        let doubt = self.known.doubt.as_deref();
        let doubt = doubt.map(|why| format!("the API server is asked for each new pod: {why}"));
        warnings.extend(doubt.map(Warning::from));
        let mut reasons = errors;
        reasons.extend(self.surroundings.guard.failed.iter().cloned());
        reasons.extend(self.known.unreadable.iter().cloned());
        reasons.extend(self.standing.isolated_file.trouble.iter().cloned());
        let hindrances = || {
            let hindrances = self.hindrances.iter().filter(|(_, it)| it.is_reason());
            hindrances.map(|(slot, hindrance)| {
                let record = self
                    .known
                    .cluster
                    .records()
                    .find(|record| record.slot == slot);
                let identity = record.map(|record| record.identity.to_string());
                (identity.unwrap_or_default(), hindrance)
            })
        };
        for (identity, hindrance) in hindrances() {
            reasons.extend(hindrance.open.iter().map(|why| {
                format!("attachment {identity} cannot be isolated while its policy is not in force: {why}")
            }));
        }
        if let Some(trouble) = &self.pace.trouble {
            reasons.push(format!("a change is not in force yet: {trouble}"));
        }
        let waits = self.standing.built.planner.waits_for_grace();
        if waits && self.grace.is_late(self.node.now()) {
            reasons.push(
                "a grace period of the kernel does not end: connections may go on that are not allowed any more; see the log"
                    .to_owned(),
            );
        }
        for (identity, hindrance) in hindrances() {
            let both = hindrance.unswapped.iter().chain(&hindrance.shadowed);
            reasons.extend(both.map(|why| format!("attachment {identity} is not in force: {why}")));
        }
        if reasons.is_empty() {
            Condition::Ready { warnings }
        } else {
            Condition::Degraded { reasons, warnings }
        }
    }

    /// The same as [`Self::publish`], but not in every turn of many that follow each other at once.
    pub(super) fn publish_in_time(&mut self) {
        if !self.standing.more_to_do
            || self
                .node
                .now()
                .saturating_duration_since(self.reports.published)
                >= OFTEN
        {
            self.publish();
        }
    }

    /// Says how things are to whoever asks for health, and sets the gauges.
    pub(super) fn publish(&mut self) {
        self.reports.published = self.node.now();
        self.look_at_flows();
        let cluster = &self.known.cluster;
        // A directory of manifests may well leave all Nodes out.
        let has_nodes = self.adds.questions.is_some();
        self.surroundings
            .own_node
            .look(cluster.missing_node().filter(|_| has_nodes));
        let time = self.node.now();
        self.surroundings.unattached.look(time, || {
            cluster.without_attachment().map(ToString::to_string)
        });
        self.surroundings
            .unheard_of
            .look(time, || cluster.without_object().map(|pod| pod.to_string()));
        let now = self.condition_now();
        let suspended = suspended_in(now.warnings()).len();
        metrics::gauge!("podgate_namespaces_suspended").set(figure(suspended as u64));
        self.reports.condition.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        let dirty = self.dirty();
        let is_known = |slot: &&Slot| !self.standing.unknown.contains(*slot);
        let known = self.compiled.rulesets().keys().filter(is_known).count();
        let number = |is_so: fn(&Hindrance) -> bool| {
            let hindrances = self.hindrances.iter();
            hindrances.filter(|(_, it)| is_so(it)).count()
        };
        for (state, number) in [
            ("in_force", known.saturating_sub(dirty)),
            ("dirty", dirty),
            ("unknown", self.standing.unknown.len()),
            ("not_swapped", number(|it| it.unswapped.is_some())),
            ("shadowed", number(|it| it.shadowed.is_some())),
        ] {
            metrics::gauge!("podgate_attachments", "state" => state).set(figure(number as u64));
        }
        metrics::gauge!("podgate_pods_without_attachment")
            .set(figure(self.surroundings.unattached.number() as u64));
        let late = u8::from(self.grace.is_late(self.node.now()));
        metrics::gauge!("podgate_grace_period_late").set(late);
        for of in self.standing.built.planner.occupancy() {
            let table = of.table.name();
            metrics::gauge!("podgate_table_entries", "table" => table).set(of.used);
            metrics::gauge!("podgate_table_capacity", "table" => table).set(of.capacity);
        }
        let taken = self.standing.built.taken.number();
        metrics::gauge!("podgate_table_entries", "table" => "taken").set(figure(taken as u64));
        metrics::gauge!("podgate_table_capacity", "table" => "taken").set(podgate_abi::MAX_TAKEN);
    }

    /// Reads how many flows the attachments have.
    fn look_at_flows(&mut self) {
        match self.standing.built.set.flow_use() {
            Ok(found) => self
                .surroundings
                .crowded
                .take(found, self.known.cluster.records()),
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "how many flows pods have cannot be read"
                );
            }
        }
    }

    /// Adds what the kernel has counted, and reads what its tables cost.
    pub(super) fn count(&mut self) {
        self.count_packets();
        self.count_unjudged();
        self.measure_tables();
        self.publish();
    }

    /// Adds what the kernel has counted since this was asked last.
    pub(super) fn count_packets(&mut self) {
        for direction in Direction::BOTH {
            let now = match self.standing.built.set.counters(direction) {
                Ok(now) => now,
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the kernel's counters cannot be read"
                    );
                    continue;
                }
            };
            let growth = self.reports.counted.growth(direction, now);
            for &(reason, label) in REASONS {
                let verdict = if reason.passes() { "pass" } else { "drop" };
                let more = growth.get(reason as usize).copied().unwrap_or(0);
                metrics::counter!("podgate_packets_total", "direction" => direction.program(), "verdict" => verdict, "reason" => label)
                    .increment(more);
            }
        }
    }

    /// Adds what the guard has dropped since this was asked last. It begins at zero whenever it is put there.
    fn count_unjudged(&mut self) {
        for family in Family::ALL {
            let Ok(now) = self.node.dropped_by_guard(family) else {
                // That it does not stand is told already.
                continue;
            };
            let before = self
                .reports
                .counted
                .unjudged
                .insert(family, now)
                .unwrap_or(0);
            let more = if now < before { now } else { now - before };
            metrics::counter!("podgate_unjudged_packets_total", "family" => family.name())
                .increment(more);
        }
    }

    fn measure_tables(&self) {
        match self.standing.built.set.usage() {
            Ok(tables) => {
                for usage in tables {
                    let table = usage.map.name();
                    metrics::gauge!("podgate_table_bytes", "table" => table)
                        .set(figure(usage.bytes));
                }
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the memory of tables cannot be asked for"
                );
            }
        }
    }
}

/// The namespaces that are suspended for what they take to compile or to store.
fn suspended_in(warnings: &[Warning]) -> BTreeSet<&str> {
    let about = warnings.iter().filter_map(|it| it.about.as_ref());
    about
        .filter(|(_, matter)| *matter == Matter::PoliciesSuspended)
        .map(|(object, _)| object.name.name.as_str())
        .collect()
}

/// A figure as gauges have them.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float; counts and bytes are far below 2^53"
)]
fn figure(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_grow_from_zero_and_begin_again_with_a_new_table_set() {
        let mut counted = Counted::default();
        assert_eq!(counted.growth(Direction::Ingress, vec![3, 0]), [3, 0]);
        assert_eq!(counted.growth(Direction::Ingress, vec![5, 1]), [2, 1]);
        assert_eq!(counted.growth(Direction::Egress, vec![7]), [7]);
        counted.forget();
        assert_eq!(counted.growth(Direction::Ingress, vec![1, 1]), [1, 1]);
    }

    #[test]
    fn every_reason_of_the_kernel_has_one_name() {
        let mut numbers: Vec<u8> = REASONS.iter().map(|(reason, _)| *reason as u8).collect();
        numbers.sort_unstable();
        let passes = Reason::Established as u8..=Reason::OnLink as u8;
        let drops = Reason::Policy as u8..=Reason::OffloadMetadata as u8;
        let of_links = Reason::NotForPod as u8..=Reason::TooManyReports as u8;
        assert_eq!(
            numbers,
            passes.chain(drops).chain(of_links).collect::<Vec<_>>()
        );
    }
}
