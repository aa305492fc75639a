// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Executes plans on the model, and compares what passes with the oracle after every write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use podgate_abi::{RulesetId, Slot};
use podgate_policy::arbitrary::{self, Edit};
use podgate_policy::compile::compile_subject;
use podgate_policy::connection::{Baseline, Connection, Direction, Subject, Transport};
use podgate_policy::model::{NetworkPolicy, ObjectName, Protocol, World};
use podgate_policy::oracle::{
    is_led_into_tunnel, is_redirected, may_be_redirected, needs_its_address, spares,
};

use super::beginners::{Beginners, Ways, ways};
use crate::plan::host::frames::{Part, own_addresses, passes};
use crate::plan::host::{Flows, HostTables, Step};
use crate::plan::{Capacities, Plan, PlanError, Planner, Rulesets};

/// Room for everything that the small universe can ask for.
pub(super) const AMPLE: Capacities = Capacities {
    rulesets: 1 << 10,
    rows: 1 << 14,
    peers: 1 << 10,
    prefixes: 1 << 10,
    port_sets: 1 << 10,
    chunks: 1 << 10,
};

/// How often each transaction is probed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    /// New connections that are tried after every write.
    pub probes: usize,
    /// Established flows that are kept from transaction to transaction.
    pub flows: usize,
}

/// Where a verdict was wrong.
#[derive(Debug)]
#[expect(dead_code, reason = "printed when a test fails")]
pub(super) struct Wrong {
    what: &'static str,
    slot: Slot,
    connection: Connection,
    passed: bool,
    expected: [Ways; 2],
    after: usize,
    steps: Vec<Step>,
}

/// Numbers from a seed (splitmix64).
#[derive(Debug, Clone)]
pub(super) struct Dice(pub u64);

impl Dice {
    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).expect("below a usize")
    }
}

/// What an attachment has.
#[derive(Debug, Clone, PartialEq)]
struct InForce {
    policies: OrdMap<ObjectName, Arc<NetworkPolicy>>,
    subject: Subject,
}

impl InForce {
    fn under(&self, facts: &World) -> World {
        World {
            policies: self.policies.clone(),
            ..facts.clone()
        }
    }

    fn ways(&self, facts: &World, connection: &Connection) -> Ways {
        ways(&self.under(facts), &self.subject, connection)
    }
}

/// How far the grace period is that was last begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grace {
    None,
    Underway,
    /// What waited for it is not all done.
    Over,
}

/// One node: a world, attachments, the tables, and their planner.
pub(super) struct Bench {
    pub tables: HostTables,
    pub planner: Planner,
    /// The facts, and the policies that are to be in force.
    world: World,
    attached: BTreeMap<Slot, InForce>,
    /// Changes for which there was no room.
    pub refused: usize,
    baseline: Baseline,
    /// Whether plans are of any room. Where tables are tight, a change that is made in part may leave no room to tidy: the
    /// engine builds a new table set then.
    in_portions: bool,
    dice: Dice,
    effort: Effort,
    /// Established, each with its attachment.
    flows: Vec<(Slot, Connection)>,
    /// Who may have begun each of them.
    began: BTreeMap<(Slot, Connection), Beginners>,
    /// Those of them that a change of facts spared, which may pass or not until something that is known denies them; and
    /// whether they need their very address.
    grandfathered: BTreeMap<(Slot, Connection), bool>,
    /// Those that are denied, and may not know it until a grace period is over.
    unaware: BTreeSet<(Slot, Connection)>,
    grace: Grace,
    /// Makes another sequence of a plan's steps, to see that it is noticed.
    mutant: Option<fn(Vec<Step>) -> Vec<Step>>,
}

/// Something that is tried again and again while a plan is executed, and what may come of it.
struct Probe {
    slot: Slot,
    connection: Connection,
    before: Ways,
    after: Ways,
    /// Whether a denial may not reach it, because nothing that is known denies it, on the way and in the end; and whether
    /// it needs its very address.
    lingers: [Option<bool>; 2],
    /// Whether nodes lead the pod's packets into a tunnel: then what comes from there passes by itself, and tells nothing of a
    /// flow.
    is_led: bool,
}

