// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The third judge: a real cluster. Pods are made once, or when a case wants one more; what a case says is written to the
//! API server, and connections are opened in the pods' own network namespaces.

mod mark;
mod source;
mod write;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use podgate_policy::connection::Verdict;
use podgate_policy::model::ObjectName;
use serde_json::Value;

use super::case::Node;
use super::expect::{Fate, Party, Probe, What};
use super::ground::Ground;
use super::judge::{Judge, Seen};
use super::places::{Addresses, NodePlace, Places};
use super::prober::{Place, Prober, Target, Trial};
use super::service::backends;
use super::state::{NAMESPACES, State};
use super::world;
use crate::cluster::{Administrator, Cluster, NODES};
use crate::controller::Controller;
use mark::{MARKS, with_marks};

pub use source::Source;

/// How long what differs is tried again: a change takes effect, sooner or later.
const LATEST: Duration = Duration::from_secs(4);

/// The same where there are Services: their endpoints and the rules of kube-proxy come later than the mark.
const LATEST_OF_SERVICES: Duration = Duration::from_secs(20);

/// How many addresses the stand-in for a controller puts into one PolicyEndpoint.
const CHUNK: usize = 3;

/// The cluster, as this judge has made it.
pub struct InCluster<'a> {
    cluster: &'a Cluster,
    api: Administrator,
    source: Source,
    /// Who works policy out for the enforcers, if they do not do so themselves.
    controller: Option<Controller>,
    prober: Prober,
    places: Places,
    /// What the API server has.
    state: State,
    /// The policies that it has, with addresses in them.
    policies: BTreeMap<ObjectName, Value>,
    turn: u16,
    /// Whether policies of before are another case's, whose defaults must not stay.
    is_new_case: bool,
    /// How many verdicts came later than the mark.
    pub late: usize,
}

impl<'a> InCluster<'a> {
    /// Makes the standard world.
    ///
    /// # Errors
    /// When the API server refuses an object, or a pod does not start.
    pub fn new(cluster: &'a Cluster) -> Result<Self> {
        let mut prober = Prober::default();
        for node in Node::BOTH {
            let ground = ground_of(cluster, NODES[node.index()])?;
            prober.settle(Place::Node(node), ground);
        }
        prober.settle(Place::Outside, ground_of(cluster, "control-plane")?);
        let mut judge = Self {
            cluster,
            api: cluster.administrator()?,
            source: Source::NetworkPolicies,
            controller: None,
            prober,
            places: Places {
                nodes: [1, 2].map(node_place),
                outside: addresses("192.168.50.1", "fd00:50::1"),
                pods: BTreeMap::new(),
                services: BTreeMap::new(),
            },
            state: State {
                namespaces: BTreeMap::new(),
                pods: BTreeMap::new(),
                policies: BTreeMap::new(),
                services: BTreeMap::new(),
            },
            policies: BTreeMap::new(),
            turn: 0,
            is_new_case: true,
            late: 0,
        };
        // Of a cluster that was used by hand.
        for namespace in NAMESPACES {
            cluster
                .try_kubectl(&["-n", namespace, "delete", "networkpolicy", "--all"])
                .map_err(|said| anyhow!("delete policies of before: {said}"))?;
        }
        judge
            .api
            .apply(&[world::namespace(MARKS, &BTreeMap::new())])?;
        judge.wait_for_account(MARKS)?;
        judge.write(&with_marks(&State::standard()))?;
        Ok(judge)
    }

    /// From now on policy comes from this source, by enforcers that somebody else starts after this.
    ///
    /// # Errors
    /// When what it needs cannot be written.
    pub fn set_source(&mut self, source: Source) -> Result<()> {
        self.source = source;
        self.controller = match source {
            Source::NetworkPolicies => None,
            Source::PolicyEndpoints(family) => {
                Some(self.cluster.policy_controller(CHUNK).of(family))
            }
        };
        self.reconcile()
    }

    fn reconcile(&self) -> Result<()> {
        match &self.controller {
            Some(controller) => controller.reconcile().map(drop),
            None => Ok(()),
        }
    }

