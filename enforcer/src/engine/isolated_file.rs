// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the enforcer leaves for a plugin that finds no enforcer: the file of isolated namespaces, kept up to date.

use podgate_datapath::isolated::Written;

use super::dataplane::Dataplane;
use crate::selections::Selections;

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct IsolatedFile {
    /// The version of the selections that it was written from.
    version: Option<u64>,
    /// Why it does not say what is known; for people.
    pub(super) trouble: Option<String>,
}

impl IsolatedFile {
    /// Writes it, unless it says this already. A file that cannot be written keeps no policy from being put in force.
    pub(super) fn update<D: Dataplane>(
        &mut self,
        node: &D,
        selections: &Selections,
        lock: &D::Lock,
    ) {
        let is_written = self.version == Some(selections.version()) && self.trouble.is_none();
        if is_written && node.has_isolated_file() {
            return;
        }
        let trouble = match node.write_isolated_file(&selections.namespaces(), lock) {
            Ok(Written::Whole) => None,
            Ok(Written::Coarse) => Some(format!(
                "there is no room in {} for the file of isolated namespaces: new pods of every namespace are denied until their policy is in force; make room there",
                node.run_directory()
            )),
            Err(error) => Some(format!(
                "{error:#}: new pods start by the file of before, which is out of date; make room in {}",
                node.run_directory()
            )),
        };
        if trouble != self.trouble
            && let Some(trouble) = &trouble
        {
            tracing::error!(trouble, "the file of isolated namespaces is out of date");
        }
        self.version = Some(selections.version());
        self.trouble = trouble;
    }
}
