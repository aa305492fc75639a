// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the policies of each namespace cost this node, and which namespaces do not fit beside the others.
//!
//! ```text
//! policies that select pods of this node ──► weight of their namespace ─┐
//!                                                                       ├──► namespaces that fit, smallest first;
//! what the planner had no room for ──► who has most of that ─────────────┘    the others are suspended
//! ```
//! Pure. A share is a guarantee and not a ceiling: a namespace may use all that the others leave, and a namespace that
//! needs less than an equal part is never suspended for one that needs more. The pods of a suspended namespace are
//! denied in every direction that one of its policies isolates.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;
use podgate_policy::compile::predicate::Predicate;
use podgate_policy::model::{
    NamedPort, Namespaces, NetworkPolicy, Operator, Peer, Port, Protocol, Rule, Selector,
};

/// What all namespaces together may weigh. One unit is a few microseconds and some hundred bytes of the compiler's and
/// the planner's, so that the heaviest world that fits is planned within a fraction of a second, in less than 256 MB.
pub const CAPACITY: usize = 200_000;

/// For how many pods a selector counts that asks for labels. It finds few; one that only excludes finds most.
const FOUND: usize = 16;

/// How many values of a selector, compared with one pod, weigh one unit.
const VALUES_A_UNIT: usize = 64;

/// How many pairs of a peer and a port in one rule weigh one unit.
const PAIRS_A_UNIT: usize = 16;

/// What a block weighs, which becomes a prefix and a class, and stands in some indices.
const BLOCK: usize = 5;

/// What an exception weighs, which becomes a prefix.
const HOLE: usize = 2;

/// What the ports of a rule weigh beyond themselves: a port set, of which there are 65,536.
const PORT_SET: usize = 4;

/// How many chunks the ports of a protocol have.
const CHUNKS: usize = 16;

/// A pod with more named ports than this may call all of them by one name; it is not looked at.
const NAMES: usize = 1_000;

/// What each chunk weighs that a rule's ports are a part of: half a kilobyte in the rules, in the planner and in two table sets.
const CHUNK: usize = 3;

/// The weights, and who is suspended.
#[derive(Debug)]
pub struct Shares {
    capacity: usize,
    weights: BTreeMap<String, usize>,
    refused: BTreeMap<String, Refused>,
    suspended: BTreeMap<String, String>,
}

/// The planner had no room for a namespace.
#[derive(Debug)]
struct Refused {
    weight: usize,
    /// What the others weighed.
    beside: usize,
    why: String,
}

impl Default for Shares {
    fn default() -> Self {
        Self::of(CAPACITY)
    }
}

impl Shares {
    /// Shares in so many units.
    pub fn of(capacity: usize) -> Self {
        Self {
            capacity,
            weights: BTreeMap::new(),
            refused: BTreeMap::new(),
            suspended: BTreeMap::new(),
        }
    }

    /// The policies of a namespace weigh this much now.
    pub fn weigh(&mut self, namespace: &str, weight: usize) {
        if weight == 0 {
            self.weights.remove(namespace);
        } else {
            self.weights.insert(namespace.to_owned(), weight);
        }
    }

    /// What they weigh.
    pub fn weight_of(&self, namespace: &str) -> usize {
        self.weights.get(namespace).copied().unwrap_or(0)
    }

    /// Decides who is suspended. The namespaces that were not before, or are not any more.
    pub fn decide(&mut self) -> BTreeSet<String> {
        let total: usize = self.weights.values().sum();
        let weights = &self.weights;
        self.refused.retain(|namespace, refused| {
            let weight = weights.get(namespace).copied().unwrap_or(0);
            let is_lighter = weight < refused.weight;
            let has_room = (total - weight) < refused.beside / 4 * 3;
            !is_lighter && !has_room
        });
        let mut suspended = BTreeMap::new();
        for (namespace, refused) in &self.refused {
            suspended.insert(namespace.clone(), refused.why.clone());
        }
        let mut by_weight: Vec<(usize, &String)> = self
            .weights
            .iter()
            .filter(|(namespace, _)| !suspended.contains_key(*namespace))
            .map(|(namespace, weight)| (*weight, namespace))
            .collect();
        by_weight.sort_unstable();
        let mut used = 0_usize;
        for (weight, namespace) in by_weight {
            used = used.saturating_add(weight);
            if used > self.capacity {
                suspended.insert(namespace.clone(), self.too_heavy(weight));
            }
        }
        let switched = self
            .suspended
            .keys()
            .filter(|namespace| !suspended.contains_key(*namespace))
            .chain(
                suspended
                    .keys()
                    .filter(|namespace| !self.suspended.contains_key(*namespace)),
            )
            .cloned()
            .collect();
        self.suspended = suspended;
        switched
    }

