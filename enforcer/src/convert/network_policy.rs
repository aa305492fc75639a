// SPDX-License-Identifier: Apache-2.0 OR MIT
//! NetworkPolicies (networking.k8s.io/v1).

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use podgate_policy::model::{Namespaces, NetworkPolicy, ObjectName, Peer, Port, Rule, Selector};

use super::pod::object_name;
use super::{Converted, FieldErrors, FieldPath, addresses, distinct, names, selector};

/// A policy and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPolicy {
    /// Its namespace and name.
    pub name: ObjectName,
    /// What it says.
    pub policy: Arc<NetworkPolicy>,
}

/// Converts a NetworkPolicy, with the defaults that the API server applies.
pub fn convert(object: &v1::NetworkPolicy) -> Converted<NamedPolicy> {
    let mut errors = FieldErrors::default();
    let name = object_name(&object.metadata, &mut errors);
    let empty = v1::NetworkPolicySpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let path = FieldPath::of("spec");
    let pod_selector = match &spec.pod_selector {
        Some(s) => selector::convert(s, &path.key("podSelector"), &mut errors),
        None => Selector::everything(),
    };
    let (isolates_ingress, isolates_egress) = directions(spec, &path, &mut errors);
    let mut rules = |field: &str, peers: &str, list: &mut dyn Iterator<Item = ApiRule<'_>>| {
        let at = path.key(field);
        let rules = list
            .enumerate()
            .map(|(i, r)| rule(&r, peers, &at.index(i), &mut errors));
        distinct(rules.collect())
    };
    let mut ingress = spec.ingress.iter().flatten().map(|r| ApiRule {
        peers: r.from.as_deref(),
        ports: r.ports.as_deref(),
    });
    let ingress: Vec<Rule> = rules("ingress", "from", &mut ingress);
    let mut egress = spec.egress.iter().flatten().map(|r| ApiRule {
        peers: r.to.as_deref(),
        ports: r.ports.as_deref(),
    });
    let egress = rules("egress", "to", &mut egress);
    let policy = NetworkPolicy {
        members: pod_selector.into(),
        isolates_ingress,
        isolates_egress,
        ingress,
        egress,
    };
    errors.beside(NamedPolicy {
        name,
        policy: Arc::new(policy),
    })
}

/// What an ingress and an egress rule have in common: all but the name of the list of peers.
struct ApiRule<'a> {
    peers: Option<&'a [v1::NetworkPolicyPeer]>,
    ports: Option<&'a [v1::NetworkPolicyPort]>,
}

/// Whether ingress and egress are isolated. Without `policyTypes`: ingress always, egress if there are egress rules.
/// A type that cannot be read may have meant either, so it isolates both.
fn directions(
    spec: &v1::NetworkPolicySpec,
    path: &FieldPath,
    errors: &mut FieldErrors,
) -> (bool, bool) {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    if types.is_empty() {
        return (
            true,
            spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        );
    }
    let at = path.key("policyTypes");
    if types.len() > 2 {
        errors.add(
            &at,
            "has more than two elements: list Ingress and Egress at most once each",
        );
    }
    let (mut ingress, mut egress) = (false, false);
    for (i, name) in types.iter().enumerate() {
        match name.as_str() {
            "Ingress" => ingress = true,
            "Egress" => egress = true,
            other => {
                errors.add(
                    &at.index(i),
                    format!("{other:?} is not a policy type: use Ingress or Egress"),
                );
                (ingress, egress) = (true, true);
            }
        }
    }
    (ingress, egress)
}

fn rule(rule: &ApiRule<'_>, peers: &str, path: &FieldPath, errors: &mut FieldErrors) -> Rule {
    let peers_at = path.key(peers);
    let ports_at = path.key("ports");
    Rule {
        peers: distinct(
            (rule.peers.unwrap_or_default().iter().enumerate())
                .map(|(i, p)| peer(p, &peers_at.index(i), errors))
                .collect(),
        ),
        ports: distinct(
            (rule.ports.unwrap_or_default().iter().enumerate())
                .map(|(i, p)| port(p, &ports_at.index(i), errors))
                .collect(),
        ),
    }
}

