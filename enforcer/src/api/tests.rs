// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A kind of one field, and what a store makes of what is said of it.

use std::collections::{BTreeMap, VecDeque};

use axum::Router;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::WatchEvent;
use kube::core::ObjectList;
use podgate_policy::model::ObjectName;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::convert::Converted;

mod broken_watches;
mod cut_watches;
mod foreign;
mod missing_kinds;
mod requests;
mod room;
mod woken;

/// ConfigMaps, of which the field `v` is kept.
#[derive(Debug, Clone)]
struct Maps;

impl Kind for Maps {
    type Object = ConfigMap;
    type Value = Option<String>;

    const NAME: &'static str = "configmaps";

    fn convert(object: &ConfigMap) -> Converted<Option<String>> {
        let value = object.data.as_ref().and_then(|data| data.get("v").cloned());
        Converted {
            value,
            errors: Vec::new(),
        }
    }

    fn from_malformed(parts: &Parts) -> Option<String> {
        parts.metadata().labels?.get("team").cloned()
    }
}

/// A client of a server that answers so.
async fn client_of(server: Router) -> kube::Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, server).await });
    let config = kube::Config::new(address.parse().unwrap());
    kube::Client::try_from(config).unwrap()
}

fn map(name: &str, uid: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"v": value},
        "metadata": {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": "1"},
    })
}

fn object(name: &str, uid: &str, value: &str) -> Seen<Maps> {
    serde_json::from_str(&map(name, uid, value).to_string()).unwrap()
}

fn seen(name: &str, value: &str) -> Said<Maps> {
    Said::Object(Box::new(object(name, name, value)))
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("ns", name)
}

fn gone(object: &str) -> Said<Maps> {
    Said::Gone(name(object), Some(object.to_owned()))
}

/// An object that does not fit its type is present beside the others.
#[test]
fn an_object_of_the_wrong_form_is_present_beside_the_others() {
    let wrong = json!({
        "metadata": {"name": "wrong", "namespace": "ns", "uid": "u", "resourceVersion": "8",
            "labels": {"team": "a", "number": 1}},
        "data": ["a list"],
    });
    let list = json!({
        "kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"},
        "items": [map("right", "r", "x"), wrong.clone()],
    });
    let list: ObjectList<Seen<Maps>> = serde_json::from_str(&list.to_string()).unwrap();
    let [right, salvaged] = list.items.as_slice() else {
        panic!("{list:?}")
    };
    assert_eq!(right.value.as_deref(), Some("x"));
    assert!(right.errors.is_empty());
    let watched = serde_json::from_value(wrong).unwrap();
    for wrong in [salvaged, &watched] {
        assert_eq!(wrong.name(), name("wrong"));
        assert_eq!((wrong.uid(), wrong.version()), (Some("u"), Some("8")));
        assert_eq!(wrong.value.as_deref(), Some("a"));
        assert!(wrong.errors[0].contains("cannot be read"), "{wrong:?}");
    }
}

#[test]
fn what_is_the_same_for_us_is_no_change() {
    let mut store = Store::<Maps>::default();
    assert_eq!(store.take(seen("a", "1")).len(), 1);
    assert_eq!(store.take(seen("a", "1")), []);
    assert_eq!(store.take(seen("a", "2")).len(), 1);
    assert_eq!(store.take(gone("a")).len(), 1);
    assert_eq!(store.take(gone("a")), []);
}

#[test]
fn a_restarted_list_forgets_nothing_before_it_is_complete() {
    let mut store = Store::<Maps>::default();
    let mut known = BTreeMap::new();
    let mut take = |said| {
        for (name, value) in store.take(said) {
            known.insert(name.name, value);
        }
        (known.clone(), store.is_synced())
    };
    take(Said::Listing);
    take(seen("a", "1"));
    take(seen("b", "1"));
    assert!(!take(Said::Failed(Failure::Unreachable("gone".into()))).1);
    take(Said::Listing);
    let (known, _) = take(seen("b", "2"));
    assert!(known["a"].is_some(), "{known:?}");
    let (known, synced) = take(Said::Listed);
    assert!(synced);
    assert_eq!(known["a"], None);
    assert_eq!(known["b"], Some(Some("2".to_owned())));
}

#[test]
fn a_failure_is_mended_by_whatever_the_server_says_next() {
    for mends in [
        seen("a", "1"),
        gone("a"),
        Said::Begun,
        Said::Good,
        Said::Listed,
    ] {
        let mut store = Store::<Maps>::default();
        store.take(Said::Failed(Failure::Refused("forbidden".into())));
        assert!(store.failure().is_some());
        store.take(mends);
        assert_eq!(store.failure(), None);
    }
}

