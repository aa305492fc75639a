// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When which Event is written. Pure: the time comes in.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::draft::{Draft, Place, hash};

/// So many Events at a time, those included that are only remembered.
pub(super) const ROOM: usize = 512;

/// The first write of an Event waits up to so long, so that nodes come one after the other, and what passes at once is
/// not written.
const SPREAD: Duration = Duration::from_secs(2);

/// After so long an Event that was written is gone, with the API server's default (`--event-ttl`), which the server
/// rounds up.
const AGE: Duration = Duration::from_mins(62);

/// Nodes look so much later whether they have to write one again.
const STAGGER: Duration = Duration::from_mins(8);

/// An Event that was found may be gone at any time. It is looked again after this, and up to [`AGE`] more.
const AGAIN: Duration = Duration::from_mins(10);

/// Somebody must do something about a refusal.
const REFUSED: Duration = Duration::from_mins(30);

/// After a first failure; doubled with each more.
const FAILED: Duration = Duration::from_secs(5);

/// Failures that make it longer still.
const DOUBLINGS: u32 = 7;

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The Event is there now.
    Created,
    /// It was there.
    Found,
    /// Its namespace is gone, or takes nothing more.
    Ending,
    /// The API server does not want it, and says why.
    Refused(String),
    /// The API server is not there, or busy.
    Failed(String),
}

/// The Events that ought to be there, and those that did a short while ago: what comes and goes is not written each time.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Tells nodes apart, that not all come at once.
    node: String,
    entries: BTreeMap<Place, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// None: what it is about has ended.
    draft: Option<Draft>,
    due: Instant,
    failures: u32,
}

impl Schedule {
    pub(super) fn of(node: String) -> Self {
        Self {
            node,
            entries: BTreeMap::new(),
        }
    }

    /// These Events ought to be there now. How many of them there is no room for.
    pub(super) fn follow(&mut self, mut drafts: BTreeMap<Place, Draft>, now: Instant) -> usize {
        self.entries.retain(|place, entry| {
            entry.draft = drafts.remove(place);
            entry.draft.is_some() || entry.due > now
        });
        let mut left_out = 0;
        for (place, draft) in drafts {
            if self.entries.len() >= ROOM && !self.forget_one() {
                left_out += 1;
                continue;
            }
            let entry = Entry {
                draft: Some(draft),
                due: now + self.part_of(SPREAD, &place),
                failures: 0,
            };
            self.entries.insert(place, entry);
        }
        left_out
    }

    /// The Event that is due first, and when.
    pub(super) fn next(&self) -> Option<(Instant, &Draft)> {
        let lasting = self.entries.values();
        let lasting = lasting.filter_map(|entry| Some((entry.due, entry.draft.as_ref()?)));
        lasting.min_by_key(|(due, _)| *due)
    }

    /// Takes note of how a write ended.
    pub(super) fn take(&mut self, draft: &Draft, outcome: Outcome, now: Instant) {
        let place = &draft.place;
        let part = |of| self.part_of(of, place);
        let before = self.entries.get(place).map_or(0, |entry| entry.failures);
        let (after, failures) = match outcome {
            Outcome::Created => (AGE + part(STAGGER), 0),
            Outcome::Found | Outcome::Ending => (AGAIN + part(AGE), 0),
            Outcome::Refused(_) => (REFUSED + part(STAGGER), 0),
            Outcome::Failed(_) => {
                let pause = FAILED * 2_u32.pow(before.min(DOUBLINGS));
                (pause + part(pause), before + 1)
            }
        };
        if let Some(entry) = self.entries.get_mut(place) {
            entry.due = now + after;
            entry.failures = failures;
        }
    }

    /// Forgets the one of those that do not last whose time would come first, if there is one.
    fn forget_one(&mut self) -> bool {
        let ended = self.entries.iter().filter(|(_, it)| it.draft.is_none());
        let first = ended.min_by_key(|(_, entry)| entry.due);
        let Some(place) = first.map(|(place, _)| place.clone()) else {
            return false;
        };
        self.entries.remove(&place).is_some()
    }

