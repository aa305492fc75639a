// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::args::BindAddress;
use crate::descriptors::Descriptors;

async fn served(router: Router) -> SocketAddr {
    let any = BindAddress::At("127.0.0.1:0".parse().unwrap());
    let descriptors = Descriptors::raise().unwrap();
    listen("a test", any, router, descriptors, std::future::pending())
        .await
        .unwrap()
        .unwrap()
}

/// Status and body of the answer.
async fn ask(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// A source that heard of each kind so many seconds ago.
fn known(kinds: &[(&'static str, u64)]) -> watch::Receiver<Freshness> {
    let before = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
    let heard = kinds.iter().map(|(kind, age)| (*kind, before(*age)));
    watch::channel(heard.collect()).1
}

fn ready() -> Condition {
    Condition::Ready {
        warnings: Vec::new(),
    }
}

/// Readiness says how old the knowledge is, and ends when it is too old.
#[tokio::test]
async fn readiness_reports_the_age_of_data_and_ends_if_it_is_stale() {
    for (ages, status) in [
        (&[("pods", 7), ("services", 90)][..], 200),
        (&[("pods", 7), ("services", 4000)], 503),
    ] {
        let (_engine, condition) = watch::channel(ready());
        let address = served(health(condition, known(ages))).await;
        let (seen, body) = ask(address, "/readyz").await;
        assert_eq!(seen, status, "{body}");
        assert_eq!(body.starts_with("ok\n"), status == 200, "{body}");
        assert!(body.contains("pods: as of 7 s ago"), "{body}");
        assert_eq!(ask(address, "/livez").await.0, 200);
    }
}

#[tokio::test]
async fn readiness_says_why_not() {
    let (engine, condition) = watch::channel(Condition::Starting(Vec::new()));
    let address = served(health(condition, known(&[]))).await;
    let wrong = vec![
        "a.yaml is wrong".to_owned(),
        "2 attachments are dirty".to_owned(),
    ];
    for (condition, status, says) in [
        (Condition::Starting(Vec::new()), 503, "not synced"),
        (
            Condition::Starting(vec!["list pods: forbidden".to_owned()]),
            503,
            "list pods: forbidden",
        ),
        (ready(), 200, "ok"),
        (
            Condition::Ready {
                warnings: vec!["pods ns/a: is odd".to_owned().into()],
            },
            200,
            "ok\nwarning: pods ns/a: is odd\n",
        ),
        (
            Condition::Degraded {
                reasons: wrong,
                warnings: vec!["pods ns/a: is odd".to_owned().into()],
            },
            503,
            "a.yaml is wrong\n2 attachments are dirty\nwarning: pods ns/a: is odd\n",
        ),
    ] {
        engine.send(condition).unwrap();
        let (seen, body) = ask(address, "/readyz").await;
        assert_eq!(seen, status, "{body}");
        assert!(body.contains(says), "{body}");
        assert_eq!(ask(address, "/livez").await.0, 200);
    }
}

#[tokio::test]
async fn an_enforcer_without_its_engine_is_neither_alive_nor_ready() {
    let (engine, condition) = watch::channel(ready());
    let address = served(health(condition, known(&[]))).await;
    drop(engine);
    assert_eq!(ask(address, "/livez").await.0, 500);
    assert_eq!(ask(address, "/readyz").await.0, 503);
}

#[tokio::test]
async fn a_scrape_counts_first_and_needs_no_answer() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let recorder = std::sync::Arc::new(recorder);
    let count = move |done: oneshot::Sender<()>| {
        metrics::with_local_recorder(&*recorder, || metrics::counter!("scrapes").increment(1));
        drop(done);
    };
    let address = served(super::metrics(handle, known(&[]), count)).await;
    for scrape in 1..=2 {
        let (status, body) = ask(address, "/metrics").await;
        assert_eq!(status, 200);
        assert!(body.contains(&format!("scrapes {scrape}")), "{body}");
    }
}

#[tokio::test]
async fn readiness_names_no_more_warnings_than_somebody_reads() {
    let warnings = (0..5000)
        .map(|n| format!("pods ns/{n}: is odd").into())
        .collect();
    let (_engine, condition) = watch::channel(Condition::Ready { warnings });
    let address = served(health(condition, known(&[]))).await;
    let (status, body) = ask(address, "/readyz").await;
    assert_eq!(status, 200);
    assert_eq!(body.lines().count(), 1 + NAMED + 1, "{body}");
    assert!(body.contains("warning: and 4900 more"), "{body}");
}

#[tokio::test]
async fn a_connection_is_one_request_and_an_endless_header_ends_it() {
    let (_engine, condition) = watch::channel(ready());
    let address = served(health(condition, known(&[]))).await;
    let answer = async |request: &[u8]| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is an end, too.
        let ended = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        drop(ended.expect("the connection does not end"));
        String::from_utf8(answer).unwrap()
    };
    let twice = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2);
    let seen = answer(twice.as_bytes()).await;
    assert_eq!(seen.matches("HTTP/1.1 200").count(), 1, "{seen}");
    let endless = format!("GET /livez HTTP/1.1\r\nX: {}", "x".repeat(1 << 20));
    assert!(!answer(endless.as_bytes()).await.contains(" 200 "));
    assert!(!answer(b"GET /livez HTTP/1.1\r\n").await.contains(" 200 "));
}