/// After an outage, a kind is in doubt until the server says something that was not known.
#[test]
fn after_an_outage_a_kind_is_in_doubt_until_there_is_news() {
    for (ends, expected) in [
        (seen("a", "1"), false),
        (gone("a"), false),
        (Said::Good, false),
        (Said::Listed, false),
        (Said::Listing, true),
        (Said::Behind, true),
        // What changed meanwhile is still to come.
        (Said::Begun, true),
    ] {
        let now = std::time::Instant::now();
        let mut store = Store::<Maps>::default();
        let away = || Said::Failed(Failure::Unreachable("away".into()));
        store.take(away());
        assert_eq!(store.doubt(now), None, "it is not synced");
        store.take(Said::Listed);
        assert_eq!(store.doubt(now), None);
        store.take(away());
        assert!(store.doubt(now).unwrap().contains("away"));
        store.take(ends);
        assert_eq!(store.doubt(now).is_some(), expected);
    }
}

/// What a watch that fell behind would have said is unknown until everything is listed.
#[test]
fn a_kind_whose_watch_fell_behind_is_in_doubt_until_listed() {
    let now = std::time::Instant::now();
    let mut store = Store::<Maps>::default();
    store.take(Said::Listed);
    assert_eq!(store.doubt(now), None);
    for said in [Said::Behind, Said::Listing, seen("a", "1")] {
        store.take(said);
        assert!(store.doubt(now).is_some());
    }
    store.take(Said::Listed);
    assert_eq!(store.doubt(now), None);
}

/// What happens at the server, and to the watch.
#[derive(Debug, Clone)]
enum Happening {
    Set(u8, u8),
    Delete(u8),
    /// The watch breaks, and loses what happens until the next list.
    Break,
    /// A list that breaks after so many objects.
    HalfList(u8),
    List,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (0..6_u8, 0..3_u8).prop_map(|(name, value)| Happening::Set(name, value)),
        3 => (0..6_u8).prop_map(Happening::Delete),
        1 => Just(Happening::Break),
        1 => (0..6_u8).prop_map(Happening::HalfList),
        1 => Just(Happening::List),
    ]
}

proptest! {
    #[test]
    fn events_and_lists_in_any_order_come_to_what_a_fresh_list_says(
        happenings in prop::collection::vec(happening(), 0..60)
    ) {
        let mut server: BTreeMap<u8, u8> = BTreeMap::new();
        let mut store = Store::<Maps>::default();
        let mut told: BTreeMap<ObjectName, Option<String>> = BTreeMap::new();
        let mut watching = false;
        let mut say = |store: &mut Store<Maps>, said| {
            for (name, value) in store.take(said) {
                match value {
                    Some(value) => told.insert(name, value),
                    None => told.remove(&name),
                };
            }
        };
        let object = |(name, value): (&u8, &u8)| seen(&name.to_string(), &value.to_string());
        for happening in happenings.into_iter().chain([Happening::List]) {
            match happening {
                Happening::Set(name, value) => {
                    server.insert(name, value);
                    if watching {
                        say(&mut store, object((&name, &value)));
                    }
                }
                Happening::Delete(name) => {
                    if server.remove(&name).is_some() && watching {
                        say(&mut store, gone(&name.to_string()));
                    }
                }
                Happening::Break => watching = false,
                Happening::HalfList(objects) => {
                    watching = false;
                    say(&mut store, Said::Listing);
                    for entry in server.iter().take(usize::from(objects)) {
                        say(&mut store, object(entry));
                    }
                }
                Happening::List => {
                    say(&mut store, Said::Listing);
                    for entry in &server {
                        say(&mut store, object(entry));
                    }
                    say(&mut store, Said::Listed);
                    watching = true;
                }
            }
        }
        let expected: BTreeMap<ObjectName, Option<String>> = server
            .iter()
            .map(|(number, value)| (name(&number.to_string()), Some(value.to_string())))
            .collect();
        prop_assert_eq!(&told, &expected);
        for (name, value) in &expected {
            prop_assert_eq!(&store.get(name).unwrap().value, value);
        }
    }
}