    /// A part of a time that this node has for this Event.
    fn part_of(&self, time: Duration, place: &Place) -> Duration {
        let parts = [self.node.as_str(), &place.namespace, &place.name];
        let permille = hash(&parts) >> 32;
        time * u32::try_from(permille % 1000).unwrap_or_default() / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::super::draft;
    use super::*;
    use crate::warning::{Matter, Object, Warning};

    fn drafts(namespaces: &[usize]) -> BTreeMap<Place, Draft> {
        let warnings: Vec<_> = namespaces
            .iter()
            .map(|number| {
                let object = Object::namespace(&format!("n{number}"));
                Warning::about(object, Matter::PoliciesSuspended, "too heavy".to_owned())
            })
            .collect();
        draft::of(&warnings)
    }

    fn due(schedule: &Schedule) -> Option<Instant> {
        schedule.next().map(|(due, _)| due)
    }

    /// Writes what is due at its time, with this outcome; how long after `from` that was.
    fn write(schedule: &mut Schedule, outcome: Outcome, from: Instant) -> Duration {
        let (due, draft) = schedule.next().unwrap();
        let draft = draft.clone();
        schedule.take(&draft, outcome, due);
        due - from
    }

    fn within(time: Duration, from: Duration, more: Duration) {
        assert!((from..=from + more).contains(&time), "{time:?}");
    }

    /// An Event that lasts is written again when it may be gone, and failed attempts come slower and slower.
    #[test]
    fn an_event_that_lasts_is_renewed_and_failures_back_off() {
        let mut at = Instant::now();
        let mut schedule = Schedule::of("node1".to_owned());
        assert_eq!(schedule.follow(drafts(&[1]), at), 0);
        let failed = || Outcome::Failed("away".to_owned());
        let refused = Outcome::Refused("forbidden".to_owned());
        for (outcome, from, more) in [
            (failed(), Duration::ZERO, SPREAD),
            (failed(), FAILED, FAILED),
            (failed(), FAILED * 2, FAILED * 2),
            (Outcome::Created, FAILED * 4, FAILED * 4),
            (Outcome::Found, AGE, STAGGER),
            (refused, AGAIN, AGE),
            (Outcome::Ending, REFUSED, STAGGER),
            (failed(), AGAIN, AGE),
            (failed(), FAILED, FAILED),
        ] {
            let time = write(&mut schedule, outcome, at);
            within(time, from, more);
            at += time;
        }
        for _ in 0..40 {
            at += write(&mut schedule, failed(), at);
        }
        within(due(&schedule).unwrap() - at, FAILED * 128, FAILED * 128);
    }

    /// What comes and goes is written once, and what goes at once is never written.
    #[test]
    fn what_comes_and_goes_is_written_once_and_a_brief_one_never() {
        let start = Instant::now();
        let mut schedule = Schedule::of("node1".to_owned());
        schedule.follow(drafts(&[1]), start);
        schedule.follow(drafts(&[]), start);
        assert_eq!(due(&schedule), None);
        schedule.follow(drafts(&[1]), start);
        write(&mut schedule, Outcome::Created, start);
        for _ in 0..3 {
            schedule.follow(drafts(&[]), start + SPREAD);
            assert_eq!(due(&schedule), None);
            schedule.follow(drafts(&[1]), start + SPREAD);
            assert!(due(&schedule).unwrap() >= start + AGE);
        }
        schedule.follow(drafts(&[]), start + AGE * 2);
        assert!(schedule.entries.is_empty());
    }

    #[test]
    fn there_is_no_more_than_the_room_and_what_lasts_has_it_first() {
        let now = Instant::now();
        let all: Vec<_> = (0..ROOM + 3).collect();
        let mut schedule = Schedule::of("node1".to_owned());
        assert_eq!(schedule.follow(drafts(&all), now), 3);
        assert_eq!(schedule.entries.len(), ROOM);
        // Those that ended are remembered for a moment; others need the room.
        assert_eq!(schedule.follow(drafts(&all[ROOM - 5..]), now), 0);
        assert!(schedule.entries.len() <= ROOM);
        let lasting = schedule.entries.values().filter(|it| it.draft.is_some());
        assert_eq!(lasting.count(), 8);
    }

    #[test]
    fn nodes_come_one_after_the_other() {
        let now = Instant::now();
        let first = |node: u32| {
            let mut schedule = Schedule::of(format!("node{node}"));
            schedule.follow(drafts(&[1]), now);
            due(&schedule).unwrap() - now
        };
        let all: std::collections::BTreeSet<_> = (0..100).map(first).collect();
        assert!(all.len() > 80, "{all:?}");
        assert!(all.iter().all(|time| *time < SPREAD));
    }
}
