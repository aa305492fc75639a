//! A kind of one field, and what a store makes of what is said of it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::WatchEvent;
use kube::core::ObjectList;
use podgate_policy::model::ObjectName;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::convert::Converted;

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
            complaints: Vec::new(),
        }
    }

    fn salvage(parts: &Parts) -> Option<String> {
        parts.metadata().labels?.get("team").cloned()
    }
}

fn map(name: &str, version: u32, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"v": value},
        "metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": version.to_string()},
    })
}

fn seen(name: &str, value: &str) -> Said<Maps> {
    let json = map(name, 1, value).to_string();
    Said::Object(Box::new(serde_json::from_str(&json).unwrap()))
}

fn gone(name: &str) -> Said<Maps> {
    Said::Gone(ObjectName::new("ns", name), Some(name.to_owned()))
}

#[test]
fn an_object_that_does_not_fit_its_type_is_present_beside_the_others() {
    let wrong = json!({
        "metadata": {"name": "wrong", "namespace": "ns", "uid": "u", "resourceVersion": "8",
            "labels": {"team": "a", "number": 1}},
        "data": ["a list"],
    });
    let list = json!({
        "kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"},
        "items": [map("right", 7, "x"), wrong.clone()],
    });
    let list: ObjectList<Seen<Maps>> = serde_json::from_str(&list.to_string()).unwrap();
    let [right, salvaged] = list.items.as_slice() else {
        panic!("{list:?}")
    };
    assert_eq!(right.value.as_deref(), Some("x"));
    assert!(right.complaints.is_empty());
    let event = json!({"type": "MODIFIED", "object": wrong});
    let event: WatchEvent<Seen<Maps>> = serde_json::from_str(&event.to_string()).unwrap();
    let WatchEvent::Modified(watched) = event else {
        panic!("{event:?}")
    };
    for wrong in [salvaged, &watched] {
        assert_eq!(wrong.name(), ObjectName::new("ns", "wrong"));
        assert_eq!((wrong.uid(), wrong.version()), (Some("u"), Some("8")));
        assert_eq!(wrong.value.as_deref(), Some("a"));
        assert!(wrong.complaints[0].contains("cannot be read"), "{wrong:?}");
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
fn a_list_that_is_begun_anew_forgets_nothing_before_it_is_complete() {
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
    for mends in [seen("a", "1"), gone("a"), Said::Good, Said::Listed] {
        let mut store = Store::<Maps>::default();
        store.take(Said::Failed(Failure::Refused("forbidden".into())));
        assert!(store.failure().is_some());
        store.take(mends);
        assert_eq!(store.failure(), None);
    }
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
            .map(|(name, value)| (ObjectName::new("ns", name.to_string()), Some(value.to_string())))
            .collect();
        prop_assert_eq!(&told, &expected);
        for (name, value) in &expected {
            prop_assert_eq!(&store.get(name).unwrap().value, value);
        }
    }
}
