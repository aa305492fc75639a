// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the engine was told last.

use crate::source::{Change, News, SourceStatus, Update};

/// Whether everything was known, and what was wrong, when the engine was told last; none before the first time.
#[derive(Debug, Default)]
pub(crate) struct Publisher(Option<(bool, SourceStatus)>);

impl Publisher {
    /// What the engine has not been told yet. `changes` are none until everything has been known once.
    pub(crate) fn news(
        &mut self,
        changes: Option<Vec<Change>>,
        wrong: SourceStatus,
    ) -> Option<News> {
        let now = (changes.is_some(), wrong.clone());
        let is_same = self.0.as_ref() == Some(&now);
        if is_same && changes.as_ref().is_none_or(Vec::is_empty) {
            return None;
        }
        self.0 = Some(now);
        Some(match changes {
            Some(changes) => News::Update(Update { changes, wrong }),
            None => News::NotSynced(wrong.errors),
        })
    }
}
