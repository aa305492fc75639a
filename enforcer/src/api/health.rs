//! What is wrong with the kinds that a source follows, and with single objects of them.

use super::follow::Failure;
use super::kind::{Kind, Missing};
use super::store::Store;
use crate::source::Wrong;

/// How many complaints about single objects are told; the rest is counted.
const TOLD: usize = 20;

/// How one kind fares.
pub(crate) struct KindHealth<'a> {
    name: &'static str,
    missing: Missing,
    is_synced: bool,
    failure: Option<&'a Failure>,
    complaints: Box<dyn Iterator<Item = String> + 'a>,
}

impl<'a> KindHealth<'a> {
    /// That of the kind in `store`.
    pub(crate) fn of<K: Kind>(store: &'a Store<K>) -> Self {
        let complaints = store.complaints();
        let complaints =
            complaints.map(|(name, complaint)| format!("{} {name}: {complaint}", K::NAME));
        Self {
            name: K::NAME,
            missing: K::MISSING,
            is_synced: store.is_synced(),
            failure: store.failure(),
            complaints: Box::new(complaints),
        }
    }

    /// Whether it has been listed once.
    pub(crate) fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// What somebody has to do something about. A server that is away is no such thing once everything was listed.
    fn error(&self) -> Option<String> {
        let name = self.name;
        match self.failure? {
            Failure::NoSuchKind(why) => match self.missing {
                Missing::Awaited(what_to_do) => Some(format!(
                    "watch {name}: the API server does not have them, and they are waited for{what_to_do}: {why}"
                )),
                Missing::Empty => None,
            },
            failure @ Failure::Refused(_) => Some(format!("watch {name}: {failure}")),
            failure @ Failure::Unreachable(_) if !self.is_synced => {
                Some(format!("list {name}: {failure}"))
            }
            Failure::Unreachable(_) => None,
        }
    }
}

/// What is wrong with a source that has these kinds, `refused` with its direct questions, and `lacking` with what it makes
/// of the kinds.
pub(crate) fn wrong<'a>(
    kinds: impl IntoIterator<Item = KindHealth<'a>>,
    refused: Option<String>,
    lacking: impl Iterator<Item = String>,
) -> Wrong {
    let kinds: Vec<KindHealth<'_>> = kinds.into_iter().collect();
    let errors = kinds.iter().filter_map(KindHealth::error);
    let errors = errors.chain(refused).collect();
    let complaints = kinds.into_iter().flat_map(|kind| kind.complaints);
    Wrong {
        errors,
        warnings: first_of(lacking.chain(complaints)),
    }
}

/// The first of what is said of single objects, and how many more there are.
fn first_of(said: impl Iterator<Item = String>) -> Vec<String> {
    let mut said = said.fuse();
    let mut told: Vec<String> = said.by_ref().take(TOLD).collect();
    let more = said.count();
    if more > 0 {
        told.push(format!("{more} more like these; the log has them"));
    }
    told
}
