// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table of a step: lines that say which connections can be opened, the later ones overriding the earlier.
//!
//! ```text
//! *        → *                          = allow
//! *        → x/a                        = deny
//! x/b, y/* → x/a : 80/TCP over ipv4     = allow
//! ```

mod connections;
mod probe;

use std::collections::{BTreeMap, BTreeSet};

use podgate_policy::connection::Verdict;
use podgate_policy::model::{ObjectName, Protocol};

use connections::Connections;

pub use probe::{EVERYTHING, Family, Party, Probe, What};

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
