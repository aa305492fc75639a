// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is wrong with the kinds that a source follows, and with single objects of them.

use std::collections::BTreeMap;
use std::mem;

use super::follow::Failure;
use super::kind::{Kind, Missing};
use super::store::Store;
use crate::source::SourceStatus;
use crate::warning::{Object, Warning};

/// How many errors about single objects are reported; the rest is counted.
const TOLD: usize = 20;

/// How one kind fares.
pub(crate) struct KindHealth<'a> {
    name: &'static str,
    missing: Missing,
    is_synced: bool,
    failure: Option<&'a Failure>,
    closed: Vec<Warning>,
    of_objects: Box<dyn Iterator<Item = Warning> + 'a>,
}

impl<'a> KindHealth<'a> {
    /// That of the kind in `store`.
    pub(crate) fn of<K: Kind>(store: &'a Store<K>) -> Self {
        let closed = store.closed().into_iter();
        let closed = closed.map(|(namespace, why)| Warning::suspended(namespace, &why, K::CLOSED));
        let errors = store.errors();
        let errors = errors.map(|(name, uid, error)| Warning {
            text: format!("{} {name}: {error}", K::NAME),
            about: K::WRONG.map(|matter| {
                let uid = uid.map(str::to_owned);
                (Object::of::<K::Object>(name.clone(), uid), matter)
            }),
        });
        Self {
            name: K::NAME,
            missing: K::MISSING,
            is_synced: store.is_synced(),
            failure: store.failure(),
            closed: closed.collect(),
            of_objects: Box::new(errors),
        }
    }

    /// Whether it has been listed once.
    pub(crate) fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// What keeps it from being followed, if that does not pass by itself or the kind has never been listed to its end.
    fn error(&self) -> Option<String> {
        let name = self.name;
        let Some(failure) = self.failure else {
            let waits = !self.is_synced && matches!(self.missing, Missing::Awaited(_));
            return waits.then(|| format!("list {name}: the list has not come to its end yet"));
        };
        match failure {
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
    lacking: impl Iterator<Item = Warning>,
) -> SourceStatus {
    let mut kinds: Vec<KindHealth<'_>> = kinds.into_iter().collect();
    let closed = kinds
        .iter_mut()
        .flat_map(|kind| mem::take(&mut kind.closed));
    let closed: Vec<Warning> = closed.collect();
    let errors = kinds.iter().filter_map(KindHealth::error);
    let errors = errors.chain(refused).collect();
    let of_objects = kinds.into_iter().flat_map(|kind| kind.of_objects);
    SourceStatus {
        errors,
        warnings: first_of(closed.into_iter().chain(lacking).chain(of_objects)),
    }
}

/// The first of what is said of single objects, and how many more there are. First one of each namespace, then a second
/// one, and so on: no namespace's owner hides what is said of others.
fn first_of(said: impl Iterator<Item = Warning>) -> Vec<Warning> {
    let mut of_namespace: BTreeMap<String, usize> = BTreeMap::new();
    let mut turns: Vec<Vec<Warning>> = vec![Vec::new(); TOLD];
    let mut number = 0_usize;
    for warning in said {
        number += 1;
        let about = warning.about.as_ref();
        let namespace = about.map(|(object, _)| object.name.namespace.clone());
        let turn = of_namespace
            .entry(namespace.unwrap_or_default())
            .or_default();
        if let Some(turn) = turns.get_mut(*turn).filter(|turn| turn.len() < TOLD) {
            turn.push(warning);
        }
        *turn += 1;
    }
    let mut told: Vec<Warning> = turns.into_iter().flatten().take(TOLD).collect();
    if let Some(more @ 1..) = number.checked_sub(TOLD) {
        told.push(format!("{more} more like these; the log has them").into());
    }
    told
}

#[cfg(test)]
mod tests {
    use podgate_policy::model::ObjectName;

    use super::*;
    use crate::warning::Matter;

    #[test]
    fn warnings_of_one_namespace_leave_room_for_those_of_others() {
        let of = |namespace: &str, number: usize| {
            let name = ObjectName::new(namespace, number.to_string());
            let text = name.to_string();
            let object = Object::of::<k8s_openapi::api::core::v1::Pod>(name, None);
            Warning::about(object, Matter::PolicyInvalid, text)
        };
        let few = (0..TOLD).map(|number| of("large", number));
        let texts = |told: Vec<Warning>| told.into_iter().map(|it| it.text).collect::<Vec<_>>();
        let all: Vec<String> = (0..TOLD).map(|number| format!("large/{number}")).collect();
        assert_eq!(texts(first_of(few)), all);
        let many = (0..1000).map(|number| of("large", number));
        let told = texts(first_of(many.chain([of("shop", 0), of("shop", 1)])));
        assert_eq!(told[..4], ["large/0", "shop/0", "large/1", "shop/1"]);
        assert_eq!(told.len(), TOLD + 1);
        assert_eq!(told[TOLD], "982 more like these; the log has them");
    }
}
