// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The part of a line that names connections: `x/b, y/* → x/a : 80/TCP over ipv4`.

use std::collections::BTreeSet;

use podgate_policy::model::{ObjectName, Protocol};

use super::{EVERYTHING, Family, Party, Probe, What};
use crate::cases::read::object_name;

/// A part of a line that stands for parties.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// Pods: of this namespace or of all, of this name or of any.
    Pods(Option<String>, Option<String>),
    /// Someone else.
    Party(Party),
}

impl Pattern {
    fn read(text: &str) -> Result<Self, String> {
        let any_or = |part: &str| (part != "*").then(|| part.to_owned());
        match text {
            "*" => Ok(Self::Pods(None, None)),
            "own-node" => Ok(Self::Party(Party::OwnNode)),
            "other-node" => Ok(Self::Party(Party::OtherNode)),
            "outside" => Ok(Self::Party(Party::Outside)),
            _ if text.starts_with("service ") => {
                let name = object_name(text["service ".len()..].trim());
                let name =
                    name.ok_or_else(|| format!("{text:?} is no Service: write service x/s"))?;
                Ok(Self::Party(Party::Service(name)))
            }
            _ => match text.split_once('/') {
                Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                    Ok(Self::Pods(any_or(namespace), any_or(name)))
                }
                Some(_) | None => Err(format!(
                    "{text:?} is nobody: write *, x/*, */a, x/a, own-node, other-node, outside or service x/s"
                )),
            },
        }
    }

    /// Whom it stands for; `None` if nobody of the name is there.
    fn parties(&self, pods: &BTreeSet<ObjectName>) -> Vec<Party> {
        match self {
            Self::Party(party) => vec![party.clone()],
            Self::Pods(namespace, name) => pods
                .iter()
                .filter(|pod| namespace.as_ref().is_none_or(|n| *n == pod.namespace))
                .filter(|pod| name.as_ref().is_none_or(|n| *n == pod.name))
                .map(|pod| Party::Pod(pod.clone()))
                .collect(),
        }
    }
}

/// Connections, as a line names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connections {
    from: Vec<Pattern>,
    to: Vec<Pattern>,
    whats: Option<Vec<What>>,
    family: Option<Family>,
}

impl Connections {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let (text, family) = match text.split_once(" over ") {
            None => (text, None),
            Some((text, family)) => match family.trim() {
                "ipv4" => (text, Some(Family::V4)),
                "ipv6" => (text, Some(Family::V6)),
                other => return Err(format!("{other:?} is no family: write ipv4 or ipv6")),
            },
        };
        let Some((from, rest)) = text.split_once('→') else {
            return Err("there is no → between who and to whom".into());
        };
        let (to, whats) = match rest.split_once(" : ") {
            None => (rest, None),
            Some((to, whats)) => (to, Some(whats)),
        };
        let patterns = |list: &str| -> Result<Vec<_>, String> {
            list.split(',')
                .map(|part| Pattern::read(part.trim()))
                .collect()
        };
        let whats = whats.map(|list| {
            let parts = list.split(',').map(|part| what(part.trim()));
            Ok::<_, String>(parts.collect::<Result<Vec<_>, _>>()?.concat())
        });
        Ok(Self {
            from: patterns(from)?,
            to: patterns(to)?,
            whats: whats.transpose()?,
            family,
        })
    }

    pub(super) fn is_all(&self) -> bool {
        let all = [Pattern::Pods(None, None)];
        self.from == all && self.to == all && self.whats.is_none() && self.family.is_none()
    }

    /// All of them, but no pod's to itself, which are never judged.
    pub(super) fn probes(&self, pods: &BTreeSet<ObjectName>) -> Result<Vec<Probe>, String> {
        let parties = |patterns: &[Pattern]| {
            let mut all = Vec::new();
            for pattern in patterns {
                let found = pattern.parties(pods);
                if found.is_empty() {
                    return Err(format!(
                        "{pattern:?} is no pod with a network of its own at this step"
                    ));
                }
                all.extend(found);
            }
            Ok(all)
        };
        let whats = self.whats.as_deref().unwrap_or(&EVERYTHING);
        let families = match self.family {
            None => &Family::BOTH[..],
            Some(Family::V4) => &[Family::V4],
            Some(Family::V6) => &[Family::V6],
        };
        let to = parties(&self.to)?;
        let mut probes = Vec::new();
        for from in parties(&self.from)? {
            for to in to.iter().filter(|to| **to != from) {
                match (&from, to) {
                    (Party::Service(_), _) => return Err(format!("{from} opens no connections")),
                    (Party::Pod(_), Party::Service(_)) if self.whats.is_none() => {
                        return Err(format!("{to} has ports of its own: name one"));
                    }
                    (Party::Pod(_), _) | (_, Party::Pod(_)) => {}
                    (
                        Party::OwnNode | Party::OtherNode | Party::Outside,
                        Party::OwnNode | Party::OtherNode | Party::Outside | Party::Service(_),
                    ) => return Err(format!("{from} → {to} meets no pod")),
                }
                for what in whats {
                    probes.extend(families.iter().map(|family| Probe {
                        from: from.clone(),
                        to: to.clone(),
                        what: *what,
                        family: *family,
                    }));
                }
            }
        }
        Ok(probes)
    }
}

/// `80/TCP`, `TCP` for both ports of everything, or `ICMP`.
fn what(text: &str) -> Result<Vec<What>, String> {
    let protocol = |name: &str| match name {
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        "SCTP" => Ok(Protocol::Sctp),
        other => Err(format!(
            "{other:?} is no protocol: write 80/TCP, UDP or ICMP"
        )),
    };
    if text == "ICMP" {
        return Ok(vec![What::Echo]);
    }
    match text.split_once('/') {
        None => {
            let protocol = protocol(text)?;
            Ok([80, 81].map(|port| What::Port(protocol, port)).to_vec())
        }
        Some((port, name)) => {
            let number = port
                .parse()
                .map_err(|_| format!("{port:?} is no port number"))?;
            Ok(vec![What::Port(protocol(name)?, number)])
        }
    }
}