impl Probe {
    fn new(slot: Slot, connection: Connection, before: Ways, after: Ways) -> Self {
        Self {
            slot,
            connection,
            before,
            after,
            lingers: [None; 2],
            is_led: false,
        }
    }
}

impl Bench {
    pub(super) fn new(
        capacities: Capacities,
        baseline: Baseline,
        seed: u64,
        effort: Effort,
    ) -> Self {
        let slots = (0..arbitrary::NAMESPACES.len() * arbitrary::PODS.len())
            .map(slot_number)
            .map(|slot| (slot, own_addresses(slot)));
        Self {
            tables: HostTables::new(slots),
            planner: Planner::new(capacities),
            world: World::default(),
            attached: BTreeMap::new(),
            refused: 0,
            baseline,
            in_portions: capacities == AMPLE,
            dice: Dice(seed),
            effort,
            flows: Vec::new(),
            began: BTreeMap::new(),
            grandfathered: BTreeMap::new(),
            unaware: BTreeSet::new(),
            grace: Grace::None,
            mutant: None,
        }
    }

    /// Executes the steps of every plan in another way.
    pub(super) fn with_mutant(mut self, mutant: fn(Vec<Step>) -> Vec<Step>) -> Self {
        self.mutant = Some(mutant);
        self.in_portions = false;
        self
    }

    /// Makes the change, in a transaction for facts and some for policies.
    pub(super) fn edit(&mut self, edit: Edit) -> Result<(), Wrong> {
        let mut world = self.world.clone();
        edit.apply(&mut world);
        self.go_to(world)
    }

    /// Changes what differs, in a transaction for facts and some for policies, of any room and not always all of them. Where
    /// there is no room, what was in force must stay.
    pub(super) fn go_to(&mut self, world: World) -> Result<(), Wrong> {
        let policies = world.policies.clone();
        let facts = World {
            policies: self.world.policies.clone(),
            ..world
        };
        let Some(plan) = self.plan(|planner| planner.facts_change(&facts))? else {
            return self.refuse();
        };
        self.change_facts(facts, plan)?;

        self.world.policies = policies;
        let wanted = self.wanted();
        let rulesets: Rulesets = wanted
            .iter()
            .map(|(slot, wanted)| {
                let compiled = compile_subject(&wanted.under(&self.world), &wanted.subject);
                (*slot, Arc::new(compiled))
            })
            .collect();
        self.attach(&wanted);
        let (steps, room) = self.portions();
        for _ in 0..steps {
            let Some(plan) = self.plan(|planner| planner.policy_step(&rulesets, room))? else {
                return self.refuse();
            };
            self.change_policy(&wanted, &rulesets, plan)?;
            if self.planner.is_at(&rulesets) {
                break;
            }
        }
        Ok(())
    }

    /// How many plans of policy are made at most, and how large they are.
    fn portions(&mut self) -> (usize, usize) {
        if !self.in_portions || self.dice.below(2) == 0 {
            return (1, usize::MAX);
        }
        let room = 1 + self.dice.below(12);
        match self.dice.below(2) {
            0 => (usize::MAX, room),
            _ => (1 + self.dice.below(4), room),
        }
    }

    /// Makes a plan, if there is room for it once what nothing names is gone.
    fn plan(
        &mut self,
        make: impl Fn(&mut Planner) -> Result<Plan, PlanError>,
    ) -> Result<Option<Plan>, Wrong> {
        loop {
            match make(&mut self.planner) {
                Ok(plan) => return Ok(Some(plan)),
                Err(PlanError::Full { .. })
                    if self.planner.waits_for_grace() || self.planner.has_remains() =>
                {
                    let steps = self.all_graces();
                    self.stay(steps)?;
                }
                Err(PlanError::Full { .. } | PlanError::Overlapping { .. }) => return Ok(None),
                Err(PlanError::Unfinished) => unreachable!("every plan is executed"),
            }
        }
    }

