//! The table of a step: lines that say which connections can be opened, the later ones overriding the earlier.
//!
//! ```text
//! *        → *                          = allow
//! *        → x/a                        = deny
//! x/b, y/* → x/a : 80/TCP over ipv4     = allow
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use podgate_policy::connection::Verdict;
use podgate_policy::model::{ObjectName, Protocol};

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        })
    }
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A pod with a network of its own.
    Pod(ObjectName),
    /// The node of the pod at the other end.
    OwnNode,
    /// The node that the pod at the other end is not on.
    OtherNode,
    /// A machine outside of the cluster.
    Outside,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => name.fmt(f),
            Self::OwnNode => f.write_str("own-node"),
            Self::OtherNode => f.write_str("other-node"),
            Self::Outside => f.write_str("outside"),
        }
    }
}

/// What is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A connection to a port.
    Port(Protocol, u16),
    /// An ICMP echo, of the family's ICMP.
    Echo,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(Protocol::Tcp, port) => write!(f, "{port}/TCP"),
            Self::Port(Protocol::Udp, port) => write!(f, "{port}/UDP"),
            Self::Port(Protocol::Sctp, port) => write!(f, "{port}/SCTP"),
            Self::Echo => f.write_str("ICMP"),
        }
    }
}

/// What a line without ports speaks of.
pub const EVERYTHING: [What; 7] = [
    What::Port(Protocol::Tcp, 80),
    What::Port(Protocol::Tcp, 81),
    What::Port(Protocol::Udp, 80),
    What::Port(Protocol::Udp, 81),
    What::Port(Protocol::Sctp, 80),
    What::Port(Protocol::Sctp, 81),
    What::Echo,
];

/// One connection to be tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// Who opens it.
    pub from: Party,
    /// To whom.
    pub to: Party,
    /// What is opened.
    pub what: What,
    /// By which addresses.
    pub family: Family,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            from,
            to,
            what,
            family,
        } = self;
        write!(f, "{from} → {to} : {what} over {family}")
    }
}