fn peer(peer: &v1::NetworkPolicyPeer, path: &FieldPath, errors: &mut FieldErrors) -> Peer {
    match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
        (None, None, None) => {
            errors.add(path, "is empty: give podSelector, namespaceSelector or ipBlock, or remove the list to mean everybody");
            Peer::Invalid
        }
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            errors.add(
                path,
                "has ipBlock beside a selector: make two elements of them",
            );
            Peer::Invalid
        }
        (Some(block), None, None) => ip_block(block, &path.key("ipBlock"), errors),
        (None, namespaces, pods) => {
            let namespaces = match namespaces {
                Some(s) => Namespaces::Matching(selector::convert(
                    s,
                    &path.key("namespaceSelector"),
                    errors,
                )),
                None => Namespaces::Own,
            };
            let pods = match pods {
                Some(s) => selector::convert(s, &path.key("podSelector"), errors),
                None => Selector::everything(),
            };
            match (&namespaces, &pods) {
                (Namespaces::Matching(Selector::Invalid), _) | (_, Selector::Invalid) => {
                    Peer::Invalid
                }
                (
                    Namespaces::Own | Namespaces::Matching(Selector::Requirements(_)),
                    Selector::Requirements(_),
                ) => Peer::Pods { namespaces, pods },
            }
        }
    }
}

/// An exception that cannot be read makes the whole element invalid: without it, the element would allow too much.
fn ip_block(block: &v1::IPBlock, path: &FieldPath, errors: &mut FieldErrors) -> Peer {
    let cidr = errors.keep(&path.key("cidr"), addresses::block(&block.cidr));
    let at = path.key("except");
    let mut except = Vec::new();
    let mut readable = true;
    for (i, text) in block.except.iter().flatten().enumerate() {
        let at = at.index(i);
        let inner = errors.keep(&at, addresses::block(text));
        match (inner, &cidr) {
            (Some(inner), Some(cidr)) if !is_strictly_inside(&inner, cidr) => {
                errors.add(
                    &at,
                    format!("{text} is not strictly inside the block {}", block.cidr),
                );
                readable = false;
            }
            (Some(inner), _) => except.push(inner),
            (None, _) => readable = false,
        }
    }
    match cidr {
        Some(cidr) if readable => Peer::Block {
            cidr,
            except: distinct(except),
        },
        Some(_) | None => Peer::Invalid,
    }
}

fn is_strictly_inside(inner: &IpNet, outer: &IpNet) -> bool {
    outer.contains(inner) && inner.prefix_len() > outer.prefix_len()
}

fn port(port: &v1::NetworkPolicyPort, path: &FieldPath, errors: &mut FieldErrors) -> Port {
    let protocol = errors.keep(
        &path.key("protocol"),
        names::protocol(port.protocol.as_deref()),
    );
    let at = path.key("port");
    let end_at = path.key("endPort");
    let element = match (&port.port, port.end_port) {
        (None, None) => protocol.map(Port::All),
        (None, Some(_)) => {
            errors.add(&end_at, "needs a port: give port as well");
            None
        }
        (Some(IntOrString::String(_)), Some(_)) => {
            errors.add(&end_at, "needs a port that is a number, and port is a name");
            None
        }
        (Some(IntOrString::String(name)), None) => {
            let valid = errors.keep(&at, names::port_name(name));
            protocol.zip(valid).map(|(protocol, ())| Port::Named {
                protocol,
                name: name.clone(),
            })
        }
        (Some(IntOrString::Int(first)), end) => {
            let first = errors.keep(&at, names::port_number(*first));
            let last = match end {
                Some(end) => errors.keep(&end_at, names::port_number(end)),
                None => first,
            };
            match (protocol, first, last) {
                (_, Some(first), Some(last)) if last < first => {
                    errors.add(&end_at, format!("{last} is less than port {first}"));
                    None
                }
                (Some(protocol), Some(first), Some(last)) => Some(Port::Range {
                    protocol,
                    first,
                    last,
                }),
                (_, _, _) => None,
            }
        }
    };
    element.unwrap_or(Port::Invalid)
}