#[test]
fn an_answer_that_the_watch_has_overtaken_is_worth_nothing() {
    let a = || name("a");
    let overtaking = [
        ("it went", gone("a")),
        ("it is so now", seen("a", "2")),
        ("a list was read", Said::Listed),
    ];
    for (what, said) in overtaking {
        let mut store = Store::<Maps>::default();
        let ticket = store.ask(a());
        store.take(said);
        let answered = store.answered(ticket, Some(object("a", "a", "1")));
        assert_eq!(answered, None, "{what}");
        assert_ne!(
            store.get(&a()).map(|known| known.value.as_deref()),
            Some(Some("1")),
            "{what}"
        );
    }
    let mut store = Store::<Maps>::default();
    let ticket = store.ask(a());
    store.take(gone("b"));
    let answered = store.answered(ticket, Some(object("a", "a", "1")));
    assert_eq!(answered, Some(vec![(a(), Some(Some("1".to_owned())))]));
    assert_eq!(store.take(seen("a", "1")), []);
}

/// What the watch still says of an earlier object of the same name is older than an answer.
#[test]
fn late_news_of_a_namesake_is_older_than_an_answer() {
    let mut store = Store::<Maps>::default();
    let of = |uid: &str| Said::Gone(name("a"), Some(uid.to_owned()));
    store.take(Said::Object(Box::new(object("a", "old", "1"))));
    let ticket = store.ask(name("a"));
    store
        .answered(ticket, Some(object("a", "new", "2")))
        .unwrap();
    assert_eq!(
        store.take(Said::Object(Box::new(object("a", "old", "3")))),
        []
    );
    assert_eq!(store.take(of("old")), []);
    assert_eq!(
        store.take(Said::Object(Box::new(object("a", "new", "2")))),
        []
    );
    assert_eq!(store.take(of("new")).len(), 1);
}

/// An object of a list that is not complete neither refreshes the knowledge nor ends a failure.
#[test]
fn an_object_of_an_incomplete_list_refreshes_nothing() {
    let mut store = Store::<Maps>::default();
    store.take(Said::Listing);
    store.take(Said::Listed);
    let before = store.freshness();
    store.take(Said::Failed(Failure::Refused("forbidden".into())));
    store.take(Said::Listing);
    store.take(seen("a", "1"));
    assert_eq!(store.freshness(), before);
    assert!(store.failure().is_some());
    store.take(Said::Listed);
    assert_ne!(store.freshness(), before);
    assert_eq!(store.failure(), None);
}

/// An answer to an older question about the same name leaves no ghost.
#[test]
fn an_answer_to_an_older_question_leaves_no_ghost() {
    let of = |uid: &str, value: &str| Said::Object(Box::new(object("a", uid, value)));
    let mut store = Store::<Maps>::default();
    let first = store.ask(name("a"));
    store.take(of("old", "1"));
    store.take(Said::Gone(name("a"), Some("old".to_owned())));
    let second = store.ask(name("a"));
    let old = object("a", "old", "1");
    assert_eq!(store.answered(first, Some(old)), None);
    let new = object("a", "new", "2");
    assert_eq!(store.answered(second, Some(new)).unwrap().len(), 1);
    assert_eq!(store.take(of("new", "3")).len(), 1);
}

/// What happens at the server, on its way to us, and to a direct question.
#[derive(Debug, Clone)]
enum Step {
    Set(u8, u8),
    Delete(u8),
    /// So many events of the watch arrive.
    Arrive(u8),
    Ask(u8),
    /// The server answers one of the questions.
    Read(u8),
    /// One of its answers arrives.
    Answer(u8),
    /// The server is about to be listed.
    List,
    /// The list is made, if it is not yet, and one more of its objects arrives.
    Page,
    /// The rest of the list, and its end.
    Listed,
}

/// How many questions may be open at a time, of one name too.
const QUESTIONS: u8 = 3;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2_u8, 0..3_u8).prop_map(|(name, value)| Step::Set(name, value)),
        3 => (0..2_u8).prop_map(Step::Delete),
        4 => (1..4_u8).prop_map(Step::Arrive),
        3 => (0..2_u8).prop_map(Step::Ask),
        3 => (0..QUESTIONS).prop_map(Step::Read),
        3 => (0..QUESTIONS).prop_map(Step::Answer),
        1 => Just(Step::List),
        2 => Just(Step::Page),
        1 => Just(Step::Listed),
    ]
}

/// What of a list has not arrived.
type Rest = VecDeque<(u8, (u32, u8))>;

/// A question, and what the server said to it, once it did: the object's UID and value, if there is one.
type Asked = (Ticket, u8, Option<Option<(u32, u8)>>);

/// A server, what of it is on its way to a store, and what the store has told.
#[derive(Debug, Default)]
struct Race {
    server: BTreeMap<u8, (u32, u8)>,
    births: u32,
    events: VecDeque<(u8, u32, Option<u8>)>,
    questions: BTreeMap<u8, Asked>,
    /// Some: a list was asked for; and once it is made, its rest.
    listing: Option<Option<Rest>>,
    store: Store<Maps>,
    told: BTreeMap<ObjectName, Option<String>>,
}

