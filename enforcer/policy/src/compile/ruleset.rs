// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rulesets: the compiled policy of one direction, as content that pods share when it is equal.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use crate::compile::canonical::HASHER;
use crate::compile::ports::{PortSet, Row};
use crate::compile::predicate::{PortName, Predicate, Questions};
use crate::compile::signature::{Meaning, Signature, TranslatedPorts, Translation};
use crate::connection::{Direction, tunnel};
use crate::model::{Protocol, ServiceEgress};

/// The UDP ports of tunnels, which need a rule that gives them as numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tunnels(Arc<PortSet>);

impl Default for Tunnels {
    /// The usual ones.
    fn default() -> Self {
        Self::with(&BTreeSet::new())
    }
}

impl Tunnels {
    /// The usual ones, and those of the node's devices.
    pub fn with(devices: &BTreeSet<u16>) -> Self {
        let ports = devices.iter().copied().chain(tunnel::UDP_PORTS);
        Self(Arc::new(PortSet::of(ports)))
    }

    /// All but tunnels: what every isolated pod may send to its own node, and what a rule without ports allows to any node.
    fn none(&self) -> Row {
        Row {
            udp: self.0.complement(),
            rest: PortSet::of(tunnel::PROTOCOLS.map(u16::from)).complement(),
            ..Row::all()
        }
    }
}

/// The compiled policy of one direction of a pod. Equal policies give equal rulesets, in whatever order they come.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ruleset {
    /// Nothing is allowed: ruleset 0.
    Denied,
    /// Everything is allowed, save tunnels to nodes, which the kernel drops by itself: ruleset 1.
    Allowed,
    /// Some of it. Shared: a copy and a comparison with it cost next to nothing, however much it is.
    Rules(Arc<Rules>),
}

/// The union of what some policies allow in one direction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rules {
    /// A hash of the rest, because whoever compares it does so often.
    hash: u64,
    /// The tunnels that need a rule, on egress; there the own node is allowed beyond what is here. None on ingress.
    tunnels: Option<Tunnels>,
    /// What is allowed with every peer.
    any: Ports,
    /// What is allowed beyond that with the peers for which a predicate holds. None is empty.
    by_predicate: BTreeMap<Arc<Predicate>, Arc<Ports>>,
}

/// What the rules for some peers allow, before it is known which numbers the peer calls by which name.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    /// Some rule has no `ports`: every port of every protocol, but no tunnel to a node.
    everything: bool,
    /// Ports that rules give by number; `rest` is always empty.
    numbered: Row,
    /// Ports that egress rules give by a name, which each peer answers for itself.
    named: BTreeSet<PortName>,
}

impl Ruleset {
    /// Whether it is sure to allow all that `other` does, with every peer. What rules allow by other predicates than those
    /// of `other` is not seen.
    pub fn surely_allows(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Allowed, _) | (_, Self::Denied) => true,
            (Self::Denied | Self::Rules(_), Self::Allowed) | (Self::Denied, Self::Rules(_)) => {
                false
            }
            (Self::Rules(these), Self::Rules(others)) => these.surely_allow(others),
        }
    }
}

impl Rules {
    fn surely_allow(&self, others: &Self) -> bool {
        if self.hash == others.hash && self == others {
            return true;
        }
        let tunnels = self.tunnels.as_ref();
        let cover = |these: &[&Ports], others: &Ports| {
            let both: Vec<&Ports> = these.iter().copied().chain([others]).collect();
            let [these, both] = [these, &both].map(|parts| Ports::union(parts).canonical(tunnels));
            these == both
        };
        self.tunnels == others.tunnels
            && cover(&[&self.any], &others.any)
            && others.by_predicate.iter().all(|(predicate, ports)| {
                let by_name = speaks_of_services(predicate, tunnels, &self.any);
                match self.by_predicate.get(predicate) {
                    Some(beyond) if beyond == ports => true,
                    // What allows any peer does not allow a Service's address by its name.
                    Some(whole) if by_name => cover(&[whole], ports),
                    Some(beyond) => cover(&[&self.any, beyond], ports),
                    None => !by_name && cover(&[&self.any], ports),
                }
            })
    }
}

impl Ports {
    /// Every port of every protocol.
    pub fn everything() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    /// These ports and names.
    pub fn of(numbered: Row, named: BTreeSet<PortName>) -> Self {
        Self {
            everything: false,
            numbered,
            named,
        }
    }

