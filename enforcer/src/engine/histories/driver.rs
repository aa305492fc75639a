// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A node and its engine, to which things happen.

mod verdicts;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use podgate_datapath::Sizes;
use podgate_datapath::netlink::Ifindex;
use podgate_datapath::record::{AttachmentId, Generation, PodName, Record, Slot};
use podgate_handoff::{Reply, Request};
use podgate_policy::arbitrary::{self, Edit};
use podgate_policy::connection::Baseline;
use podgate_policy::model::{ObjectName, World};
use podgate_policy::oracle::may_be_redirected;
use tokio::sync::{oneshot, watch};

use super::Happening;
use super::moments::{Moment, Probes, Window};
use crate::cluster::{Cluster, ForeignSetting};
use crate::condition::Condition;
use crate::convert::pod::IdentifiedPod;
use crate::engine::change::FactsChange;
use crate::engine::dataplane::Dataplane;
use crate::engine::dataplane::model::{Faults, Model, Plugin};
use crate::engine::grace::Grace;
use crate::engine::inbox::Inbox;
use crate::engine::{Engine, EngineConfig, Event, Handoff};
use crate::guard::Guard;
use crate::node::{Addresses, Noticed};
use crate::source::{News, Objects, SourceStatus, Update};

/// How long an operation of the node may take: of a turn's 15 ms nothing, some, most.
const TICKS: [Duration; 3] = [
    Duration::from_micros(50),
    Duration::from_millis(2),
    Duration::from_millis(6),
];

/// After so many turns, of 100 ms each, all is in force: what failed is tried again meanwhile.
const REST: usize = 400;

/// The node, its engine, and what both should know.
pub(super) struct Driver {
    node: Model,
    engine: Option<Engine<Model>>,
    events: Sender<Event>,
    inbox: Receiver<Event>,
    sizes: Sizes,
    /// What the source says.
    world: World,
    objects: Objects,
    /// The same as the engine should know it.
    cluster: Cluster,
    /// What was so since all was in force.
    window: Window,
    /// Whether there may be no record of isolated namespaces: none was written, or somebody took it away.
    is_unguarded: bool,
    /// The births of attachments whose ADD found it.
    guarded: BTreeSet<u32>,
    /// Of these, those whose ADD found no enforcer to answer it; and all that an engine has known: their pods run as policy says.
    running: BTreeSet<u32>,
    /// Addresses whose ADD and DEL came while the engine did not look. Nobody is behind them, and what was known of them is
    /// deleted until something else is known.
    unseen: BTreeSet<IpAddr>,
    /// Nothing is on its way between the node and the table set in force.
    is_idle: bool,
    probes: Rc<RefCell<Probes>>,
    /// Whether they are judged by all that may be in force.
    is_aimed: bool,
    dice: Dice,
    /// Whether all fits into the tables.
    is_roomy: bool,
    replies: Vec<(Record, oneshot::Receiver<Reply>)>,
    /// Whether operations may have failed since all was in force: what isolates, and allows everything, is denied then until what
    /// is newer is in force.
    is_faulty: bool,
    /// Whether the enforcer is killed in what happens next.
    dies: bool,
}

/// Numbers from a seed (splitmix64).
struct Dice(u64);

impl Engine<Model> {
    /// Nothing is on its way in the table set in force, but for policy that waits for another one.
    fn is_idle(&self) -> bool {
        let world = self.known.cluster.view().world;
        let has_facts = FactsChange::between(&self.standing.facts, &world) == FactsChange::None;
        has_facts
            && !self.standing.facts_missing
            && !self.standing.more_to_do
            && self.standing.pending.is_none()
            && self.pace.trouble.is_none()
            && self.standing.facts_due.is_none()
    }

    /// All that is known is in force.
    fn is_settled(&self) -> bool {
        self.is_idle()
            && self
                .hindrances
                .iter()
                .all(|(_, it)| it.unswapped.is_none() && it.open.is_none())
            && self.standing.isolated_file.trouble.is_none()
            && !self.is_drafting()
    }

