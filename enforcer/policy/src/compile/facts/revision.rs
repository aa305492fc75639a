// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From some facts to others: only what the difference can have changed is worked out anew.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet, ordmap, ordset};
use ipnet::IpNet;

use super::service_map::{Counting, Frontend, Ports};
use super::workload::Workload;
use super::{Claim, Facts};
use crate::compile::canonical::Canonical;
use crate::compile::predicate::{PortName, Predicate, Questions};
use crate::compile::signature::{
    Answers, Meaning, Signature, TranslatedPort, TranslatedPorts, Translation,
};
use crate::difference::parts;
use crate::model::{ObjectName, Pod, Selector, World};

/// How many workloads that a selector is compared with cost as much as one for which it holds.
const WORKLOADS_A_UNIT: usize = 16;

/// Before all others.
const FIRST_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Facts on their way. First what is asked changes, then the world.
pub(super) struct Revision<'a> {
    before: &'a Facts,
    next: Facts,
    /// Workloads that may answer otherwise than before.
    regarded: BTreeSet<Workload>,
    /// Workloads whose answers are not known.
    anew: BTreeSet<Workload>,
    /// Addresses whose signature may be another one than before.
    stale: BTreeSet<IpAddr>,
    /// Those that may say something else of what addresses lead to.
    dirty: BTreeSet<Frontend>,
    /// What ends in a tunnel may be something else than before.
    ways_differ: bool,
}

impl<'a> Revision<'a> {
    pub(super) fn of(before: &'a Facts) -> Self {
        Self {
            before,
            next: before.clone(),
            regarded: BTreeSet::new(),
            anew: BTreeSet::new(),
            stale: BTreeSet::new(),
            dirty: BTreeSet::new(),
            ways_differ: false,
        }
    }

    /// Other questions of the same world.
    pub(super) fn ask(&mut self, questions: &Questions) {
        let before = self.before;
        for difference in before.questions.predicates.diff(&questions.predicates) {
            match difference {
                ordset::DiffItem::Add(predicate) => self.begin(predicate),
                ordset::DiffItem::Remove(predicate) => self.end(predicate),
            };
        }
        self.ask_apart(&questions.port_names, questions.translations);
        self.next.questions = questions.clone();
    }

