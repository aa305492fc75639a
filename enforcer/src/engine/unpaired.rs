// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods of this node that have no attachment, and attachments whose pod the source does not know.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long one may be without the other before it is reported: the API server may say that a pod has an address before its
/// ADD has been heard of here, and that it runs after its DEL; and it may say after the ADD that there is such a pod.
const GRACE: Duration = Duration::from_secs(10);

/// How often all are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// So many are named in a warning.
const NAMED: usize = 5;

/// What lacks its other half.
#[derive(Debug, Clone, Copy)]
pub(super) enum Half {
    /// A pod.
    Pod,
    /// An attachment.
    Attachment,
}

impl Half {
    /// What is so of those that are named.
    fn what(self) -> &'static str {
        match self {
            Self::Pod => "no attachment, and so no policy in force, at pods of this node",
            Self::Attachment => {
                "no object is known of attached pods, which are denied in each direction in which a policy of their namespace \
                 isolates"
            }
        }
    }

    /// Why, and what to do.
    fn cure(self) -> &'static str {
        match self {
            Self::Pod => {
                "podgate was not in the chain that added them. Delete them, so that they are made anew, once the conflist names \
                 podgate"
            }
            Self::Attachment => {
                "a directory of manifests has to hold each pod of the node, by namespace and name, and by UID where the file has \
                 one; an API server has none of these pods, or its watch does not work"
            }
        }
    }
}

/// Those that are known, by name, and since when each lacks its other half.
#[derive(Debug)]
pub(super) struct Unpaired {
    half: Half,
    looked: Option<Instant>,
    /// Whether something may have changed since.
    is_behind: bool,
    since: BTreeMap<String, Instant>,
    /// In order.
    overdue: Vec<String>,
}

impl Unpaired {
    /// None is known yet.
    pub(super) fn new(half: Half) -> Self {
        Self {
            half,
            looked: None,
            is_behind: false,
            since: BTreeMap::new(),
            overdue: Vec::new(),
        }
    }

    /// Looks again, if that is due, and logs those that are newly overdue.
    pub(super) fn look<N>(&mut self, now: Instant, names: impl FnOnce() -> N)
    where
        N: Iterator<Item = String>,
    {
        let looked = self.looked;
        self.is_behind = looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK);
        if self.is_behind {
            return;
        }
        self.looked = Some(now);
        let before = std::mem::take(&mut self.since);
        self.since = names()
            .map(|name| {
                let since = before.get(&name).copied().unwrap_or(now);
                (name, since)
            })
            .collect();
        let is_overdue = |since: &Instant| now.saturating_duration_since(*since) >= GRACE;
        let overdue: Vec<_> = self
            .since
            .iter()
            .filter(|(_, since)| is_overdue(since))
            .map(|(name, _)| name.clone())
            .collect();
        let new: Vec<_> = overdue
            .iter()
            .filter(|name| self.overdue.binary_search(name).is_err())
            .map(String::as_str)
            .collect();
        if !new.is_empty() {
            let (what, cure) = (self.half.what(), self.half.cure());
            tracing::warn!(number = new.len(), names = %new.join(", "), "{what}: {cure}");
        }
        self.overdue = overdue;
    }

    /// When there may be something to report.
    pub(super) fn due(&self) -> Option<Instant> {
        let look = self.looked? + LOOK;
        if self.is_behind {
            return Some(look);
        }
        let new = self.since.iter();
        let new = new.filter(|(name, _)| self.overdue.binary_search(name).is_err());
        let first = new.map(|(_, since)| *since).min()?;
        Some((first + GRACE).max(look))
    }

    /// How many are reported.
    pub(super) fn number(&self) -> usize {
        self.overdue.len()
    }

    /// What somebody should mend, if there are any.
    pub(super) fn warning(&self) -> Option<String> {
        let number = self.number();
        let named = self.overdue[..number.min(NAMED)].join(", ");
        let more = number.saturating_sub(NAMED);
        let more = (more > 0).then(|| format!(" and {more} more"));
        (number > 0).then(|| {
            let (what, cure) = (self.half.what(), self.half.cure());
            format!(
                "{what} ({number}): {named}{}; {cure}",
                more.unwrap_or_default()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_its_other_half_is_reported_after_a_while() {
        let names: Vec<_> = (0..7).map(|number| format!("ns/p{number}")).collect();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut unpaired = Unpaired::new(Half::Pod);
        unpaired.look(at(0), || names[..1].iter().cloned());
        assert_eq!(unpaired.warning(), None);
        assert_eq!(unpaired.due(), Some(at(10)));
        // Too soon to be looked at again.
        unpaired.look(at(1), || names.iter().cloned());
        assert_eq!(unpaired.due(), Some(at(5)));
        unpaired.look(at(10), || names.iter().cloned());
        assert_eq!(unpaired.number(), 1);
        assert!(unpaired.warning().unwrap().contains(" (1): ns/p0; "));
        assert_eq!(unpaired.due(), Some(at(20)));
        unpaired.look(at(20), || names.iter().cloned());
        let warning = unpaired.warning().unwrap();
        assert!(
            warning.contains(" (7): ") && warning.contains("ns/p4 and 2 more;"),
            "{warning}"
        );
        assert_eq!(unpaired.due(), None);
        // One that got its other half and lost it begins anew.
        unpaired.look(at(25), || names[1..].iter().cloned());
        assert_eq!(unpaired.number(), 6);
        unpaired.look(at(30), || names.iter().cloned());
        assert_eq!(unpaired.number(), 6);
        unpaired.look(at(40), std::iter::empty);
        assert_eq!((unpaired.number(), unpaired.warning()), (0, None));
    }
}
