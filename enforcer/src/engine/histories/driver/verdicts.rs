// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets that are tried, and what is wrong with their verdicts: while something is written, between turns, of an ADD that is
//! answered, and at rest.

use podgate_datapath::record::Record;
use podgate_policy::arbitrary::{self, ADDRESSES, OTHER_PROTOCOLS, PORTS};
use podgate_policy::connection::{Connection, Direction, Transport};
use podgate_policy::model::Protocol;

use super::super::moments::{Bounds, Probe, has_pod};
use super::Driver;

/// How many packets are tried after each write.
const PROBES: usize = 8;

impl Driver {
    /// Draws packets to try, unless those that were drawn will do.
    pub(super) fn aim(&mut self) {
        if std::mem::replace(&mut self.is_aimed, true) {
            return;
        }
        let mut records = self.node.attachments();
        records.retain(|record| self.running.contains(&record.birth.0));
        let mut probes = Vec::new();
        for _ in 0..PROBES {
            if records.is_empty() {
                break;
            }
            let record = records[self.dice.below(records.len())].clone();
            probes.push(self.probe(&record));
        }
        self.probes.borrow_mut().probes = probes;
    }

    pub(super) fn probe(&mut self, record: &Record) -> Probe {
        let connection = self.connection(record);
        let attachments = self.node.attachments();
        let mut peers = attachments.iter();
        let peer = peers.find(|it| it.addresses.contains(&connection.peer));
        let peer = peer.map(|peer| peer.birth.0);
        let mut bounds = self.window.judge(record, &connection, peer);
        // Where tables are full, pods are denied rather than open.
        bounds.must_pass &= !(self.is_faulty && bounds.is_isolated);
        bounds.must_pass &= self.is_roomy && self.is_there(record) && !self.is_unseen(&connection);
        Probe {
            record: record.clone(),
            connection,
            bounds,
            drawn: self.node.generation(),
        }
    }

    /// A connection of an attachment with another address.
    pub(super) fn connection(&mut self, record: &Record) -> Connection {
        let direction = Direction::BOTH[self.dice.below(2)];
        let new = self.window.added();
        let peer = loop {
            let index = self.dice.below(ADDRESSES.into());
            let index = u8::try_from(index).expect("few addresses");
            let peer = match self.dice.below(9) {
                // What an ADD takes over.
                0..4 if !new.is_empty() => new[self.dice.below(new.len())],
                0 => [192, 0, 2, 1].into(),
                1 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
                2..6 => arbitrary::ipv4(index),
                _ => arbitrary::ipv6(index),
            };
            if !record.addresses.contains(&peer) {
                break peer;
            }
        };
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let transport = match (self.dice.below(8), direction) {
            // A tunnel to the pod is the kernel's own matter while its address is the node's.
            (0, Direction::Ingress) => Transport::Other([1, 50, 58][self.dice.below(3)]),
            (0, Direction::Egress) => {
                Transport::Other(OTHER_PROTOCOLS[self.dice.below(OTHER_PROTOCOLS.len())])
            }
            _ => Transport::Port(
                protocols[self.dice.below(protocols.len())],
                PORTS[self.dice.below(PORTS.len())],
            ),
        };
        Connection {
            direction,
            peer,
            transport,
        }
    }

    /// What is wrong with a packet between two turns.
    pub(super) fn after_turn(&self, probe: &Probe) -> Option<String> {
        let engine = self.engine.as_ref()?;
        let passed = probe.passes(&self.node)?;
        let Probe {
            record,
            connection,
            bounds,
            ..
        } = probe;
        let slot = record.slot;
        let is_known = engine.known.cluster.record(&record.identity) == Some(record);
        let hindrance = engine.hindrances.of(slot);
        let is_reported = hindrance.is_some_and(|it| it.open.is_some() || it.unswapped.is_some());
        if !is_known || is_reported {
            return None;
        }
        let stands = engine.standing.rulesets.get(&slot);
        let waits = engine.is_drafting() && stands != engine.compiled.of(slot);
        let is_certain = !waits && self.is_there(record) && !self.is_unseen(connection);
        let what = match passed {
            true if self.is_idle && !bounds.passes_now => "passes that is not allowed",
            true if !bounds.may_pass_isolated => "passes of an isolated pod that no policy allows",
            false if self.is_idle && is_certain && bounds.passes_now => {
                "is dropped that is allowed"
            }
            true | false => return None,
        };
        Some(format!("after a turn: {connection:?} of {record:?} {what}"))
    }

    pub(super) fn is_unseen(&self, connection: &Connection) -> bool {
        self.unseen.contains(&connection.peer)
    }

    /// An ADD that is answered so meets its policy with the first packet.
    pub(super) fn is_in_force(&mut self, record: &Record) -> Result<(), String> {
        if !self.node.attachments().contains(record) || !self.is_there(record) {
            return Ok(());
        }
        for _ in 0..4 {
            let probe = self.probe(record);
            let Some(passed) = probe.passes(&self.node) else {
                continue;
            };
            let Bounds {
                may_pass_latest,
                may_drop_latest,
                ..
            } = probe.bounds;
            let is_known = !self.is_unseen(&probe.connection) && !probe.has_new_peer(&self.node);
            let may_be = if passed {
                may_pass_latest
            } else {
                may_drop_latest || !is_known
            };
            if !may_be {
                return Err(format!(
                    "answered in force: {:?} of {record:?} passes: {passed}",
                    probe.connection
                ));
            }
        }
        Ok(())
    }

    pub(super) fn compare(&mut self) -> Result<(), String> {
        if !self.window.is_settled() {
            return Err("at rest, and not settled".into());
        }
        let mut records = self.node.attachments();
        records.retain(|record| self.is_there(record));
        for record in records {
            for _ in 0..6 {
                let probe = self.probe(&record);
                let may_pass = probe.bounds.passes_now;
                match probe.passes(&self.node) {
                    Some(false) if self.is_unseen(&probe.connection) => {}
                    Some(passed) if passed != may_pass => {
                        return Err(format!(
                            "at rest: {:?} of {record:?} passes: {passed}",
                            probe.connection
                        ));
                    }
                    Some(_) => {}
                    None if !probe.has_family() => {}
                    None => return Err(format!("{:?} has no record", record.pod)),
                }
            }
        }
        Ok(())
    }

    /// Whether the source has the pod of an attachment still. Gone, it is judged as what it was last, if the engine has read the
    /// attachment's file before.
    pub(super) fn is_there(&self, record: &Record) -> bool {
        has_pod(&self.world, record)
    }
}