    /// These as well, one after the other until they have cost `room`. How many were asked; none where more than `most`
    /// blocks hold at all boundaries together.
    pub(super) fn ask_some<'q>(
        &mut self,
        predicates: impl IntoIterator<Item = &'q Arc<Predicate>>,
        room: usize,
        most: usize,
    ) -> Option<usize> {
        let (mut asked, mut cost) = (0, 0);
        for predicate in predicates {
            if cost >= room {
                break;
            }
            asked += 1;
            cost += 1;
            let known = &mut self.next.questions.predicates;
            if known.insert(Arc::clone(predicate)).is_none() {
                cost += self.begin(predicate);
            }
            if self.next.partition.mass() > most {
                return None;
            }
        }
        Some(asked)
    }

    /// No more these, one after the other until that has cost `room`. How many are asked no more.
    pub(super) fn forget_some<'q>(
        &mut self,
        predicates: impl IntoIterator<Item = &'q Arc<Predicate>>,
        room: usize,
    ) -> usize {
        let (mut forgotten, mut cost) = (0, 0);
        for predicate in predicates {
            if cost >= room {
                break;
            }
            forgotten += 1;
            cost += 1;
            if self.next.questions.predicates.remove(predicate).is_some() {
                cost += self.end(predicate);
            }
        }
        forgotten
    }

    /// What is asked beside predicates.
    pub(super) fn ask_apart(&mut self, port_names: &OrdSet<PortName>, translations: bool) {
        let names = self.next.questions.port_names.diff(port_names);
        let names: BTreeSet<&PortName> = names
            .map(|difference| match difference {
                ordset::DiffItem::Add(name) | ordset::DiffItem::Remove(name) => name,
            })
            .collect();
        if self.next.questions.translations != translations {
            self.stale.extend(self.before.redirects.addresses());
        }
        if !names.is_empty() {
            let called =
                self.next.workloads.keys().filter(|workload| {
                    workload.has_port(|port| names.contains(&PortName::of(port)))
                });
            self.anew.extend(called.cloned());
        }
        self.next.questions.port_names = port_names.clone();
        self.next.questions.translations = translations;
    }

    /// A predicate is asked. What that costs, in addresses, boundaries and workloads.
    fn begin(&mut self, predicate: &Arc<Predicate>) -> usize {
        self.next.partition.add(predicate) + self.follow(predicate, Signature::insert)
    }

    fn end(&mut self, predicate: &Arc<Predicate>) -> usize {
        let boundaries = self.next.partition.remove(predicate);
        boundaries + self.follow(predicate, |signature, gone| signature.remove(gone))
    }

    /// Changes the answers of every workload to one predicate, where it holds; notes the addresses that it is about.
    fn follow(
        &mut self,
        predicate: &Arc<Predicate>,
        change: fn(&mut Signature, &Arc<Predicate>),
    ) -> usize {
        let holding: Vec<Workload> = match predicate.as_ref() {
            Predicate::Pods { namespace, pods } => workloads_in(&self.next.workloads, namespace)
                .filter(|workload| workload.matches(pods))
                .cloned()
                .collect(),
            Predicate::ClusterPods { namespaces, pods } => self.seen_from(namespaces, pods),
            Predicate::Block { cidr, except } => {
                let inside = addresses_in(&self.before.addresses, cidr, except);
                let cost = inside.len();
                self.stale.extend(inside);
                self.stale.extend(self.before.redirects.leading_into(cidr));
                return cost;
            }
            Predicate::Listed(list) => {
                let from = (list.clone(), FIRST_ADDRESS);
                let listed = self.before.lists.range(from..);
                let listed = listed.take_while(|(of, _)| of == list);
                let listed: Vec<_> = listed.map(|(_, address)| *address).collect();
                self.stale.extend(&listed);
                return listed.len();
            }
            Predicate::OwnNode | Predicate::OtherNode => return 0,
        };
        let cost = holding.len() + self.next.workloads.len() / WORKLOADS_A_UNIT;
        for workload in holding {
            if let Some(signature) = self.next.workloads.get_mut(&workload) {
                change(Arc::make_mut(signature), predicate);
                self.regarded.insert(workload);
            }
        }
        cost
    }

    fn seen_from(&self, namespaces: &Selector, pods: &Selector) -> Vec<Workload> {
        let known = self.before.world.namespaces.iter();
        known
            .filter(|(_, namespace)| namespaces.matches_sorted(&namespace.labels))
            .flat_map(|(name, _)| workloads_in(&self.next.workloads, name))
            .filter(|workload| workload.matches(pods))
            .cloned()
            .collect()
    }

    /// Another world, under the same questions.
    pub(super) fn look_at(&mut self, world: &World) {
        let before = self.before;
        for difference in before.world.namespaces.diff(&world.namespaces) {
            let (ordmap::DiffItem::Add(name, _)
            | ordmap::DiffItem::Remove(name, _)
            | ordmap::DiffItem::Update { new: (name, _), .. }) = difference;
            self.anew
                .extend(workloads_in(&self.next.workloads, name).cloned());
        }
        for difference in before.world.pods.diff(&world.pods) {
            match difference {
                ordmap::DiffItem::Add(name, pod) => self.appears(name, pod),
                ordmap::DiffItem::Remove(name, pod) => self.vanishes(name, pod),
                ordmap::DiffItem::Update {
                    old: (_, old),
                    new: (name, new),
                } => {
                    self.vanishes(name, old);
                    self.appears(name, new);
                }
            }
        }
        for difference in before.world.listed.diff(&world.listed) {
            let (address, old, new) = parts(difference);
            for list in old.into_iter().flat_map(|lists| lists.iter()) {
                self.next.lists.remove(&(list.clone(), *address));
            }
            for list in new.into_iter().flat_map(|lists| lists.iter()) {
                self.next.lists.insert((list.clone(), *address));
            }
            self.stale.insert(*address);
        }
        if before.world.node_addresses != world.node_addresses {
            self.stale.extend(&before.world.node_addresses);
            self.stale.extend(&world.node_addresses);
        }
        for difference in before.world.cluster_nodes.diff(&world.cluster_nodes) {
            let (ordset::DiffItem::Add(address) | ordset::DiffItem::Remove(address)) = difference;
            self.stale.insert(*address);
            let about_it = before.redirects.with_endpoint(*address);
            self.dirty.extend(about_it.cloned());
            self.ways_differ = true;
        }
        self.next.world = World {
            policies: OrdMap::new(),
            ..world.clone()
        };
        self.look_at_services(world);
    }

    fn look_at_services(&mut self, world: &World) {
        let before = self.before;
        let mut node_differs = before.world.node_addresses != world.node_addresses
            || before.world.node_name != world.node_name
            || before.world.service_options != world.service_options;
        for difference in before.world.services.diff(&world.services) {
            let (name, old, new) = parts(difference);
            for (service, is_there) in old
                .map(|s| (s, false))
                .into_iter()
                .chain(new.map(|s| (s, true)))
            {
                for address in &service.cluster_addresses {
                    self.next
                        .redirects
                        .cluster_address(*address, name, is_there);
                    self.stale.insert(*address);
                    node_differs |= world.node_addresses.contains(address);
                    self.ways_differ |= world.cluster_nodes.contains(address);
                }
                for address in &service.external_addresses {
                    self.next
                        .redirects
                        .external_address(*address, name, is_there);
                    self.stale.insert(*address);
                }
            }
            self.dirty.insert(Frontend::Service(name.clone()));
        }
        for difference in before.world.endpoint_slices.diff(&world.endpoint_slices) {
            let (name, old, new) = parts(difference);
            for (slice, is_there) in old
                .map(|s| (s, false))
                .into_iter()
                .chain(new.map(|s| (s, true)))
            {
                if let Some(service) = &slice.service {
                    let service = ObjectName::new(&name.namespace, service);
                    self.next.redirects.slice(service.clone(), name, is_there);
                    self.dirty.insert(Frontend::Service(service));
                }
            }
        }
        let scopes = &before.world.node_scopes;
        for scope in scopes.symmetric_difference(&world.node_scopes) {
            let about_it = before.redirects.with_endpoint_in(scope);
            self.dirty.extend(about_it.cloned());
        }
        self.ways_differ |= node_differs
            || before.world.tunnel_ports != world.tunnel_ports
            || before.world.node_scopes != world.node_scopes;
        if node_differs {
            self.stale.extend(before.redirects.addresses());
            let services = world.services.keys().cloned().map(Frontend::Service);
            let with_host_ports = world
                .pods
                .iter()
                .filter(|(_, pod)| !pod.host_ports.is_empty());
            let pods = with_host_ports.map(|(name, _)| Frontend::Pod(name.clone()));
            self.dirty.extend(services.chain(pods));
            self.dirty.extend(before.redirects.frontends().cloned());
        }
    }

    /// Who is known at the addresses of a pod, and what its host ports say, may be other than before.
    fn hear_of(&mut self, name: &ObjectName, pod: &Pod) {
        for address in &pod.addresses {
            let about_it = self.before.redirects.with_endpoint(*address);
            self.dirty.extend(about_it.cloned());
        }
        if !pod.host_ports.is_empty() {
            self.dirty.insert(Frontend::Pod(name.clone()));
        }
    }

    fn vanishes(&mut self, name: &ObjectName, pod: &Arc<Pod>) {
        self.hear_of(name, pod);
        if !pod.is_selectable() {
            return;
        }
        let member = (Workload::of(name, pod), name.clone());
        self.next.members.remove(&member);
        let (workload, _) = member;
        if members_of(&self.next, &workload).next().is_none() {
            self.next.workloads.remove(&workload);
        }
        for address in &pod.addresses {
            self.next.claims.remove(&claim(*address, name, pod));
            self.stale.insert(*address);
        }
    }

    fn appears(&mut self, name: &ObjectName, pod: &Arc<Pod>) {
        self.hear_of(name, pod);
        if !pod.is_selectable() {
            return;
        }
        let workload = Workload::of(name, pod);
        if !self.next.workloads.contains_key(&workload) {
            self.next.workloads.insert(workload.clone(), Arc::default());
            self.anew.insert(workload.clone());
        }
        self.next.members.insert((workload, name.clone()));
        for address in &pod.addresses {
            self.next.claims.insert(claim(*address, name, pod));
            self.stale.insert(*address);
        }
    }

    /// Works out what may be other than before. How many addresses that were.
    pub(super) fn finish(mut self) -> (Facts, usize) {
        let mut distinct = HashSet::new();
        for workload in std::mem::take(&mut self.anew) {
            if self.next.workloads.contains_key(&workload) {
                let signature = workload.signature(&self.next.world, &self.next.questions);
                let signature = shared(&mut distinct, signature);
                self.next.workloads.insert(workload.clone(), signature);
                self.regarded.insert(workload);
            }
        }
        for workload in &self.regarded {
            let now = self.next.workloads.get(workload);
            if now.is_none() || now == self.before.workloads.get(workload) {
                continue;
            }
            for name in members_of(&self.next, workload) {
                if let Some(pod) = self.next.world.pods.get(name) {
                    self.stale.extend(&pod.addresses);
                }
            }
        }
        let mut redirected = BTreeSet::new();
        for frontend in &self.dirty {
            redirected.extend(self.next.recompute(frontend));
        }
        if self.ways_differ || self.next.may_differ_in_ways(self.before, &self.dirty) {
            self.next.find_ways();
        }
        let mut classifier = Classifier {
            facts: &self.next,
            combined: HashMap::new(),
            distinct,
        };
        let mut untranslated = self.next.untranslated.clone();
        let mut differing = Vec::new();
        for address in &self.stale {
            let signature = classifier.signature_of(*address);
            if put(&mut untranslated, *address, signature) {
                differing.push(*address);
            }
        }
        redirected.extend(self.next.redirects.leading_to(&differing));
        self.stale.extend(redirected);
        let mut translator = Translator {
            before: self.before,
            facts: &self.next,
            untranslated: &untranslated,
            answers: HashMap::new(),
            ports: HashMap::new(),
            recalled: BTreeSet::new(),
            known: HashSet::new(),
            distinct: classifier.distinct,
        };
        let mut addresses = self.next.addresses.clone();
        for address in &self.stale {
            let signature = translator.translated(*address);
            put(&mut addresses, *address, signature);
        }
        self.next.untranslated = untranslated;
        self.next.addresses = addresses;
        (self.next, self.stale.len())
    }
}

