// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the objects of each namespace take of the enforcer's memory, and whose content does not fit beside the others'.
//!
//! ```text
//! object ──► bytes of its content ──► its namespace's: within what all may take, smallest first?
//!                                        yes: kept whole    no: kept closed, and read again when there is room
//! ```
//! Pure. It is decided where an object enters, whether or not it ever concerns a pod of this node: what select no pod weighs
//! nothing in [`share`](crate::share), which is about compiling. Closed means that it allows nothing: a policy keeps whom it
//! isolates and in which directions, and of an EndpointSlice no endpoint is known.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::size_of;
use std::sync::Arc;

use podgate_policy::model::{
    Endpoint, EndpointSlice, Members, NamedPort, Namespaces, NetworkPolicy, Operator, Peer, PodUid,
    Port, Requirement, Rule, Selector,
};

/// MiB for both kinds of objects, unless something else is said: so much fits, beside the heaviest policies that are
/// compiled, into 256 MB.
pub const MIB: u32 = 64;

/// What objects may take, of all namespaces together, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rooms {
    /// Policies. Ten thousand of a few rules each need a half of what there is by default.
    pub policies: usize,
    /// EndpointSlices. What there is by default is enough for some forty thousand endpoints.
    pub endpoint_slices: usize,
}

impl Rooms {
    /// Half of so many MiB for each kind.
    pub fn of_mib(mib: u32) -> Self {
        let half = usize::try_from(mib)
            .unwrap_or(usize::MAX)
            .saturating_mul(1 << 19);
        Self {
            policies: half,
            endpoint_slices: half,
        }
    }
}

impl Default for Rooms {
    fn default() -> Self {
        Self::of_mib(MIB)
    }
}

/// What it means that policies are kept closed, and what a person can do.
pub const CLOSED_POLICIES: &str = "its pods on this node are denied in the directions that its policies isolate, until these \
     policies, or those of others, say less";

/// The same of EndpointSlices.
pub const CLOSED_ENDPOINT_SLICES: &str = "isolated pods reach no Service of it, and other pods none by UDP, until it, or \
     others, have fewer endpoints";

/// A closed policy keeps a selector of no more than this. One that is longer selects every pod of its namespace.
const SELECTOR: usize = 512;

/// What an object takes beside its content: its names and its places in the maps that it is in.
const OBJECT: usize = 768;

/// What an endpoint takes beside itself: its places in the indices of who stands for what.
const ENDPOINT: usize = 320;

/// The same for each port of its slice.
const ENDPOINT_PORT: usize = 96;

/// Who takes how much, of one kind of objects.
#[derive(Debug)]
pub struct Ledger {
    capacity: usize,
    accounts: BTreeMap<String, Account>,
    /// The lightest, as many as fit together.
    fitting: BTreeSet<(usize, String)>,
    /// What those take.
    used: usize,
    /// The others, each of which is heavier than each of those.
    too_much: BTreeSet<(usize, String)>,
}

/// What the objects of a namespace take, and whether they fit.
#[derive(Debug, Clone, Copy)]
struct Account {
    bytes: usize,
    fits: bool,
}

impl Ledger {
    /// One in which all namespaces together may take so much.
    pub fn of(capacity: usize) -> Self {
        Self {
            capacity,
            accounts: BTreeMap::new(),
            fitting: BTreeSet::new(),
            used: 0,
            too_much: BTreeSet::new(),
        }
    }

    /// An object of a namespace takes this much now, and took that much before. The namespaces that did not fit and do now,
    /// or the other way round.
    pub fn change(&mut self, namespace: &str, before: usize, now: usize) -> BTreeSet<String> {
        if before == now {
            return BTreeSet::new();
        }
        let taken = self.bytes_of(namespace);
        let was_too_much = self.is_too_much(namespace);
        self.close(namespace);
        self.open(namespace, (taken + now).saturating_sub(before));
        let mut switched = self.level();
        if self.is_too_much(namespace) == was_too_much {
            switched.remove(namespace);
        } else {
            switched.insert(namespace.to_owned());
        }
        switched
    }

    fn close(&mut self, namespace: &str) {
        let Some(Account { bytes, fits }) = self.accounts.remove(namespace) else {
            return;
        };
        let entry = (bytes, namespace.to_owned());
        if fits {
            self.fitting.remove(&entry);
            self.used -= bytes;
        } else {
            self.too_much.remove(&entry);
        }
    }

    fn open(&mut self, namespace: &str, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let entry = (bytes, namespace.to_owned());
        let lightest = self.too_much.first();
        let fits = lightest.is_none_or(|lightest| entry < *lightest);
        self.enter(entry, fits);
    }

    fn enter(&mut self, entry: (usize, String), fits: bool) {
        let (bytes, namespace) = entry.clone();
        self.accounts.insert(namespace, Account { bytes, fits });
        if fits {
            self.used += bytes;
            self.fitting.insert(entry);
        } else {
            self.too_much.insert(entry);
        }
    }

