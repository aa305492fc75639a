// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Watches whose connection something between the server and us cuts, in virtual time: no byte leaves the process.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Request, Response};
use futures::stream;
use kube::client::Body;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::*;

/// How a connection ends after the last byte.
#[derive(Debug, Clone, Copy)]
enum End {
    /// By the server.
    Proper,
    /// By anybody else.
    Cut,
    /// By anybody else when it was idle for so long; by the server where that is to end it before.
    Idle,
}

/// What a follower says of a server with one object, each of whose watches says this, lasts so long and ends so; and the
/// server's requests.
async fn said_of(
    watch: &'static str,
    lasts: Duration,
    end: End,
) -> (mpsc::Receiver<Said<Maps>>, Arc<Mutex<Vec<&'static str>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let asked = requests.clone();
    let answer = move |request: Request<Body>| {
        let query = request.uri().query().unwrap_or_default();
        let is_watch = query.contains("watch=true");
        let wanted = query
            .split('&')
            .find_map(|part| part.strip_prefix("timeoutSeconds="));
        let wanted = wanted.and_then(|seconds| seconds.parse().ok());
        let wanted = Duration::from_secs(wanted.unwrap_or(290));
        let (lasts, end) = match end {
            End::Idle if wanted < lasts => (wanted, End::Proper),
            End::Idle => (lasts, End::Cut),
            End::Proper | End::Cut => (lasts, end),
        };
        asked
            .lock()
            .unwrap()
            .push(if is_watch { "watch" } else { "list" });
        async move {
            if !is_watch {
                let list = json!({
                    "kind": "ConfigMapList", "apiVersion": "v1",
                    "metadata": {"resourceVersion": "9"}, "items": [map("a", "u", "x")],
                });
                return Ok(Response::new(axum::body::Body::from(list.to_string())));
            }
            let steps = stream::unfold(0, move |step| async move {
                let chunk = match (step, end) {
                    (0, _) => Ok(watch.as_bytes().to_vec()),
                    (1, End::Cut | End::Idle) => {
                        sleep(lasts).await;
                        Err(io::Error::from(io::ErrorKind::UnexpectedEof))
                    }
                    (1, End::Proper) => {
                        sleep(lasts).await;
                        return None;
                    }
                    _ => return None,
                };
                Some((chunk, step + 1))
            });
            Ok::<_, Infallible>(Response::new(axum::body::Body::from_stream(steps)))
        }
    };
    let client = kube::Client::new(tower::service_fn(answer), "ns");
    let (out, said) = mpsc::channel(1);
    tokio::spawn(follow::<Maps, _>(client, out, |said| said));
    (said, requests)
}

/// A change that a watch did not bring may have been cut off with it.
#[tokio::test(start_paused = true)]
async fn a_watch_that_is_cut_before_it_says_anything_is_no_news() {
    for (end, is_news) in [(End::Proper, true), (End::Cut, false)] {
        let (mut said, _) = said_of("", Duration::from_secs(20), end).await;
        let mut was_good = false;
        let _ = timeout(Duration::from_secs(140), async {
            while let Some(said) = said.recv().await {
                was_good |= matches!(said, Said::Good);
            }
        })
        .await;
        assert_eq!(was_good, is_news, "{end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn watches_that_are_cut_again_and_again_lead_to_a_list() {
    for lasts in [2, 20, 59] {
        let (mut said, requests) = said_of("", Duration::from_secs(lasts), End::Cut).await;
        let began = Instant::now();
        let mut lists = 0;
        while lists < 2 {
            let said = said.recv().await.unwrap();
            assert!(!matches!(said, Said::Good), "nothing was said");
            lists += usize::from(matches!(said, Said::Listed));
        }
        let took = began.elapsed();
        assert!(
            took >= Duration::from_secs(150) && took < Duration::from_secs(260),
            "{took:?}"
        );
        let watches = requests
            .lock()
            .unwrap()
            .iter()
            .filter(|it| **it == "watch")
            .count();
        assert!((3..20).contains(&watches), "{watches} watches of {lasts} s");
    }
}

/// What cuts idle connections cuts two watches: the server ends the next ones before that.
#[tokio::test(start_paused = true)]
async fn an_idle_timeout_leaves_no_doubt_and_no_gap_between_watches() {
    for lasts in [20, 35, 59] {
        let (mut said, requests) = said_of("", Duration::from_secs(lasts), End::Idle).await;
        let (mut behind, mut lists) = (0, 0);
        let _ = timeout(Duration::from_secs(600), async {
            while let Some(said) = said.recv().await {
                behind += u32::from(matches!(said, Said::Behind));
                lists += u32::from(matches!(said, Said::Listed));
            }
        })
        .await;
        assert_eq!((behind, lists), (2, 1), "{lasts} s");
        let requests = requests.lock().unwrap();
        let watches = requests.iter().filter(|it| **it == "watch").count();
        let wanted = usize::try_from(600 / lasts).unwrap();
        assert!(watches >= wanted, "{watches} watches of {lasts} s");
    }
}

/// Of an event that has come half it is known that something changed, and not what.
#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_within_an_event_has_failed() {
    for end in [End::Proper, End::Cut] {
        let half = "{\"type\": \"ADDED\", \"object\": {\"metadata\"";
        let (mut said, _) = said_of(half, Duration::from_secs(20), end).await;
        let failure = loop {
            let said = said.recv().await.unwrap();
            assert!(!matches!(said, Said::Good), "{end:?}");
            if let Said::Failed(failure) = said {
                break failure;
            }
        };
        assert!(matches!(failure, Failure::Unreachable(_)), "{failure}");
    }
}

/// No object is so long, and the memory of a node is for others.
#[tokio::test(start_paused = true)]
async fn an_event_without_an_end_is_not_read_to_it() {
    let long: &'static str = format!("{{\"type\": \"{}", "A".repeat(17 << 20)).leak();
    let (mut said, _) = said_of(long, Duration::from_secs(1_000), End::Proper).await;
    let began = Instant::now();
    let failure = loop {
        if let Said::Failed(failure) = said.recv().await.unwrap() {
            break failure;
        }
    };
    assert!(
        failure.to_string().contains("more than 16 MiB"),
        "{failure}"
    );
    assert!(began.elapsed() < Duration::from_secs(1));
}