fn claim(address: IpAddr, name: &ObjectName, pod: &Pod) -> Claim {
    (address, Reverse(pod.started), name.clone())
}

/// Whether that is other than before.
fn put(
    addresses: &mut OrdMap<IpAddr, Arc<Signature>>,
    address: IpAddr,
    signature: Option<Arc<Signature>>,
) -> bool {
    if addresses.get(&address) == signature.as_ref() {
        return false;
    }
    match signature {
        Some(signature) => drop(addresses.insert(address, signature)),
        None => drop(addresses.remove(&address)),
    }
    true
}

/// Puts each signature together once.
struct Classifier<'a> {
    facts: &'a Facts,
    combined: HashMap<Parts<'a>, Arc<Signature>>,
    distinct: HashSet<Arc<Signature>>,
}

/// What a pod's signature is made of: the answers of its workload, as an allocation; its longest prefix; whether the
/// address is a node's; its lists.
type Parts<'a> = (
    *const Signature,
    Option<IpNet>,
    bool,
    Vec<&'a Arc<Predicate>>,
);

impl<'a> Classifier<'a> {
    /// The signature of an address; none if it is nobody's, and in no list that is asked for.
    fn signature_of(&mut self, address: IpAddr) -> Option<Arc<Signature>> {
        let longest = self.facts.partition.longest(address);
        let lists = self.lists_of(address);
        // What holds for it whoever has it.
        let literal = longest
            .into_iter()
            .flat_map(|(_, blocks)| blocks.predicates())
            .chain(lists.iter().copied())
            .cloned();
        let is_other_node = self.facts.is_other_node(address);
        let other_node = is_other_node.then(|| Arc::new(Predicate::OtherNode));
        let literal = literal.chain(other_node);
        if self.facts.is_own_node(address) {
            let own = Signature::new(literal.chain([Arc::new(Predicate::OwnNode)]), []);
            return Some(shared(&mut self.distinct, own));
        }
        let Some(of_pod) = self.workload_at(address) else {
            let is_more = !lists.is_empty() || is_other_node;
            return is_more.then(|| shared(&mut self.distinct, Signature::new(literal, [])));
        };
        let prefix = longest.map(|(prefix, _)| prefix);
        let parts = (Arc::as_ptr(of_pod), prefix, is_other_node, lists.clone());
        if let Some(known) = self.combined.get(&parts) {
            return Some(Arc::clone(known));
        }
        let whole = Signature::new(
            of_pod.predicates().iter().cloned().chain(literal),
            of_pod.ports().iter().cloned(),
        );
        let signature = shared(&mut self.distinct, whole);
        self.combined.insert(parts, Arc::clone(&signature));
        Some(signature)
    }