    /// It waits for nothing.
    fn is_calm(&self) -> bool {
        self.is_settled()
            && self.hindrances.iter().all(|(_, it)| it.shadowed.is_none())
            && self.grace == Grace::None
            && !self.standing.built.planner.waits_for_grace()
    }
}

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).expect("below a usize")
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.engine = None;
        self.node.take_apart();
    }
}

impl Driver {
    pub(super) fn new(world: World, seed: u64) -> Self {
        let (events, inbox) = channel();
        let probes = Rc::new(RefCell::new(Probes::default()));
        let small = Sizes {
            rulesets: 8,
            rows: 16,
            peers: 16,
            portsets: 16,
            chunks: 32,
            ..Sizes::default()
        };
        let mut dice = Dice(seed);
        let node = Model::new(TICKS[dice.below(TICKS.len())]);
        let is_roomy = dice.below(2) == 0;
        let sizes = if is_roomy { Sizes::default() } else { small };
        let mut driver = Self {
            node: node.clone(),
            engine: None,
            events,
            inbox,
            sizes,
            world,
            objects: Objects::default(),
            cluster: Cluster::default(),
            window: Window::default(),
            is_unguarded: true,
            guarded: BTreeSet::new(),
            running: BTreeSet::new(),
            unseen: BTreeSet::new(),
            is_idle: false,
            probes: Rc::clone(&probes),
            is_aimed: false,
            dice,
            is_roomy,
            replies: Vec::new(),
            is_faulty: false,
            dies: false,
        };
        driver.objects = objects_of(&driver.world);
        driver.forget();
        node.set_addresses(driver.world.node_addresses.iter().copied());
        let watched = node.clone();
        node.probe_with(move || {
            let mut probes = probes.borrow_mut();
            let Probes { probes, wrong } = &mut *probes;
            if wrong.is_some() {
                return;
            }
            *wrong = probes.iter().find_map(|probe| probe.on_the_way(&watched));
        });
        driver
    }

    /// What was known of pods that are gone is not known any more.
    fn forget(&mut self) {
        self.cluster = Cluster::default();
        let services = self.world.service_options.clone();
        self.cluster.set_node(self.node_name(), services);
        self.cluster.set_source(self.objects.clone());
        self.cluster.set_node_addresses(self.addresses());
    }

    fn send(&self, event: Event) {
        self.events.send(event).expect("we hold the other end");
    }

    fn node_name(&self) -> String {
        self.world
            .node_name
            .clone()
            .unwrap_or_else(|| "here".into())
    }

    fn addresses(&self) -> Addresses {
        Addresses {
            own: self.world.node_addresses.iter().copied().collect(),
            scopes: self.world.node_scopes.clone(),
            tunnel_ports: self.world.tunnel_ports.clone(),
        }
    }

    /// Takes note of what is to be in force, and of what is tried. What will be known when a plugin has run may be in force
    /// before the turn is over in which it does.
    pub(super) fn note(&mut self) {
        let mut records = self.node.attachments();
        self.cluster.set_attachments(records.clone());
        let now = Moment::new(self.cluster.view(), &records);
        if let Some(plugin) = self.node.next_plugin() {
            let mut added = Vec::new();
            match &plugin {
                Plugin::Add(record) => {
                    records.retain(|it| it.identity != record.identity);
                    let record = self.node.with_free_addresses(record);
                    added.clone_from(&record.addresses);
                    records.push(record);
                }
                Plugin::Del(identity, _) => records.retain(|it| it.identity != *identity),
            }
            let mut cluster = self.cluster.clone();
            cluster.set_attachments(records.clone());
            let moment = Moment::new(cluster.view(), &records);
            self.window.foresee(moment, added);
        }
        self.window.push(now);
        self.is_aimed = false;
    }

    /// Has a plugin run soon, and the one before it now.
    fn run_later(&mut self, locks: u32, plugin: Plugin) {
        self.run_plugin();
        self.node.run_later(locks, plugin);
        self.note();
    }

