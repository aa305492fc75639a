// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where everybody is: the addresses that tables and policies name by their owners.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podgate_policy::model::ObjectName;
use serde_json::Value;

use super::case::Node;
use super::expect::{Family, Party, Probe};
use super::read::object_name;

/// An address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The one of IPv4.
    pub v4: Ipv4Addr,
    /// The one of IPv6.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// The one of `family`.
    pub const fn of(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.v4),
            Family::V6 => IpAddr::V6(self.v6),
        }
    }

    /// Both.
    pub fn both(&self) -> [IpAddr; 2] {
        Family::BOTH.map(|family| self.of(family))
    }
}

/// A node's own addresses, and those of its pods as blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlace {
    /// The addresses that others see of it.
    pub addresses: Addresses,
    /// The blocks that its pods' addresses are from, by family.
    pub pods: [String; 2],
}

/// Where everybody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The nodes.
    pub nodes: [NodePlace; 2],
    /// A machine outside of the cluster.
    pub outside: Addresses,
    /// Pods that have a network of their own, and the node that they are on.
    pub pods: BTreeMap<ObjectName, (Node, Addresses)>,
    /// The cluster addresses of Services.
    pub services: BTreeMap<ObjectName, Addresses>,
}

impl Places {
    /// The addresses from which and to which a connection is opened.
    ///
    /// # Panics
    /// When a pod or a Service has no place.
    pub fn ends(&self, probe: &Probe) -> (IpAddr, IpAddr) {
        let address = |party: &Party, other: &Party| match party {
            Party::Pod(name) => self.pods[name].1.of(probe.family),
            Party::Service(name) => self.services[name].of(probe.family),
            Party::Outside => self.outside.of(probe.family),
            Party::OwnNode | Party::OtherNode => {
                let node = self.node_at(party, other).expect("a node is next to a pod");
                self.nodes[node.index()].addresses.of(probe.family)
            }
        };
        (
            address(&probe.from, &probe.to),
            address(&probe.to, &probe.from),
        )
    }

    /// The node that `party` is, or is on, when it has to do with `other`; nothing is on a node outside.
    pub fn node_at(&self, party: &Party, other: &Party) -> Option<Node> {
        let of_pod = |party: &Party| match party {
            Party::Pod(name) => self.pods.get(name).map(|(node, _)| *node),
            Party::OwnNode | Party::OtherNode | Party::Outside | Party::Service(_) => None,
        };
        match party {
            Party::Pod(_) => of_pod(party),
            Party::OwnNode => of_pod(other),
            Party::OtherNode => of_pod(other).map(Node::other),
            Party::Outside | Party::Service(_) => None,
        }
    }

    /// The value with addresses in the place of `<x/a ipv4>` and its like, wherever it has text.
    ///
    /// # Errors
    /// A place that nobody has.
    pub fn filled(&self, value: &Value) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => Value::String(self.filled_text(text)?),
            Value::Array(elements) => {
                let filled = elements.iter().map(|element| self.filled(element));
                Value::Array(filled.collect::<Result<_, _>>()?)
            }
            Value::Object(fields) => {
                let filled = fields
                    .iter()
                    .map(|(key, value)| Ok((key.clone(), self.filled(value)?)));
                Value::Object(filled.collect::<Result<_, String>>()?)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        })
    }

    fn filled_text(&self, text: &str) -> Result<String, String> {
        let Some((before, rest)) = text.split_once('<') else {
            return Ok(text.to_owned());
        };
        let Some((place, after)) = rest.split_once('>') else {
            return Err(format!("{text:?} has a < without its >"));
        };
        Ok(format!("{before}{}{after}", self.place(place)?))
    }

    fn place(&self, place: &str) -> Result<String, String> {
        let unknown = || {
            format!(
                "<{place}> is no place: write <x/a ipv4>, <service x/s ipv4>, <outside ipv6>, <node-1 ipv4> or <node-1 pods ipv6>"
            )
        };
        let words: Vec<&str> = place.split_whitespace().collect();
        let (who, family) = match words.last() {
            Some(&"ipv4") => (&words[..words.len() - 1], Family::V4),
            Some(&"ipv6") => (&words[..words.len() - 1], Family::V6),
            Some(_) | None => return Err(unknown()),
        };
        let node = |name: &str| match name {
            "node-1" => Ok(&self.nodes[0]),
            "node-2" => Ok(&self.nodes[1]),
            _ => Err(unknown()),
        };
        match who {
            ["service", name] => {
                let service = object_name(name).and_then(|name| self.services.get(&name));
                Ok(service.ok_or_else(unknown)?.of(family).to_string())
            }
            ["outside"] => Ok(self.outside.of(family).to_string()),
            [name, "pods"] => Ok(node(name)?.pods[family as usize].clone()),
            [name] if name.contains('/') => {
                let pod = object_name(name).and_then(|name| self.pods.get(&name));
                let (_, addresses) = pod.ok_or_else(unknown)?;
                Ok(addresses.of(family).to_string())
            }
            [name] => Ok(node(name)?.addresses.of(family).to_string()),
            _ => Err(unknown()),
        }
    }
}
