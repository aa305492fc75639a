// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A stand-in for the EKS controller: from a world to the PolicyEndpoints that it writes, object by object.
//!
//! Facts of its behavior, defects included, are those of its sources at the commit that the tests' documentation
//! names: primary addresses only, named ingress ports as the union over all pods of the policy, entries of one block
//! merged, lists cut into chunks each by itself, no order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podgate_policy::model::{
    Labels, Namespaces, NetworkPolicy, ObjectName, Peer, Pod, Port, Protocol, Rule, Selector, World,
};
use serde_json::{Value, json};

/// What of a Service the controller reads.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) selector: Labels,
    pub(crate) cluster_ip: IpAddr,
    /// Protocol, port, and the port of the pods.
    pub(crate) ports: Vec<(Protocol, u16, u16)>,
}

/// The controller.
#[derive(Debug, Clone)]
pub(crate) struct Controller {
    /// `--endpoint-chunk-size`.
    pub(crate) chunk: usize,
    /// The services of the cluster.
    pub(crate) services: Vec<Service>,
}

/// Ports by block and exceptions; an empty set means all.
type Entries = BTreeMap<(String, Vec<String>), BTreeSet<Port>>;

impl Controller {
    /// The specs of the PolicyEndpoints of one policy; there is at least one.
    pub(crate) fn specs(
        &self,
        world: &World,
        name: &ObjectName,
        policy: &NetworkPolicy,
        host_of: impl Fn(&ObjectName) -> IpAddr,
    ) -> Vec<Value> {
        let nothing = Selector::Requirements(Vec::new());
        let selector = policy.members.matching.as_ref().unwrap_or(&nothing);
        let selected: Vec<(&ObjectName, &Pod)> = world
            .pods
            .iter()
            .map(|(name, pod)| (name, pod.as_ref()))
            .filter(|(pod_name, pod)| {
                pod_name.namespace == name.namespace
                    && pod.is_selectable()
                    && !pod.addresses.is_empty()
                    && selector.matches(&pod.labels)
            })
            .collect();
        let pods: Vec<Value> = selected
            .iter()
            .map(|(name, pod)| {
                json!({
                    "hostIP": host_of(name).to_string(),
                    "podIP": pod.addresses[0].to_string(),
                    "name": name.name,
                    "namespace": name.namespace,
                })
            })
            .collect();
        let mut ingress = Entries::new();
        for rule in &policy.ingress {
            self.ingress(world, name, rule, &selected, &mut ingress);
        }
        let mut egress = Entries::new();
        for rule in &policy.egress {
            self.egress(world, name, rule, &mut egress);
        }
        let mut isolation = Vec::new();
        if policy.isolates_ingress {
            isolation.push("Ingress");
        }
        if policy.isolates_egress {
            isolation.push("Egress");
        }
        let lists = [
            pods,
            if policy.isolates_ingress {
                json_of(&ingress)
            } else {
                Vec::new()
            },
            if policy.isolates_egress {
                json_of(&egress)
            } else {
                Vec::new()
            },
        ];
        let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
        let objects = longest.div_ceil(self.chunk).max(1);
        let part = |list: usize, object: usize| -> Vec<Value> {
            let chunk = lists[list].iter().skip(object * self.chunk);
            chunk.take(self.chunk).cloned().collect()
        };
        (0..objects)
            .map(|object| {
                json!({
                    "policyRef": {"name": name.name, "namespace": name.namespace},
                    "podSelector": {},
                    "podIsolation": isolation,
                    "podSelectorEndpoints": part(0, object),
                    "ingress": part(1, object),
                    "egress": part(2, object),
                })
            })
            .collect()
    }

    fn ingress(
        &self,
        world: &World,
        policy: &ObjectName,
        rule: &Rule,
        selected: &[(&ObjectName, &Pod)],
        entries: &mut Entries,
    ) {
        let named = |protocol: Protocol, name: &str| -> BTreeSet<u16> {
            let ports = selected.iter().flat_map(|(_, pod)| &pod.ports);
            let called = ports.filter(|port| port.protocol == protocol && port.name == name);
            called.map(|port| port.number).collect()
        };
        let Some(ports) = resolved(rule, named) else {
            return;
        };
        for (cidr, except) in blocks(rule) {
            add(entries, cidr, except, &ports);
        }
        for (_, _, address) in peers(world, policy, rule) {
            add(entries, address.to_string(), Vec::new(), &ports);
        }
    }

    fn egress(&self, world: &World, policy: &ObjectName, rule: &Rule, entries: &mut Entries) {
        if let Some(ports) = resolved(rule, |_, _| BTreeSet::new()) {
            for (cidr, except) in blocks(rule) {
                add(entries, cidr, except, &ports);
            }
        }
        for (_, pod, address) in peers(world, policy, rule) {
            let named = |protocol: Protocol, name: &str| -> BTreeSet<u16> {
                let called = |port: &&podgate_policy::model::NamedPort| {
                    port.protocol == protocol && port.name == name
                };
                pod.ports
                    .iter()
                    .filter(called)
                    .map(|port| port.number)
                    .collect()
            };
            if let Some(ports) = resolved(rule, named) {
                add(entries, address.to_string(), Vec::new(), &ports);
            }
        }
        for service in &self.services {
            for peer in &rule.peers {
                if let Peer::Pods { namespaces, pods } = peer
                    && looks_into(world, policy, namespaces, &service.namespace)
                    && pods.matches(&service.selector)
                {
                    self.service(service, rule, entries);
                }
            }
        }
    }