    /// There is no room for what is not suspended, for this reason: the namespace gives way that has most of what is full, as
    /// `charge` says; of those that have as much, the heaviest. Its name; none if there is none that could.
    /// [`Self::decide`] suspends it.
    pub fn refuse(&mut self, why: &str, charge: impl Fn(&str) -> u64) -> Option<String> {
        let total: usize = self.weights.values().sum();
        let candidates = self
            .weights
            .iter()
            .filter(|(namespace, _)| !self.suspended.contains_key(*namespace))
            .filter(|(namespace, _)| !self.refused.contains_key(*namespace));
        let charged = candidates.map(|(namespace, weight)| (charge(namespace), weight, namespace));
        let (charge, weight, namespace) = charged.max()?;
        let most = if charge > 0 {
            "have most of what is full".to_owned()
        } else {
            format!("weigh {weight}, more than any other's")
        };
        let refused = Refused {
            weight: *weight,
            beside: total - weight,
            why: format!("its policies {most}: {why}"),
        };
        let namespace = namespace.clone();
        self.refused.insert(namespace.clone(), refused);
        Some(namespace)
    }

    /// Whether a namespace is suspended.
    pub fn is_suspended(&self, namespace: &str) -> bool {
        self.suspended.contains_key(namespace)
    }

    /// The namespaces that are suspended, and why.
    pub fn suspended(&self) -> &BTreeMap<String, String> {
        &self.suspended
    }

    fn too_heavy(&self, weight: usize) -> String {
        let (capacity, count) = (self.capacity, self.weights.len());
        format!(
            "its policies weigh {weight}, and the policies of all {count} namespaces with pods here may weigh {capacity}"
        )
    }
}

/// The policies of one namespace that select pods of this node.
#[derive(Debug, Default)]
pub struct Load<'a> {
    /// Its name.
    pub namespace: &'a str,
    /// Each policy, and how many rulesets it is part of.
    pub policies: Vec<(&'a NetworkPolicy, usize)>,
    /// How many rulesets there are.
    pub rulesets: usize,
    /// How many ports a pod on this node calls by one name, at most: so many has each name in an ingress rule.
    pub called: usize,
    /// How many pods the namespace has anywhere.
    pub own_pods: usize,
    /// How many pods there are.
    pub all_pods: usize,
}

