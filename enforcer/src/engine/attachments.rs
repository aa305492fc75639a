// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Attachments as they stand on the node: their files, their interfaces, and who else is on those.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use podgate_datapath::attach::FilterStatus;
use podgate_datapath::isolated::Isolation;
use podgate_datapath::netlink::Ifindex;
use podgate_datapath::record::{Record, Slot};
use podgate_datapath::sweep::Swept;

use super::Engine;
use super::adds::Waiting;
use super::build::{copy_flows, follow_master, take_over};
use super::dataplane::{Dataplane, Set};
use super::directory::Directory;
use super::inbox::Links;
use super::reconcile::LOCK_PATIENCE;
use crate::cluster::Cluster;

/// When interfaces are looked after again that could not be.
pub(super) const RETRY: Duration = Duration::from_secs(1);

impl<D: Dataplane> Engine<D> {
    /// Reads the attachment files, which outrank every source. What is new is the plugin's: its words, and nothing
    /// known of its addresses.
    pub(super) fn read_attachments(&mut self, lock: &D::Lock) -> Result<()> {
        let directory = self.node.directory();
        if !directory.is_still(&self.known.directory) {
            self.read_all_attachments(directory, lock)?;
        }
        for waiting in &mut self.adds.waiting {
            waiting.files_were_read = true;
        }
        Ok(())
    }

    fn read_all_attachments(&mut self, directory: Directory, lock: &D::Lock) -> Result<()> {
        let (records, are_all) = self.attachments_now(lock)?;
        self.known.directory = if are_all {
            directory
        } else {
            Directory::default()
        };
        let new = self.known.cluster.set_attachments(records);
        if !new.is_empty() {
            // Their interfaces may have been reported as nobody's.
            self.surroundings.links.look_soon(self.node.now());
        }
        // Those that are gone stay, until the planner has been told.
        for slot in &new {
            self.compiled.forget(*slot);
            self.standing.rulesets.remove(slot);
        }
        let standing = self.known.cluster.records().map(|record| record.slot);
        let same = standing.filter(|slot| !new.contains(slot)).collect();
        self.hindrances.retain(&same);
        let records: Vec<Record> = self
            .known
            .cluster
            .records()
            .filter(|record| new.contains(&record.slot))
            .cloned()
            .collect();
        for record in &records {
            let isolated = self.isolated(record);
            if let Err(error) = finish_record(&self.standing.built.set, record, isolated) {
                let error = format!("{error:#}");
                tracing::warn!(attachment = %record.identity, error, "its entry in the map of attachments could not be written: its filters drop all traffic");
            }
            self.standing
                .built
                .planner
                .attachment_was_replaced(record.slot);
            for address in &record.addresses {
                self.standing.built.planner.address_was_deleted(*address);
            }
            if let Some(added) = &mut self.drafts.added {
                added.extend(&record.addresses);
            }
            self.standing.facts_missing = true;
        }
        if let Some(pending) = &mut self.standing.pending {
            pending.execution.overtake(&records);
        }
        Ok(())
    }

    /// The directions in which an attachment waits for its policy.
    pub(super) fn isolated(&self, record: &Record) -> Isolation {
        let selections = self.compiled.selections();
        selections.isolation_of_new(record, &self.known.cluster)
    }

    /// The attachments of the files, and those whose file somebody took away: DEL empties the slot before it deletes
    /// the file, so while a slot is not empty, its filters may stand and need its ruleset. Their files are written
    /// again: the next start knows no others. And whether the files alone say all of this.
    fn attachments_now(&mut self, lock: &D::Lock) -> Result<(Vec<Record>, bool)> {
        let Files {
            mut records,
            unreadable,
        } = read_attachments(&mut self.node, &self.known.cluster)?;
        self.known.unreadable = unreadable;
        let mut are_all = self.known.unreadable.is_empty();
        let slots: BTreeSet<Slot> = records.iter().map(|record| record.slot).collect();
        let mut stand_on = Vec::new();
        for known in self
            .known
            .cluster
            .records()
            .filter(|record| !slots.contains(&record.slot))
        {
            let set = &self.standing.built.set;
            if set.birth(known.slot)? != known.birth.0 {
                continue;
            }
            let replaced_by = records.iter().find(|new| new.identity == known.identity);
            if let Some(new) = replaced_by {
                replace(set, known, new, self.isolated(new), lock)?;
                continue;
            }
            tracing::warn!(attachment = %known.identity, "its file is gone, and it is not detached: it stays in force");
            if let Err(error) = self.node.restore_record(known, lock) {
                self.known.unreadable.push(format!("{error:#}"));
            }
            stand_on.push(known.clone());
            are_all = false;
        }
        records.extend(stand_on);
        Ok((records, are_all))
    }

