// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the slices of one policy allow, as rules and lists.
//!
//! ```text
//! slices ──► union of entries ──► rules: one for each set of ports, for a list and for blocks
//!                            └──► lists: which addresses
//! ```
//! Which pods a selector means is a matter of addresses here, and they come and go. So single addresses are in lists,
//! which are facts, and a pod that comes or goes changes no ruleset (`docs/adr/0058`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use podgate_policy::connection::Direction;
use podgate_policy::model::{ListName, Peer, Port, Protocol, Rule};

use super::slice::{Entry, EntryPeer, EntryPorts, PolicyKey, Slice};

/// What the slices of a policy say together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Union {
    /// Some slice isolates ingress.
    pub(super) isolates_ingress: bool,
    /// Some slice isolates egress.
    pub(super) isolates_egress: bool,
    /// The pods that some slice lists: name and addresses.
    pub(super) pods: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Ingress rules. Named ports are not told from numbers yet ([`narrowed`]).
    pub(super) ingress: Vec<Rule>,
    /// Egress rules.
    pub(super) egress: Vec<Rule>,
    /// Who is in the lists that the rules name.
    pub(super) lists: BTreeMap<ListName, BTreeSet<IpAddr>>,
}

impl Union {
    /// The union of `slices` of `policy`.
    pub(super) fn of<'a>(policy: &PolicyKey, slices: impl IntoIterator<Item = &'a Slice>) -> Self {
        let mut union = Self::default();
        let (mut ingress, mut egress) = (BTreeSet::new(), BTreeSet::new());
        for slice in slices {
            union.isolates_ingress |= slice.isolates_ingress;
            union.isolates_egress |= slice.isolates_egress;
            for (name, address) in &slice.pods {
                let addresses = union.pods.entry(name.clone()).or_default();
                addresses.insert(*address);
            }
            ingress.extend(&slice.ingress);
            egress.extend(&slice.egress);
        }
        union.ingress = union.rules(policy, Direction::Ingress, &ingress);
        union.egress = union.rules(policy, Direction::Egress, &egress);
        union
    }

    fn rules(
        &mut self,
        policy: &PolicyKey,
        direction: Direction,
        entries: &BTreeSet<&Entry>,
    ) -> Vec<Rule> {
        let mut by_ports: BTreeMap<&EntryPorts, Vec<&EntryPeer>> = BTreeMap::new();
        for entry in entries {
            by_ports.entry(&entry.ports).or_default().push(&entry.peer);
        }
        let mut rules: Vec<Rule> = for_everybody(entries).into_iter().collect();
        for (ports, peers) in by_ports {
            let mut listed = BTreeSet::new();
            let mut elements = Vec::new();
            for peer in peers {
                match peer {
                    EntryPeer::Address(address) => drop(listed.insert(*address)),
                    EntryPeer::Block(cidr, except) => elements.push(Peer::Block {
                        cidr: *cidr,
                        except: except.clone(),
                    }),
                }
            }
            if !listed.is_empty() {
                let name = list_name(policy, direction, ports);
                elements.push(Peer::Listed(name.clone()));
                self.lists.insert(name, listed);
            }
            rules.push(Rule {
                peers: elements,
                ports: ports_of(ports),
            });
        }
        rules
    }
}

fn ports_of(ports: &EntryPorts) -> Vec<Port> {
    match ports {
        EntryPorts::Everything => Vec::new(),
        EntryPorts::These(ports) => ports.iter().cloned().collect(),
    }
}

/// A rule without peers is written as two entries, one for all of IPv4 and one for all of IPv6, with the same ports.
/// Read as a rule for everybody again, it allows Services too, whatever is behind them, and needs no prefix.
fn for_everybody(entries: &BTreeSet<&Entry>) -> Option<Rule> {
    let with_all = |all: IpNet| -> EntryPorts {
        let mut found = BTreeSet::new();
        for entry in entries {
            match (&entry.peer, &entry.ports) {
                (EntryPeer::Block(cidr, except), ports) if *cidr == all && except.is_empty() => {
                    match ports {
                        EntryPorts::Everything => return EntryPorts::Everything,
                        EntryPorts::These(ports) => found.extend(ports.iter().cloned()),
                    }
                }
                (EntryPeer::Block(..) | EntryPeer::Address(_), _) => {}
            }
        }
        EntryPorts::These(found)
    };
    let v4 = with_all(IpNet::V4(ipnet::Ipv4Net::default()));
    let v6 = with_all(IpNet::V6(ipnet::Ipv6Net::default()));
    let both = match (v4, v6) {
        (EntryPorts::Everything, other) | (other, EntryPorts::Everything) => other,
        (EntryPorts::These(v4), EntryPorts::These(v6)) => EntryPorts::These(&v4 & &v6),
    };
    match &both {
        EntryPorts::These(ports) if ports.is_empty() => None,
        EntryPorts::These(_) | EntryPorts::Everything => Some(Rule {
            peers: Vec::new(),
            ports: ports_of(&both),
        }),
    }
}

/// A name that says what the list is for. It is compared, and never read.
fn list_name(policy: &PolicyKey, direction: Direction, ports: &EntryPorts) -> ListName {
    let direction = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let ports = match ports {
        EntryPorts::Everything => "everything".to_owned(),
        EntryPorts::These(ports) => {
            let texts: Vec<String> = ports.iter().map(|port| format!("{port:?}")).collect();
            texts.join(", ")
        }
    };
    ListName(format!("{policy} {direction} {ports}").into())
}

/// The ingress rules with their named ports told from their numbers again.
///
/// The controller resolves a name on every pod of the policy, and writes the union of the numbers for all of them. A
/// pod accepts such a number only if it calls it by a name of the policy. What is a number in the policy too stays
/// one; so does what no name can have become, because the policy was edited and its slices are not rewritten yet.
pub(super) fn narrowed(rules: &[Rule], policy: &[Rule]) -> Vec<Rule> {
    let ports = || policy.iter().flat_map(|rule| &rule.ports);
    let names: BTreeSet<(Protocol, &String)> = ports()
        .filter_map(|port| match port {
            Port::Named { protocol, name } => Some((*protocol, name)),
            Port::All(_) | Port::Range { .. } | Port::NamedWithin { .. } | Port::Invalid => None,
        })
        .collect();
    let narrow = |port: &Port| -> Vec<Port> {
        match port {
            Port::Range {
                protocol,
                first,
                last,
            } if first == last && !ports().any(|written| written == port) => {
                let names = names.iter().filter(|(of, _)| of == protocol);
                let within: Vec<Port> = names
                    .map(|(protocol, name)| Port::NamedWithin {
                        protocol: *protocol,
                        name: (*name).clone(),
                        first: *first,
                        last: *last,
                    })
                    .collect();
                if within.is_empty() {
                    vec![port.clone()]
                } else {
                    within
                }
            }
            Port::Range { .. }
            | Port::All(_)
            | Port::Named { .. }
            | Port::NamedWithin { .. }
            | Port::Invalid => vec![port.clone()],
        }
    };
    rules
        .iter()
        .map(|rule| Rule {
            peers: rule.peers.clone(),
            ports: rule.ports.iter().flat_map(narrow).collect(),
        })
        .collect()
}