    /// The ClusterIP with the Service's ports for the numbers that the rule has.
    fn service(&self, service: &Service, rule: &Rule, entries: &mut Entries) {
        let address = service.cluster_ip.to_string();
        if rule.ports.is_empty() {
            return add(entries, address, Vec::new(), &BTreeSet::new());
        }
        let mut ports = BTreeSet::new();
        for port in &rule.ports {
            for (protocol, number, target) in &service.ports {
                let same = Port::Range {
                    protocol: *protocol,
                    first: *target,
                    last: *target,
                };
                if *port == same {
                    ports.insert(Port::Range {
                        protocol: *protocol,
                        first: *number,
                        last: *number,
                    });
                }
            }
        }
        if !ports.is_empty() {
            add(entries, address, Vec::new(), &ports);
        }
    }
}

/// The ports of a rule, names made numbers; nothing if it has ports, and none is left.
fn resolved(
    rule: &Rule,
    named: impl Fn(Protocol, &str) -> BTreeSet<u16>,
) -> Option<BTreeSet<Port>> {
    let mut ports = BTreeSet::new();
    for port in &rule.ports {
        match port {
            Port::Named { protocol, name } => {
                ports.extend(
                    named(*protocol, name)
                        .into_iter()
                        .map(|number| Port::Range {
                            protocol: *protocol,
                            first: number,
                            last: number,
                        }),
                );
            }
            Port::All(_) | Port::Range { .. } => drop(ports.insert(port.clone())),
            Port::NamedWithin { .. } | Port::Invalid => {}
        }
    }
    (rule.ports.is_empty() || !ports.is_empty()).then_some(ports)
}

fn blocks(rule: &Rule) -> Vec<(String, Vec<String>)> {
    if rule.peers.is_empty() {
        return vec![("0.0.0.0/0".into(), vec![]), ("::/0".into(), vec![])];
    }
    let blocks = rule.peers.iter().filter_map(|peer| match peer {
        Peer::Block { cidr, except } => Some((
            cidr.to_string(),
            except.iter().map(ToString::to_string).collect(),
        )),
        Peer::Pods { .. } | Peer::Listed(_) | Peer::Invalid => None,
    });
    blocks.collect()
}

/// The pods that a rule selects, each with its primary address. Pods in a node's network are among them.
fn peers<'a>(
    world: &'a World,
    policy: &'a ObjectName,
    rule: &'a Rule,
) -> impl Iterator<Item = (&'a ObjectName, &'a Pod, IpAddr)> {
    let pods = world.pods.iter().filter(move |(name, pod)| {
        !pod.finished
            && rule.peers.iter().any(|peer| match peer {
                Peer::Pods { namespaces, pods } => {
                    looks_into(world, policy, namespaces, &name.namespace)
                        && pods.matches(&pod.labels)
                }
                Peer::Block { .. } | Peer::Listed(_) | Peer::Invalid => false,
            })
    });
    pods.filter_map(|(name, pod)| Some((name, pod.as_ref(), *pod.addresses.first()?)))
}

fn looks_into(world: &World, policy: &ObjectName, namespaces: &Namespaces, into: &str) -> bool {
    match namespaces {
        Namespaces::Own => policy.namespace == into,
        Namespaces::Matching(selector) => {
            let namespace = world.namespaces.get(into);
            namespace.is_some_and(|namespace| selector.matches(&namespace.labels))
        }
    }
}

/// Entries of one block and the same exceptions become one; all ports outdo some.
fn add(entries: &mut Entries, cidr: String, except: Vec<String>, ports: &BTreeSet<Port>) {
    let known = entries.get(&(cidr.clone(), except.clone()));
    let ports = match known {
        Some(known) if known.is_empty() || ports.is_empty() => BTreeSet::new(),
        Some(known) => known | ports,
        None => ports.clone(),
    };
    entries.insert((cidr, except), ports);
}

fn json_of(entries: &Entries) -> Vec<Value> {
    let entry = |((cidr, except), ports): (&(String, Vec<String>), &BTreeSet<Port>)| {
        let mut entry = json!({"cidr": cidr});
        if !except.is_empty() {
            entry["except"] = json!(except);
        }
        if !ports.is_empty() {
            entry["ports"] = ports.iter().map(port).collect();
        }
        entry
    };
    entries.iter().map(entry).collect()
}

fn port(port: &Port) -> Value {
    let text = |protocol: &Protocol| match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    };
    match port {
        Port::All(protocol) => json!({"protocol": text(protocol)}),
        Port::Range {
            protocol,
            first,
            last,
        } if first == last => {
            json!({"protocol": text(protocol), "port": first})
        }
        Port::Range {
            protocol,
            first,
            last,
        } => {
            json!({"protocol": text(protocol), "port": first, "endPort": last})
        }
        Port::Named { .. } | Port::NamedWithin { .. } | Port::Invalid => {
            unreachable!("ports are resolved before they are written")
        }
    }
}