    /// Those of the interfaces that have an attachment, so that what others do on theirs costs no look at all files and
    /// interfaces. All of them while there may be attachments that are not known yet.
    pub(super) fn of_attachments(&self, links: Links) -> Links {
        if links == Links::None || !self.node.directory().is_still(&self.known.directory) {
            return links;
        }
        let ours = self
            .known
            .cluster
            .records()
            .map(|record| record.host_ifindex);
        links.among(&ours.collect())
    }

    /// Sweeps attachments whose interface is gone, puts back filters, and looks who stands before them, on these
    /// interfaces or on all.
    pub(super) fn look_after_interfaces(&mut self, only: Option<&BTreeSet<Ifindex>>) {
        let result = self.wait_for_lock(LOCK_PATIENCE).and_then(|lock| {
            match only {
                None => sweep_attachments(&self.node, &lock)?,
                Some(_) => {
                    self.read_attachments(&lock)?;
                    let concerned = with_file(&self.node, self.records_on(only));
                    report(self.node.sweep(Some(concerned), &lock)?);
                }
            }
            self.read_attachments(&lock)?;
            for record in self.records_on(only) {
                self.look_after(&record, &lock);
            }
            Ok(())
        });
        if only.is_none() {
            self.look_again_at_unswapped();
        }
        if let Err(error) = result {
            tracing::error!(
                error = format!("{error:#}"),
                "interfaces could not be looked after; it is tried again"
            );
            metrics::counter!("podgate_retries_total").increment(1);
            self.pace.upkeep_due = self.node.now() + RETRY;
        }
    }

    /// What keeps an attachment with its older table set may pass: it is looked at again soon, and less often each time.
    fn look_again_at_unswapped(&mut self) {
        if self.hindrances.iter().all(|(_, it)| it.unswapped.is_none()) {
            self.pace.vain_looks = 0;
            return;
        }
        let pause = RETRY.saturating_mul(1 << self.pace.vain_looks.min(8));
        self.pace.vain_looks += 1;
        self.pace.upkeep_due = self.pace.upkeep_due.min(self.node.now() + pause);
    }

    /// What hinders may pass.
    pub(super) fn look_soon(&mut self) {
        self.pace.upkeep_due = self.pace.upkeep_due.min(self.node.now() + RETRY);
    }

    /// ADDs wait for that.
    pub(super) fn look_soon_if_adds_are_hindered(&mut self) {
        let is_hindered = |waiting: &Waiting| {
            let record = self.known.cluster.record(&waiting.identity);
            record.is_some_and(|record| self.hindrance(record.slot).is_some())
        };
        if self.adds.waiting.iter().any(is_hindered) {
            self.look_soon();
        }
    }

    /// The attachments of these interfaces, or of all.
    fn records_on(&self, only: Option<&BTreeSet<Ifindex>>) -> Vec<Record> {
        let concerned = |record: &&Record| {
            only.is_none_or(|interfaces| interfaces.contains(&record.host_ifindex))
        };
        self.known
            .cluster
            .records()
            .filter(concerned)
            .cloned()
            .collect()
    }

    fn look_after(&mut self, record: &Record, lock: &D::Lock) {
        let slot = record.slot;
        follow_master(&self.standing.built.set, record);
        let mut status = self.node.filter_status(record);
        let is_gone = matches!(status, Ok(FilterStatus::Gone { .. }));
        let is_unswapped = self
            .hindrances
            .of(slot)
            .is_some_and(|it| it.unswapped.is_some());
        if is_gone || is_unswapped {
            let failed = take_over(&self.standing.built.set, record, lock).err();
            if is_unswapped && failed.is_none() {
                copy_flows(&self.standing.built.set, Some(slot));
            }
            let why = failed.map(|error| format!("{error:#}"));
            self.hindrances.update(slot, |it| it.unswapped = why);
            // Somebody may stand before what was put back.
            status = self.node.filter_status(record);
        } else {
            restore_mark(&self.node, record, lock);
        }
        let in_the_way = match status {
            Ok(FilterStatus::Shadowed { by }) => {
                let by: Vec<String> = by.iter().map(ToString::to_string).collect();
                Some(by.join(", "))
            }
            Ok(FilterStatus::InForce | FilterStatus::Gone { .. }) => None,
            Err(error) => Some(format!("{error:#}")),
        };
        self.hindrances.update(slot, |it| it.shadowed = in_the_way);
    }
}