    fn run_plugin(&mut self) {
        self.aim();
        self.node.run_plugin();
        self.after_plugins();
    }

    fn config(&self) -> EngineConfig<Model> {
        EngineConfig {
            node: self.node.clone(),
            sizes: self.sizes,
            node_name: self.node_name(),
            services: self.world.service_options.clone(),
            foreign: ForeignSetting::default(),
            guard: Guard::default(),
            node_addresses: self.addresses(),
            questions: None,
        }
    }

    pub(super) fn start(&mut self) -> Result<(), String> {
        // What was sent to the one before is lost with it.
        while self.inbox.try_recv().is_ok() {}
        self.replies.clear();
        self.unseen.clear();
        self.forget();
        self.note();
        self.aim();
        // An engine that starts does not know what isolates a pod that may open any connection: it is denied until what is
        // narrower is in force.
        for probe in &mut self.probes.borrow_mut().probes {
            probe.bounds.must_pass &= !probe.bounds.is_isolated;
        }
        self.node.judge_again().ok();
        let condition = watch::channel(Condition::Starting(Vec::new())).0;
        let wrong = SourceStatus::default();
        let started = Engine::start(self.config(), self.objects.clone(), wrong, condition);
        // If something fails, it is started again later.
        self.engine = started.ok();
        // A start writes it before anything else.
        self.is_unguarded &= self.engine.is_none();
        self.look()
    }

    fn turn(&mut self) -> Result<(), String> {
        if self.node.has_drafts() && self.dice.below(4) == 0 {
            self.send(Event::Drafted);
        }
        if self.dice.below(4) == 0 && self.node.take_grace() {
            self.send(Event::GraceOver);
        }
        self.aim();
        let inbox = Inbox::gather(&self.inbox, Duration::ZERO);
        if let Some(engine) = &mut self.engine {
            engine.take(inbox);
        }
        self.look()
    }

    /// What was seen on the way; what stands now; and what ADDs were answered.
    fn look(&mut self) -> Result<(), String> {
        if let Some(wrong) = self.probes.borrow_mut().wrong.take() {
            return Err(wrong);
        }
        let is_told = !self.after_plugins();
        let Some(engine) = &self.engine else {
            return Ok(());
        };
        // What cannot be isolated is reported.
        let known = engine.known.cluster.records();
        let known = known.filter(|record| {
            let hindrance = engine.hindrances.of(record.slot);
            hindrance.is_none_or(|it| it.open.is_none())
        });
        self.running.extend(known.map(|record| record.birth.0));
        // What finds no room waits for the grace period that makes some.
        let has_room = self.is_roomy || !engine.standing.built.planner.waits_for_grace();
        self.is_idle = is_told && has_room && engine.is_idle();
        if self.is_idle && engine.is_settled() && self.node.next_plugin().is_none() {
            self.window.settle(self.node.generation());
            self.is_unguarded &= !self.node.has_isolated_file();
            self.is_faulty = self.dies || self.node.has_faults();
        }
        self.is_aimed = false;
        self.aim();
        let probes = std::mem::take(&mut self.probes.borrow_mut().probes);
        let wrong = probes.iter().find_map(|probe| self.after_turn(probe));
        self.probes.borrow_mut().probes = probes;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        let mut open = Vec::new();
        for (record, mut reply) in std::mem::take(&mut self.replies) {
            match reply.try_recv() {
                Ok(Reply::InForce) => self.is_in_force(&record)?,
                Ok(_) | Err(oneshot::error::TryRecvError::Closed) => {}
                Err(oneshot::error::TryRecvError::Empty) => open.push((record, reply)),
            }
        }
        self.replies = open;
        Ok(())
    }

