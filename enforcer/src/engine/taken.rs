// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which addresses pods, nodes and Services have: no other pod may have them, whatever its attachment allows.
//!
//! ```text
//! pods, attachments, nodes, Services ─► Taken: what differs ─► table `taken`, before anything else that is new
//!                                          └─► not all written? every attachment denies foreign addresses
//! ```
//! An address is free again only when nothing in force knows it any more, nor a flow that was judged by it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;

use imbl::{OrdSet, ordmap, ordset};
use ipnet::IpNet;
use podgate_abi::Foreign;
use podgate_datapath::record::{Record, Slot};
use podgate_policy::difference::parts;
use podgate_policy::model::{EndpointSlice, Service, World};

use super::Engine;
use super::change::FactsChange;
use super::dataplane::{Dataplane, Set};

/// Who has which address, and what of that one table set does not say yet.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// As it was when it was looked at last.
    world: World,
    attached: BTreeSet<IpAddr>,
    /// How many have an address, or take a range for themselves.
    holders: BTreeMap<IpNet, u32>,
    /// What the table lacks.
    missing: BTreeSet<IpNet>,
    /// What it still has.
    left: BTreeSet<IpNet>,
    /// Why it lacks some, if it does.
    trouble: Option<String>,
}

fn of_service(service: &Service) -> impl Iterator<Item = IpAddr> {
    let external = service.external_addresses.iter();
    let own = service.cluster_addresses.iter().chain(external);
    own.chain(&service.balancer_addresses).copied()
}

/// Pods that no other object tells of, as those of other nodes with PolicyEndpoints.
fn of_slice(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> {
    let pods = slice.endpoints.iter().filter(|it| it.pod.is_some());
    pods.map(|endpoint| endpoint.address)
}

impl Taken {
    /// What is known, and an empty table.
    pub(super) fn of(world: &World, records: &[Record]) -> Self {
        let mut taken = Self::default();
        taken.follow(world, records.iter());
        taken
    }

    /// Takes note of what is known now. It costs what differs, and the attachments.
    pub(super) fn follow<'a>(&mut self, world: &World, records: impl Iterator<Item = &'a Record>) {
        let before = std::mem::replace(&mut self.world, world.clone());
        for difference in before.pods.diff(&world.pods) {
            let (_, old, new) = parts(difference);
            self.change(
                old.iter().flat_map(|pod| &pod.addresses).copied(),
                new.iter().flat_map(|pod| &pod.addresses).copied(),
            );
        }
        for difference in before.services.diff(&world.services) {
            let (_, old, new) = parts(difference);
            self.change(
                old.into_iter().flat_map(|service| of_service(service)),
                new.into_iter().flat_map(|service| of_service(service)),
            );
        }
        for difference in before.endpoint_slices.diff(&world.endpoint_slices) {
            let (_, old, new) = parts(difference);
            self.change(
                old.into_iter().flat_map(|slice| of_slice(slice)),
                new.into_iter().flat_map(|slice| of_slice(slice)),
            );
        }
        // Who has them is not told: a pod, for all that is known.
        for difference in before.listed.diff(&world.listed) {
            match difference {
                ordmap::DiffItem::Add(address, _) => self.claim(*address),
                ordmap::DiffItem::Update { .. } => {}
                ordmap::DiffItem::Remove(address, _) => self.release(*address),
            }
        }
        self.follow_nodes(&before.cluster_nodes, &world.cluster_nodes);
        if before.node_addresses != world.node_addresses {
            self.change(before.node_addresses, world.node_addresses.iter().copied());
        }
        if before.node_scopes != world.node_scopes {
            self.change(before.node_scopes, world.node_scopes.iter().copied());
        }
        let attached: BTreeSet<IpAddr> = records
            .flat_map(|it| it.addresses.iter().copied())
            .collect();
        if attached != self.attached {
            let before = std::mem::replace(&mut self.attached, attached.clone());
            self.change(before, attached);
        }
    }

    fn follow_nodes(&mut self, before: &OrdSet<IpAddr>, now: &OrdSet<IpAddr>) {
        for difference in before.diff(now) {
            match difference {
                ordset::DiffItem::Add(address) => self.claim(*address),
                ordset::DiffItem::Remove(address) => self.release(*address),
            }
        }
    }

    fn change<T: Into<IpNet>>(
        &mut self,
        old: impl IntoIterator<Item = T>,
        new: impl IntoIterator<Item = T>,
    ) {
        for address in new {
            self.claim(address);
        }
        for address in old {
            self.release(address);
        }
    }

    fn claim(&mut self, address: impl Into<IpNet>) {
        let address = address.into();
        let holders = self.holders.entry(address).or_insert(0);
        *holders += 1;
        if *holders == 1 && !self.left.remove(&address) {
            self.missing.insert(address);
        }
    }

    fn release(&mut self, address: impl Into<IpNet>) {
        let address = address.into();
        let Some(holders) = self.holders.get_mut(&address) else {
            return;
        };
        *holders -= 1;
        if *holders == 0 {
            self.holders.remove(&address);
            if !self.missing.remove(&address) {
                self.left.insert(address);
            }
        }
    }

    /// How many entries the table is to have, those that it still has included.
    pub(super) fn number(&self) -> usize {
        self.holders.len() + self.left.len()
    }

    /// Writes what the table lacks, until that fails.
    fn write<E: Display>(&mut self, mut put: impl FnMut(IpNet) -> Result<(), E>) {
        while let Some(address) = self.missing.first().copied() {
            if let Err(error) = put(address) {
                let why = error.to_string();
                if self.trouble.as_ref() != Some(&why) {
                    tracing::error!(
                        error = why,
                        "not all addresses of pods, nodes and Services could be written: foreign addresses are dropped at \
                         every pod; it is tried again"
                    );
                }
                self.trouble = Some(why);
                return;
            }
            self.missing.remove(&address);
        }
        self.trouble = None;
    }

    /// Deletes what nobody has any more, as far as that works.
    fn tidy<E>(&mut self, mut remove: impl FnMut(IpNet) -> Result<bool, E>) {
        self.left.retain(|address| remove(*address).is_err());
    }

    /// Writes to a table set what its table lacks.
    pub(super) fn write_to(&mut self, set: &impl Set) {
        self.write(|net| set.put_taken(net));
    }

    /// Says at attachments what becomes of foreign addresses: nothing passes before the table is complete.
    pub(super) fn set_modes(&self, set: &impl Set, modes: &[(Slot, Foreign)]) {
        for (slot, mode) in modes {
            let mode = if self.missing.is_empty() {
                *mode
            } else {
                Foreign::Deny
            };
            if let Err(error) = set.put_foreign(*slot, mode) {
                tracing::warn!(slot = slot.0, %error, "what becomes of foreign addresses cannot be written");
            }
        }
    }

    /// What somebody should know.
    pub(super) fn warning(&self) -> Option<String> {
        let why = self.trouble.as_deref()?;
        Some(format!(
            "foreign addresses are dropped at every pod, because not all addresses of pods, nodes and Services could be \
             written: {why}"
        ))
    }
}

