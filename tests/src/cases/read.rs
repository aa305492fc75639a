// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads cases, and refuses what it does not know. Every error says file and line.

mod text;

use std::fmt;
use std::path::{Path, PathBuf};

use podgate_policy::model::ObjectName;
use serde_saphyr::Spanned;

use super::case::{AddressesOf, Case, Edit, Kind, NamespaceEdit, Node, Phase, PodEdit, Step};
use super::expect::{LineError, Party, Probe, Says, Table};
use super::state::State;
use text::{CaseText, NodeText, PhaseText, PodText, StepText};

/// What is wrong with a file of cases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseError {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: u64,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl fmt::Display for CaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.reason)
    }
}

impl std::error::Error for CaseError {}

/// The cases of a file, each a document.
///
/// # Errors
/// The first thing that is wrong.
pub fn read(file: &Path, text: &str) -> Result<Vec<Case>, CaseError> {
    let mut bytes = text.as_bytes();
    let mut cases = Vec::new();
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    for document in serde_saphyr::read_with_options::<_, CaseText>(&mut bytes, options) {
        let text = document.map_err(|error| CaseError {
            file: file.to_owned(),
            line: error.location().map_or(1, |location| location.line()),
            reason: error.without_snippet().to_string(),
        })?;
        let case = Reader {
            file,
            line: text.name.referenced.line(),
        }
        .case(text)?;
        check(&case)?;
        cases.push(case);
    }
    Ok(cases)
}

/// Reads one case. What has no line of its own has the case's.
struct Reader<'a> {
    file: &'a Path,
    line: u64,
}

impl Reader<'_> {
    fn error(&self, line: u64, reason: String) -> CaseError {
        CaseError {
            file: self.file.to_owned(),
            line,
            reason,
        }
    }

    fn case(&self, text: CaseText) -> Result<Case, CaseError> {
        let first = StepText {
            does: text.name.clone(),
            namespaces: text.namespaces,
            pods: text.pods,
            policies: text.policies,
            services: text.services,
            expect: text.expect,
            opens: text.opens,
            opened: None,
        };
        let mut steps = vec![Step {
            does: None,
            ..self.step(first)?
        }];
        for step in text.steps {
            let line = step.does.referenced.line();
            let reader = Reader { line, ..*self };
            steps.push(reader.step(step)?);
        }
        Ok(Case {
            file: self.file.to_owned(),
            line: self.line,
            name: text.name.value,
            items: text.items,
            not_on_cluster: text.not_on_cluster,
            not_through: [
                ("networkpolicies", text.not_through.networkpolicies),
                ("policyendpoints", text.not_through.policyendpoints),
            ]
            .into_iter()
            .filter_map(|(source, why)| Some((source.to_owned(), why?)))
            .collect(),
            steps,
        })
    }

    fn step(&self, text: StepText) -> Result<Step, CaseError> {
        let mut edit = Edit::default();
        for (name, namespace) in text.namespaces {
            let namespace = namespace.map(|text| NamespaceEdit {
                labels: text.labels,
            });
            edit.namespaces.insert(name, namespace);
        }
        for (name, pod) in text.pods {
            let pod = pod.map(|text| self.pod(text)).transpose()?;
            edit.pods.insert(self.name(&name)?, pod);
        }
        for (name, spec) in text.policies {
            edit.policies.insert(self.name(&name)?, spec);
        }
        for (name, spec) in text.services {
            edit.services.insert(self.name(&name)?, spec);
        }
        let (expect, expect_line) = self.table(Some(text.expect))?;
        let (opens, opens_line) = self.table(text.opens)?;
        let (opened, opened_line) = self.table(text.opened)?;
        Ok(Step {
            does: Some(text.does.value),
            edit,
            expect,
            opens,
            opened,
            lines: [expect_line, opens_line, opened_line],
        })
    }

    fn table<V: Says>(&self, text: Option<Spanned<String>>) -> Result<(Table<V>, u64), CaseError> {
        let Some(text) = text else {
            return Ok((Table::default(), self.line));
        };
        let line = text.referenced.line();
        let table = Table::read(&text.value).map_err(|LineError { line: at, reason }| {
            self.error(line + u64::try_from(at).unwrap_or_default(), reason)
        })?;
        Ok((table, line))
    }

    fn name(&self, text: &str) -> Result<ObjectName, CaseError> {
        object_name(text).ok_or_else(|| {
            self.error(
                self.line,
                format!("{text:?} is no name: write namespace/name"),
            )
        })
    }

    fn pod(&self, text: PodText) -> Result<PodEdit, CaseError> {
        let addresses_of = match text.addresses_of.as_deref() {
            None => None,
            Some("nobody") => Some(AddressesOf::Nobody),
            Some("outside") => Some(AddressesOf::Outside),
            Some(pod) => Some(AddressesOf::Pod(self.name(pod)?)),
        };
        let phase = text.phase.map(|phase| match phase {
            PhaseText::Pending => Phase::Pending,
            PhaseText::Running => Phase::Running,
            PhaseText::Succeeded => Phase::Succeeded,
            PhaseText::Failed => Phase::Failed,
        });
        let kind = match (text.host_network, addresses_of, phase) {
            (true, None, None) => Some(Kind::HostNetwork),
            (false, None, None) => None,
            (false, Some(addresses_of), Some(phase)) => Some(Kind::OnPaper {
                addresses_of,
                phase,
            }),
            (true, _, _) | (false, Some(_), None) | (false, None, Some(_)) => {
                return Err(self.error(
                    self.line,
                    "a pod runs; or has host-network; or is on paper, with addresses-of and phase"
                        .into(),
                ));
            }
        };
        Ok(PodEdit {
            labels: text.labels,
            node: text.node.map(|node| match node {
                NodeText::One => Node::One,
                NodeText::Two => Node::Two,
            }),
            kind,
        })
    }
}