    fn wanted(&self) -> BTreeMap<Slot, InForce> {
        arbitrary::subjects(&self.world, self.baseline)
            .into_iter()
            .map(|subject| {
                let policies = self.world.policies.clone();
                (slot_of(&subject.name), InForce { policies, subject })
            })
            .collect()
    }

    /// Attachments come, with what the plugin writes, and go.
    fn attach(&mut self, wanted: &BTreeMap<Slot, InForce>) {
        self.attached.retain(|slot, _| wanted.contains_key(slot));
        self.flows.retain(|(slot, _)| wanted.contains_key(slot));
        for (slot, wanted) in wanted {
            if !self.attached.contains_key(slot) {
                self.tables.attach(*slot, RulesetId::of(self.baseline));
                let policies = OrdMap::new();
                let subject = wanted.subject.clone();
                self.attached.insert(*slot, InForce { policies, subject });
            }
        }
    }

    fn refuse(&mut self) -> Result<(), Wrong> {
        self.refused += 1;
        self.stay(Vec::new())
    }

    /// Executes steps that change no verdict.
    fn stay(&mut self, steps: Vec<Step>) -> Result<(), Wrong> {
        let probes = self.probes(|bench, slot, connection| {
            let allowed = bench.attached[&slot].ways(&bench.world, &connection);
            let mut probe = Probe::new(slot, connection, allowed, allowed);
            let needs = bench.grandfathered.get(&(slot, connection)).copied();
            probe.lingers = [needs, needs];
            probe
        });
        self.run(steps, 0, &probes)
    }

    fn change_facts(&mut self, world: World, plan: Plan) -> Result<(), Wrong> {
        let before = std::mem::replace(&mut self.world, world);
        let probes = self.probes(|bench, slot, connection| {
            let attached = &bench.attached[&slot];
            let was = attached.ways(&before, &connection);
            let after = attached.ways(&bench.world, &connection);
            let mut probe = Probe::new(slot, connection, was, after);
            probe.is_led = is_led_into_tunnel(&before, &connection);
            let lingered = bench.grandfathered.get(&(slot, connection)).copied();
            let needed = lingered.or_else(|| {
                let is_redirected = is_redirected(&before, &connection);
                is_redirected.then(|| needs_its_address(&before, &connection))
            });
            let needed = needed.map(|needed| match is_redirected(&bench.world, &connection) {
                true => needs_its_address(&bench.world, &connection),
                false => needed,
            });
            let spared = needed.filter(|needed| {
                connection.direction == Direction::Egress
                    && may_be_redirected(&bench.world, connection.peer)
                    && spares(
                        &attached.under(&bench.world),
                        &attached.subject,
                        &connection,
                        *needed,
                    )
            });
            probe.lingers = [lingered.or(spared), spared.filter(|_| !after[0])];
            probe
        });
        self.execute(plan, &probes)
    }

    fn change_policy(
        &mut self,
        wanted: &BTreeMap<Slot, InForce>,
        rulesets: &Rulesets,
        plan: Plan,
    ) -> Result<(), Wrong> {
        let before = self.attached.clone();
        let reached = self.planner.attachments();
        for (slot, attached) in &mut self.attached {
            if reached.get(slot) == rulesets.get(slot) {
                attached.clone_from(&wanted[slot]);
            }
        }
        let probes = self.probes(|bench, slot, connection| {
            let was = before[&slot].ways(&bench.world, &connection);
            let after = bench.attached[&slot].ways(&bench.world, &connection);
            let mut probe = Probe::new(slot, connection, was, after);
            let lingered = bench.grandfathered.get(&(slot, connection)).copied();
            probe.lingers = [lingered, lingered.filter(|_| !after[0])];
            probe
        });
        self.execute(plan, &probes)
    }