    /// All that any of `parts` allows.
    pub fn union(parts: &[&Self]) -> Self {
        Self {
            everything: parts.iter().any(|ports| ports.everything),
            numbered: Row::union(parts.iter().map(|ports| &ports.numbered)),
            named: parts
                .iter()
                .flat_map(|ports| ports.named.iter().cloned())
                .collect(),
        }
    }

    fn is_empty(&self) -> bool {
        !self.everything && self.numbered.is_none() && self.named.is_empty()
    }

    /// Adds the numbers that the peer calls by the names, but for these tunnels.
    fn add_named(&self, peer: &Signature, tunnels: Option<&Tunnels>, row: &mut Row) {
        for port in peer.ports() {
            let tunnel = port.protocol == Protocol::Udp
                && tunnels.is_some_and(|Tunnels(ports)| ports.contains(port.number));
            if !tunnel && self.named.contains(&PortName::of(port)) {
                row.ports_mut(port.protocol)
                    .add(&PortSet::range(port.number, port.number));
            }
        }
    }

    /// The same without what says nothing more beside everything: all but the numbers of tunnels on egress.
    fn canonical(mut self, tunnels: Option<&Tunnels>) -> Self {
        if self.everything {
            self.numbered = beside_everything(&self.numbered, tunnels);
            self.named.clear();
        }
        self
    }

    /// What is left to say for some peers when `any` is allowed with all.
    fn beyond(&self, any: &Self, tunnels: Option<&Tunnels>) -> Self {
        let (numbered, named) = if any.everything {
            (beside_everything(&self.numbered, tunnels), BTreeSet::new())
        } else {
            (
                self.numbered.clone(),
                self.named.difference(&any.named).cloned().collect(),
            )
        };
        Self {
            everything: self.everything && !any.everything,
            numbered: numbered.without(&any.numbered),
            named,
        }
        .canonical(tunnels)
    }
}

/// Whether a predicate may allow the address of a Service, of which `any` says nothing: that is for its endpoints. Only rules of
/// egress, which have `tunnels`, meet Services.
fn speaks_of_services(predicate: &Predicate, tunnels: Option<&Tunnels>, any: &Ports) -> bool {
    let by_name = match predicate {
        Predicate::Block { .. } | Predicate::Listed(_) => true,
        Predicate::OwnNode
        | Predicate::OtherNode
        | Predicate::ClusterPods { .. }
        | Predicate::Pods { .. } => false,
    };
    by_name && tunnels.is_some() && !any.everything
}

fn beside_everything(numbered: &Row, tunnels: Option<&Tunnels>) -> Row {
    match tunnels {
        None => Row::none(),
        Some(Tunnels(ports)) => {
            let mut udp = numbered.udp.complement();
            udp.add(&ports.complement());
            Row {
                udp: udp.complement(),
                ..Row::none()
            }
        }
    }
}

impl Ruleset {
    /// The ruleset of a pod that is isolated in `direction`, from the union of its rules.
    pub fn isolated(
        direction: Direction,
        any: Ports,
        by_predicate: BTreeMap<Arc<Predicate>, Arc<Ports>>,
        tunnels: &Tunnels,
    ) -> Self {
        let tunnels = match direction {
            Direction::Ingress => None,
            Direction::Egress => Some(tunnels),
        };
        let any = any.canonical(tunnels);
        // Many predicates have the same ports, and those are worked out once.
        let mut known: HashMap<(*const Ports, bool), Arc<Ports>> = HashMap::new();
        let by_predicate: BTreeMap<_, _> = by_predicate
            .iter()
            .map(|(predicate, ports)| {
                let by_name = speaks_of_services(predicate, tunnels, &any);
                let worked_out = known
                    .entry((Arc::as_ptr(ports), by_name))
                    .or_insert_with(|| {
                        Arc::new(if by_name {
                            ports.as_ref().clone().canonical(tunnels)
                        } else {
                            ports.beyond(&any, tunnels)
                        })
                    });
                (Arc::clone(predicate), Arc::clone(worked_out))
            })
            .filter(|(_, ports)| !ports.is_empty())
            .collect();
        let only_any = by_predicate.is_empty();
        if only_any && any == Ports::everything() {
            return Self::Allowed;
        }
        match direction {
            Direction::Ingress if only_any && any.is_empty() => Self::Denied,
            Direction::Ingress | Direction::Egress => {
                let tunnels = tunnels.cloned();
                Self::Rules(Arc::new(Rules::new(tunnels, any, by_predicate)))
            }
        }
    }

