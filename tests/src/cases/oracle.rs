// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The first judge: the oracle, at both ends of a connection.

use anyhow::Result;
use podgate_policy::connection::{Baseline, Connection, Direction, Subject, Transport, Verdict};
use podgate_policy::evaluate;
use podgate_policy::model::{ObjectName, World};

use super::case::Node;
use super::expect::{Family, Fate, Party, Probe, What};
use super::judge::{Judge, Seen};
use super::service::backends;
use super::simulated::Simulated;
use super::state::State;

/// The oracle, and the world as each node sees it.
#[derive(Debug, Default)]
pub struct Oracle {
    simulated: Simulated,
    worlds: [World; 2],
}

impl Oracle {
    fn verdict(&self, probe: &Probe) -> Seen<Verdict> {
        if probe.from == probe.to {
            return Seen::Said(Verdict::Allow);
        }
        let (source, destination) = self.simulated.places.ends(probe);
        let leaves = match &probe.from {
            Party::Pod(name) => self.at(
                name,
                &Connection {
                    direction: Direction::Egress,
                    peer: destination,
                    transport: transport(probe.what, probe.family),
                },
            ),
            Party::OwnNode | Party::OtherNode | Party::Outside | Party::Service(_) => {
                Verdict::Allow
            }
        };
        let arrives = |name, what| {
            self.at(
                name,
                &Connection {
                    direction: Direction::Ingress,
                    peer: source,
                    transport: transport(what, probe.family),
                },
            )
        };
        let arrives = match (&probe.from, &probe.to) {
            // What the node itself sends is known by where it comes from, and is not policy's.
            (Party::OwnNode, _) => Verdict::Allow,
            (_, Party::Pod(name)) => arrives(name, probe.what),
            (_, Party::Service(name)) => {
                let backends = backends(&self.simulated.state, name, probe.what);
                let mut verdicts = backends.iter().map(|(pod, what)| arrives(pod, *what));
                let first = verdicts.next().unwrap_or(Verdict::Allow);
                if verdicts.any(|verdict| verdict != first) {
                    return Seen::Strange("some backends let it in, and some do not".into());
                }
                first
            }
            (_, Party::OwnNode | Party::OtherNode | Party::Outside) => Verdict::Allow,
        };
        Seen::Said(Verdict::when(
            leaves == Verdict::Allow && arrives == Verdict::Allow,
        ))
    }

    fn at(&self, name: &ObjectName, connection: &Connection) -> Verdict {
        let (node, _) = self.simulated.places.pods[name];
        let world = &self.worlds[node.index()];
        let subject = Subject::new(name.clone(), &world.pods[name], Baseline::Allow);
        evaluate(world, &subject, connection)
    }
}

/// As policy sees it.
pub(super) const fn transport(what: What, family: Family) -> Transport {
    match (what, family) {
        (What::Port(protocol, port), _) => Transport::Port(protocol, port),
        (What::Echo, Family::V4) => Transport::Other(1),
        (What::Echo, Family::V6) => Transport::Other(58),
    }
}

impl Judge for Oracle {
    fn name(&self) -> String {
        "oracle".into()
    }

    fn follow(&mut self, state: &State) -> Result<()> {
        self.simulated.follow(state)?;
        let objects = &self.simulated.objects;
        self.worlds = Node::BOTH.map(|node| World {
            namespaces: objects.namespaces.clone(),
            pods: objects
                .pods
                .iter()
                .map(|(name, identified)| (name.clone(), identified.pod.clone()))
                .collect(),
            policies: objects.policies.clone(),
            node_addresses: self.simulated.places.nodes[node.index()]
                .addresses
                .both()
                .to_vec(),
            cluster_nodes: objects
                .nodes
                .values()
                .flat_map(|node| node.iter().copied())
                .collect(),
            listed: objects.listed.clone(),
            services: objects.services.clone(),
            endpoint_slices: objects.endpoint_slices.clone(),
            ..World::default()
        });
        Ok(())
    }

    fn verdicts(&mut self, expected: &[(Probe, Verdict)]) -> Result<Vec<Seen<Verdict>>> {
        let verdicts = expected.iter().map(|(probe, _)| self.verdict(probe));
        Ok(verdicts.collect())
    }

    fn open(&mut self, probes: &[Probe]) -> Result<()> {
        for probe in probes {
            anyhow::ensure!(
                self.verdict(probe) == Seen::Said(Verdict::Allow),
                "{probe} cannot be opened, so it cannot be kept"
            );
        }
        Ok(())
    }

    /// A connection lives as long as it could be opened.
    fn fates(&mut self, expected: &[(Probe, Fate)]) -> Result<Vec<Seen<Fate>>> {
        let fate = |probe| match self.verdict(probe) {
            Seen::Said(Verdict::Allow) => Seen::Said(Fate::Alive),
            Seen::Said(Verdict::Deny) => Seen::Said(Fate::Cut),
            Seen::NotTried => Seen::NotTried,
            Seen::Strange(what) => Seen::Strange(what),
        };
        Ok(expected.iter().map(|(probe, _)| fate(probe)).collect())
    }
}
