// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interfaces of the node that no attachment explains, and host ends that somebody changed.
//!
//! A pod with `CAP_NET_ADMIN` in the node's own user namespace can name the node's network namespace by
//! `IFLA_TARGET_NETNSID`: it can make a second veth between the two, and change what its host end is. A policy cannot keep
//! it from that; it is told of within a second.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use podgate_datapath::mark;
use podgate_datapath::netlink::{Ifindex, Kind, Link};
use podgate_datapath::record::{Record, Slot};

use super::Engine;
use super::dataplane::Dataplane;

/// Changes are looked at together that come within this time of each other.
const GATHER: Duration = Duration::from_millis(50);

/// How long an interface may be there before its ADD: the plugins before ours make it, and we are told of it.
const ADD: Duration = Duration::from_millis(400);

/// What somebody who may change host ends would change. Its group is not among it: that is set again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Looks {
    name: String,
    mac: Option<[u8; 6]>,
    master: Option<Ifindex>,
    xdp: Option<u32>,
}

/// What is known of the node's interfaces.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// How host ends were when they were first seen.
    first: BTreeMap<Slot, (Ifindex, Looks)>,
    /// Since when interfaces are there that nothing explains.
    unexplained: BTreeMap<Ifindex, Instant>,
    /// What is wrong, each a sentence for people.
    reports: Vec<String>,
    due: Option<Instant>,
}

impl Links {
    /// Something may have changed.
    pub(super) fn look_soon(&mut self, now: Instant) {
        let soon = now + GATHER;
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// When they are to be looked at.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What is wrong.
    pub(super) fn reports(&self) -> &[String] {
        &self.reports
    }

    /// Judges what is there; whether there is something else to report now.
    fn judge<'a>(
        &mut self,
        now: Instant,
        links: &[Link],
        records: impl Iterator<Item = &'a Record>,
    ) -> bool {
        self.due = None;
        let by_number: BTreeMap<Ifindex, &Record> = records
            .map(|record| (record.host_ifindex, record))
            .collect();
        let slots: BTreeSet<Slot> = by_number.values().map(|record| record.slot).collect();
        self.first.retain(|slot, _| slots.contains(slot));
        let mut reports = Vec::new();
        // The namespaces of attachments, by the numbers that the node has for them.
        let mut namespaces = BTreeMap::new();
        for link in links {
            let Some(record) = by_number.get(&link.ifindex) else {
                continue;
            };
            if let Some(number) = link.link_netnsid {
                namespaces.insert(number, *record);
            }
            reports.extend(self.changes(link, record));
        }
        let before = std::mem::take(&mut self.unexplained);
        for link in links
            .iter()
            .filter(|link| !by_number.contains_key(&link.ifindex))
        {
            let Some(why) = unexplained(link, &namespaces) else {
                continue;
            };
            let since = before.get(&link.ifindex).copied().unwrap_or(now);
            self.unexplained.insert(link.ifindex, since);
            let reported_from = since + ADD;
            if reported_from <= now {
                reports.push(why);
            } else {
                self.due = Some(self.due.map_or(reported_from, |due| due.min(reported_from)));
            }
        }
        let changed = reports != self.reports;
        for report in &reports {
            if !self.reports.contains(report) {
                tracing::warn!("{report}");
                metrics::counter!("podgate_unexplained_changes_total").increment(1);
            }
        }
        self.reports = reports;
        changed
    }

    /// What of a host end is not as it was.
    fn changes(&mut self, link: &Link, record: &Record) -> Option<String> {
        let now = Looks {
            name: link.name.clone(),
            mac: link.mac,
            master: link.master,
            xdp: link.xdp,
        };
        let (number, first) = self
            .first
            .entry(record.slot)
            .or_insert_with(|| (link.ifindex, now.clone()));
        if *number != link.ifindex {
            // An ADD that was repeated on another interface.
            (*number, *first) = (link.ifindex, now.clone());
        }
        let was = Looks {
            mac: record.host_mac.or(first.mac),
            ..first.clone()
        };
        if was == now {
            return None;
        }
        let mut what = Vec::new();
        if was.name != now.name {
            what.push(format!("its name was {}", was.name));
        }
        if was.mac != now.mac {
            what.push("its hardware address was another".to_owned());
        }
        if was.master != now.master {
            what.push("it was not a port of what it is a port of now".to_owned());
        }
        if was.xdp != now.xdp {
            what.push(
                "it ran another XDP program or none, and XDP comes before podgate's programs"
                    .to_owned(),
            );
        }
        Some(format!(
            "interface {} ({}), the host end of attachment {}, was changed on the node: {}",
            link.ifindex,
            link.name,
            record.identity,
            what.join(", ")
        ))
    }
}

/// Why nothing explains an interface, if nothing does.
fn unexplained(link: &Link, namespaces: &BTreeMap<i32, &Record>) -> Option<String> {
    let into = link.link_netnsid.and_then(|number| namespaces.get(&number));
    if let (Kind::Veth, Some(record)) = (&link.kind, into) {
        return Some(format!(
            "interface {} ({}) leads into the network namespace of attachment {}, and no attachment names it: what comes by \
             it is judged by no policy",
            link.ifindex, link.name, record.identity
        ));
    }
    let slot = mark::slot(link)?;
    Some(format!(
        "interface {} ({}) has podgate's device group of slot {}, and no attachment file names it: what it receives \
         is dropped, and where our filters are gone, too, nothing judges what is sent to its pod; see that the conflist's \
         runDir is this enforcer's --run-dir, and delete that pod, so that its controller makes another",
        link.ifindex, link.name, slot.0
    ))
}

