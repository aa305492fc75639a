//! Facts: the signature of every known address under a set of questions.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::compile::partition::Partition;
use crate::compile::predicate::{Predicate, Questions, Signature};
use crate::model::{Labels, ListName, NamedPort, ObjectName, Pod, Selector, World};

/// What is known of peers, told apart as far as some questions ask. Equal signatures are one allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Addresses of pods, of the own node, and of lists. Their signatures include the blocks that contain them.
    addresses: BTreeMap<IpAddr, Arc<Signature>>,
    partition: Partition,
    nothing: Arc<Signature>,
}

impl Facts {
    /// The facts of `world` under `questions`. Looks at policies no more.
    ///
    /// An address of the own node is nobody else's. Where several selectable pods claim an address, the first by
    /// (namespace, name) has it.
    pub fn of(world: &World, questions: &Questions) -> Self {
        let partition = Partition::of(&questions.predicates);
        let mut classifier = Classifier::new(world, questions, &partition);
        let mut addresses = BTreeMap::new();
        for address in &world.node_addresses {
            addresses
                .entry(*address)
                .or_insert_with(|| classifier.own_node(*address));
        }
        for (name, pod) in world.pods.iter().filter(|(_, pod)| pod.is_selectable()) {
            for address in &pod.addresses {
                addresses
                    .entry(*address)
                    .or_insert_with(|| classifier.pod(name, pod, *address));
            }
        }
        for address in world.listed.keys() {
            if !addresses.contains_key(address)
                && let Some(signature) = classifier.only_listed(*address)
            {
                addresses.insert(*address, signature);
            }
        }
        Self {
            addresses,
            partition,
            nothing: Arc::default(),
        }
    }

    /// The signature of any address: its own if it is known, else that of its longest prefix, else the empty one.
    pub fn signature_of(&self, address: IpAddr) -> &Arc<Signature> {
        self.addresses
            .get(&address)
            .or_else(|| {
                self.partition
                    .longest(address)
                    .map(|(_, signature)| signature)
            })
            .unwrap_or(&self.nothing)
    }

    /// Every address of a selectable pod, of the own node, and of a list that was asked for.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, &Arc<Signature>)> {
        self.addresses
            .iter()
            .map(|(address, signature)| (*address, signature))
    }

    /// Every boundary of the blocks in use, for a longest-prefix look-up; the signatures have blocks only.
    pub fn prefixes(&self) -> impl Iterator<Item = (IpNet, &Arc<Signature>)> {
        self.partition.prefixes()
    }
}

/// What can be seen of a pod, apart from its address; pods of one workload share it.
type Template<'a> = (&'a str, &'a Labels, &'a [NamedPort]);

/// Predicates that look into one namespace, each with what it asks of a pod there.
type PodSelectors<'a> = Vec<(&'a Arc<Predicate>, &'a Selector)>;

/// The lists that an address is in, of those that are asked for.
type Lists<'a> = Vec<&'a Arc<Predicate>>;

/// Evaluates each selector once for each template, and puts each signature together once.
struct Classifier<'a> {
    world: &'a World,
    questions: &'a Questions,
    partition: &'a Partition,
    /// Which selectors look into a namespace, by its name.
    looking_into: HashMap<&'a str, Arc<PodSelectors<'a>>>,
    templates: HashMap<Template<'a>, (usize, Arc<Signature>)>,
    /// Signatures by template, longest prefix and lists.
    combined: HashMap<(usize, Option<IpNet>, Lists<'a>), Arc<Signature>>,
    /// The lists that are asked for.
    lists: HashMap<&'a ListName, &'a Arc<Predicate>>,
    distinct: HashSet<Arc<Signature>>,
}

impl<'a> Classifier<'a> {
    fn new(world: &'a World, questions: &'a Questions, partition: &'a Partition) -> Self {
        let lists = questions.predicates.iter();
        let lists = lists.filter_map(|predicate| match predicate.as_ref() {
            Predicate::Listed(list) => Some((list, predicate)),
            Predicate::OwnNode
            | Predicate::Block { .. }
            | Predicate::ClusterPods { .. }
            | Predicate::Pods { .. } => None,
        });
        Self {
            world,
            questions,
            partition,
            lists: lists.collect(),
            looking_into: HashMap::new(),
            templates: HashMap::new(),
            combined: HashMap::new(),
            distinct: HashSet::new(),
        }
    }

