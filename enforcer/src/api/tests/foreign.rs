// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Objects of which something cannot be read, or nobody needs it, beside others.

use kube::api::{ListParams, WatchParams};

use super::super::stream;
use super::*;

/// Far deeper than what is read into a tree may be.
fn nested() -> String {
    format!("{}{{}}{}", r#"{"a":"#.repeat(200), "}".repeat(200))
}

/// A ConfigMap whose parts say this.
fn written(name: &str, in_metadata: &[u8], rest: &[u8]) -> Vec<u8> {
    let metadata = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"ns","uid":"u","resourceVersion":"8""#
    );
    [metadata.as_bytes(), in_metadata, b"}", rest, b"}"].concat()
}

fn managed(fields: &[u8]) -> Vec<u8> {
    let before = br#","managedFields":[{"manager":"m","fieldsType":"FieldsV1","fieldsV1":"#;
    let after = br#"}],"labels":{"team":"a"}"#;
    written(
        "it",
        &[&before[..], fields, &after[..]].concat(),
        br#","data":{"v":"x"}"#,
    )
}

/// A client of a server that answers this to all that it is asked.
async fn answered(body: Vec<u8>) -> kube::Client {
    let answer = move || {
        let body = body.clone();
        async move { body }
    };
    client_of(Router::new().fallback(answer)).await
}

/// What a list of such an object and another one brings.
async fn listed(object: &[u8]) -> Vec<Seen<Maps>> {
    let other = map("other", "o", "y").to_string();
    let before = br#"{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":["#;
    let body = [&before[..], object, b",", other.as_bytes(), b"]}"].concat();
    let client = answered(body).await;
    let page = stream::list::<Maps>(&client, None, &ListParams::default()).await;
    let (mut page, mut all) = (page.unwrap(), Vec::new());
    loop {
        match page.next::<Maps>().await.unwrap() {
            Ok(seen) => all.push(seen),
            Err(metadata) => {
                assert_eq!(metadata.resource_version.as_deref(), Some("9"));
                return all;
            }
        }
    }
}

/// What a watch that says this first brings, up to its end.
async fn watched(line: &[u8]) -> kube::Result<Vec<WatchEvent<Seen<Maps>>>> {
    let other = json!({"type": "ADDED", "object": map("other", "o", "y")}).to_string();
    let client = answered([line, b"\n", other.as_bytes(), b"\n"].concat()).await;
    let mut events = stream::watch::<Maps>(&client, &WatchParams::default(), "1").await?;
    let mut all = Vec::new();
    while let stream::Next::Event(event) = events.next().await? {
        all.push(*event);
    }
    Ok(all)
}

/// What a list and a watch say of an object, neither of which it keeps from saying what comes behind it.
async fn said_of(object: &[u8]) -> [Seen<Maps>; 2] {
    let line = [br#"{"type":"MODIFIED","object":"#, object, b"}"].concat();
    let mut events = watched(&line).await.unwrap().into_iter();
    let (Some(WatchEvent::Modified(event)), Some(WatchEvent::Added(other))) =
        (events.next(), events.next())
    else {
        panic!("no event of an object")
    };
    let mut items = listed(object).await.into_iter();
    let (item, second) = (items.next().unwrap(), items.next().unwrap());
    for other in [other, second] {
        assert_eq!(other.name(), name("other"));
        assert_eq!(other.value.as_deref(), Some("y"));
    }
    [item, event]
}

#[tokio::test]
async fn unneeded_fields_of_an_object_may_hold_anything() {
    let nested = nested();
    let unknown = [br#","new":"#, nested.as_bytes()].concat();
    let in_both = [&unknown[..], br#","data":{"v":"x"}"#].concat();
    for object in [
        managed(nested.as_bytes()),
        managed(br#"{"f:a":1e999}"#),
        managed(br#"{"f:\ud800":{}}"#),
        managed(b"{\"f:\xff\":{}}"),
        managed(br#"["no fields"]"#),
        written("it", &unknown, &in_both),
    ] {
        for seen in said_of(&object).await {
            assert_eq!(seen.errors, [""; 0]);
            assert_eq!(seen.name(), name("it"));
            assert_eq!((seen.uid(), seen.version()), (Some("u"), Some("8")));
            assert_eq!(seen.value.as_deref(), Some("x"));
        }
    }
}

#[tokio::test]
async fn what_cannot_be_read_of_an_object_is_salvaged_by_what_can() {
    let nested = nested();
    let data = format!(r#","data":{nested}"#);
    let labels = br#","labels":{"team":"a","new":1}"#;
    let annotations = format!(r#","annotations":{nested},"labels":{{"team":"a"}}"#);
    for object in [
        written("it", labels, data.as_bytes()),
        written("it", annotations.as_bytes(), br#","data":{"v":"x"}"#),
    ] {
        for seen in said_of(&object).await {
            assert_eq!(seen.name(), name("it"));
            assert_eq!((seen.uid(), seen.version()), (Some("u"), Some("8")));
            assert_eq!(seen.value.as_deref(), Some("a"), "salvaged");
            assert!(seen.errors[0].contains("cannot be read"), "{seen:?}");
        }
    }
}

#[tokio::test]
async fn an_object_without_a_name_is_reported_beside_the_others() {
    for object in [
        r#"{"metadata":["new"],"data":{"v":"x"}}"#.to_owned(),
        format!(r#"{{"metadata":{{"name":{}}}}}"#, nested()),
        r#"{"metadata":{"name":"it"},"data":no}"#.to_owned(),
    ] {
        let listed = listed(object.as_bytes()).await;
        let [seen, other] = listed.as_slice() else {
            panic!("{listed:?}")
        };
        assert_eq!(seen.name().name, "", "{object}");
        assert!(seen.errors[0].contains("cannot be read"), "{seen:?}");
        assert_eq!(other.name(), name("other"));
    }
}

#[test]
fn a_list_with_an_object_without_a_name_forgets_nothing() {
    let mut store = Store::<Maps>::default();
    store.take(seen("a", "1"));
    for (nameless, is_known) in [(true, true), (false, false)] {
        store.take(Said::Listing);
        if nameless {
            let seen = serde_json::from_str(r#"{"metadata":["new"]}"#).unwrap();
            store.take(Said::Object(Box::new(seen)));
        }
        store.take(Said::Listed);
        assert_eq!(store.get(&name("a")).is_some(), is_known);
    }
}

#[tokio::test]
async fn only_a_status_is_taken_for_one() {
    let status = br#"{"kind":"Status","apiVersion":"v1","message":"too old","code":410}"#;
    let error = watched(status).await.unwrap_err();
    let kube::Error::Api(status) = error else {
        panic!("{error}")
    };
    assert_eq!((status.code, &*status.message), (410, "too old"));
    for line in [&b"{}"[..], br#"{"kind":"ConfigMap","code":410}"#] {
        let error = watched(line).await.unwrap_err();
        assert!(matches!(error, kube::Error::SerdeError(_)), "{error}");
    }
}
