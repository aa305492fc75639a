// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A kind that waits for the API server is woken by the first that hears it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

/// What waits for the server asks at once when the server is heard elsewhere.
#[tokio::test]
async fn a_waiting_source_asks_at_once_when_the_server_is_heard() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    // One that the client does not ask again by itself.
    let answer = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        async { (StatusCode::INTERNAL_SERVER_ERROR, "not now") }
    };
    let client = client_of(Router::new().fallback(answer)).await;
    let server = Server::from(client);
    let (out, mut said) = mpsc::channel(1);
    tokio::spawn(follow::<Maps, _>(server.clone(), out, |said| said));
    let mut failures = 0;
    while failures < 3 {
        failures += usize::from(matches!(said.recv().await.unwrap(), Said::Failed(_)));
    }
    // The third pause takes three seconds and more.
    let next = Duration::from_secs(1);
    assert!(timeout(next, said.recv()).await.is_err(), "it waits");
    let before = requests.load(Ordering::Relaxed);
    server.pulse.beat();
    let again = async { while !matches!(said.recv().await.unwrap(), Said::Failed(_)) {} };
    timeout(next, again).await.expect("it asks");
    assert_eq!(requests.load(Ordering::Relaxed), before + 1);
    // But not again and again.
    server.pulse.beat();
    assert!(timeout(next, said.recv()).await.is_err(), "it waits");
}