/// `namespace/name`.
pub(super) fn object_name(text: &str) -> Option<ObjectName> {
    let (namespace, name) = text.split_once('/')?;
    (!namespace.is_empty() && !name.is_empty()).then(|| ObjectName::new(namespace, name))
}

/// Goes through the steps, so that what is wrong with them is said with its line, before anything is judged.
fn check(case: &Case) -> Result<(), CaseError> {
    let error = |line, reason| CaseError {
        file: case.file.clone(),
        line,
        reason,
    };
    let at = |begin: u64, e: LineError| {
        error(begin + u64::try_from(e.line).unwrap_or_default(), e.reason)
    };
    let mut state = State::standard();
    let mut kept = std::collections::BTreeSet::new();
    for step in &case.steps {
        let [expect, opens, opened] = step.lines;
        state = state
            .edited(&step.edit)
            .map_err(|reason| error(expect, reason))?;
        let pods = state.running();
        let verdicts = step.expect.verdicts(&pods).map_err(|e| at(expect, e))?;
        for Probe { to, .. } in verdicts.keys() {
            if let Party::Service(name) = to
                && !state.services.contains_key(name)
            {
                return Err(error(expect, format!("{to} is not there at this step")));
            }
        }
        let fates = step.opened.said(&pods).map_err(|e| at(opened, e))?;
        if !fates.keys().eq(&kept) {
            return Err(error(
                opened,
                "opened says of each connection that was opened before, and of no other, what became of it".into(),
            ));
        }
        kept.extend(
            step.opens
                .said(&pods)
                .map_err(|e| at(opens, e))?
                .into_keys(),
        );
    }
    Ok(())
}

/// All cases of the directory `tests/cases`, by file and line.
///
/// # Errors
/// What is wrong with the first wrong file.
pub fn all() -> Result<Vec<Case>, CaseError> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let unreadable = |error: std::io::Error| CaseError {
        file: directory.clone(),
        line: 1,
        reason: error.to_string(),
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            files.push(path);
        }
    }
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(unreadable)?;
        let name = Path::new("tests/cases").join(file.file_name().unwrap_or_default());
        cases.extend(read(&name, &text)?);
    }
    Ok(cases)
}
