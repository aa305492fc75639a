// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The second judge: `decide()` on the tables of both nodes, compiled and written as the enforcer does it, for every
//! packet of a connection on its way there and back.

mod packet;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use podgate_abi::{Decision, Direction, Hook, decide};
use podgate_datapath::netlink::Ifindex;
use podgate_datapath::record::{AttachmentId, Baseline, Generation, PodName, Record, Slot};
use podgate_enforcer::cluster::Cluster;
use podgate_enforcer::node::Addresses;
use podgate_enforcer::plan::Planner;
use podgate_policy::compile::compile_subject;
use podgate_policy::connection::Verdict;
use podgate_policy::model::{ObjectName, Protocol};

use super::case::Node;
use super::expect::{Fate, Party, Probe, What};
use super::judge::{Judge, Seen};
use super::places::Places;
use super::service::backends;
use super::simulated::Simulated;
use super::state::State;
use crate::frame;
use crate::kernel::{CAPACITIES, HostTables, Origin};
use packet::{Part, payload};

/// Room for flows: a step tries about two thousand connections.
const FLOWS: u32 = 1 << 16;

/// The first port of whoever opens a connection; each step has one of its own, and each that is kept another.
const CLIENT_PORT: u16 = 30_000;

/// A node: what its enforcer knows, and what is in its tables.
struct NodeTables {
    cluster: Cluster,
    planner: Planner,
    tables: HostTables,
    attachments: BTreeMap<ObjectName, Record>,
    last_slot: u32,
}

/// Both nodes.
pub struct Tables {
    simulated: Simulated,
    nodes: [NodeTables; 2],
    /// The port of whoever opens a connection at this step.
    client_port: u16,
    kept: BTreeMap<Probe, u16>,
}

impl Default for Tables {
    fn default() -> Self {
        let simulated = Simulated::default();
        let nodes = Node::BOTH.map(|node| {
            let mut cluster = Cluster::default();
            let addresses = simulated.places.nodes[node.index()].addresses.both();
            cluster.set_node_addresses(Addresses {
                own: addresses.into(),
                ..Addresses::default()
            });
            NodeTables {
                cluster,
                planner: Planner::new(CAPACITIES),
                tables: HostTables::with_room_for(FLOWS),
                attachments: BTreeMap::new(),
                last_slot: 0,
            }
        });
        Self {
            simulated,
            nodes,
            client_port: CLIENT_PORT,
            kept: BTreeMap::new(),
        }
    }
}

impl NodeTables {
    /// What the plugin does for the pods that are new here, and for those that have gone.
    fn attach(&mut self, node: Node, places: &Places) {
        let is_here = |name: &ObjectName| places.pods.get(name).is_some_and(|(at, _)| *at == node);
        self.attachments.retain(|name, record| {
            let stays = is_here(name)
                && places.pods[name].1.both().as_slice() == record.addresses.as_slice();
            if !stays {
                self.tables.detach(record.slot);
            }
            stays
        });
        for (name, (_, addresses)) in places.pods.iter().filter(|(_, (at, _))| *at == node) {
            if self.attachments.contains_key(name) {
                continue;
            }
            self.last_slot += 1;
            let addresses = addresses.both();
            let birth = self.tables.attach(Slot(self.last_slot), &addresses);
            let record = record(name, self.last_slot, birth, addresses.to_vec());
            self.attachments.insert(name.clone(), record);
        }
        let records = self.attachments.values().cloned().collect();
        self.cluster.set_attachments(records);
    }

    /// What the engine does: facts, then policy, then what waits for a grace period.
    fn settle(&mut self) -> Result<()> {
        let view = self.cluster.view();
        let rulesets = view
            .subjects
            .iter()
            .map(|(slot, subject)| (*slot, Arc::new(compile_subject(&view.world, subject))))
            .collect();
        let planner = &mut self.planner;
        self.tables.settle(planner, &view.world, &rulesets)?;
        Ok(())
    }

    fn passes(&self, pod: &ObjectName, direction: Direction, origin: Origin, frame: &[u8]) -> bool {
        let hook = Hook {
            slot: self.attachments[pod].slot,
            direction,
            ethertype: u16::from_be_bytes([frame[12], frame[13]]),
            received_from: origin.received_from(),
            interface: 1,
        };
        match decide(&&self.tables, frame, &hook) {
            Decision::Pass(_) => true,
            Decision::Drop(_) => false,
        }
    }
}

fn record(name: &ObjectName, slot: u32, birth: u32, addresses: Vec<std::net::IpAddr>) -> Record {
    let ifindex = Ifindex(slot + 1);
    Record {
        identity: AttachmentId {
            container_id: format!("sandbox-{slot}"),
            ifname: "eth0".into(),
        },
        network: "pods".into(),
        pod: Some(PodName {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            uid: None,
        }),
        netns_inode: slot.into(),
        pod_ifindex: ifindex,
        host_ifindex: ifindex,
        host_mac: None,
        pod_mac: None,
        broadcasts: Vec::new(),
        addresses,
        baseline: Baseline::Allow,
        slot: Slot(slot),
        birth: Generation(birth),
    }
}