    /// What the pod that has an address answers, blocks and lists apart.
    fn workload_at(&self, address: IpAddr) -> Option<&'a Arc<Signature>> {
        let name = self.facts.holder(address)?;
        let workload = Workload::of(name, self.facts.world.pods.get(name)?);
        self.facts.workloads.get(&workload)
    }

    /// The lists that an address is in, of those that are asked for.
    fn lists_of(&self, address: IpAddr) -> Vec<&'a Arc<Predicate>> {
        let facts = self.facts;
        let lists = facts.world.listed.get(&address).into_iter();
        let lists = lists.flat_map(|lists| lists.iter());
        lists
            .filter_map(|list| {
                let asked = Arc::new(Predicate::Listed(list.clone()));
                facts.questions.predicates.get(&asked)
            })
            .collect()
    }
}

/// Says what addresses stand for, each port's endpoints once for all addresses that share them.
struct Translator<'a> {
    before: &'a Facts,
    facts: &'a Facts,
    untranslated: &'a OrdMap<IpAddr, Arc<Signature>>,
    /// What the endpoints that count answer, those that are known and those in doubt; by allocation.
    answers: HashMap<*const Canonical<Counting>, [Arc<Answers>; 2]>,
    /// By allocation of what each frontend says of an address.
    ports: HashMap<Vec<*const Ports>, Arc<TranslatedPorts>>,
    /// The frontends whose addresses are recalled.
    recalled: BTreeSet<&'a Frontend>,
    /// Translations of their addresses, before and now: equal ones are one allocation.
    known: HashSet<Arc<TranslatedPorts>>,
    distinct: HashSet<Arc<Signature>>,
}