impl Race {
    fn note(&mut self, changes: Vec<Changed<Option<String>>>) {
        for (name, value) in changes {
            match value {
                Some(value) => self.told.insert(name, value),
                None => self.told.remove(&name),
            };
        }
    }

    fn say(&mut self, said: Said<Maps>) {
        let changes = self.store.take(said);
        self.note(changes);
    }

    fn arrive(&mut self) {
        let Some((number, uid, value)) = self.events.pop_front() else {
            return;
        };
        let (of, uid) = (number.to_string(), uid.to_string());
        self.say(match value {
            Some(value) => Said::Object(Box::new(object(&of, &uid, &value.to_string()))),
            None => Said::Gone(name(&of), Some(uid)),
        });
    }

    /// One more object of the list, if one is being read. Whether there was one.
    fn page(&mut self) -> bool {
        let Some(list) = &mut self.listing else {
            return false;
        };
        let rest = list.get_or_insert_with(|| {
            self.events.clear();
            self.server.clone().into_iter().collect()
        });
        let Some((number, (uid, value))) = rest.pop_front() else {
            return false;
        };
        let (of, uid) = (number.to_string(), uid.to_string());
        let listed = object(&of, &uid, &value.to_string());
        self.say(Said::Object(Box::new(listed)));
        true
    }

    fn listed(&mut self) {
        while self.page() {}
        if self.listing.take().is_some() {
            self.say(Said::Listed);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Set(number, value) => {
                let uid = match self.server.get(&number) {
                    Some((uid, _)) => *uid,
                    None => {
                        self.births += 1;
                        self.births
                    }
                };
                self.server.insert(number, (uid, value));
                self.events.push_back((number, uid, Some(value)));
            }
            Step::Delete(number) => {
                if let Some((uid, _)) = self.server.remove(&number) {
                    self.events.push_back((number, uid, None));
                }
            }
            Step::Arrive(_) if self.listing.is_some() => {}
            Step::Arrive(events) => (0..events).for_each(|_| self.arrive()),
            Step::Ask(number) => {
                let free = (0..QUESTIONS).find(|at| !self.questions.contains_key(at));
                if let Some(at) = free {
                    let ticket = self.store.ask(name(&number.to_string()));
                    self.questions.insert(at, (ticket, number, None));
                }
            }
            Step::Read(at) => {
                if let Some((_, number, answer @ None)) = self.questions.get_mut(&at) {
                    *answer = Some(self.server.get(number).copied());
                }
            }
            Step::Answer(at) => {
                if let Some(&(ticket, number, Some(answer))) = self.questions.get(&at) {
                    self.questions.remove(&at);
                    let of = number.to_string();
                    let found = answer
                        .map(|(uid, value)| object(&of, &uid.to_string(), &value.to_string()));
                    let changes = self.store.answered(ticket, found);
                    self.note(changes.unwrap_or_default());
                }
            }
            Step::List => {
                self.listing = Some(None);
                self.say(Said::Listing);
            }
            Step::Page => {
                self.page();
            }
            Step::Listed => self.listed(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn answers_between_events_and_lists_come_to_what_the_server_has(
        steps in prop::collection::vec(step(), 0..40)
    ) {
        let mut race = Race::default();
        for step in steps {
            race.take(step);
        }
        for at in 0..QUESTIONS {
            race.take(Step::Read(at));
            race.take(Step::Answer(at));
        }
        race.listed();
        while !race.events.is_empty() {
            race.arrive();
        }
        let server = race.server.iter();
        let expected: BTreeMap<_, _> = server
            .map(|(number, (_, value))| (name(&number.to_string()), Some(value.to_string())))
            .collect();
        prop_assert_eq!(&race.told, &expected);
    }
}

/// A list whose first page is older than an answer does not take the answer back. The server answers a question that
/// was asked when the first page of a list had arrived already: all pages are of an earlier moment, so neither a later
/// page nor the end of the list says anything newer of the object.
#[test]
fn a_list_older_than_an_answer_does_not_take_it_back() {
    let listing = || {
        let mut store = Store::<Maps>::default();
        store.take(Said::Object(Box::new(object("a", "old", "1"))));
        store.take(Said::Listing);
        store.take(seen("b", "1"));
        let ticket = store.ask(name("a"));
        store
            .answered(ticket, Some(object("a", "new", "2")))
            .unwrap();
        store
    };
    let end = listing().take(Said::Listed);
    let old = Said::Object(Box::new(object("a", "old", "1")));
    let namesake = listing().take(old);
    assert_eq!((end, namesake), (Vec::new(), Vec::new()));
}
