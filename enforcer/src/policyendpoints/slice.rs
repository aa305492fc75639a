// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One PolicyEndpoint in model types: a slice of what a policy means. The edge past which its JSON does not appear.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use podgate_policy::model::{ObjectName, Port};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::object;
use crate::convert::pod::object_name;
use crate::convert::{Converted, FieldErrors, FieldPath, addresses, names};

/// The group of NetworkPolicies, in the `apiVersion` of an owner.
const NETWORK_POLICY_GROUP: &str = "networking.k8s.io";

/// One PolicyEndpoint and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedSlice {
    /// The name of the object, which says nothing about the policy.
    pub(crate) name: ObjectName,
    /// What it says.
    pub(crate) slice: Slice,
}

/// What one PolicyEndpoint says. A policy means the union of its slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Whose slice this is.
    pub(crate) policy: PolicyKey,
    /// `podIsolation` has Ingress.
    pub(crate) isolates_ingress: bool,
    /// `podIsolation` has Egress.
    pub(crate) isolates_egress: bool,
    /// The pods that are listed as the policy's, of all nodes: name and address.
    pub(crate) pods: BTreeSet<(String, IpAddr)>,
    /// From whom its pods accept connections.
    pub(crate) ingress: BTreeSet<Entry>,
    /// To whom its pods may open connections.
    pub(crate) egress: BTreeSet<Entry>,
}

/// A policy, with the object that owns its slices: namesakes of another kind, or from before, are other policies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PolicyKey {
    /// `policyRef`.
    pub(crate) name: ObjectName,
    /// Who owns the slices.
    pub(crate) owner: Owner,
}

/// The controller among the owners of a PolicyEndpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    /// A NetworkPolicy, by UID.
    NetworkPolicy(String),
    /// An object of another kind, such as an ApplicationNetworkPolicy, by kind and UID.
    Other(String, String),
    /// Nobody.
    Nobody,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Owner::NetworkPolicy(uid) => write!(f, "{} (NetworkPolicy {uid})", self.name),
            Owner::Other(kind, uid) => write!(f, "{} ({kind} {uid})", self.name),
            Owner::Nobody => write!(f, "{} (no owner)", self.name),
        }
    }
}

/// An element of `ingress` or `egress`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Entry {
    /// Who.
    pub(crate) peer: EntryPeer,
    /// Which ports.
    pub(crate) ports: EntryPorts,
}

/// Who an entry is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum EntryPeer {
    /// One address: a pod's, a Service's, or any.
    Address(IpAddr),
    /// A block without its exceptions, which are inside it and sorted.
    Block(IpNet, Vec<IpNet>),
}

/// Which ports an entry allows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum EntryPorts {
    /// Every port of every protocol.
    Everything,
    /// These; [`Port::Invalid`] stands for those that cannot be read.
    These(BTreeSet<Port>),
}

/// Converts a PolicyEndpoint. Everything that its controllers have ever written is taken: absent protocols (TCP), bare
/// addresses, elements twice, none at all, exceptions outside their block (which take nothing away).
///
/// A `policyRef` that cannot be read leaves the owner to say whose slice it is; a direction that cannot be read may
/// mean either, so it isolates both; what else cannot be read allows nothing.
pub(crate) fn convert(metadata: &ObjectMeta, spec: &Value) -> Converted<NamedSlice> {
    let mut errors = FieldErrors::default();
    let path = FieldPath::of("spec");
    let name = object_name(metadata, &mut errors);
    let spec: object::Spec = match serde_json::from_value(spec.clone()) {
        Ok(spec) => spec,
        Err(error) => {
            errors.add(&path, error.to_string());
            object::Spec::default()
        }
    };
    let policy = policy_key(metadata, &name, spec.policy_ref, &path, &mut errors);
    let (isolates_ingress, isolates_egress) =
        directions(spec.pod_isolation, &path.key("podIsolation"), &mut errors);
    let pods = elements(
        spec.pod_selector_endpoints,
        &path.key("podSelectorEndpoints"),
        &mut errors,
        |pod, at, errors| listed_pod(pod, &policy.name.namespace, at, errors),
    );
    let mut entries = |field: &str, list: Value| -> BTreeSet<Entry> {
        elements(list, &path.key(field), &mut errors, entry)
    };
    let slice = Slice {
        ingress: entries("ingress", spec.ingress),
        egress: entries("egress", spec.egress),
        policy,
        isolates_ingress,
        isolates_egress,
        pods,
    };
    errors.beside(NamedSlice { name, slice })
}

/// What the elements of a list become, without those that cannot be read.
fn elements<T: DeserializeOwned, U: Ord>(
    list: Value,
    path: &FieldPath,
    errors: &mut FieldErrors,
    mut each: impl FnMut(T, &FieldPath, &mut FieldErrors) -> Option<U>,
) -> BTreeSet<U> {
    let list = match list {
        Value::Null => Vec::new(),
        Value::Array(list) => list,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            errors.add(path, "is not a list");
            Vec::new()
        }
    };
    let mut found = BTreeSet::new();
    for (i, element) in list.into_iter().enumerate() {
        let at = path.index(i);
        if let Some(element) = typed(element, &at, errors)
            && let Some(element) = each(element, &at, errors)
        {
            found.insert(element);
        }
    }
    found
}

fn typed<T: DeserializeOwned>(
    value: Value,
    path: &FieldPath,
    errors: &mut FieldErrors,
) -> Option<T> {
    let value = serde_json::from_value(value).map_err(|error| error.to_string());
    errors.keep(path, value)
}