impl<'a> Translator<'a> {
    fn signature_of(&self, address: IpAddr) -> &'a Arc<Signature> {
        let (facts, untranslated) = (self.facts, self.untranslated);
        untranslated.get(&address).unwrap_or_else(|| {
            let longest = facts.partition.longest(address);
            longest.map_or(&facts.nothing, |(_, signature)| signature)
        })
    }

    /// The signature of an address before the node translates it; none if there is nothing to say of it. What the
    /// node has translated it does not translate again, so endpoints are what they are themselves.
    fn translated(&mut self, address: IpAddr) -> Option<Arc<Signature>> {
        let facts = self.facts;
        let claims = facts.redirects.ports_of(address);
        let meaning = facts.meaning_of(address);
        let stands_for_itself = claims.is_empty() && meaning != Meaning::Cluster;
        if !facts.questions.translations || stands_for_itself {
            return self.untranslated.get(&address).cloned();
        }
        let ports = self.ports(&claims);
        let itself = self.signature_of(address);
        let options = &facts.world.service_options;
        let speaks_of_it = |predicate: &&Arc<Predicate>| match predicate.as_ref() {
            Predicate::Block { cidr, .. } => {
                cidr.prefix_len() == cidr.max_prefix_len()
                    || options.ranges.iter().any(|range| range.contains(cidr))
            }
            Predicate::Listed(_) => true,
            Predicate::OwnNode
            | Predicate::OtherNode
            | Predicate::ClusterPods { .. }
            | Predicate::Pods { .. } => false,
        };
        let by_name = itself.predicates().iter().filter(speaks_of_it);
        let signature = itself.translated(Translation {
            meaning,
            by_name: by_name.cloned().collect(),
            ports,
            egress: options.egress,
        });
        Some(shared(&mut self.distinct, signature))
    }

    /// What the ports stand for that are claimed. Looked for in what was there before, so that addresses alike stay alike.
    fn ports(&mut self, claims: &[(&'a Frontend, &'a Arc<Ports>)]) -> Arc<TranslatedPorts> {
        let key = claims.iter().map(|(_, ports)| Arc::as_ptr(ports)).collect();
        if let Some(known) = self.ports.get(&key) {
            return Arc::clone(known);
        }
        for (frontend, _) in claims {
            if self.recalled.insert(frontend) {
                let addresses = self.facts.redirects.addresses_of(frontend);
                let before = addresses.filter_map(|address| self.before.addresses.get(&address));
                let before = before.filter_map(|signature| signature.translation());
                self.known
                    .extend(before.map(|translation| Arc::clone(&translation.ports)));
            }
        }
        let claimed = claims.iter().flat_map(|(_, ports)| ports.iter());
        let ports: BTreeSet<TranslatedPort> = claimed
            .map(|port| {
                let [endpoints, doubtful] = self.answers(&port.counting);
                TranslatedPort {
                    protocol: port.protocol,
                    number: port.number,
                    standing: port.counting.standing,
                    endpoints,
                    doubtful,
                }
            })
            .collect();
        let ports: TranslatedPorts = ports.into_iter().collect::<Vec<_>>().into();
        let ports = shared(&mut self.known, ports);
        self.ports.insert(key, Arc::clone(&ports));
        ports
    }

    fn answers(&mut self, counting: &Arc<Canonical<Counting>>) -> [Arc<Answers>; 2] {
        let key = Arc::as_ptr(counting);
        if let Some(known) = self.answers.get(&key) {
            return known.clone();
        }
        let answers = [&counting.known, &counting.doubtful].map(|endpoints| {
            let endpoints = endpoints.iter();
            let answers: BTreeSet<(Arc<Signature>, u16)> = endpoints
                .map(|(endpoint, target)| (Arc::clone(self.signature_of(*endpoint)), *target))
                .collect();
            Arc::new(answers.into())
        });
        self.answers.insert(key, answers.clone());
        answers
    }
}