impl Tables {
    /// Whether a packet gets from one end to the other, at every hook that it meets. Behind a Service that is every
    /// backend: nobody knows which one is chosen.
    fn arrives(&self, probe: &Probe, client_port: u16, part: Part) -> bool {
        match &probe.to {
            Party::Service(name) => {
                let backends = backends(&self.simulated.state, name, probe.what);
                let mut behind = backends.into_iter().map(|(pod, what)| Probe {
                    to: Party::Pod(pod),
                    what,
                    ..probe.clone()
                });
                // The translation is between the two ends: each sees the other as it is told.
                let at_opener = self.meets(probe, &probe.from, client_port, part);
                at_opener && behind.all(|probe| self.meets(&probe, &probe.to, client_port, part))
            }
            Party::Pod(_) | Party::OwnNode | Party::OtherNode | Party::Outside => {
                let (from, to) = match part {
                    Part::Opening | Part::Request => (&probe.from, &probe.to),
                    Part::Answer | Part::Reply => (&probe.to, &probe.from),
                };
                self.meets(probe, from, client_port, part)
                    && self.meets(probe, to, client_port, part)
            }
        }
    }

    /// Whether a packet passes the hook of this end of its connection; ends without one let everything pass.
    fn meets(&self, probe: &Probe, end: &Party, client_port: u16, part: Part) -> bool {
        let Party::Pod(name) = end else {
            return true;
        };
        let (opener, other) = self.simulated.places.ends(probe);
        let ((sender, receiver), (source, destination)) = match part {
            Part::Opening | Part::Request => ((&probe.from, &probe.to), (opener, other)),
            Part::Answer | Part::Reply => ((&probe.to, &probe.from), (other, opener)),
        };
        let payload = payload(probe, source, client_port, part);
        let frame = frame::packet(source, destination, payload).frame();
        let (direction, origin) = match (end == sender, sender) {
            (true, _) => (Direction::Egress, Origin::Elsewhere),
            (false, Party::OwnNode) => (Direction::Ingress, Origin::Node),
            (false, Party::Pod(_) | Party::OtherNode | Party::Outside | Party::Service(_)) => {
                (Direction::Ingress, Origin::Elsewhere)
            }
        };
        let other = if end == sender { receiver } else { sender };
        let node: Node = self
            .simulated
            .places
            .node_at(end, other)
            .expect("a pod is on a node");
        self.nodes[node.index()].passes(name, direction, origin, &frame)
    }

    /// Opens a connection, from the first packet to the end of a handshake.
    fn opens(&self, probe: &Probe, client_port: u16) -> bool {
        self.arrives(probe, client_port, Part::Opening)
            && self.arrives(probe, client_port, Part::Answer)
            && self.arrives(probe, client_port, Part::Request)
    }
}

impl Judge for Tables {
    fn name(&self) -> String {
        "tables".into()
    }

    fn follow(&mut self, state: &State) -> Result<()> {
        let before = self.simulated.objects.clone();
        self.simulated.follow(state)?;
        self.client_port += 1;
        for node in Node::BOTH {
            let tables = &mut self.nodes[node.index()];
            tables.attach(node, &self.simulated.places);
            let changes = before.differences(&self.simulated.objects);
            tables.cluster.apply(changes);
            tables.settle().context("plan the tables of a node")?;
        }
        Ok(())
    }

    fn verdicts(&mut self, expected: &[(Probe, Verdict)]) -> Result<Vec<Seen<Verdict>>> {
        let verdict = |probe: &Probe| {
            // What a pod sends to its own address never leaves it.
            let opens = probe.from == probe.to || self.opens(probe, self.client_port);
            Seen::Said(Verdict::when(opens))
        };
        Ok(expected.iter().map(|(probe, _)| verdict(probe)).collect())
    }

    fn open(&mut self, probes: &[Probe]) -> Result<()> {
        for probe in probes {
            self.client_port += 1;
            ensure!(
                self.opens(probe, self.client_port),
                "{probe} cannot be opened, so it cannot be kept"
            );
            self.kept.insert(probe.clone(), self.client_port);
        }
        Ok(())
    }

    fn fates(&mut self, expected: &[(Probe, Fate)]) -> Result<Vec<Seen<Fate>>> {
        expected
            .iter()
            .map(|(probe, _)| {
                let port = self.kept[probe];
                let there = self.arrives(probe, port, Part::Request);
                // A UDP server answers what arrives; what it sends of its own accord begins another flow.
                let is_sent = there || !matches!(probe.what, What::Port(Protocol::Udp, _));
                let back = is_sent && self.arrives(probe, port, Part::Reply);
                ensure!(
                    there == back,
                    "{probe}: packets pass one way only: there {there}, back {back}"
                );
                Ok(Seen::Said(if there { Fate::Alive } else { Fate::Cut }))
            })
            .collect()
    }
}