    fn execute(&mut self, plan: Plan, probes: &[Probe]) -> Result<(), Wrong> {
        let mut steps: Vec<Step> = plan.writes().iter().cloned().map(Step::Write).collect();
        self.planner.commit(plan);
        let in_force_after = steps.len();
        match self.mutant {
            None => {
                for _ in 0..self.dice.below(5) {
                    self.grace(&mut steps);
                }
                self.run(steps, in_force_after, probes)
            }
            Some(mutant) => {
                steps.extend(self.all_graces());
                self.run(mutant(steps), usize::MAX, probes)
            }
        }
    }

    /// A grace period begins; or the one that has begun is over; and some of what waited for it is done.
    fn grace(&mut self, steps: &mut Vec<Step>) {
        match self.grace {
            Grace::None => {
                self.planner.grace_begins();
                steps.push(Step::GraceBegins);
                self.grace = Grace::Underway;
                return;
            }
            Grace::Underway => steps.push(Step::GraceOver),
            Grace::Over => {}
        }
        let (_, room) = self.portions();
        let plan = self.planner.tidy_step(room).expect("room to tidy");
        steps.extend(plan.writes().iter().cloned().map(Step::Write));
        self.planner.commit(plan);
        self.grace = match self.planner.has_remains() {
            true => Grace::Over,
            false => Grace::None,
        };
    }

    /// Grace periods until nothing waits for one.
    fn all_graces(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        while self.grace != Grace::None
            || self.planner.waits_for_grace()
            || self.planner.has_remains()
        {
            self.grace(&mut steps);
        }
        steps
    }

    /// The established flows, and new connections by chance.
    fn probes(&mut self, probe: impl Fn(&Self, Slot, Connection) -> Probe) -> Vec<Probe> {
        let slots: Vec<Slot> = self.attached.keys().copied().collect();
        let mut wanted = self.flows.clone();
        while !slots.is_empty() && wanted.len() < self.flows.len() + self.effort.probes {
            let slot = slots[self.dice.below(slots.len())];
            let connection = self.connection();
            let is_broadcast = connection.peer == std::net::Ipv4Addr::BROADCAST;
            if !(is_broadcast && connection.transport.is_tunnel(&self.world.tunnel_ports)) {
                wanted.push((slot, connection));
            }
        }
        let probe = |(slot, connection)| {
            let mut probe = probe(self, slot, connection);
            probe.is_led |= is_led_into_tunnel(&self.world, &connection);
            probe
        };
        wanted.into_iter().map(probe).collect()
    }

    fn connection(&mut self) -> Connection {
        let peer = match self.dice.below(40) {
            index @ 0..16 => arbitrary::ipv4(index as u8),
            index @ 16..32 => arbitrary::ipv6(index as u8),
            32..34 => [192, 0, 2, 1].into(),
            34 => [255, 255, 255, 255].into(),
            35 => [10, 0, 0, 16].into(),
            _ => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
        };
        let ports = [1, 2, 3, 4, 5, 6, 7, 8, 4789, 6081, 8472, 0xfffe, 0xffff];
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let transport = match self.dice.below(8) {
            0 => Transport::Other([1, 4, 41, 47, 58][self.dice.below(5)]),
            _ => Transport::Port(
                protocols[self.dice.below(protocols.len())],
                ports[self.dice.below(ports.len())],
            ),
        };
        let direction = Direction::BOTH[self.dice.below(2)];
        // A tunnel to the pod is the kernel's own matter while its address is the node's, which changes.
        let transport = match (direction, transport) {
            (Direction::Ingress, Transport::Other(4 | 41 | 47)) => Transport::Other(50),
            (Direction::Ingress | Direction::Egress, transport) => transport,
        };
        Connection {
            direction,
            peer,
            transport,
        }
    }