/// Ends foreign addresses at an attachment that stays with an older set, whose table nobody keeps up any more.
pub(super) fn end(before: Option<&impl Set>, record: &Record) {
    let Some(before) = before else {
        return;
    };
    let birth = before.birth(record.slot);
    if matches!(birth, Ok(birth) if birth == record.birth.0)
        && let Err(error) = before.put_foreign(record.slot, Foreign::Deny)
    {
        tracing::warn!(attachment = %record.identity, %error, "foreign addresses could not be ended in its older table set");
    }
}

impl<D: Dataplane> Engine<D> {
    /// Notes who has which addresses, before anything else that is known is put in force.
    pub(super) fn note_taken(&mut self) {
        let (built, view) = (&mut self.standing.built, self.known.cluster.view());
        built
            .taken
            .follow(&view.world, self.known.cluster.records());
        built.taken.write_to(&built.set);
        if !built.taken.missing.is_empty() {
            built
                .taken
                .set_modes(&built.set, &self.known.cluster.foreign_modes());
            self.look_soon();
        }
    }

    /// Says at all attachments what becomes of foreign addresses. Their slots are theirs under the lock only.
    pub(super) fn set_foreign_modes(&self, _lock: &D::Lock) {
        let modes = self.known.cluster.foreign_modes();
        self.standing
            .built
            .taken
            .set_modes(&self.standing.built.set, &modes);
    }

    /// Frees addresses that nothing in force knows any more. An ADD that takes one of them writes it under the lock.
    pub(super) fn release_taken(&mut self, _lock: &D::Lock) {
        let known = &self.standing.built.taken.world;
        let is_settled = self.standing.pending.is_none()
            && !self.standing.facts_missing
            && FactsChange::between(&self.standing.facts, known) == FactsChange::None;
        if is_settled && !self.standing.built.planner.waits_for_grace() {
            let built = &mut self.standing.built;
            let set = &built.set;
            built.taken.tidy(|net| set.remove_taken(net));
        }
    }
}

#[cfg(test)]
mod tests;
