// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods that come to the node, and many that come and go elsewhere.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::enforcer::Enforcer;
use super::local::identity;
use super::measure::{Bench, kibibytes, milliseconds, of, passer_by};
use super::world::PORT;
use super::{Options, WORLD};
use crate::sample::Sample;

/// How long ADD waits for the enforcer.
const WAIT_MS: u32 = 2000;

impl Bench<'_> {
    /// Pods come to the node.
    pub(super) fn adds(&mut self, enforcer: &Enforcer, name: &str, at_once: bool) -> Result<()> {
        let adds = self.options.adds;
        let spare = u32::try_from(self.spare.len())?;
        let late = move |number| WORLD.late_pod(number, number % spare);
        let pods = move || (0..adds).map(late);
        let mut uids = Vec::new();
        if !at_once {
            for pod in pods() {
                uids.push(self.admin.create_pod(pod)?);
            }
        }
        let before = self.calm(enforcer)?;
        let (mut took, mut dels, mut late_ones) = (Sample::default(), Sample::default(), 0_u32);
        for number in 0..adds {
            let pod = late(number);
            let place = &self.spare[(number % spare) as usize];
            if at_once {
                uids.push(self.admin.create_pod(pod.clone())?);
            }
            let uid = &uids[number as usize];
            let begun = Instant::now();
            place.call(&self.options.plugin, "ADD", &pod, uid, WAIT_MS)?;
            let returned = begun.elapsed();
            let namespace = number % WORLD.local;
            let slot = self.kernel.slot(&identity(&pod))?;
            let peer = of(slot, WORLD.peer_of(namespace).addresses[0], PORT);
            let stranger = of(slot, WORLD.stranger_to(namespace).addresses[0], PORT);
            self.kernel.follow()?;
            if self.kernel.allows(peer)? && !self.kernel.allows(stranger)? {
                took.push(returned);
            } else {
                late_ones += 1;
                self.kernel.wait(stranger, false)?;
                self.kernel.wait(peer, true)?;
                took.push(begun.elapsed());
            }
            let begun = Instant::now();
            place.call(&self.options.plugin, "DEL", &pod, uid, WAIT_MS)?;
            dels.push(begun.elapsed());
        }
        self.table
            .section(format!("ADD until in force, of a pod {name}"));
        self.table.put("p50, ms", took.median() / 1000.0);
        self.table.put("p99, ms", took.percentile(99) / 1000.0);
        self.table
            .put("that returned before it was in force", f64::from(late_ones));
        self.table.put("its DEL, p50, ms", dels.median() / 1000.0);
        self.table
            .put("its DEL, p99, ms", dels.percentile(99) / 1000.0);
        self.cost(enforcer, before, adds)?;
        self.admin.delete_pods(pods())
    }

    /// Pods elsewhere come and go at a given rate.
    pub(super) fn churn(&mut self, enforcer: &Enforcer) -> Result<()> {
        let Options {
            churn,
            churn_seconds,
            ..
        } = *self.options;
        let pairs_a_second = (churn / 2).max(1);
        let beats = pairs_a_second * churn_seconds;
        let before = self.calm(enforcer)?;
        let begun = Instant::now();
        self.admin
            .churn(beats, Duration::from_secs(1) / pairs_a_second, |number| {
                passer_by(number).1
            })?;
        let took = begun.elapsed();
        let (_, last) = passer_by(beats.saturating_sub(1));
        let gone = self.kernel.wait_for_peer(last.addresses[0], false)?;
        let after = self.calm(enforcer)?;
        self.table.section(format!(
            "churn: {churn} pods a second come and go elsewhere, for {churn_seconds} s"
        ));
        self.table.put("took, s", took.as_secs_f64());
        self.table.put(
            "CPU of the enforcer, s",
            (after.cpu - before.cpu).as_secs_f64(),
        );
        self.table.put(
            "the last one's end in force after, ms",
            milliseconds(gone.saturating_duration_since(begun + took)),
        );
        self.table
            .put("bytes received, KiB", kibibytes(after.bytes - before.bytes));
        if let Some((after, before)) = after.compiles.zip(before.compiles) {
            self.table.put("compiles", after - before);
        }
        self.table
            .put("transactions", after.transactions - before.transactions);
        Ok(())
    }
}