impl Load<'_> {
    /// What they weigh, without compiling them. Grows no faster than their size; from `enough` on it is not told exactly.
    pub fn weight(&self, enough: usize) -> usize {
        let mut weight = 0_usize;
        for (policy, rulesets) in &self.policies {
            let rules = policy.ingress.iter().chain(&policy.egress);
            let of_rules: usize = rules.map(|rule| self.weight_of_rule(rule)).sum();
            let ingress = policy.ingress.iter();
            let called = ingress.map(|rule| self.weight_of_names(rule));
            let of_policy = called.fold(of_rules, usize::saturating_add);
            weight = weight.saturating_add((1 + of_policy).saturating_mul(*rulesets));
        }
        if weight >= enough {
            return weight;
        }
        let (overlaps, boundaries) = self.overlaps();
        weight
            .saturating_add(overlaps)
            .saturating_add(self.rows(&boundaries))
    }

    /// How many rows there are beyond those of the blocks themselves: a ruleset that names a block has one for each
    /// boundary inside it, most of which it asks nothing of.
    fn rows(&self, boundaries: &[IpNet]) -> usize {
        let rows = self.policies.iter().map(|(policy, rulesets)| {
            let inside = blocks_of(policy).map(|block| {
                let first = boundaries.partition_point(|it| it < block);
                let inside = boundaries[first..].partition_point(|it| block.contains(it));
                inside.saturating_sub(1)
            });
            let inside = inside.sum::<usize>().min(boundaries.len());
            inside.saturating_mul(*rulesets)
        });
        let most = self.rulesets.saturating_mul(boundaries.len());
        // The first row of each boundary counts as its block.
        let rows = rows.fold(0, usize::saturating_add).min(most);
        rows.saturating_sub(boundaries.len())
    }

    fn weight_of_rule(&self, rule: &Rule) -> usize {
        let peers: usize = rule
            .peers
            .iter()
            .map(|peer| self.weight_of_peer(peer))
            .sum();
        let pairs = rule.peers.len().saturating_mul(rule.ports.len()) / PAIRS_A_UNIT;
        let port_set = if rule.ports.is_empty() { 0 } else { PORT_SET };
        1 + peers + rule.ports.len() + port_set + CHUNK * chunks_of(rule) + pairs
    }

    /// What the ports that names stand for weigh beyond the names.
    fn weight_of_names(&self, rule: &Rule) -> usize {
        let names = rule.ports.iter().filter(|port| match port {
            Port::Named { .. } | Port::NamedWithin { .. } => true,
            Port::All(_) | Port::Range { .. } | Port::Invalid => false,
        });
        let beyond = self.called.saturating_sub(1);
        let of_name = beyond + CHUNK * beyond.min(CHUNKS);
        names.count().saturating_mul(of_name)
    }

    fn weight_of_peer(&self, peer: &Peer) -> usize {
        match peer {
            Peer::Block { except, .. } => BLOCK + HOLE * except.len(),
            Peer::Pods { namespaces, pods } => {
                let namespaces = match namespaces {
                    Namespaces::Own => 0,
                    Namespaces::Matching(selector) => values_of(selector),
                };
                let compared = values_of(pods).saturating_mul(self.own_pods) / VALUES_A_UNIT;
                1 + namespaces + values_of(pods) + compared
            }
            Peer::Listed(_) | Peer::Invalid => 1,
        }
    }

    /// How many answers there are to keep: at each boundary of a block, which blocks hold; of each pod, which selectors.
    /// And the boundaries, in order.
    fn overlaps(&self) -> (usize, Vec<IpNet>) {
        let rules = self
            .policies
            .iter()
            .flat_map(|(policy, _)| policy.ingress.iter().chain(&policy.egress));
        let peers = rules.flat_map(|rule| &rule.peers);
        let asked: BTreeSet<Predicate> = peers
            // The node's own scopes are few, and the same for every block.
            .filter_map(|peer| Predicate::of_peer(peer, self.namespace, &BTreeSet::new()))
            .collect();
        let answers = asked.iter().map(|predicate| match predicate {
            Predicate::Pods { pods, .. } if excludes_only(pods) => self.own_pods,
            Predicate::ClusterPods { pods, namespaces }
                if excludes_only(pods) && excludes_only(namespaces) =>
            {
                self.all_pods
            }
            Predicate::Pods { .. } | Predicate::ClusterPods { .. } => FOUND,
            Predicate::OwnNode
            | Predicate::OtherNode
            | Predicate::Block { .. }
            | Predicate::Listed(_) => 0,
        });
        let answers: usize = answers.sum();
        let (overlaps, boundaries) = overlaps_of_blocks(&asked);
        (answers.saturating_add(overlaps), boundaries)
    }
}

/// How many of these ports have the same name, at most.
pub fn called(ports: &[NamedPort]) -> usize {
    if ports.len() > NAMES {
        return ports.len();
    }
    let mut numbers: HashMap<(Protocol, &str), usize> = HashMap::new();
    for port in ports {
        *numbers.entry((port.protocol, &port.name)).or_default() += 1;
    }
    numbers.into_values().max().unwrap_or(0)
}

/// How many chunks of 4,096 ports the rule has a part of.
fn chunks_of(rule: &Rule) -> usize {
    let mut chunks = BTreeSet::new();
    for port in &rule.ports {
        if let Port::Range {
            protocol,
            first,
            last,
        } = port
        {
            chunks.extend([(*protocol, first >> 12), (*protocol, last >> 12)]);
        }
    }
    chunks.len()
}

fn blocks_of(policy: &NetworkPolicy) -> impl Iterator<Item = &IpNet> {
    let rules = policy.ingress.iter().chain(&policy.egress);
    let peers = rules.flat_map(|rule| &rule.peers);
    peers.filter_map(|peer| match peer {
        Peer::Block { cidr, .. } => Some(cidr),
        Peer::Pods { .. } | Peer::Listed(_) | Peer::Invalid => None,
    })
}

/// How many blocks hold at all boundaries together, and the boundaries, in order.
fn overlaps_of_blocks(asked: &BTreeSet<Predicate>) -> (usize, Vec<IpNet>) {
    let mut boundaries: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for predicate in asked {
        if let Predicate::Block { cidr, except } = predicate {
            boundaries.entry(*cidr).or_default().0 += 1;
            for hole in except.iter() {
                boundaries.entry(*hole).or_default().1 += 1;
            }
        }
    }
    let all = boundaries.keys().copied().collect();
    let mut around = Vec::new();
    let mut overlaps = 0_usize;
    for (boundary, (begin, end)) in boundaries {
        while around
            .pop_if(|(wider, _): &mut (IpNet, usize)| !wider.contains(&boundary))
            .is_some()
        {}
        let outside = around.last().map_or(0, |(_, hold)| *hold);
        let hold = (outside + begin).saturating_sub(end);
        overlaps = overlaps.saturating_add(hold);
        around.push((boundary, hold));
    }
    (overlaps, all)
}