    /// Executes steps. After every write, and of packets that are on their way during some, each verdict is that of before
    /// or that of after; in the end it is that of after, of established flows when nothing waits for a grace period.
    /// Then some of what passes is established.
    fn run(
        &mut self,
        steps: Vec<Step>,
        in_force_after: usize,
        probes: &[Probe],
    ) -> Result<(), Wrong> {
        let (flows, fresh) = probes.split_at(self.flows.len());
        let wrong = |what, probe: &Probe, passed, after| Wrong {
            what,
            slot: probe.slot,
            connection: probe.connection,
            passed,
            expected: [probe.before, probe.after],
            after,
            steps: steps.clone(),
        };
        let overlapping = self.dice.below(2) == 0;
        let mut done = 0;
        while done < steps.len() {
            let next = if overlapping {
                self.overtake(&steps[done..], probes)
                    .map_err(|(probe, passed)| wrong("on its way", probe, passed, done))?
            } else {
                self.tables.execute(&steps[done]);
                1
            };
            done += next;
            self.tables.track(Flows::Tracked);
            for probe in flows {
                let part = [Part::Request, Part::Reply][self.dice.below(2)];
                let passed = passes(&self.tables, probe.slot, &probe.connection, part);
                if !self.sees(probe, part, passed) {
                    return Err(wrong("on the way, flow", probe, passed, done));
                }
            }
            self.tables.track(Flows::Ignored);
            for probe in fresh {
                let passed = passes(&self.tables, probe.slot, &probe.connection, Part::Opening);
                let is_old = done < in_force_after && passed == probe.before[0];
                if !is_old && passed != probe.after[0] {
                    return Err(wrong("on the way", probe, passed, done));
                }
            }
        }
        self.tables.track(Flows::Tracked);
        let unaware = flows.iter().filter(|probe| {
            let flow = (probe.slot, probe.connection);
            let is_denied = self.began[&flow].lose([true; 2], probe.after);
            is_denied && self.unaware.contains(&flow)
                || self.began[&flow].lose(probe.before, probe.after)
        });
        self.unaware = unaware
            .filter(|_| self.planner.waits_for_grace())
            .map(|probe| (probe.slot, probe.connection))
            .collect();
        for probe in flows {
            let flow = (probe.slot, probe.connection);
            let parts = if probe.is_led {
                &[Part::Request][..]
            } else {
                &[Part::Reply, Part::Request, Part::Reply]
            };
            for part in parts.iter().copied() {
                let passed = passes(&self.tables, probe.slot, &probe.connection, part);
                let known = self.began[&flow].once(part, passed, &[probe.after]);
                let is_open = probe.lingers[1].is_some() || self.unaware.contains(&flow);
                let any = is_open.then(|| Beginners::any(&probe.connection));
                let Some(began) = any.or(known) else {
                    return Err(wrong("flow, in the end", probe, passed, done));
                };
                self.began.insert(flow, began);
            }
        }
        let grandfathered = flows.iter();
        self.grandfathered = grandfathered
            .filter_map(|probe| Some(((probe.slot, probe.connection), probe.lingers[1]?)))
            .collect();
        self.tables.track(Flows::Ignored);
        for probe in fresh {
            let passed = passes(&self.tables, probe.slot, &probe.connection, Part::Opening);
            if passed != probe.after[0] {
                return Err(wrong("in the end", probe, passed, done));
            }
        }
        self.establish(probes);
        Ok(())
    }

    /// Takes note of how a packet of a flow fared on the way; whether that may be.
    fn sees(&mut self, probe: &Probe, part: Part, passed: bool) -> bool {
        if probe.is_led && part == Part::Reply {
            return true;
        }
        let flow = (probe.slot, probe.connection);
        let may_be_either = probe.lingers[0].is_some() || self.unaware.contains(&flow);
        let began = if may_be_either {
            Some(Beginners::any(&probe.connection))
        } else {
            self.began[&flow].once(part, passed, &[probe.before, probe.after])
        };
        began.is_some_and(|began| {
            self.began.insert(flow, began);
            true
        })
    }

