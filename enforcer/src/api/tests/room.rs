// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A kind of which no more than so much is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::Uri;
use tokio::sync::mpsc;

use super::*;

/// What is kept.
const ROOM: usize = 10;

/// ConfigMaps, of which the field `v` takes as much as it is long.
#[derive(Debug, Clone)]
struct Long;

impl Kind for Long {
    type Object = ConfigMap;
    type Value = Option<String>;

    const NAME: &'static str = "configmaps";

    fn convert(object: &ConfigMap) -> Converted<Option<String>> {
        Maps::convert(object)
    }

    fn bytes(value: &Option<String>) -> usize {
        value.as_ref().map_or(0, String::len)
    }

    fn closed(_: &Option<String>) -> Option<String> {
        None
    }

    fn from_malformed(parts: &Parts) -> Option<String> {
        Maps::from_malformed(parts)
    }
}

fn of(namespace: &str, name: &str, length: usize) -> Said<Long> {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"v": "x".repeat(length)},
        "metadata": {"name": name, "namespace": namespace, "uid": name, "resourceVersion": "1"},
    });
    Said::Object(Box::new(serde_json::from_value(object).unwrap()))
}

/// A store, and what it has told.
#[derive(Debug)]
struct Told {
    store: Store<Long>,
    lengths: BTreeMap<(String, String), Option<usize>>,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            store: Store::of(ROOM),
            lengths: BTreeMap::new(),
        }
    }
}

impl Told {
    fn take(&mut self, said: Said<Long>) {
        for (name, value) in self.store.take(said) {
            let name = (name.namespace, name.name);
            match value {
                Some(value) => {
                    let length = value.map(|text| text.len());
                    self.lengths.insert(name, length)
                }
                None => self.lengths.remove(&name),
            };
        }
    }

    fn length(&self, namespace: &str, name: &str) -> Option<usize> {
        self.lengths[&(namespace.to_owned(), name.to_owned())]
    }

    fn closed(&self) -> Vec<&str> {
        self.store.closed().into_keys().collect()
    }
}

/// What a namespace has beyond the room is closed, all of it, and what its neighbors have is kept.
#[test]
fn a_namespace_beyond_the_room_is_closed_and_others_are_kept() {
    let mut told = Told::default();
    told.take(of("small", "a", 4));
    told.take(of("large", "a", 2));
    told.take(of("large", "b", 3));
    assert_eq!(told.closed(), [""; 0]);
    told.take(of("large", "c", 2));
    assert_eq!(told.closed(), ["large"]);
    for name in ["a", "b", "c"] {
        assert_eq!(told.length("large", name), None, "{name}");
    }
    assert_eq!(told.length("small", "a"), Some(4));
    let why = &told.store.closed()["large"];
    assert!(why.starts_with("its configmaps take 1 KiB"), "{why}");

    told.take(Said::Gone(ObjectName::new("large", "b"), Some("b".into())));
    assert_eq!(told.length("large", "a"), None, "what it was is not known");
    let why = &told.store.closed()["large"];
    assert!(why.contains("there is room"), "{why}");
    told.take(Said::Listing);
    for (namespace, name, length) in [("large", "a", 2), ("large", "c", 2), ("small", "a", 4)] {
        told.take(of(namespace, name, length));
    }
    told.take(Said::Listed);
    assert_eq!(told.closed(), [""; 0]);
    assert_eq!(told.length("large", "a"), Some(2));
}

#[derive(Debug, Clone)]
enum Step {
    Set(u8, u8, usize),
    Delete(u8, u8),
    List,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_u8, 0..3_u8, 0..9_usize).prop_map(|(of, name, length)| Step::Set(of, name, length)),
        3 => (0..3_u8, 0..3_u8).prop_map(|(of, name)| Step::Delete(of, name)),
        1 => Just(Step::List),
    ]
}

proptest! {
    /// No more is kept than there is room for, and after a list all that there is room for.
    #[test]
    fn no_more_is_kept_than_there_is_room_for(
        steps in prop::collection::vec(step(), 0..40)
    ) {
        let mut told = Told::default();
        let mut server: BTreeMap<(String, String), usize> = BTreeMap::new();
        for step in steps.into_iter().chain([Step::List]) {
            match &step {
                Step::Set(namespace, name, length) => {
                    let (namespace, name) = (namespace.to_string(), name.to_string());
                    told.take(of(&namespace, &name, *length));
                    server.insert((namespace, name), *length);
                }
                Step::Delete(namespace, name) => {
                    let (namespace, name) = (namespace.to_string(), name.to_string());
                    let uid = Some(name.clone());
                    told.take(Said::Gone(ObjectName::new(&*namespace, &*name), uid));
                    server.remove(&(namespace, name));
                }
                Step::List => {
                    told.take(Said::Listing);
                    for ((namespace, name), length) in &server {
                        told.take(of(namespace, name, *length));
                    }
                    told.take(Said::Listed);
                }
            }
            prop_assert!(told.lengths.keys().eq(server.keys()));
            let kept: usize = told.lengths.values().flatten().sum();
            prop_assert!(kept <= ROOM, "{kept}");
            let mut weights: BTreeMap<&str, usize> = BTreeMap::new();
            for ((namespace, _), length) in &server {
                *weights.entry(namespace.as_str()).or_default() += length;
            }
            let mut by_weight: Vec<(usize, &str)> = weights.iter().map(|(name, weight)| (*weight, *name)).collect();
            by_weight.sort_unstable();
            let mut used = 0;
            for (weight, namespace) in by_weight {
                used += weight;
                for ((of, name), length) in server.iter().filter(|((of, _), _)| of == namespace) {
                    let kept = told.length(of, name);
                    if used > ROOM {
                        prop_assert_eq!(kept, None, "{}/{} of {}", of, name, weight);
                    } else if matches!(step, Step::List) {
                        prop_assert_eq!(kept, Some(*length), "{}/{}", of, name);
                    } else {
                        prop_assert!(kept.is_none_or(|kept| kept == *length));
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn when_there_is_room_again_the_kind_is_listed_anew() {
    let lists = Arc::new(AtomicUsize::new(0));
    let listed = lists.clone();
    let answer = move |uri: Uri| {
        let is_watch = uri
            .query()
            .is_some_and(|query| query.contains("watch=true"));
        let listed = listed.clone();
        async move {
            if is_watch {
                // It says nothing, and does not end.
                return axum::body::Body::from_stream(futures::stream::pending::<
                    Result<String, std::io::Error>,
                >());
            }
            listed.fetch_add(1, Ordering::Relaxed);
            let list = json!({
                "kind": "ConfigMapList", "apiVersion": "v1",
                "metadata": {"resourceVersion": "9"}, "items": [map("a", "u", "x")],
            });
            list.to_string().into()
        }
    };
    let client = client_of(Router::new().fallback(answer)).await;
    let recall = Recall::after(Duration::ZERO);
    let server = Server::from(client).recalled_by(recall.clone());
    let (out, mut said) = mpsc::channel(1);
    tokio::spawn(follow::<Maps, _>(server, out, |said| said));
    for round in 1..4 {
        while !matches!(said.recv().await.unwrap(), Said::Listed) {}
        assert_eq!(lists.load(Ordering::Relaxed), round);
        recall.ask();
        recall.ask();
    }
}