/// Marks a host end again. What it is without the mark is told by its filters.
fn restore_mark<D: Dataplane>(node: &D, record: &Record, lock: &D::Lock) {
    match node.restore_mark(record, lock) {
        Ok(false) => {}
        Ok(true) => tracing::warn!(
            attachment = %record.identity,
            interface = %record.host_ifindex,
            "the group of its host end was changed on the node, and is set again"
        ),
        Err(error) => {
            tracing::warn!(
                attachment = %record.identity,
                error = format!("{error:#}"),
                "the group of its host end could not be set again; it is tried again"
            );
        }
    }
}

/// Ends a repeated ADD that was killed before it had replaced what stood. Filters that cannot be replaced drop
/// everything.
fn replace<S: Set>(
    set: &S,
    old: &Record,
    new: &Record,
    isolated: Isolation,
    lock: &S::Lock,
) -> Result<()> {
    tracing::warn!(attachment = %new.identity, "an interrupted repeat of its ADD left it half replaced; completing it");
    finish_record(set, new, isolated)?;
    let taken_over = take_over(set, new, lock);
    set.clear_attachment(old.slot)?;
    if let Err(error) = taken_over {
        tracing::warn!(
            attachment = %new.identity,
            error = format!("{error:#}"),
            "its filters could not be replaced; it is tried again"
        );
    }
    Ok(())
}

/// Writes the record of an attachment whose ADD was killed before it came to that. No filter names it then.
fn finish_record(set: &impl Set, record: &Record, isolated: Isolation) -> Result<()> {
    if set.birth(record.slot)? != record.birth.0 {
        set.put_attachment(record, isolated)?;
        follow_master(set, record);
    }
    Ok(())
}

/// What the files of attachments say.
pub(super) struct Files {
    /// Every attachment.
    pub(super) records: Vec<Record>,
    /// Files that cannot be read, and why.
    pub(super) unreadable: Vec<String>,
}

/// Every attachment. While a file cannot be read, nothing is taken for gone: its filters may still stand.
pub(super) fn read_attachments(node: &mut impl Dataplane, known: &Cluster) -> Result<Files> {
    let (mut records, mut unreadable) = (Vec::new(), Vec::new());
    for record in node.records()? {
        match record {
            Ok(record) => records.push(record),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "an attachment file cannot be read");
                unreadable.push(error);
            }
        }
    }
    if !unreadable.is_empty() {
        let found: BTreeSet<_> = records
            .iter()
            .map(|record| record.identity.clone())
            .collect();
        let slots: BTreeSet<_> = records.iter().map(|record| record.slot).collect();
        let missing = known
            .records()
            .filter(|record| !found.contains(&record.identity) && !slots.contains(&record.slot));
        records.extend(missing.cloned());
    }
    Ok(Files {
        records,
        unreadable,
    })
}

/// Those of the attachments that their files name now. Others are only remembered, and the sweep of all attachments
/// tells of their files.
fn with_file(node: &impl Dataplane, records: Vec<Record>) -> Vec<Record> {
    let is_named = |known: &Record| {
        let read = node.record(&known.identity);
        matches!(read, Ok(Some(found)) if found == *known)
    };
    records.into_iter().filter(is_named).collect()
}

/// Removes the attachments whose interface is gone.
pub(super) fn sweep_attachments<D: Dataplane>(node: &D, lock: &D::Lock) -> Result<()> {
    report(node.sweep(None, lock)?);
    Ok(())
}

fn report(swept: Swept) {
    for record in swept.removed {
        tracing::info!(attachment = %record.identity, "swept an attachment whose interface is gone");
    }
    for error in swept.errors {
        let error = anyhow::Error::from(error);
        tracing::warn!(
            error = format!("{error:#}"),
            "an attachment could not be swept"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc::channel;

    use podgate_datapath::Paths;
    use podgate_datapath::record::Generation;

    use super::*;
    use crate::engine::Kernel;
    use crate::fixture;

    #[test]
    fn what_its_file_does_not_name_is_only_remembered() {
        let run = tempfile::tempdir().unwrap();
        let paths = Paths {
            run: run.path().to_owned(),
            bpffs: run.path().to_owned(),
        };
        let node = Kernel::new(paths.clone(), channel().0).unwrap();
        let lock = node.lock(node.now()).unwrap();
        let written = |slot: u32| {
            let record = fixture::record(slot);
            node.restore_record(&record, &lock).unwrap();
            record
        };
        let [whole, damaged, gone, replaced] = [1, 2, 3, 4].map(written);
        fs::write(paths.attachment(&damaged.identity), "{").unwrap();
        fs::remove_file(paths.attachment(&gone.identity)).unwrap();
        let another = Record {
            birth: Generation(9),
            ..replaced.clone()
        };
        node.restore_record(&another, &lock).unwrap();
        let known = vec![whole.clone(), damaged, gone, replaced];
        assert_eq!(with_file(&node, known), [whole]);
    }
}
