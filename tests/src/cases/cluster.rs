//! The third judge: a real cluster. Pods are made once, or when a case wants one more; what a case says is written to the
//! API server, and connections are opened in the pods' own network namespaces.
//!
//! What is written last says when all of it is in force: *the mark*. A pod, its namespace and a policy get the number of
//! the turn, in this order behind all else, and only together they let a datagram through, to a pod on each node.
//! Every watch brings its objects in the order in which they were written.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use podgate_policy::connection::Verdict;
use podgate_policy::model::{ObjectName, Protocol};
use serde_json::{Value, json};

use super::case::{AddressesOf, Kind, NAMESPACES, Node, PodState, State};
use super::expect::{Family, Fate, Party, Probe, What};
use super::ground::Ground;
use super::judge::{Judge, Seen};
use super::places::{Addresses, NodePlace, Places};
use super::prober::{Place, Prober, Trial};
use super::world;
use crate::cluster::{Cluster, NODES, Pod};
use crate::controller::Controller;

/// How long a pod may take to be ready, and a policy to be in force, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long what differs is tried again: a change takes effect, sooner or later.
const LATEST: Duration = Duration::from_secs(4);

/// How many addresses the stand-in for a controller puts into one PolicyEndpoint.
const CHUNK: usize = 3;

/// The namespace of the mark.
const MARKS: &str = "marks";
/// Who sends the datagram.
const ASKER: &str = "asker";
/// Who answers, on each node.
const ANSWERERS: [&str; 2] = ["on-node1", "on-node2"];
/// The port of turn 0.
const FIRST_PORT: u16 = 20_000;

/// Where the enforcers have policy from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// They read NetworkPolicies.
    NetworkPolicies,
    /// They read PolicyEndpoints, which a stand-in for EKS's controller writes.
    PolicyEndpoints,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::NetworkPolicies, Self::PolicyEndpoints];

    /// Whether it can say something of connections of this family: the controller of a dual-stack cluster, which EKS
    /// has none of, lists the first address of a pod only.
    const fn knows(self, family: Family) -> bool {
        match (self, family) {
            (Self::NetworkPolicies, Family::V4 | Family::V6)
            | (Self::PolicyEndpoints, Family::V4) => true,
            (Self::PolicyEndpoints, Family::V6) => false,
        }
    }

    /// Its name, as the enforcer's flag has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetworkPolicies => "networkpolicies",
            Self::PolicyEndpoints => "policyendpoints",
        }
    }
}

