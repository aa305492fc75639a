//! Facts: the signature of every known address under a set of questions.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::compile::partition::Partition;
use crate::compile::predicate::{Predicate, Questions, Signature};
use crate::model::{Labels, NamedPort, ObjectName, Pod, Selector, World};

/// What is known of peers, told apart as far as some questions ask. Equal signatures are one allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Addresses of pods and of the own node. Their signatures include the blocks that contain them.
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

    /// Every address of a selectable pod and of the own node.
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

/// Evaluates each selector once for each template, and puts each signature together once.
struct Classifier<'a> {
    world: &'a World,
    questions: &'a Questions,
    partition: &'a Partition,
    /// Which selectors look into a namespace, by its name.
    looking_into: HashMap<&'a str, Arc<PodSelectors<'a>>>,
    templates: HashMap<Template<'a>, (usize, Arc<Signature>)>,
    /// Signatures by template and longest prefix.
    combined: HashMap<(usize, Option<IpNet>), Arc<Signature>>,
    distinct: HashSet<Arc<Signature>>,
}

impl<'a> Classifier<'a> {
    fn new(world: &'a World, questions: &'a Questions, partition: &'a Partition) -> Self {
        Self {
            world,
            questions,
            partition,
            looking_into: HashMap::new(),
            templates: HashMap::new(),
            combined: HashMap::new(),
            distinct: HashSet::new(),
        }
    }

    fn own_node(&mut self, address: IpAddr) -> Arc<Signature> {
        let blocks = self
            .partition
            .longest(address)
            .into_iter()
            .flat_map(|(_, blocks)| blocks.predicates().to_vec());
        let signature = Signature::new(blocks.chain([Arc::new(Predicate::OwnNode)]), []);
        self.shared(signature)
    }

    fn pod(&mut self, name: &'a ObjectName, pod: &'a Pod, address: IpAddr) -> Arc<Signature> {
        let (number, of_pod) = self.template((&name.namespace, &pod.labels, &pod.ports));
        let longest = self.partition.longest(address);
        let key = (number, longest.map(|(prefix, _)| prefix));
        if let Some(known) = self.combined.get(&key) {
            return Arc::clone(known);
        }
        let blocks = longest
            .into_iter()
            .flat_map(|(_, blocks)| blocks.predicates());
        let both = Signature::new(
            of_pod.predicates().iter().chain(blocks).cloned(),
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
                    Predicate::OwnNode | Predicate::Block { .. } => None,
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
