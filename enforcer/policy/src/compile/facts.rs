// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Facts: the signature of every known address under a set of questions.
//!
//! ```text
//! pods, namespaces, own node ─┐                       ┌─► workloads: what their labels and ports answer
//! Services ───────────────────┼─► what differs, only ─┼─► addresses: that, and the blocks around them
//! questions ──────────────────┘                       └─► redirects: which of them stand for which others
//! ```
//! [`Facts::under`] leads from any facts to others and costs what differs; [`Facts::of`] is the same from nothing.

mod revision;
mod service_map;
mod ways;
mod workload;

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

use crate::compile::partition::Partition;
use crate::compile::predicate::{Predicate, Questions};
use crate::compile::signature::Signature;
use crate::model::{ListName, ObjectName, Started, World};
use revision::Revision;
use service_map::ServiceMap;
pub use ways::{Closed, Way};
use workload::Workload;

/// What is known of peers, told apart as far as some questions ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Without policies.
    world: World,
    questions: Questions,
    /// What the labels and ports of every workload answer. Blocks apart, which depend on the address.
    workloads: OrdMap<Workload, Arc<Signature>>,
    /// The selectable pods of every workload.
    members: OrdSet<(Workload, ObjectName)>,
    /// Which selectable pods claim an address, the one that started last first.
    claims: OrdSet<Claim>,
    /// Which addresses are in a list.
    lists: OrdSet<(ListName, IpAddr)>,
    /// What Services and host ports say, asked for or not.
    redirects: ServiceMap,
    /// Where they lead into tunnels.
    ways: OrdMap<Way, Closed>,
    partition: Partition,
    /// Addresses of pods, of the own node, and of lists that are asked for. Their signatures include the blocks that
    /// contain them.
    untranslated: OrdMap<IpAddr, Arc<Signature>>,
    /// These, and addresses that stand for endpoints, if that is asked for.
    addresses: OrdMap<IpAddr, Arc<Signature>>,
    nothing: Arc<Signature>,
}

/// An address, and a pod that claims it, with its start.
type Claim = (IpAddr, Reverse<Option<Started>>, ObjectName);

impl Facts {
    /// The facts of `world` under `questions`. Looks at policies no more. Equal signatures are one allocation.
    ///
    /// An address of the own node is nobody else's. Where several selectable pods claim an address, the one that started
    /// last has it; of those that started together, the first by (namespace, name).
    pub fn of(world: &World, questions: &Questions) -> Self {
        Self::default().under(world, questions).0
    }

    /// What becomes of these facts in another world and under other questions, and for how many addresses that had
    /// to be worked out anew.
    pub fn under(&self, world: &World, questions: &Questions) -> (Self, usize) {
        let mut revision = Revision::of(self);
        revision.ask(questions);
        revision.look_at(world);
        revision.finish()
    }

    /// More questions of the same world: those beside predicates, and so many of these predicates as cost `room`, at
    /// least one. With the facts, how many predicates that were, and for how many addresses something was worked out. None
    /// where more than `most` blocks would hold at all boundaries together: blocks inside each other multiply that, and it is
    /// what their evaluation costs. It is looked at after each block.
    pub fn asked<'q>(
        &self,
        predicates: impl IntoIterator<Item = &'q Arc<Predicate>>,
        beside: &Questions,
        room: usize,
        most: usize,
    ) -> Option<(Self, usize, usize)> {
        let mut revision = Revision::of(self);
        let asked = revision.ask_some(predicates, room, most)?;
        let mut names = self.questions.port_names.clone();
        names.extend(beside.port_names.iter().cloned());
        let translations = self.questions.translations || beside.translations;
        revision.ask_apart(&names, translations);
        let (facts, evaluated) = revision.finish();
        Some((facts, asked, evaluated))
    }

    /// Fewer questions of the same world: no more of those beside predicates than `beside`, and of these predicates none
    /// that it costs less than `room` to forget. With the facts, how many are forgotten.
    pub fn forgetting<'q>(
        &self,
        predicates: impl IntoIterator<Item = &'q Arc<Predicate>>,
        beside: &Questions,
        room: usize,
    ) -> (Self, usize, usize) {
        let mut revision = Revision::of(self);
        let forgotten = revision.forget_some(predicates, room);
        revision.ask_apart(&beside.port_names, beside.translations);
        let (facts, evaluated) = revision.finish();
        (facts, forgotten, evaluated)
    }

    /// What was asked.
    pub fn questions(&self) -> &Questions {
        &self.questions
    }

    /// Of what; without policies.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The signature of any address: its own if it is known, else that of its longest prefix, else the empty one.
    pub fn signature_of(&self, address: IpAddr) -> &Arc<Signature> {
        self.addresses
            .get(&address)
            .or_else(|| {
                self.partition
                    .longest(address)
                    .map(|(_, signature)| signature)
            })
            .unwrap_or(&self.nothing)
    }

    /// Every address of a selectable pod, of the own node, of a list, and of a Service, the last two if asked for.
    pub fn addresses(&self) -> &OrdMap<IpAddr, Arc<Signature>> {
        &self.addresses
    }

    /// Every boundary of the blocks in use, for a longest-prefix look-up; the signatures have blocks only.
    pub fn prefixes(&self) -> &OrdMap<IpNet, Arc<Signature>> {
        self.partition.prefixes()
    }

    /// The pod that has an address, unless it is the own node's.
    fn holder(&self, address: IpAddr) -> Option<&ObjectName> {
        let latest = Some(Started(i64::MAX));
        let first = (address, Reverse(latest), ObjectName::new("", ""));
        let (claimed, _, name) = self.claims.range(first..).next()?;
        (*claimed == address).then_some(name)
    }
}