/// What has become of a connection that was opened before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Bytes go both ways.
    Alive,
    /// Bytes go neither way.
    Cut,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// Which, counted from 0.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub reason: String,
}

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
            _ => match text.split_once('/') {
                Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                    Ok(Self::Pods(any_or(namespace), any_or(name)))
                }
                Some(_) | None => Err(format!(
                    "{text:?} is nobody: write *, x/*, */a, x/a, own-node, other-node or outside"
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
struct Connections {
    from: Vec<Pattern>,
    to: Vec<Pattern>,
    whats: Option<Vec<What>>,
    family: Option<Family>,
}

impl Connections {
    fn read(text: &str) -> Result<Self, String> {
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

    fn is_all(&self) -> bool {
        let all = [Pattern::Pods(None, None)];
        self.from == all && self.to == all && self.whats.is_none() && self.family.is_none()
    }

    /// All of them, but no pod's to itself, which are never judged.
    fn probes(&self, pods: &BTreeSet<ObjectName>) -> Result<Vec<Probe>, String> {
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
                    (Party::Pod(_), _) | (_, Party::Pod(_)) => {}
                    (
                        Party::OwnNode | Party::OtherNode | Party::Outside,
                        Party::OwnNode | Party::OtherNode | Party::Outside,
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

/// A line, and what it says of its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line<V> {
    number: usize,
    connections: Connections,
    says: V,
}

/// Lines, each with what it says after its `=`, if it is to say anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table<V>(Vec<Line<V>>);

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// What a line may say of its connections.
pub trait Says: Sized + Clone + PartialEq {
    /// From the text behind the connections, which begins with the `=` if there is any.
    fn read(text: Option<&str>) -> Result<Self, String>;
}

impl Says for Verdict {
    fn read(text: Option<&str>) -> Result<Self, String> {
        match text {
            Some("allow") => Ok(Self::Allow),
            Some("deny") => Ok(Self::Deny),
            Some(_) | None => Err("a line ends with = allow or = deny".into()),
        }
    }
}

impl Says for Fate {
    fn read(text: Option<&str>) -> Result<Self, String> {
        match text {
            Some("alive") => Ok(Self::Alive),
            Some("cut") => Ok(Self::Cut),
            Some(_) | None => Err("a line ends with = alive or = cut".into()),
        }
    }
}

impl Says for () {
    fn read(text: Option<&str>) -> Result<Self, String> {
        match text {
            None => Ok(()),
            Some(_) => Err("what is opened here is allowed by the table: leave out the =".into()),
        }
    }
}

impl<V: Says> Table<V> {
    /// Reads lines. Empty ones, and what follows a `#`, are for people.
    ///
    /// # Errors
    /// What is wrong with the first wrong line.
    pub fn read(text: &str) -> Result<Self, LineError> {
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split_once('#').map_or(line, |(line, _)| line).trim();
            if line.is_empty() {
                continue;
            }
            let (connections, says) = match line.rsplit_once('=') {
                None => (line, None),
                Some((connections, says)) => (connections.trim(), Some(says.trim())),
            };
            let failed = |reason| LineError {
                line: number,
                reason,
            };
            lines.push(Line {
                number,
                connections: Connections::read(connections).map_err(failed)?,
                says: V::read(says).map_err(failed)?,
            });
        }
        Ok(Self(lines))
    }

    /// What is said of each connection, the last line that names it deciding.
    fn resolve(
        &self,
        pods: &BTreeSet<ObjectName>,
    ) -> Result<BTreeMap<Probe, (V, usize)>, LineError> {
        let mut resolved: BTreeMap<Probe, (V, usize)> = BTreeMap::new();
        for line in &self.0 {
            let failed = |reason| LineError {
                line: line.number,
                reason,
            };
            let mut says_something = false;
            for probe in line.connections.probes(pods).map_err(failed)? {
                let before = resolved.insert(probe, (line.says.clone(), line.number));
                says_something |= before.is_none_or(|(says, _)| says != line.says);
            }
            if !says_something {
                return Err(failed(
                    "what this line says was said before it: leave it out".into(),
                ));
            }
        }
        for line in &self.0 {
            if !resolved
                .values()
                .any(|(_, decided)| *decided == line.number)
            {
                return Err(LineError {
                    line: line.number,
                    reason: "lines after this one override all that it says: leave it out".into(),
                });
            }
        }
        Ok(resolved)
    }

    /// What is said of each connection that some line names.
    ///
    /// # Errors
    /// A line that names nobody, or says nothing that others do not say.
    pub fn said(&self, pods: &BTreeSet<ObjectName>) -> Result<BTreeMap<Probe, V>, LineError> {
        let resolved = self.resolve(pods)?;
        Ok(resolved
            .into_iter()
            .map(|(probe, (says, _))| (probe, says))
            .collect())
    }
}

impl Table<Verdict> {
    /// The verdict on every connection between `pods` and on those that lines name beside them. Each pod's connection
    /// to itself is among them: it is always allowed.
    ///
    /// # Errors
    /// As [`Self::said`]; and a first line that is not about everybody.
    pub fn verdicts(
        &self,
        pods: &BTreeSet<ObjectName>,
    ) -> Result<BTreeMap<Probe, Verdict>, LineError> {
        match self.0.first() {
            Some(line) if line.connections.is_all() => {}
            Some(_) | None => {
                return Err(LineError {
                    line: self.0.first().map_or(0, |line| line.number),
                    reason: "the first line says what holds unless another says otherwise: * → * = allow, or = deny".into(),
                });
            }
        }
        let mut verdicts = self.said(pods)?;
        for pod in pods {
            verdicts.extend(Family::BOTH.map(|family| {
                let itself = Probe {
                    from: Party::Pod(pod.clone()),
                    to: Party::Pod(pod.clone()),
                    what: What::Port(Protocol::Tcp, 80),
                    family,
                };
                (itself, Verdict::Allow)
            }));
        }
        Ok(verdicts)
    }
}