/// The cluster, as this judge has made it.
pub struct InCluster<'a> {
    cluster: &'a Cluster,
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
            source: Source::NetworkPolicies,
            controller: None,
            prober,
            places: Places {
                nodes: [1, 2].map(node_place),
                outside: addresses("192.168.50.1", "fd00:50::1"),
                pods: BTreeMap::new(),
            },
            state: State {
                namespaces: BTreeMap::new(),
                pods: BTreeMap::new(),
                policies: BTreeMap::new(),
            },
            policies: BTreeMap::new(),
            turn: 0,
            is_new_case: true,
            late: 0,
        };
        // Of a cluster that was used by hand.
        for namespace in NAMESPACES {
            let delete = ["-n", namespace, "delete", "networkpolicy", "--all"];
            judge.kubectl(&delete, "")?;
        }
        judge.apply(&[world::namespace(MARKS, &BTreeMap::new())], &[])?;
        judge.wait_for_account(MARKS)?;
        judge.write(&with_marks(&State::standard()))?;
        Ok(judge)
    }

    /// From now on policy comes from this source, by enforcers that somebody else has started.
    pub fn set_source(&mut self, source: Source) {
        self.source = source;
        self.controller = match source {
            Source::NetworkPolicies => None,
            Source::PolicyEndpoints => Some(self.cluster.policy_controller(CHUNK)),
        };
    }

    /// Makes the API server say what the state says.
    fn write(&mut self, state: &State) -> Result<()> {
        self.take_away(state)?;
        let mut objects = Vec::new();
        for (name, labels) in &state.namespaces {
            if self.state.namespaces.get(name) != Some(labels) {
                objects.push(world::namespace(name, labels));
            }
        }
        let new_namespaces: Vec<_> = state
            .namespaces
            .keys()
            .filter(|name| !self.state.namespaces.contains_key(*name))
            .cloned()
            .collect();
        if !new_namespaces.is_empty() {
            self.apply(&std::mem::take(&mut objects), &[])?;
            for name in &new_namespaces {
                self.wait_for_account(name)?;
            }
        }
        for (name, spec) in &state.policies {
            let filled = self.places.filled(spec);
            let spec = filled.map_err(|reason| anyhow!("policy {name}: {reason}"))?;
            if self.policies.get(name) != Some(&spec) {
                objects.push(world::policy(name, &spec));
                self.policies.insert(name.clone(), spec);
            }
        }
        let mut new_pods = Vec::new();
        let mut statuses = Vec::new();
        for (name, pod) in &state.pods {
            let before = self.state.pods.get(name);
            if before == Some(pod) {
                continue;
            }
            if before.is_none_or(|before| before.labels != pod.labels) {
                objects.push(world::pod(name, pod, node_of(pod)));
            }
            match &pod.kind {
                Kind::Runs | Kind::HostNetwork => {
                    if before.is_none() {
                        new_pods.push(name.clone());
                    }
                }
                Kind::OnPaper {
                    addresses_of,
                    phase,
                } => {
                    statuses.push((name, addresses_of.clone(), *phase));
                }
            }
        }
        self.apply(&objects, &[])?;
        self.state.clone_from(state);
        self.settle(&new_pods)?;
        let statuses: Vec<Value> = statuses
            .into_iter()
            .map(|(name, of, phase)| {
                let addresses = match of {
                    AddressesOf::Nobody => None,
                    AddressesOf::Outside => Some(&self.places.outside),
                    AddressesOf::Pod(name) => self.places.pods.get(&name).map(|(_, a)| a),
                };
                json!({
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"namespace": name.namespace, "name": name.name},
                    "status": world::status(phase.name(), addresses),
                })
            })
            .collect();
        self.apply(&statuses, &["--subresource=status"])
    }

    /// Takes away what the state does not have, or has as another kind of thing.
    fn take_away(&mut self, state: &State) -> Result<()> {
        let is_other = |name: &ObjectName, pod: &PodState| match state.pods.get(name) {
            None => true,
            Some(new) => match (&pod.kind, &new.kind) {
                (Kind::OnPaper { .. }, Kind::OnPaper { .. }) => false,
                (old, kind) => old != kind || pod.node != new.node,
            },
        };
        let pods = self.state.pods.iter();
        let gone: Vec<ObjectName> = pods
            .filter(|(name, pod)| is_other(name, pod))
            .map(|(name, _)| name.clone())
            .collect();
        let is_old = |name: &&ObjectName| {
            !state.policies.contains_key(*name) || (self.is_new_case && name.namespace != MARKS)
        };
        let old_policies: Vec<_> = self.policies.keys().filter(is_old).cloned().collect();
        self.is_new_case = false;
        let mut deleted = Vec::new();
        for (kind, api, names) in [
            (
                "NetworkPolicy",
                "networking.k8s.io/v1",
                old_policies.clone(),
            ),
            ("Pod", "v1", gone.clone()),
        ] {
            deleted.extend(names.iter().map(|name| {
                json!({
                    "apiVersion": api,
                    "kind": kind,
                    "metadata": {"namespace": name.namespace, "name": name.name},
                })
            }));
        }
        for name in self.state.namespaces.keys() {
            if !state.namespaces.contains_key(name) {
                deleted.push(
                    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
                );
            }
        }
        for name in &gone {
            self.state.pods.remove(name);
            self.places.pods.remove(name);
            self.prober.forget(&Place::Pod(name.clone()));
        }
        self.policies.retain(|name, _| !old_policies.contains(name));
        if deleted.is_empty() {
            return Ok(());
        }
        self.kubectl(
            &[
                "delete",
                "--ignore-not-found",
                "--wait=true",
                "--timeout=60s",
                "-f",
                "-",
            ],
            &list(&deleted),
        )
    }

    /// Waits for new pods, and learns where they are.
    fn settle(&mut self, names: &[ObjectName]) -> Result<()> {
        for name in names {
            let wait = [
                "-n",
                &name.namespace,
                "wait",
                "--for=condition=Ready",
                "--timeout=60s",
                &format!("pod/{}", name.name),
            ];
            self.kubectl(&wait, "")?;
            let pod = &self.state.pods[name];
            if pod.kind != Kind::Runs {
                continue;
            }
            let running = Pod::read(self.cluster, &name.namespace, &name.name);
            let address = |family: Family| {
                let mut all = running.addresses.iter();
                all.find(|address| address.is_ipv4() == (family == Family::V4))
            };
            let (Some(std::net::IpAddr::V4(v4)), Some(std::net::IpAddr::V6(v6))) =
                (address(Family::V4), address(Family::V6))
            else {
                return Err(anyhow!("pod {name} has not one address of each family"));
            };
            let ground = Ground::open(&running.network())?;
            let place = (pod.node, Addresses { v4: *v4, v6: *v6 });
            self.places.pods.insert(name.clone(), place);
            self.prober.settle(Place::Pod(name.clone()), ground);
        }
        Ok(())
    }

    /// Pods are refused until the controller manager has made the account that they run as.
    fn wait_for_account(&self, namespace: &str) -> Result<()> {
        let wait = [
            "-n",
            namespace,
            "wait",
            "--for=create",
            "--timeout=60s",
            "serviceaccount/default",
        ];
        self.kubectl(&wait, "")
    }

    /// Writes the mark, and waits until it is seen on both nodes.
    fn mark(&mut self) -> Result<()> {
        self.turn += 1;
        let turn = self.turn.to_string();
        let port = FIRST_PORT + self.turn;
        let labels = BTreeMap::from([("turn".to_owned(), turn.clone())]);
        let asker = ObjectName::new(MARKS, ASKER);
        let pod = self
            .state
            .pods
            .get_mut(&asker)
            .context("the asker is there")?;
        pod.labels.clone_from(&labels);
        self.state.namespaces.insert(MARKS.into(), labels.clone());
        let turn_of = json!({"matchLabels": {"turn": turn}});
        let policy = json!({
            "podSelector": {"matchExpressions": [{"key": "pod", "operator": "In", "values": ANSWERERS}]},
            "ingress": [{
                "from": [{"namespaceSelector": turn_of, "podSelector": turn_of}],
                "ports": [{"protocol": "UDP", "port": port}],
            }],
        });
        let policy_name = ObjectName::new(MARKS, "turn");
        let pod = &self.state.pods[&asker];
        let objects = [
            world::namespace(MARKS, &labels),
            world::pod(&asker, pod, node_of(pod)),
            world::policy(&policy_name, &policy),
        ];
        self.apply(&objects, &[])?;
        self.state
            .policies
            .insert(policy_name.clone(), policy.clone());
        self.policies.insert(policy_name, policy);
        if let Some(controller) = &self.controller {
            controller.reconcile()?;
        }
        let asks = ANSWERERS.map(|answerer| {
            let to = ObjectName::new(MARKS, answerer);
            Trial {
                from: Place::Pod(asker.clone()),
                address: self.places.pods[&to].1.of(Family::V4),
                to: Place::Pod(to),
                what: What::Port(Protocol::Udp, port),
            }
        });
        let is_in_force = self.prober.answered(&asks, PATIENCE)?;
        ensure!(
            is_in_force,
            "what was written is not in force after {PATIENCE:?}"
        );
        for answerer in ANSWERERS {
            self.prober
                .stop_serving(&Place::Pod(ObjectName::new(MARKS, answerer)));
        }
        Ok(())
    }

    fn trial(&self, probe: &Probe) -> Trial {
        let place = |party: &Party, other: &Party| match party {
            Party::Pod(name) => Place::Pod(name.clone()),
            Party::OwnNode | Party::OtherNode => {
                let node = self.places.node_at(party, other);
                Place::Node(node.expect("a node is next to a pod"))
            }
            Party::Outside => Place::Outside,
        };
        Trial {
            from: place(&probe.from, &probe.to),
            to: place(&probe.to, &probe.from),
            address: self.places.ends(probe).1,
            what: probe.what,
        }
    }

    fn apply(&self, objects: &[Value], options: &[&str]) -> Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.kubectl(&[&apply, options].concat(), &list(objects))
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> Result<()> {
        let said = self.cluster.kubectl_with(arguments, input);
        said.map(drop)
            .map_err(|said| anyhow!("kubectl {}: {said}", arguments.join(" ")))
    }
}

