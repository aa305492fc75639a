// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods of this node that have no attachment: nothing judges them, so somebody must be told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use podgate_policy::model::ObjectName;

/// How long a pod may be without an attachment before it is told: the API server may say that it has an address before
/// its ADD has been heard of here, and that it runs after its DEL.
const GRACE: Duration = Duration::from_secs(10);

/// How often all pods are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// So many are named in a warning.
const NAMED: usize = 5;

/// Those that are known, and since when they are without one.
#[derive(Debug, Default)]
pub(super) struct Unattached {
    looked: Option<Instant>,
    since: BTreeMap<ObjectName, Instant>,
    overdue: Vec<ObjectName>,
}

impl Unattached {
    /// Looks again, if that is due, and logs those that are newly overdue.
    pub(super) fn look<'a, P>(&mut self, now: Instant, pods: impl FnOnce() -> P)
    where
        P: Iterator<Item = &'a ObjectName>,
    {
        let looked = self.looked;
        if looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK) {
            return;
        }
        self.looked = Some(now);
        let before = std::mem::take(&mut self.since);
        self.since = pods()
            .map(|name| (name.clone(), before.get(name).copied().unwrap_or(now)))
            .collect();
        let is_overdue = |since: &Instant| now.saturating_duration_since(*since) >= GRACE;
        let overdue: Vec<_> = self
            .since
            .iter()
            .filter(|(_, since)| is_overdue(since))
            .map(|(name, _)| name.clone())
            .collect();
        for name in overdue.iter().filter(|name| !self.overdue.contains(name)) {
            tracing::warn!(
                pod = %name,
                "a pod of this node has no attachment, and no policy applies to it: podgate was not in the chain that added \
                 it. Delete the pod, so that it is made anew, once the conflist names podgate"
            );
        }
        self.overdue = overdue;
    }

    /// How many are told.
    pub(super) fn number(&self) -> usize {
        self.overdue.len()
    }

    /// What somebody should mend, if there are any.
    pub(super) fn warning(&self) -> Option<String> {
        let number = self.number();
        let named: Vec<String> = self
            .overdue
            .iter()
            .take(NAMED)
            .map(ToString::to_string)
            .collect();
        let more = number.saturating_sub(NAMED);
        let more = (more > 0).then(|| format!(" and {more} more"));
        (number > 0).then(|| {
            format!(
                "{number} pods of this node have no attachment, and no policy applies to them: {}{}; podgate was not in the \
                 chain that added them. Delete them, so that they are made anew, once the conflist names podgate",
                named.join(", "),
                more.unwrap_or_default()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_without_an_attachment_is_reported_after_a_while() {
        let names: Vec<_> = (0..7)
            .map(|number| ObjectName::new("ns", format!("p{number}")))
            .collect();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut unattached = Unattached::default();
        unattached.look(at(0), || names[..1].iter());
        assert_eq!(unattached.warning(), None);
        // Too soon to be looked at again.
        unattached.look(at(1), || names.iter());
        unattached.look(at(10), || names.iter());
        assert_eq!(unattached.number(), 1);
        assert!(unattached.warning().unwrap().contains(": ns/p0; "));
        unattached.look(at(20), || names.iter());
        let warning = unattached.warning().unwrap();
        assert!(
            warning.starts_with("7 pods") && warning.contains("ns/p4 and 2 more;"),
            "{warning}"
        );
        // One that got its attachment and lost it begins anew.
        unattached.look(at(25), || names[1..].iter());
        assert_eq!(unattached.number(), 6);
        unattached.look(at(30), || names.iter());
        assert_eq!(unattached.number(), 6);
        unattached.look(at(40), std::iter::empty);
        assert_eq!((unattached.number(), unattached.warning()), (0, None));
    }
}
