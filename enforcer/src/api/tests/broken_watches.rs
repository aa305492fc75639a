// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Watches that begin and then break, against a server that answers so.

use std::sync::{Arc, Mutex};

use axum::http::Uri;
use tokio::sync::mpsc;

use super::*;

/// An ERROR of the API server within a watch.
fn error(message: &str, code: u16) -> String {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "code": code,
    });
    format!("{}\n", json!({"type": "ERROR", "object": status}))
}

/// A bookmark of this version.
fn bookmark(version: &str) -> String {
    let object = json!({
        "kind": "ConfigMap", "apiVersion": "v1", "metadata": {"resourceVersion": version},
    });
    format!("{}\n", json!({"type": "BOOKMARK", "object": object}))
}

/// What a follower says of a server that has nothing, and that answers every watch with `watch`; and the server's
/// requests.
async fn said_of(watch: String) -> (mpsc::Receiver<Said<Maps>>, Arc<Mutex<Vec<&'static str>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let asked = requests.clone();
    let answer = move |uri: Uri| {
        let is_watch = uri
            .query()
            .is_some_and(|query| query.contains("watch=true"));
        let (request, answer) = if is_watch {
            ("watch", watch.clone())
        } else {
            let list = json!({
                "kind": "ConfigMapList", "apiVersion": "v1",
                "metadata": {"resourceVersion": "9"}, "items": [],
            });
            ("list", list.to_string())
        };
        asked.lock().unwrap().push(request);
        async move { answer }
    };
    let client = client_of(Router::new().fallback(answer)).await;
    let (out, said) = mpsc::channel(1);
    tokio::spawn(follow::<Maps, _>(client, out, |said| said));
    (said, requests)
}

/// What is said up to the second failure.
async fn until_the_second_failure(said: &mut mpsc::Receiver<Said<Maps>>) -> Vec<&'static str> {
    let mut words = Vec::new();
    while words.iter().filter(|word| **word == "failed").count() < 2 {
        words.push(match said.recv().await.unwrap() {
            Said::Listing => "listing",
            Said::Listed => "listed",
            Said::Object(_) => "object",
            Said::Gone(..) => "gone",
            Said::Begun | Said::Good => "good",
            Said::Behind => "behind",
            Said::Failed(_) => "failed",
        });
    }
    words
}

#[tokio::test]
async fn an_error_within_a_watch_leads_to_a_list() {
    let (mut said, requests) = said_of(error("an event cannot be decoded", 500)).await;
    let words = until_the_second_failure(&mut said).await;
    let round = ["listing", "listed", "good", "failed"];
    assert_eq!(words, [round, round].concat());
    assert_eq!(
        requests.lock().unwrap()[..4],
        ["list", "watch", "list", "watch"]
    );
}

/// What happened since the version that is too old is unknown until the list is complete.
#[tokio::test]
async fn a_watch_that_fell_behind_is_said_before_the_list() {
    let (mut said, _) = said_of(error("too old resource version", 410)).await;
    for expected in ["Listing", "Listed", "Begun", "Behind", "Listing", "Listed"] {
        assert_eq!(format!("{:?}", said.recv().await.unwrap()), expected);
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_read_leads_to_a_list() {
    let (mut said, _) = said_of("{\"type\": \"NEWS\", \"object\": {}}\n".to_owned()).await;
    let words = until_the_second_failure(&mut said).await;
    let round = ["listing", "listed", "good", "failed"];
    assert_eq!(words, [round, round].concat());
}

/// That a watch begins after one that brought nothing is no news.
#[tokio::test]
async fn a_watch_that_begins_after_an_empty_one_is_no_news() {
    let (mut said, _) = said_of(String::new()).await;
    let words = until_the_second_failure(&mut said).await;
    assert_eq!(words, ["listing", "listed", "good", "failed", "failed"]);
}

#[tokio::test]
async fn a_watch_that_brought_something_before_it_broke_goes_on() {
    let (mut said, _) = said_of(bookmark("10")).await;
    let words = until_the_second_failure(&mut said).await;
    let round = ["good", "good", "failed"];
    assert_eq!(words[..2], ["listing", "listed"]);
    assert_eq!(words[2..], [round, round].concat());
}

#[tokio::test]
async fn a_bookmark_without_a_version_leads_to_a_list() {
    let (mut said, _) = said_of(bookmark("")).await;
    let words = until_the_second_failure(&mut said).await;
    let round = ["listing", "listed", "good", "failed"];
    assert_eq!(words, [round, round].concat());
}