impl<D: Dataplane> Engine<D> {
    /// Those of these interfaces that are host ends, and are not in their group any more.
    pub(super) fn unmarked(&self, changed: &BTreeSet<Ifindex>) -> BTreeSet<Ifindex> {
        let concerned: Vec<&Record> = self
            .known
            .cluster
            .records()
            .filter(|record| changed.contains(&record.host_ifindex))
            .collect();
        if concerned.is_empty() {
            return BTreeSet::new();
        }
        let is_unmarked = |record: &&Record| {
            let link = self.node.link(record.host_ifindex);
            link.is_ok_and(|link| mark::slot(&link) != Some(record.slot))
        };
        let unmarked = concerned.into_iter().filter(is_unmarked);
        unmarked.map(|record| record.host_ifindex).collect()
    }

    /// Attachments of which there is a file only: their ADD was not handed over, or is not over.
    fn unread_records(&mut self) -> Vec<Record> {
        // Only where an interface waits to be explained: many looks in a row need not read all files.
        if self.surroundings.links.unexplained.is_empty()
            || self.node.directory().is_still(&self.known.directory)
        {
            return Vec::new();
        }
        let births = self.known.cluster.records().map(|record| record.birth.0);
        let known: BTreeSet<u32> = births.collect();
        // What cannot be read is reported by who reads it to use it.
        let listed = self.node.records().unwrap_or_default().into_iter();
        let unread = listed.flatten();
        unread
            .filter(|record| !known.contains(&record.birth.0))
            .collect()
    }

    /// Looks at the node's interfaces if that is due; whether there is something to report or to put in force now.
    pub(super) fn look_at_links(&mut self, now: Instant) -> bool {
        if self.surroundings.links.due().is_none_or(|due| due > now) {
            return false;
        }
        let changed = match self.node.links() {
            Ok(links) => {
                let unread = self.unread_records();
                let records = self.known.cluster.records().chain(&unread);
                self.surroundings.links.judge(now, &links, records) || !unread.is_empty()
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the node's interfaces cannot be listed; it is tried again"
                );
                self.surroundings.links.due = Some(now + ADD);
                false
            }
        };
        let number = u32::try_from(self.surroundings.links.reports.len()).unwrap_or(u32::MAX);
        metrics::gauge!("podgate_unexplained").set(number);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn record() -> Record {
        Record {
            host_mac: Some([2, 0, 0, 0, 0, 7]),
            ..fixture::record(3)
        }
    }

    fn link(ifindex: u32, netns: Option<i32>) -> Link {
        Link {
            ifindex: Ifindex(ifindex),
            name: format!("v{ifindex}"),
            kind: Kind::Veth,
            mac: Some([2, 0, 0, 0, 0, 7]),
            link: Some(Ifindex(2)),
            link_netnsid: netns,
            group: 0,
            master: None,
            xdp: None,
            up: true,
        }
    }

    #[test]
    fn a_second_veth_into_a_pod_is_told_of_when_no_add_came_for_it() {
        let (mut links, begin, record) = (Links::default(), Instant::now(), record());
        let both = [link(7, Some(5)), link(8, Some(5)), link(9, Some(6))];
        assert!(!links.judge(begin, &both, [&record].into_iter()));
        assert_eq!(links.due(), Some(begin + ADD));
        assert!(links.judge(begin + ADD, &both, [&record].into_iter()));
        assert_eq!(links.reports().len(), 1);
        assert!(links.reports()[0].starts_with("interface 8 (v8) leads into"));
        assert!(links.judge(begin + ADD, &both[..1], [&record].into_iter()));
        assert!(links.reports().is_empty());
    }

    /// Nothing attaches programs to it again: its pod has to be made again.
    #[test]
    fn a_host_end_without_an_attachment_says_what_to_do() {
        let (mut links, begin) = (Links::default(), Instant::now());
        let left = Link {
            group: mark::group(Slot(3)),
            ..link(8, Some(5))
        };
        let left = std::slice::from_ref(&left);
        assert!(!links.judge(begin, left, std::iter::empty()));
        assert!(links.judge(begin + ADD, left, std::iter::empty()));
        let report = &links.reports()[0];
        for part in [
            "device group of slot 3",
            "nothing judges what is sent",
            "delete that pod",
        ] {
            assert!(report.contains(part), "{report}");
        }
    }

    /// A host end that is not as it was is reported until it is so again.
    #[test]
    fn a_changed_host_end_is_reported_until_it_is_restored() {
        let (mut links, now, record) = (Links::default(), Instant::now(), record());
        let before = link(7, Some(5));
        assert!(!links.judge(now, std::slice::from_ref(&before), [&record].into_iter()));
        for after in [
            Link {
                name: "x".into(),
                ..before.clone()
            },
            Link {
                mac: Some([2; 6]),
                ..before.clone()
            },
            Link {
                xdp: Some(9),
                ..before.clone()
            },
            Link {
                master: Some(Ifindex(1)),
                ..before.clone()
            },
        ] {
            assert!(links.judge(now, &[after], [&record].into_iter()));
            assert_eq!(links.reports().len(), 1);
            assert!(links.judge(now, std::slice::from_ref(&before), [&record].into_iter()));
        }
    }
}