    /// What plugins did meanwhile is told to the engine; whether they did anything.
    fn after_plugins(&mut self) -> bool {
        let done = self.node.plugins_done();
        let is_anything = !done.is_empty();
        for done in done {
            match done {
                Plugin::Add(record) => {
                    let reply = self.request(Request::Add(record.identity.clone()));
                    if !self.is_unguarded {
                        self.guarded.insert(record.birth.0);
                    }
                    if self.engine.is_none() {
                        self.run_guarded();
                    }
                    self.note();
                    self.replies.push((*record, reply));
                }
                Plugin::Del(identity, record) => {
                    let cluster = self.engine.as_ref().map(|engine| &engine.known.cluster);
                    let known = cluster.and_then(|cluster| cluster.record(&identity));
                    if let Some(record) = record.filter(|record| known != Some(&**record)) {
                        self.unseen.extend(record.addresses);
                    }
                    self.note();
                    self.request(Request::Del(identity));
                }
            }
        }
        is_anything
    }

    /// Until all is in force; then it is what the oracle says.
    pub(super) fn rest(&mut self) -> Result<(), String> {
        self.node.fail(Faults::default());
        self.run_plugin();
        if self.engine.is_none() {
            self.start()?;
        }
        if self.engine.is_none() {
            return Err("the engine does not start".into());
        }
        let mut calm = 0;
        for _ in 0..REST {
            if self.node.take_grace() {
                self.send(Event::GraceOver);
            }
            self.node.wait(Duration::from_millis(100));
            if self.node.has_drafts() {
                self.send(Event::Drafted);
            }
            self.turn()?;
            let is_calm = self.engine.as_ref().is_some_and(Engine::is_calm);
            calm = if is_calm { calm + 1 } else { 0 };
            if calm >= 3 {
                return match self.replies.first() {
                    Some((record, _)) => Err(format!("the ADD of {record:?} is not answered")),
                    None => self.compare(),
                };
            }
        }
        let engine = self.engine.as_ref().expect("it was started");
        Err(format!(
            "it does not come to rest: {:?}, grace {:?}, draft {:?}, {:?}",
            engine.pace, engine.grace, engine.drafts, engine.hindrances,
        ))
    }

    pub(super) fn happen(&mut self, happening: Happening) -> Result<(), String> {
        if self.engine.is_none() && self.dice.below(2) == 0 {
            self.start()?;
        }
        match happening {
            Happening::Edit(edit) => self.edit(edit),
            Happening::Add(pod, locks) => {
                let known = self.world.pods.get(&name_of(pod));
                let addresses = known.map_or_else(Vec::new, |pod| pod.addresses.clone());
                let record = self.record(pod, addresses);
                self.run_later(locks, Plugin::Add(Box::new(record)));
            }
            Happening::TakeOver(pod, locks, other, said) => {
                let record = self.record(pod, said.addresses.clone());
                self.edit(Edit::Pod(name_of(other), Some(*said)));
                self.run_later(locks, Plugin::Add(Box::new(record)));
            }
            Happening::Remove(pod, locks) => {
                self.run_later(locks, Plugin::Del(identity_of(pod), None));
            }
            Happening::Fault(faults) => self.fail(faults),
            Happening::GraceOver => {
                if self.node.take_grace() {
                    self.send(Event::GraceOver);
                }
            }
            Happening::Wait(time) => self.node.wait(time),
            Happening::LoseIsolated => {
                self.node.lose_isolated_file();
                self.is_unguarded = true;
            }
            Happening::Kill(after) => {
                self.dies = true;
                self.fail(Faults {
                    after,
                    number: u32::MAX,
                });
                return Ok(());
            }
            Happening::Rest if self.dies => {}
            Happening::Rest => return self.rest(),
        }
        for _ in 0..=self.dice.below(3) {
            self.turn()?;
        }
        if std::mem::take(&mut self.dies) {
            self.node.fail(Faults::default());
            self.end()?;
        }
        Ok(())
    }

    fn fail(&mut self, faults: Faults) {
        self.node.fail(faults);
        self.is_faulty = true;
        self.is_aimed = false;
    }

    /// The enforcer ends: killed, or by SIGTERM.
    fn end(&mut self) -> Result<(), String> {
        self.aim();
        if let Some(mut engine) = self.engine.take()
            && self.dice.below(3) == 0
        {
            engine.end();
        }
        if let Some(wrong) = self.probes.borrow_mut().wrong.take() {
            return Err(wrong);
        }
        self.run_guarded();
        self.node.take_grace();
        drop(self.node.finished_drafts());
        Ok(())
    }