    /// What it allows with a peer of this signature. The signature must have been asked all of [`Self::questions`].
    pub fn row(&self, peer: &Signature) -> Row {
        Judge::of(self).row(peer)
    }

    /// What it allows with a peer for which nothing holds.
    pub fn default_row(&self) -> Row {
        self.row(&Signature::default())
    }

    /// How many predicates it needs to know.
    pub fn asks(&self) -> usize {
        match self {
            Self::Denied | Self::Allowed => 0,
            Self::Rules(rules) => rules.by_predicate.len(),
        }
    }

    /// What it needs to know about peers.
    pub fn questions(&self) -> Questions {
        match self {
            Self::Denied | Self::Allowed => Questions::default(),
            Self::Rules(rules) => rules.questions(),
        }
    }
}

/// What a ruleset allows with one peer after the other: what many addresses of a Service stand for is judged once.
#[derive(Debug)]
pub struct Judge<'a> {
    ruleset: &'a Ruleset,
    behind: Behind,
}

impl<'a> Judge<'a> {
    /// One that has judged nothing.
    pub fn of(ruleset: &'a Ruleset) -> Self {
        Self {
            ruleset,
            behind: Behind::new(),
        }
    }

    /// By what it judges.
    pub fn ruleset(&self) -> &'a Ruleset {
        self.ruleset
    }

    /// How often it has judged what addresses stand for.
    #[cfg(test)]
    pub(super) fn judged(&self) -> usize {
        self.behind.len()
    }

    /// As [`Ruleset::row`].
    pub fn row(&mut self, peer: &Signature) -> Row {
        match self.ruleset {
            Ruleset::Denied => Row::none(),
            Ruleset::Allowed => Row::all(),
            Ruleset::Rules(rules) => rules.row(peer, &mut self.behind),
        }
    }
}

/// What rules say of endpoints, by the ports of the addresses that stand for them.
type Behind = HashMap<(Arc<TranslatedPorts>, ServiceEgress), ByEndpoints>;

/// What rules say of the endpoints that an address stands for.
#[derive(Debug)]
enum ByEndpoints {
    /// They allow everything but this: tunnels at nodes that they do not name.
    Denied(Row),
    /// The ports that stand for endpoints, and those of them that are allowed.
    Judged { claimed: Row, allowed: Row },
}

impl Hash for Rules {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Rules {
    fn new(
        tunnels: Option<Tunnels>,
        any: Ports,
        by_predicate: BTreeMap<Arc<Predicate>, Arc<Ports>>,
    ) -> Self {
        Self {
            // What is allowed with whom tells few apart that this does not, and may be long.
            hash: HASHER.hash_one((&tunnels, &any, by_predicate.keys().collect::<Vec<_>>())),
            tunnels,
            any,
            by_predicate,
        }
    }

    fn row(&self, peer: &Signature, behind: &mut Behind) -> Row {
        match peer.translation().filter(|_| self.tunnels.is_some()) {
            Some(translation) => self.translated_row(peer, translation, behind),
            None => self.literal_row(peer),
        }
    }

    /// The tunnels that need a rule with a peer.
    fn tunnels_to(&self, peer: &Signature) -> Option<&Tunnels> {
        self.tunnels.as_ref().filter(|_| peer.is_node())
    }

    /// What is allowed with the address itself.
    fn literal_row(&self, peer: &Signature) -> Row {
        let tunnels = self.tunnels_to(peer);
        // What many predicates share counts once.
        let mut special: Vec<&Ports> = peer
            .predicates()
            .iter()
            .filter_map(|predicate| self.by_predicate.get(predicate))
            .map(AsRef::as_ref)
            .collect();
        special.sort_unstable_by_key(|ports| std::ptr::from_ref::<Ports>(ports));
        special.dedup_by_key(|ports| std::ptr::from_ref::<Ports>(ports));
        let all = std::iter::once(&self.any).chain(special.iter().copied());
        let everything = all.clone().any(|ports| ports.everything);
        if everything && tunnels.is_none() {
            return Row::all();
        }
        let always = tunnels.filter(|_| everything || peer.is_own_node());
        let always = always.map(Tunnels::none);
        let numbered = all.clone().map(|it| &it.numbered);
        let mut row = Row::union(always.iter().chain(numbered));
        for ports in all {
            ports.add_named(peer, tunnels, &mut row);
        }
        row
    }