    /// Moves who does not fit any more, or does by now.
    fn level(&mut self) -> BTreeSet<String> {
        let mut moved = BTreeSet::new();
        while self.used > self.capacity
            && let Some(heaviest) = self.fitting.pop_last()
        {
            self.used -= heaviest.0;
            moved.insert(heaviest.1.clone());
            self.enter(heaviest, false);
        }
        while let Some((bytes, _)) = self.too_much.first()
            && self.used + bytes <= self.capacity
            && let Some(lightest) = self.too_much.pop_first()
        {
            moved.insert(lightest.1.clone());
            self.enter(lightest, true);
        }
        moved
    }

    fn bytes_of(&self, namespace: &str) -> usize {
        let account = self.accounts.get(namespace);
        account.map_or(0, |account| account.bytes)
    }

    /// Whether what a namespace stores does not fit.
    pub fn is_too_much(&self, namespace: &str) -> bool {
        let account = self.accounts.get(namespace);
        account.is_some_and(|account| !account.fits)
    }

    /// Why objects of this kind, of this namespace, are kept closed; for people.
    pub fn why(&self, namespace: &str, kind: &str) -> String {
        if !self.is_too_much(namespace) {
            return format!("there is room for its {kind} again, and they are being read again");
        }
        let (takes, capacity) = (kib(self.bytes_of(namespace)), kib(self.capacity));
        format!(
            "its {kind} take {takes} KiB of memory, and those of all namespaces may take {capacity} KiB (--object-memory)"
        )
    }
}

fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1 << 10)
}

/// What an allocation of this size takes.
fn block(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        some => (some + 8).next_multiple_of(16).max(32),
    }
}

fn list<T>(elements: &[T], of_element: impl Fn(&T) -> usize) -> usize {
    block(size_of_val(elements)) + elements.iter().map(of_element).sum::<usize>()
}

/// What a policy takes.
pub fn of_policy(policy: &NetworkPolicy) -> usize {
    let rules = |rules: &[Rule]| {
        list(rules, |rule| {
            list(&rule.peers, of_peer) + list(&rule.ports, of_port)
        })
    };
    let of_rules = rules(&policy.ingress) + rules(&policy.egress);
    OBJECT + size_of::<NetworkPolicy>() + of_members(&policy.members) + of_rules
}

fn of_members(members: &Members) -> usize {
    let listed = members.except.len() + members.listed.len();
    let uids = listed * (size_of::<PodUid>() + block(52));
    members.matching.as_ref().map_or(0, of_selector) + uids
}

fn of_peer(peer: &Peer) -> usize {
    match peer {
        Peer::Pods { namespaces, pods } => {
            let namespaces = match namespaces {
                Namespaces::Own => 0,
                Namespaces::Matching(selector) => of_selector(selector),
            };
            namespaces + of_selector(pods)
        }
        Peer::Block { cidr: _, except } => list(except, |_| 0),
        Peer::Listed(name) => block(name.0.len() + 16),
        Peer::Invalid => 0,
    }
}

fn of_port(port: &Port) -> usize {
    match port {
        Port::Named { name, .. } | Port::NamedWithin { name, .. } => block(name.len()),
        Port::All(_) | Port::Range { .. } | Port::Invalid => 0,
    }
}

fn of_selector(selector: &Selector) -> usize {
    match selector {
        Selector::Requirements(requirements) => list(requirements, of_requirement),
        Selector::Invalid => 0,
    }
}

fn of_requirement(requirement: &Requirement) -> usize {
    let values = match &requirement.operator {
        Operator::In(values) | Operator::NotIn(values) => list(values, |it| block(it.len())),
        Operator::Exists | Operator::DoesNotExist => 0,
    };
    block(requirement.key.len()) + values
}

/// What is kept of a policy that does not fit: whom it isolates in which directions. It allows nothing.
pub fn closed_policy(policy: &NetworkPolicy) -> Arc<NetworkPolicy> {
    let members = if of_members(&policy.members) <= SELECTOR {
        policy.members.clone()
    } else {
        Selector::Invalid.into()
    };
    Arc::new(NetworkPolicy {
        members,
        isolates_ingress: policy.isolates_ingress,
        isolates_egress: policy.isolates_egress,
        ingress: Vec::new(),
        egress: Vec::new(),
    })
}

/// What an EndpointSlice takes.
pub fn of_slice(slice: &EndpointSlice) -> usize {
    let of_endpoint = |endpoint: &Endpoint| {
        let pod = endpoint.pod.as_ref().map_or(0, |pod| {
            let uid = pod.uid.as_ref().map_or(0, |uid| block(uid.0.len() + 16));
            block(pod.name.namespace.len()) + block(pod.name.name.len()) + uid
        });
        let node = endpoint.node.as_ref().map_or(0, |node| block(node.len()));
        ENDPOINT + ENDPOINT_PORT * slice.ports.len() + pod + node
    };
    let ports = list(&slice.ports, |port: &NamedPort| block(port.name.len()));
    OBJECT + size_of::<EndpointSlice>() + ports + list(&slice.endpoints, of_endpoint)
}

