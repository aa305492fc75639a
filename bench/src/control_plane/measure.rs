// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The measurements, with one number of pods in the cluster.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use podgate_datapath::record::Slot;
use podgate_datapath::tables::MapName;

use super::api::{Administrator, Change};
use super::enforcer::{Enforcer, Spent, UPLINK, received};
use super::kernel::{Kernel, Question};
use super::local::Place;
use super::table::Table;
use super::world::{PORT, PodSpec, World};
use super::{Options, WORLD};
use crate::sample::Sample;

/// Everything that a measurement needs.
pub(crate) struct Bench<'a> {
    pub(crate) options: &'a Options,
    /// How many there are in the cluster.
    pub(crate) pods: u32,
    pub(crate) admin: &'a Administrator,
    pub(crate) kernel: &'a mut Kernel,
    /// Of the local pods, by their numbers, which are their namespaces' too.
    pub(crate) slots: &'a [Slot],
    pub(crate) spare: &'a [Place],
    pub(crate) table: &'a mut Table,
}

/// How long single changes took until they were in force.
#[derive(Debug, Default)]
struct Latency {
    /// From the moment at which the request was sent.
    from_request: Sample,
    /// From the moment at which the API server had answered it; nought if it was in force by then.
    from_answer: Sample,
}

impl Bench<'_> {
    pub(crate) fn run(mut self) -> Result<()> {
        let enforcer = self.start()?;
        self.edits(&enforcer)?;
        self.labels(&enforcer)?;
        self.touches(&enforcer)?;
        self.pods_elsewhere(&enforcer)?;
        self.adds(&enforcer, "already watched", false)?;
        self.adds(&enforcer, "begun when its creation is answered", true)?;
        self.churn(&enforcer)?;
        self.size(&enforcer)
    }

    fn start(&mut self) -> Result<Enforcer> {
        let before = received(UPLINK)?;
        let mut enforcer = Enforcer::start(self.options)?;
        enforcer.wait_until_ready()?;
        self.kernel.follow()?;
        let mut last = enforcer.begun;
        for (namespace, slot) in (0..WORLD.local).zip(self.slots) {
            for address in WORLD.peer_of(namespace).addresses {
                self.kernel.wait(of(*slot, address, PORT), true)?;
            }
            let stranger = WORLD.stranger_to(namespace).addresses[0];
            last = self.kernel.wait(of(*slot, stranger, PORT), false)?;
        }
        let table = &mut *self.table;
        table.section("start, with its lists");
        table.put(
            "until all is in force, ms",
            milliseconds(last - enforcer.begun),
        );
        table.put("CPU of it, ms", milliseconds(enforcer.cpu()?));
        enforcer.wait_until_idle()?;
        let spent = enforcer.spent()?;
        table.put("bytes received, KiB", kibibytes(spent.bytes - before));
        let (resident, peak) = enforcer.memory()?;
        table.put("resident memory, MiB", mebibytes(resident));
        table.put("peak of it, MiB", mebibytes(peak));
        Ok(enforcer)
    }

    /// A policy lets its peers in at another port.
    fn edits(&mut self, enforcer: &Enforcer) -> Result<()> {
        let before = self.calm(enforcer)?;
        let mut latency = Latency::default();
        for number in 0..self.options.changes {
            let namespace = number % WORLD.local;
            let port = 20_000 + u16::try_from(number)?;
            let change = self
                .admin
                .edit_policy(namespace, World::ingress(namespace, port));
            let peer = WORLD.peer_of(namespace).addresses[0];
            self.in_force(&mut latency, change, namespace, peer, port, true)?;
        }
        self.latency("policy edit", &latency);
        self.cost(enforcer, before, self.options.changes)?;
        for namespace in 0..WORLD.local {
            let change = self
                .admin
                .edit_policy(namespace, World::ingress(namespace, PORT));
            let peer = WORLD.peer_of(namespace).addresses[0];
            self.in_force(&mut latency, change, namespace, peer, PORT, true)?;
        }
        Ok(())
    }

    /// A pod elsewhere becomes a policy's peer by its label, and then no peer again.
    fn labels(&mut self, enforcer: &Enforcer) -> Result<()> {
        let before = self.calm(enforcer)?;
        let (mut gained, mut lost) = (Latency::default(), Latency::default());
        for number in 0..self.options.changes / 2 {
            let namespace = number % WORLD.local;
            let pod = WORLD.stranger_to(namespace);
            let peer = pod.addresses[0];
            let change = self.admin.label_pod(&pod, World::peer_app(namespace));
            self.in_force(&mut gained, change, namespace, peer, PORT, true)?;
            let change = self.admin.label_pod(&pod, pod.app);
            self.in_force(&mut lost, change, namespace, peer, PORT, false)?;
        }
        self.latency("pod label change, one peer more", &gained);
        self.latency("pod label change, one peer fewer", &lost);
        self.cost(enforcer, before, self.options.changes / 2 * 2)
    }

    /// The status of a pod elsewhere changes, in what no policy reads.
    fn touches(&mut self, enforcer: &Enforcer) -> Result<()> {
        let before = self.calm(enforcer)?;
        for number in 0..self.options.changes {
            let pod = WORLD.stranger_to(number % WORLD.local);
            let news = format!("touch-{number}-of-{}", self.pods);
            let change = self.admin.touch_pod(&pod, &news);
            self.admin.answered(change)?;
        }
        self.table.section("pod status update that no policy reads");
        self.cost(enforcer, before, self.options.changes)
    }

    /// Pods elsewhere come, with their status, and go.
    fn pods_elsewhere(&mut self, enforcer: &Enforcer) -> Result<()> {
        let before = self.calm(enforcer)?;
        let mut latency = Latency::default();
        for number in 0..self.options.changes {
            let (namespace, pod) = passer_by(number);
            let peer = pod.addresses[0];
            let change = self.admin.begin_pod(pod);
            self.in_force(&mut latency, change, namespace, peer, PORT, true)?;
        }
        self.latency("pod comes elsewhere (created, then its status)", &latency);
        self.cost(enforcer, before, self.options.changes)?;
        let before = self.calm(enforcer)?;
        let mut latency = Latency::default();
        for number in 0..self.options.changes {
            let (namespace, pod) = passer_by(number);
            let peer = pod.addresses[0];
            let change = self.admin.end_pod(pod);
            self.in_force(&mut latency, change, namespace, peer, PORT, false)?;
        }
        self.latency("pod goes elsewhere", &latency);
        self.cost(enforcer, before, self.options.changes)
    }

    fn size(&mut self, enforcer: &Enforcer) -> Result<()> {
        let (resident, peak) = enforcer.memory()?;
        self.table.section("after all that");
        self.table.put("resident memory, MiB", mebibytes(resident));
        self.table.put("peak of it, MiB", mebibytes(peak));
        for (name, map) in [
            ("entries of peers", MapName::Peers),
            ("entries of prefixes", MapName::Prefixes),
            ("entries of rows", MapName::Rows),
        ] {
            self.table.put(name, count(self.kernel.entries(map)?));
        }
        let bytes = self.kernel.bytes()?;
        self.table.put("bytes of all tables, MiB", mebibytes(bytes));
        Ok(())
    }

    /// Waits until a change is in force for the local pod of a namespace.
    fn in_force(
        &mut self,
        latency: &mut Latency,
        change: Change,
        namespace: u32,
        peer: IpAddr,
        port: u16,
        answer: bool,
    ) -> Result<()> {
        let slot = self.slots[namespace as usize];
        let begun = change.begun;
        let in_force = self.kernel.wait(of(slot, peer, port), answer);
        // What the API server refused never is; its reason is the one to tell.
        let answered = self.admin.answered(change)?;
        let in_force = in_force?;
        latency.from_request.push(in_force - begun);
        latency
            .from_answer
            .push(in_force.saturating_duration_since(answered));
        Ok(())
    }

    /// What has been spent when the enforcer has nothing more to do.
    pub(super) fn calm(&self, enforcer: &Enforcer) -> Result<Spent> {
        enforcer.wait_until_idle()?;
        enforcer.spent()
    }

    /// What each of so many changes has cost since then.
    pub(super) fn cost(&mut self, enforcer: &Enforcer, before: Spent, changes: u32) -> Result<()> {
        let after = self.calm(enforcer)?;
        let each = f64::from(changes);
        self.table
            .put("CPU each, ms", milliseconds(after.cpu - before.cpu) / each);
        if let Some((after, before)) = after.compiles.zip(before.compiles) {
            self.table.put("compiles each", (after - before) / each);
        }
        self.table.put(
            "transactions each",
            (after.transactions - before.transactions) / each,
        );
        self.table.put(
            "bytes received each, KiB",
            kibibytes(after.bytes - before.bytes) / each,
        );
        Ok(())
    }

    fn latency(&mut self, section: &str, latency: &Latency) {
        let Latency {
            from_request,
            from_answer,
        } = latency;
        self.table.section(section);
        for (name, sample, percent) in [
            ("request to in force, p50, ms", from_request, 50),
            ("request to in force, p99, ms", from_request, 99),
            ("API server's answer to in force, p50, ms", from_answer, 50),
            ("API server's answer to in force, p99, ms", from_answer, 99),
        ] {
            self.table.put(name, sample.percentile(percent) / 1000.0);
        }
    }
}

pub(super) fn of(slot: Slot, peer: IpAddr, port: u16) -> Question {
    Question { slot, peer, port }
}

/// A pod elsewhere that comes and goes, a peer of the local pod of the namespace that is told with it.
pub(super) fn passer_by(number: u32) -> (u32, PodSpec) {
    let (round, namespace) = (number / WORLD.local, number % WORLD.local);
    // Far from the numbers of those that stay; every fifth pod of a namespace has the same `app`.
    let pod = (1 + 5 * (1000 + round)) * WORLD.namespaces + namespace;
    (namespace, WORLD.pod(pod))
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

pub(super) fn kibibytes(bytes: u64) -> f64 {
    count(bytes) / 1024.0
}

fn mebibytes(bytes: u64) -> f64 {
    kibibytes(bytes) / 1024.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts and bytes are far below 2^53"
)]
fn count(number: u64) -> f64 {
    number as f64
}