    /// What is allowed with an address, some ports of which stand for endpoints.
    fn translated_row(
        &self,
        peer: &Signature,
        translation: &Translation,
        behind: &mut Behind,
    ) -> Row {
        let literal = self.literal_row(peer);
        let behind = behind.entry((Arc::clone(&translation.ports), translation.egress));
        let (claimed, allowed) = match behind.or_insert_with(|| self.by_endpoints(translation)) {
            ByEndpoints::Denied(tunnels) => return literal.without(tunnels),
            ByEndpoints::Judged { claimed, allowed } => (&*claimed, &*allowed),
        };
        let mut by_name = self.row_by_name(peer, translation);
        if !by_name.udp.is_empty() {
            by_name = by_name.without(&self.tunnels_behind(translation));
        }
        let either = || {
            let mut either = by_name.clone();
            either.add(allowed);
            either
        };
        let mut row = literal.without(claimed);
        row.add(&match translation.meaning {
            Meaning::Cluster => return either(),
            Meaning::External => literal.and(claimed).and(allowed),
            Meaning::Translated => claimed.and(&either()),
            Meaning::OwnNode => literal.and(claimed).and(&either()),
        });
        row
    }

    fn by_endpoints(&self, translation: &Translation) -> ByEndpoints {
        if self.any.everything {
            return ByEndpoints::Denied(self.tunnels_behind(translation));
        }
        let (claimed, allowed) = self.row_by_endpoints(translation);
        ByEndpoints::Judged { claimed, allowed }
    }

    /// The ports that lead into tunnels at nodes that no rule names.
    fn tunnels_behind(&self, translation: &Translation) -> Row {
        let mut row = Row::none();
        let of_udp = translation.ports().iter();
        for port in of_udp.filter(|port| port.protocol == Protocol::Udp) {
            let mut endpoints = port.endpoints.iter().chain(port.doubtful.iter());
            let leads_on = endpoints.any(|(endpoint, target)| {
                let is_tunnel = self
                    .tunnels_to(endpoint)
                    .is_some_and(|it| it.0.contains(*target));
                is_tunnel && !self.literal_row(endpoint).udp.contains(*target)
            });
            if leads_on {
                row.udp.add(&PortSet::range(port.number, port.number));
            }
        }
        row
    }

    /// What is allowed with this very address, whatever stands behind it.
    fn row_by_name(&self, peer: &Signature, translation: &Translation) -> Row {
        let mut row = Row::none();
        let ports = translation
            .by_name
            .iter()
            .filter_map(|predicate| self.by_predicate.get(predicate));
        for ports in ports {
            if ports.everything {
                return Row::all();
            }
            row.add(&ports.numbered);
            ports.add_named(peer, self.tunnels_to(peer), &mut row);
        }
        row
    }

    /// The ports that stand for endpoints, and those of them that are allowed because the endpoints are.
    fn row_by_endpoints(&self, translation: &Translation) -> (Row, Row) {
        let (mut claimed, mut denied) = (Row::none(), Row::none());
        for port in translation.ports() {
            let number = PortSet::range(port.number, port.number);
            claimed.ports_mut(port.protocol).add(&number);
            let mut counting = port.endpoints.iter().chain(port.doubtful.iter()).peekable();
            let is_none = counting.peek().is_none();
            let mut rows = counting.map(|(endpoint, target)| {
                let row = self.literal_row(endpoint);
                row.ports(port.protocol).contains(*target)
            });
            let allowed = match translation.egress {
                ServiceEgress::All => !is_none && rows.all(|allowed| allowed),
                ServiceEgress::Any => rows.any(|allowed| allowed),
            };
            if !allowed {
                denied.ports_mut(port.protocol).add(&number);
            }
        }
        let allowed = claimed.without(&denied);
        (claimed, allowed)
    }

    fn questions(&self) -> Questions {
        let special = self.by_predicate.values().map(AsRef::as_ref);
        let all_ports = std::iter::once(&self.any).chain(special);
        Questions {
            predicates: self.by_predicate.keys().cloned().collect(),
            port_names: all_ports
                .flat_map(|ports| ports.named.iter().cloned())
                .collect(),
            translations: self.tunnels.is_some(),
        }
    }
}