/// The allocation among these that has this content, which it is from now on if there was none.
pub(super) fn shared<T: Eq + Hash>(distinct: &mut HashSet<Arc<T>>, content: T) -> Arc<T> {
    if let Some(known) = distinct.get(&content) {
        return Arc::clone(known);
    }
    let content = Arc::new(content);
    distinct.insert(Arc::clone(&content));
    content
}

fn workloads_in<'a>(
    workloads: &'a OrdMap<Workload, Arc<Signature>>,
    namespace: &'a str,
) -> impl Iterator<Item = &'a Workload> {
    workloads
        .range(Workload::first_of(namespace)..)
        .map(|(workload, _)| workload)
        .take_while(move |workload| workload.is_in(namespace))
}

fn members_of<'a>(
    facts: &'a Facts,
    workload: &'a Workload,
) -> impl Iterator<Item = &'a ObjectName> {
    facts
        .members
        .range((workload.clone(), ObjectName::new("", ""))..)
        .take_while(move |(of, _)| of == workload)
        .map(|(_, name)| name)
}

/// The addresses in a block and in none of its exceptions, which lie inside it and apart, in order.
fn addresses_in(
    addresses: &OrdMap<IpAddr, Arc<Signature>>,
    cidr: &IpNet,
    except: &[IpNet],
) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut next = Some(cidr.network());
    for hole in except {
        let Some(from) = next else { break };
        let before = addresses.range(from..hole.network());
        found.extend(before.map(|(address, _)| *address));
        next = after(hole.broadcast());
    }
    if let Some(from) = next {
        let rest = addresses.range(from..);
        let inside = rest
            .map(|(address, _)| *address)
            .take_while(|address| cidr.contains(address));
        found.extend(inside);
    }
    found
}

/// The next address of the same family.
fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4)
            .checked_add(1)
            .map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(v6) => u128::from(v6)
            .checked_add(1)
            .map(|next| IpAddr::V6(next.into())),
    }
}