fn values_of(selector: &Selector) -> usize {
    match selector {
        Selector::Requirements(requirements) => requirements
            .iter()
            .map(|requirement| match &requirement.operator {
                Operator::In(values) | Operator::NotIn(values) => values.len(),
                Operator::Exists | Operator::DoesNotExist => 1,
            })
            .sum(),
        Selector::Invalid => 0,
    }
}

/// Whether a selector asks for no label, so that most pods match.
fn excludes_only(selector: &Selector) -> bool {
    match selector {
        Selector::Requirements(requirements) => {
            requirements
                .iter()
                .all(|requirement| match &requirement.operator {
                    Operator::In(_) | Operator::Exists => false,
                    Operator::NotIn(_) | Operator::DoesNotExist => true,
                })
        }
        Selector::Invalid => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[(&str, usize)]) -> Shares {
        let mut shares = Shares::of(100);
        for (namespace, weight) in weights {
            shares.weigh(namespace, *weight);
        }
        shares
    }

    fn suspended(shares: &mut Shares) -> Vec<&str> {
        shares.decide();
        shares.suspended().keys().map(String::as_str).collect()
    }

    #[test]
    fn a_namespace_may_use_what_the_others_leave_and_no_more() {
        let mut shares = shares(&[("large", 97)]);
        assert_eq!(suspended(&mut shares), [""; 0]);
        for name in ["a", "b", "c"] {
            shares.weigh(name, 1);
        }
        assert_eq!(suspended(&mut shares), [""; 0]);
        shares.weigh("d", 1);
        assert_eq!(suspended(&mut shares), ["large"]);
        shares.weigh("d", 0);
        assert_eq!(shares.decide(), ["large".to_owned()].into());
        assert_eq!(shares.decide(), [].into());
    }

    #[test]
    fn an_equal_part_is_sure_whatever_the_others_weigh() {
        for others in [26, 100, 1_000_000] {
            let mut shares = shares(&[("a", 25), ("b", others), ("c", others), ("d", others)]);
            assert!(!suspended(&mut shares).contains(&"a"), "{others}");
        }
    }

    #[test]
    fn what_has_no_room_gives_way_until_it_or_the_others_need_less() {
        let mut shares = shares(&[("a", 10), ("b", 60), ("c", 20)]);
        assert_eq!(suspended(&mut shares), [""; 0]);
        assert_eq!(shares.refuse("rows are full", |_| 0).as_deref(), Some("b"));
        assert_eq!(suspended(&mut shares), ["b"]);
        shares.weigh("b", 61);
        assert_eq!(suspended(&mut shares), ["b"]);
        shares.weigh("b", 59);
        assert_eq!(suspended(&mut shares), [""; 0]);
        shares.refuse("rows are full", |_| 0);
        assert_eq!(suspended(&mut shares), ["b"]);
        shares.weigh("c", 0);
        assert_eq!(suspended(&mut shares), [""; 0]);
        for _ in 0..2 {
            assert!(shares.refuse("rows are full", |_| 0).is_some());
        }
        assert_eq!(shares.refuse("rows are full", |_| 0), None);
    }

    fn policy(blocks: &[(&str, &[&str])]) -> NetworkPolicy {
        let peer = |(cidr, except): &(&str, &[&str])| Peer::Block {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|hole| hole.parse().unwrap()).collect(),
        };
        NetworkPolicy {
            members: Selector::everything().into(),
            isolates_ingress: false,
            isolates_egress: true,
            ingress: Vec::new(),
            egress: vec![Rule {
                peers: blocks.iter().map(peer).collect(),
                ports: Vec::new(),
            }],
        }
    }

    #[test]
    fn overlaps_are_what_the_partition_keeps() {
        let worlds: [&[(&str, &[&str])]; 5] = [
            &[("10.0.0.0/8", &[]), ("192.0.2.0/24", &[])],
            &[("10.0.0.0/8", &["10.1.0.0/16"]), ("10.1.2.0/24", &[])],
            &[
                ("0.0.0.0/0", &["10.0.0.0/8"]),
                ("0.0.0.0/0", &["11.0.0.0/8"]),
                ("0.0.0.0/0", &["12.0.0.0/8", "10.0.0.0/8"]),
            ],
            &[("::/0", &["fd00::/8"]), ("0.0.0.0/0", &[])],
            &[
                ("10.0.0.0/8", &[]),
                ("10.0.0.0/9", &[]),
                ("10.0.0.0/10", &[]),
            ],
        ];
        for blocks in worlds {
            let policy = policy(blocks);
            let peers = &policy.egress[0].peers;
            let asked = peers
                .iter()
                .filter_map(|peer| Predicate::of_peer(peer, "ns", &BTreeSet::new()));
            let asked: BTreeSet<Predicate> = asked.collect();
            let kept: Vec<_> = asked.iter().cloned().map(std::sync::Arc::new).collect();
            let partition = podgate_policy::compile::partition::Partition::of(&kept);
            let kept = (partition.mass(), partition.prefixes().len());
            let (overlaps, boundaries) = overlaps_of_blocks(&asked);
            assert_eq!((overlaps, boundaries.len()), kept, "{blocks:?}");
        }
    }

    #[test]
    fn blocks_inside_each_other_weigh_more_than_as_many_apart() {
        let hole = |n: usize| format!("10.{}.{}.0/24", n / 256, n % 256);
        let holes: Vec<String> = (0..1_000).map(hole).collect();
        let holes: Vec<[&str; 1]> = holes.iter().map(|hole| [hole.as_str()]).collect();
        let nested: Vec<(&str, &[&str])> =
            holes.iter().map(|hole| ("0.0.0.0/0", &hole[..])).collect();
        let apart: Vec<(&str, &[&str])> = holes.iter().map(|hole| (hole[0], &[][..])).collect();
        let weigh = |blocks: &[(&str, &[&str])]| {
            let policy = policy(blocks);
            let load = Load {
                namespace: "ns",
                policies: vec![(&policy, 1)],
                rulesets: 1,
                ..Load::default()
            };
            load.weight(usize::MAX)
        };
        assert!(weigh(&apart) < 7_000, "{}", weigh(&apart));
        assert!(weigh(&nested) > 1_000_000, "{}", weigh(&nested));
    }

    /// Rulesets weigh the boundaries inside their blocks, however long these are.
    #[test]
    fn rulesets_weigh_the_boundaries_inside_their_blocks() {
        let inside: Vec<String> = (0..200).map(|n| format!("10.0.{n}.0/32")).collect();
        let inside: Vec<(&str, &[&str])> = inside.iter().map(|it| (it.as_str(), &[][..])).collect();
        let many = policy(&inside);
        for (around, rows) in [
            ("10.0.0.0/17", 99 * 128),
            ("10.0.0.0/8", 99 * 200),
            ("10.9.0.0/16", 0),
        ] {
            let around = policy(&[(around, &[])]);
            let load = Load {
                namespace: "ns",
                policies: vec![(&many, 1), (&around, 100)],
                rulesets: 101,
                ..Load::default()
            };
            let (_, boundaries) = load.overlaps();
            let weighed = load.rows(&boundaries);
            assert!(weighed.abs_diff(rows) <= 101 + 200, "{weighed}, not {rows}");
        }
    }

    /// A name weighs the ports that a pod calls by it, on ingress only.
    #[test]
    fn a_name_weighs_the_ports_called_by_it_on_ingress_only() {
        let rule = Rule {
            peers: Vec::new(),
            ports: vec![Port::Named {
                protocol: Protocol::Tcp,
                name: "http".into(),
            }],
        };
        let of = |ingress: usize, egress: usize, called| {
            let policy = NetworkPolicy {
                members: Selector::everything().into(),
                isolates_ingress: true,
                isolates_egress: true,
                ingress: vec![rule.clone(); ingress],
                egress: vec![rule.clone(); egress],
            };
            let load = Load {
                policies: vec![(&policy, 1)],
                called,
                ..Load::default()
            };
            load.weight(CAPACITY)
        };
        let port = |name: &str, number| NamedPort {
            name: name.into(),
            protocol: Protocol::Tcp,
            number,
        };
        assert_eq!(called(&[port("a", 1), port("b", 2), port("b", 3)]), 2);
        assert_eq!(of(9_000, 0, 0), of(9_000, 0, 1));
        assert_eq!(of(9_000, 0, 1), of(0, 9_000, 1_000));
        assert!(of(9_000, 0, 1) < CAPACITY);
        assert!(of(9_000, 0, 1_000) > 9_000 * 1_000);
        let many: Vec<NamedPort> = (0..60_000).map(|number| port("a", number)).collect();
        assert_eq!(called(&many), 60_000);
    }
}
