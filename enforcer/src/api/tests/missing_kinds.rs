// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A server that does not have a kind, has it later, and loses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::{StatusCode, Uri};
use tokio::sync::mpsc;

use super::*;

/// Like [`Maps`], but a server need not have them.
#[derive(Debug, Clone)]
struct Rare;

impl Kind for Rare {
    type Object = ConfigMap;
    type Value = Option<String>;

    const NAME: &'static str = "rarities";
    const MISSING: Missing = Missing::Empty;

    fn convert(object: &ConfigMap) -> Converted<Option<String>> {
        Maps::convert(object)
    }

    fn from_malformed(parts: &Parts) -> Option<String> {
        Maps::from_malformed(parts)
    }
}

/// What a server says that has a kind for one list only, the second one that is asked for.
async fn said_of<K: Kind<Object = ConfigMap>>() -> mpsc::Receiver<Said<K>> {
    let lists = Arc::new(AtomicUsize::new(0));
    let answer = move |uri: Uri| {
        let query = uri.query().unwrap_or_default();
        let is_list = !query.contains("watch=true");
        let has_it = is_list && lists.fetch_add(1, Ordering::Relaxed) == 1;
        let answer = if has_it {
            let list = json!({
                "kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"},
                "items": [map("a", "a", "1")],
            });
            (StatusCode::OK, list.to_string())
        } else {
            (StatusCode::NOT_FOUND, "404 page not found".to_owned())
        };
        async move { answer }
    };
    let client = client_of(Router::new().fallback(answer)).await;
    let (out, said) = mpsc::channel(1);
    tokio::spawn(follow::<K, _>(client, out, |said| said));
    said
}

#[tokio::test]
async fn a_kind_that_may_be_missing_has_no_objects_where_it_is() {
    let mut said = said_of::<Rare>().await;
    let mut store = Store::default();
    for is_there in [false, true, false] {
        loop {
            let said = said.recv().await.unwrap();
            assert!(!matches!(said, Said::Failed(_)), "{said:?}");
            let is_end = matches!(said, Said::Listed);
            store.take(said);
            if is_end {
                break;
            }
        }
        assert!(store.is_synced());
        assert_eq!(store.get(&name("a")).is_some(), is_there);
    }
}

#[tokio::test]
async fn a_kind_that_is_needed_is_waited_for() {
    let mut said = said_of::<Maps>().await;
    assert!(matches!(said.recv().await, Some(Said::Listing)));
    let failed = said.recv().await;
    let Some(Said::Failed(Failure::NoSuchKind(_))) = failed else {
        panic!("{failed:?}")
    };
}