    fn run_guarded(&mut self) {
        self.running.append(&mut self.guarded);
    }

    fn edit(&mut self, mut edit: Edit) {
        // Nodes have addresses of their own.
        if let Edit::NodeAddresses(addresses) | Edit::ClusterNodes(addresses) = &mut edit {
            let attachments = self.node.attachments();
            let mut pods = self.window.added().to_vec();
            pods.extend(attachments.into_iter().flat_map(|it| it.addresses));
            addresses.retain(|address| !pods.contains(address));
        }
        edit.apply(&mut self.world);
        let new = objects_of(&self.world);
        let changes = self.objects.differences(&new);
        self.objects = new;
        self.cluster.apply(changes.clone());
        let addresses = self.addresses();
        self.cluster.set_node_addresses(addresses.clone());
        self.node
            .set_addresses(self.world.node_addresses.iter().copied());
        self.note();
        let update = Update {
            changes,
            wrong: SourceStatus::default(),
        };
        let source = Event::Source(News::Update(update));
        let node = Event::Node(Noticed::Addresses(addresses));
        for event in [source, node] {
            self.send(event);
        }
    }

    /// The attachment that an ADD of this pod makes.
    fn record(&self, pod: usize, addresses: Vec<IpAddr>) -> Record {
        let identity = identity_of(pod);
        let name = name_of(pod);
        let known = self.world.pods.get(&name);
        let is_free = |address: &IpAddr| {
            // An ADD deletes what is known of its addresses. Nodes and Services have others.
            !may_be_redirected(&self.world, *address) && !self.world.cluster_nodes.contains(address)
        };
        let addresses = addresses.into_iter().filter(is_free).collect();
        let uid = known.and_then(|pod| pod.uid.as_ref());
        Record {
            identity,
            network: "net".into(),
            pod: Some(PodName {
                namespace: name.namespace,
                name: name.name,
                uid: uid.map(ToString::to_string),
            }),
            netns_inode: 1,
            pod_ifindex: Ifindex(2),
            host_ifindex: Ifindex(100 + u32::try_from(pod).expect("few pods")),
            host_mac: None,
            pod_mac: Some([2; 6]),
            broadcasts: Vec::new(),
            addresses,
            baseline: Baseline::Allow,
            slot: Slot(0),
            birth: Generation(0),
        }
    }

    fn request(&self, request: Request) -> oneshot::Receiver<Reply> {
        let (reply, answer) = oneshot::channel();
        let handoff = Event::Handoff(Handoff { request, reply });
        self.send(handoff);
        answer
    }
}

fn name_of(pod: usize) -> ObjectName {
    let (namespace, pod) = (pod / arbitrary::PODS.len(), pod % arbitrary::PODS.len());
    ObjectName::new(arbitrary::NAMESPACES[namespace], arbitrary::PODS[pod])
}

fn identity_of(pod: usize) -> AttachmentId {
    AttachmentId {
        container_id: format!("c{pod}"),
        ifname: "eth0".into(),
    }
}

/// What a source would say of a world.
fn objects_of(world: &World) -> Objects {
    let pods = world.pods.iter().map(|(name, pod)| {
        let identified = IdentifiedPod {
            name: name.clone(),
            config_hash: None,
            node: pod.node.as_deref().map(Into::into),
            pod: Arc::clone(pod),
        };
        (name.clone(), Arc::new(identified))
    });
    let nodes = world.cluster_nodes.iter().copied().collect();
    Objects {
        namespaces: world.namespaces.clone(),
        pods: pods.collect(),
        policies: world.policies.clone(),
        listed: world.listed.clone(),
        nodes: [("n".to_owned(), Arc::new(nodes))].into_iter().collect(),
        services: world.services.clone(),
        endpoint_slices: world.endpoint_slices.clone(),
    }
}