/// A policy and its slices are in one namespace: else who may write slices in one could change policy in another.
fn policy_key(
    metadata: &ObjectMeta,
    object: &ObjectName,
    policy_ref: Value,
    path: &FieldPath,
    errors: &mut FieldErrors,
) -> PolicyKey {
    let at = path.key("policyRef");
    let owner = metadata.owner_references.iter().flatten();
    let owner = owner.max_by_key(|owner| owner.controller == Some(true));
    let policy_ref: Option<object::PolicyRef> = typed(policy_ref, &at, errors);
    let name = match (policy_ref, owner) {
        (Some(policy), _) if policy.namespace == object.namespace => policy.name,
        (Some(policy), _) => {
            errors.add(
                &at.key("namespace"),
                format!(
                    "{:?} is not the namespace of the object, so this names no policy",
                    policy.namespace
                ),
            );
            format!("{}/{}", policy.namespace, policy.name)
        }
        (None, Some(owner)) => owner.name.clone(),
        (None, None) => object.name.clone(),
    };
    PolicyKey {
        name: ObjectName::new(&object.namespace, name),
        owner: owner.map_or(Owner::Nobody, owner_of),
    }
}

fn owner_of(reference: &OwnerReference) -> Owner {
    let group = reference
        .api_version
        .split_once('/')
        .map(|(group, _)| group);
    if reference.kind == "NetworkPolicy" && group == Some(NETWORK_POLICY_GROUP) {
        Owner::NetworkPolicy(reference.uid.clone())
    } else {
        Owner::Other(reference.kind.clone(), reference.uid.clone())
    }
}

fn directions(list: Value, path: &FieldPath, errors: &mut FieldErrors) -> (bool, bool) {
    let list: Option<Vec<Value>> = match typed(list, path, errors) {
        None => return (true, true),
        Some(list) => list,
    };
    let (mut ingress, mut egress) = (false, false);
    for (i, direction) in list.iter().flatten().enumerate() {
        match direction.as_str() {
            Some("Ingress") => ingress = true,
            Some("Egress") => egress = true,
            Some(_) | None => {
                errors.add(
                    &path.index(i),
                    format!("{direction} is neither Ingress nor Egress, so both are isolated"),
                );
                (ingress, egress) = (true, true);
            }
        }
    }
    (ingress, egress)
}

fn listed_pod(
    pod: object::PodEndpoint,
    namespace: &str,
    path: &FieldPath,
    errors: &mut FieldErrors,
) -> Option<(String, IpAddr)> {
    if pod.namespace != namespace {
        errors.add(
            &path.key("namespace"),
            format!(
                "{:?} is not the policy's namespace, so the policy does not apply to this pod",
                pod.namespace
            ),
        );
        return None;
    }
    let address = errors.keep(&path.key("podIP"), addresses::address(&pod.pod_ip))?;
    Some((pod.name, address))
}

fn entry(info: object::EndpointInfo, path: &FieldPath, errors: &mut FieldErrors) -> Option<Entry> {
    let Some(cidr) = info.cidr.filter(|cidr| !cidr.is_empty()) else {
        let reason = match info.domain_name {
            Some(_) => "domain names are not supported: this allows nothing",
            None => "has no cidr: this allows nothing",
        };
        errors.add(path, reason);
        return None;
    };
    let peer = peer(&cidr, info.except.unwrap_or_default(), path, errors)?;
    let ports = info.ports.unwrap_or_default();
    let at = path.key("ports");
    let each = |(i, element): (usize, Value)| {
        let at = at.index(i);
        let element = typed(element, &at, errors);
        element
            .and_then(|element| port(&element, &at, errors))
            .unwrap_or(Port::Invalid)
    };
    let ports = match ports.is_empty() {
        true => EntryPorts::Everything,
        false => EntryPorts::These(ports.into_iter().enumerate().map(each).collect()),
    };
    Some(Entry { peer, ports })
}

/// An exception that cannot be read makes the element allow nothing: without it, it would allow too much.
fn peer(
    cidr: &str,
    except: Vec<String>,
    path: &FieldPath,
    errors: &mut FieldErrors,
) -> Option<EntryPeer> {
    let at = path.key("cidr");
    let block = if cidr.contains('/') {
        errors.keep(&at, addresses::block(cidr))?
    } else {
        IpNet::from(errors.keep(&at, addresses::address(cidr))?)
    };
    let at = path.key("except");
    let mut holes = BTreeSet::new();
    for (i, hole) in except.iter().enumerate() {
        let hole = errors.keep(&at.index(i), addresses::block(hole))?;
        if hole.contains(&block) {
            return None;
        }
        if block.contains(&hole) {
            holes.insert(hole);
        }
    }
    Some(if block.prefix_len() == block.max_prefix_len() {
        EntryPeer::Address(block.addr())
    } else {
        EntryPeer::Block(block, holes.into_iter().collect())
    })
}

fn port(port: &object::Port, path: &FieldPath, errors: &mut FieldErrors) -> Option<Port> {
    let protocol = errors.keep(
        &path.key("protocol"),
        names::protocol(port.protocol.as_deref().filter(|text| !text.is_empty())),
    )?;
    let Some(first) = port.port else {
        if port.end_port.is_some() {
            errors.add(&path.key("endPort"), "needs a port: give port as well");
            return None;
        }
        return Some(Port::All(protocol));
    };
    let first = errors.keep(&path.key("port"), names::port_number(first))?;
    let last = match port.end_port {
        None => first,
        Some(last) => errors.keep(&path.key("endPort"), names::port_number(last))?,
    };
    if last < first {
        errors.add(
            &path.key("endPort"),
            format!("{last} is less than port {first}"),
        );
        return None;
    }
    Some(Port::Range {
        protocol,
        first,
        last,
    })
}