impl Judge for InCluster<'_> {
    fn name(&self) -> String {
        format!("cluster, {}", self.source.name())
    }

    fn begin(&mut self) {
        self.prober.forget_kept();
        self.is_new_case = true;
    }

    fn follow(&mut self, state: &State) -> Result<()> {
        let mut state = with_marks(state);
        // The mark of the last turn stands until the next one.
        let asker = ObjectName::new(MARKS, ASKER);
        if let Some(known) = self.state.pods.get(&asker) {
            state.pods.insert(asker, known.clone());
        }
        if let Some(labels) = self.state.namespaces.get(MARKS) {
            state.namespaces.insert(MARKS.into(), labels.clone());
        }
        let turn = ObjectName::new(MARKS, "turn");
        if let Some(policy) = self.policies.get(&turn) {
            state.policies.insert(turn, policy.clone());
        }
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
        let deadline = Instant::now() + LATEST;
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

/// The state with the pods of the mark.
fn with_marks(state: &State) -> State {
    let mut state = state.clone();
    state.namespaces.insert(MARKS.into(), BTreeMap::new());
    for (name, node) in [
        (ASKER, Node::One),
        (ANSWERERS[0], Node::One),
        (ANSWERERS[1], Node::Two),
    ] {
        let pod = PodState {
            labels: [("pod".to_owned(), name.to_owned())].into(),
            node,
            kind: Kind::Runs,
        };
        state.pods.insert(ObjectName::new(MARKS, name), pod);
    }
    state
}

const fn node_of(pod: &PodState) -> Option<&'static str> {
    match pod.kind {
        Kind::Runs | Kind::HostNetwork => Some(NODES[pod.node.index()]),
        Kind::OnPaper { .. } => None,
    }
}

fn list(objects: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}

/// The network namespace of a part of the cluster, by the process that keeps it.
fn ground_of(cluster: &Cluster, part: &str) -> Result<Ground> {
    let file = cluster.dir().join(part).join("keeper.pid");
    let keeper = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let path = format!("/proc/{}/ns/net", keeper.trim());
    Ground::open(Path::new(&path)).with_context(|| format!("open {path}"))
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