    /// Executes some steps while a packet is on its way. How many.
    fn overtake<'p>(
        &mut self,
        steps: &[Step],
        probes: &'p [Probe],
    ) -> Result<usize, (&'p Probe, bool)> {
        let lifetime = lifetime(steps);
        if lifetime == 0 || probes.is_empty() {
            self.tables.execute(&steps[0]);
            return Ok(1);
        }
        let count = 1 + self.dice.below(lifetime);
        let index = self.dice.below(probes.len());
        let probe = &probes[index];
        let part = if index < self.flows.len() {
            self.tables.track(Flows::Tracked);
            [Part::Request, Part::Reply][self.dice.below(2)]
        } else {
            self.tables.track(Flows::Ignored);
            Part::Opening
        };
        let lookups = u32::try_from(self.dice.below(8)).expect("small");
        self.tables.meanwhile(lookups, steps[..count].to_vec());
        let passed = passes(&self.tables, probe.slot, &probe.connection, part);
        self.tables.catch_up();
        let is_right = if index < self.flows.len() {
            self.sees(probe, part, passed)
        } else {
            [probe.before[0], probe.after[0]].contains(&passed)
        };
        if is_right {
            Ok(count)
        } else {
            Err((probe, passed))
        }
    }

    /// Makes flows out of connections that are allowed now, and sometimes forgets all that there were.
    fn establish(&mut self, probes: &[Probe]) {
        if self.dice.below(8) == 0 {
            self.tables.forget_flows();
            self.flows.clear();
            self.began.clear();
            self.grandfathered.clear();
            self.unaware.clear();
        }
        self.tables.track(Flows::Tracked);
        for probe in probes.iter().filter(|probe| probe.after[0]) {
            if self.flows.len() >= self.effort.flows {
                break;
            }
            if self.flows.iter().any(|flow| share_a_key(*flow, probe)) {
                continue;
            }
            for part in [Part::Opening, Part::Answer, Part::Request] {
                assert!(
                    passes(&self.tables, probe.slot, &probe.connection, part),
                    "{part:?} of {:?} opens a flow",
                    probe.connection
                );
            }
            let flow = (probe.slot, probe.connection);
            self.flows.push(flow);
            self.began.insert(flow, Beginners::OPENER);
        }
    }
}

/// During how many of the steps a packet may be on its way that is there before the first: it does not outlive a grace
/// period that begins after it.
fn lifetime(steps: &[Step]) -> usize {
    let begins = steps.iter().position(|step| *step == Step::GraceBegins);
    let over = begins.and_then(|begins| {
        let mut rest = (begins..).zip(&steps[begins..]);
        rest.find(|(_, step)| **step == Step::GraceOver)
    });
    over.map_or(steps.len(), |(over, _)| over)
}

/// Whether a packet cannot say to which of two flows it belongs: the same, or of a protocol without ports.
fn share_a_key((slot, connection): (Slot, Connection), probe: &Probe) -> bool {
    let other = probe.connection;
    let ends = (slot, connection.peer, connection.transport);
    ends == (probe.slot, other.peer, other.transport)
        && match other.transport {
            Transport::Port(..) => connection.direction == other.direction,
            Transport::Other(_) => true,
        }
}

/// The slot of the `index`th pod.
fn slot_number(index: usize) -> Slot {
    Slot(u32::try_from(index + 1).expect("few pods"))
}

/// The slot of a pod of the small universe.
pub(super) fn slot_of(name: &ObjectName) -> Slot {
    let place = |names: &[&str], name: &str| names.iter().position(|known| *known == name);
    let namespace = place(&arbitrary::NAMESPACES, &name.namespace).expect("of the universe");
    let pod = place(&arbitrary::PODS, &name.name).expect("of the universe");
    slot_number(namespace * arbitrary::PODS.len() + pod)
}