    fn trial(&self, probe: &Probe) -> Trial {
        let place = |party: &Party, other: &Party| match party {
            Party::Pod(name) => Some(Place::Pod(name.clone())),
            Party::OwnNode | Party::OtherNode => {
                let node = self.places.node_at(party, other);
                Some(Place::Node(node.expect("a node is next to a pod")))
            }
            Party::Outside => Some(Place::Outside),
            Party::Service(_) => None,
        };
        let to = match &probe.to {
            Party::Service(name) => {
                let backends = backends(&self.state, name, probe.what).into_iter();
                let ends = backends.filter_map(|(pod, what)| {
                    let What::Port(_, port) = what else {
                        return None;
                    };
                    let address = self.places.pods[&pod].1.of(probe.family);
                    Some((Place::Pod(pod), SocketAddr::new(address, port)))
                });
                Target::Translated(ends.collect())
            }
            to @ (Party::Pod(_) | Party::OwnNode | Party::OtherNode | Party::Outside) => {
                Target::Place(place(to, &probe.from).expect("all but Services have a place"))
            }
        };
        Trial {
            from: place(&probe.from, &probe.to).expect("a Service opens nothing"),
            to,
            address: self.places.ends(probe).1,
            what: probe.what,
        }
    }
}

impl Judge for InCluster<'_> {
    fn name(&self) -> String {
        format!("cluster, {}", self.source)
    }

    fn begin(&mut self) {
        self.prober.forget_kept();
        self.is_new_case = true;
    }

    fn follow(&mut self, state: &State) -> Result<()> {
        let state = self.marked(state);
        self.write(&state)?;
        self.mark()
    }

    fn verdicts(&mut self, expected: &[(Probe, Verdict)]) -> Result<Vec<Seen<Verdict>>> {
        let trials: Vec<_> = expected
            .iter()
            .map(|(probe, verdict)| (self.trial(probe), *verdict))
            .collect();
        let known: Vec<usize> = (0..expected.len())
            .filter(|i| self.source.knows(expected[*i].0.family))
            .collect();
        let tried: Vec<_> = known.iter().map(|i| trials[*i].clone()).collect();
        let mut seen = vec![Seen::NotTried; expected.len()];
        for (i, now) in known.into_iter().zip(self.prober.verdicts(&tried)?) {
            seen[i] = now;
        }
        let latest = if self.state.services.is_empty() {
            LATEST
        } else {
            LATEST_OF_SERVICES
        };
        let deadline = Instant::now() + latest;
        while Instant::now() < deadline {
            let differ = |i: &usize| match &seen[*i] {
                Seen::NotTried => false,
                Seen::Said(seen) => *seen != trials[*i].1,
                Seen::Strange(_) => true,
            };
            let different: Vec<usize> = (0..trials.len()).filter(differ).collect();
            if different.is_empty() {
                break;
            }
            let again: Vec<_> = different.iter().map(|i| trials[*i].clone()).collect();
            for (i, now) in different.iter().zip(self.prober.verdicts(&again)?) {
                self.late += usize::from(now == Seen::Said(trials[*i].1));
                seen[*i] = now;
            }
        }
        Ok(seen)
    }

    fn open(&mut self, probes: &[Probe]) -> Result<()> {
        let known = probes
            .iter()
            .filter(|probe| self.source.knows(probe.family));
        let trials: Vec<_> = known.map(|probe| self.trial(probe)).collect();
        self.prober.keep(&trials)
    }

    fn fates(&mut self, expected: &[(Probe, Fate)]) -> Result<Vec<Seen<Fate>>> {
        let known: Vec<usize> = (0..expected.len())
            .filter(|i| self.source.knows(expected[*i].0.family))
            .collect();
        let trials: Vec<_> = known
            .iter()
            .map(|i| {
                let (probe, fate) = &expected[*i];
                (self.trial(probe), *fate == Fate::Alive)
            })
            .collect();
        let mut seen = vec![Seen::NotTried; expected.len()];
        for (i, now) in known.into_iter().zip(self.prober.alive(&trials)?) {
            seen[i] = match now {
                Seen::Said(true) => Seen::Said(Fate::Alive),
                Seen::Said(false) => Seen::Said(Fate::Cut),
                Seen::NotTried => Seen::NotTried,
                Seen::Strange(what) => Seen::Strange(what),
            };
        }
        Ok(seen)
    }
}

/// The network namespace of a part of the cluster, by the process that keeps it.
fn ground_of(cluster: &Cluster, part: &str) -> Result<Ground> {
    let path = cluster.network_of(part)?;
    Ground::open(&path).with_context(|| format!("open {}", path.display()))
}

fn addresses(v4: &str, v6: &str) -> Addresses {
    Addresses {
        v4: v4.parse().expect("an address"),
        v6: v6.parse().expect("an address"),
    }
}

/// As `tests/cluster/lib/network.sh` has it.
fn node_place(number: u8) -> NodePlace {
    NodePlace {
        addresses: addresses(
            &format!("192.168.50.1{number}"),
            &format!("fd00:50::1{number}"),
        ),
        pods: [
            format!("10.244.{number}.0/24"),
            format!("fd00:10:244:{number}::/64"),
        ],
    }
}