/// What is kept of an EndpointSlice that does not fit: that its Service has one.
pub fn closed_slice(slice: &EndpointSlice) -> Arc<EndpointSlice> {
    Arc::new(EndpointSlice {
        service: slice.service.clone(),
        is_closed: true,
        ..EndpointSlice::default()
    })
}

#[cfg(test)]
mod tests {
    use podgate_policy::model::{EndpointState, Protocol};
    use proptest::prelude::*;

    use super::*;
    use crate::share::Shares;

    fn policy(matching: Selector, rules: usize) -> NetworkPolicy {
        let rule = |number: usize| Rule {
            peers: vec![Peer::Block {
                cidr: format!("198.51.{}.{}/32", number >> 8, number & 255)
                    .parse()
                    .unwrap(),
                except: Vec::new(),
            }],
            ports: vec![Port::Named {
                protocol: Protocol::Tcp,
                name: "http".into(),
            }],
        };
        NetworkPolicy {
            members: matching.into(),
            isolates_ingress: false,
            isolates_egress: true,
            ingress: Vec::new(),
            egress: (0..rules).map(rule).collect(),
        }
    }

    fn selector(values: usize) -> Selector {
        Selector::Requirements(vec![Requirement {
            key: "app".into(),
            operator: Operator::In((0..values).map(|it| it.to_string()).collect()),
        }])
    }

    #[test]
    fn a_closed_policy_isolates_whom_it_did_and_allows_nothing() {
        let whole = policy(selector(3), 100);
        let closed = closed_policy(&whole);
        let expected = policy(selector(3), 0);
        assert_eq!(*closed, expected);
        assert!(of_policy(&whole) > 100 * of_policy(&policy(selector(3), 1)) / 10);
        assert!(of_policy(&closed) < 1_200, "{}", of_policy(&closed));
    }

    #[test]
    fn a_closed_policy_whose_selector_is_long_isolates_every_pod() {
        let whole = policy(selector(10_000), 1);
        let closed = closed_policy(&whole);
        assert_eq!(closed.members, Selector::Invalid.into());
        assert!(closed.isolates_egress && !closed.isolates_ingress);
        assert!(of_policy(&closed) < 1_200, "{}", of_policy(&closed));
    }

    #[test]
    fn a_closed_policy_takes_little_whatever_it_selects() {
        for values in 1..300 {
            let closed = closed_policy(&policy(selector(values), 1));
            let takes = of_policy(&closed);
            assert!(takes < 1_500, "{takes} of {values} values");
        }
    }

    #[test]
    fn a_closed_slice_is_its_services_and_has_no_endpoint() {
        let endpoint = |number: u8| Endpoint {
            address: [198, 51, 100, number].into(),
            state: EndpointState::Ready,
            pod: None,
            node: Some("node".into()),
        };
        let port = NamedPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            number: 80,
        };
        let whole = EndpointSlice {
            service: Some("web".into()),
            ports: vec![port],
            endpoints: (0..200).map(endpoint).collect(),
            is_closed: false,
        };
        let closed = closed_slice(&whole);
        assert_eq!(closed.service.as_deref(), Some("web"));
        assert!(closed.endpoints.is_empty());
        assert!(of_slice(&whole) > 200 * ENDPOINT);
        assert!(of_slice(&closed) < 1_000, "{}", of_slice(&closed));
    }

    /// The heaviest gives way, and never one that takes less than its part.
    #[test]
    fn the_heaviest_gives_way_and_never_one_below_its_part() {
        let mut ledger = Ledger::of(100);
        assert!(ledger.change("a", 0, 60).is_empty());
        assert!(ledger.change("b", 0, 40).is_empty());
        assert_eq!(ledger.change("b", 40, 50), ["a".to_owned()].into());
        assert!(ledger.is_too_much("a") && !ledger.is_too_much("b"));
        assert_eq!(ledger.change("b", 50, 0), ["a".to_owned()].into());
        assert!(!ledger.is_too_much("a"));
    }

    proptest! {
        #[test]
        fn what_fits_is_the_same_as_if_it_were_decided_of_all_at_once(
            changes in prop::collection::vec((0..6_u8, 0..60_usize), 0..40)
        ) {
            let (mut ledger, mut shares) = (Ledger::of(100), Shares::of(100));
            let mut takes = BTreeMap::new();
            for (namespace, now) in changes {
                let namespace = namespace.to_string();
                let before = takes.insert(namespace.clone(), now).unwrap_or(0);
                shares.weigh(&namespace, now);
                prop_assert_eq!(ledger.change(&namespace, before, now), shares.decide());
                for namespace in takes.keys() {
                    let is_too_much = shares.is_suspended(namespace);
                    prop_assert_eq!(ledger.is_too_much(namespace), is_too_much);
                }
            }
        }
    }
}