    fn own_node(&mut self, address: IpAddr) -> Arc<Signature> {
        let literal = self.literal(address);
        let signature = Signature::new(literal.chain([Arc::new(Predicate::OwnNode)]), []);
        self.shared(signature)
    }

    /// The signature of an address that nobody is known to have; nothing if it is in no list that was asked for.
    fn only_listed(&mut self, address: IpAddr) -> Option<Arc<Signature>> {
        if self.lists_of(address).is_empty() {
            return None;
        }
        let signature = Signature::new(self.literal(address), []);
        Some(self.shared(signature))
    }

    /// What holds for an address whoever has it.
    fn literal(&self, address: IpAddr) -> impl Iterator<Item = Arc<Predicate>> + use<'a> {
        let blocks = self.partition.longest(address).into_iter();
        let blocks = blocks.flat_map(|(_, blocks)| blocks.predicates());
        blocks.chain(self.lists_of(address)).cloned()
    }

    fn lists_of(&self, address: IpAddr) -> Lists<'a> {
        let listed = self
            .world
            .listed
            .get(&address)
            .into_iter()
            .flat_map(|lists| lists.iter());
        listed
            .filter_map(|list| self.lists.get(list).copied())
            .collect()
    }

    fn pod(&mut self, name: &'a ObjectName, pod: &'a Pod, address: IpAddr) -> Arc<Signature> {
        let (number, of_pod) = self.template((&name.namespace, &pod.labels, &pod.ports));
        let longest = self.partition.longest(address);
        let key = (
            number,
            longest.map(|(prefix, _)| prefix),
            self.lists_of(address),
        );
        if let Some(known) = self.combined.get(&key) {
            return Arc::clone(known);
        }
        let both = Signature::new(
            of_pod
                .predicates()
                .iter()
                .cloned()
                .chain(self.literal(address)),
            of_pod.ports().iter().cloned(),
        );
        let signature = self.shared(both);
        self.combined.insert(key, Arc::clone(&signature));
        signature
    }

    fn template(&mut self, template: Template<'a>) -> (usize, Arc<Signature>) {
        if let Some((number, signature)) = self.templates.get(&template) {
            return (*number, Arc::clone(signature));
        }
        let (namespace, labels, ports) = template;
        let selectors = self.selectors_looking_into(namespace);
        let holding = selectors
            .iter()
            .filter(|(_, pods)| pods.matches(labels))
            .map(|(p, _)| Arc::clone(p));
        let names = &self.questions.port_names;
        let named = ports
            .iter()
            .filter(|port| names.iter().any(|name| name.names(port)))
            .cloned();
        let entry = (
            self.templates.len(),
            Arc::new(Signature::new(holding, named)),
        );
        self.templates.insert(template, entry.clone());
        entry
    }

    fn selectors_looking_into(&mut self, name: &'a str) -> Arc<PodSelectors<'a>> {
        if let Some(known) = self.looking_into.get(name) {
            return Arc::clone(known);
        }
        let known_namespace = self.world.namespaces.get(name);
        let looking =
            self.questions
                .predicates
                .iter()
                .filter_map(|predicate| match predicate.as_ref() {
                    Predicate::Pods { namespace, pods } => {
                        (namespace == name).then_some((predicate, pods))
                    }
                    Predicate::ClusterPods { namespaces, pods } => known_namespace
                        .is_some_and(|known| namespaces.matches(&known.labels))
                        .then_some((predicate, pods)),
                    Predicate::OwnNode | Predicate::Block { .. } | Predicate::Listed(_) => None,
                });
        let looking = Arc::new(looking.collect());
        self.looking_into.insert(name, Arc::clone(&looking));
        looking
    }

    fn shared(&mut self, signature: Signature) -> Arc<Signature> {
        if let Some(known) = self.distinct.get(&signature) {
            return Arc::clone(known);
        }
        let signature = Arc::new(signature);
        self.distinct.insert(Arc::clone(&signature));
        signature
    }
}
