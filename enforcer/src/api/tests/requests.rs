// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the API server is asked, and as whom.

use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::IntoResponse;
use kube::api::{Api, ListParams};
use tokio::sync::mpsc;

use super::*;

/// The parameters of a request, but those that only limit it.
fn parameters(uri: &Uri) -> Vec<String> {
    let query = uri.query().unwrap_or_default().split('&');
    let query = query.filter(|part| !part.is_empty() && !part.starts_with("timeoutSeconds="));
    query.map(str::to_owned).collect()
}

/// A kind is listed page by page, in one answer when a page is too old, and then watched with bookmarks. Here the
/// second page is refused as too old by now, and the watch that follows ends at once.
#[tokio::test]
async fn a_kind_is_listed_page_by_page_then_watched_with_bookmarks() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let requests = asked.clone();
    let answer = move |uri: Uri| {
        let asked = parameters(&uri);
        let has = |part: &str| asked.iter().any(|asked| asked == part);
        let (is_watch, is_second) = (has("watch=true"), has("continue=more"));
        let mut requests = requests.lock().unwrap();
        let is_whole = !has("limit=500");
        requests.push(asked);
        let page = |more: &str, names: &[&str]| {
            let items: Vec<Value> = names.iter().map(|name| map(name, name, "1")).collect();
            json!({
                "kind": "ConfigMapList", "apiVersion": "v1",
                "metadata": {"resourceVersion": "9", "continue": more}, "items": items,
            })
        };
        let answer = if is_watch {
            (StatusCode::OK, String::new())
        } else if is_second {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "The provided continue parameter is too old", "reason": "Expired", "code": 410,
            });
            (StatusCode::GONE, status.to_string())
        } else if is_whole {
            (StatusCode::OK, page("", &["a", "b"]).to_string())
        } else {
            (StatusCode::OK, page("more", &["a"]).to_string())
        };
        async move { answer.into_response() }
    };
    let client = client_of(Router::new().fallback(answer)).await;
    let (out, mut said) = mpsc::channel(1);
    let fields = Some("spec.nodeName=here".to_owned());
    tokio::spawn(follow_selected::<Maps, _>(client, fields, out, |said| said));
    let mut store = Store::<Maps>::default();
    let mut failures = 0;
    while failures < 2 {
        let said = said.recv().await.unwrap();
        failures += u32::from(matches!(said, Said::Failed(Failure::Unreachable(_))));
        store.take(said);
    }
    assert!(store.is_synced());
    assert!(store.get(&name("a")).is_some() && store.get(&name("b")).is_some());
    let first = ["limit=500"].as_slice();
    let second = ["limit=500", "continue=more"].as_slice();
    let whole = [].as_slice();
    let watch = [
        "watch=true",
        "allowWatchBookmarks=true",
        "resourceVersion=9",
    ]
    .as_slice();
    let asked = asked.lock().unwrap();
    for (asked, expected) in asked.iter().zip([first, second, whole, watch]) {
        let selected = "fieldSelector=spec.nodeName%3Dhere";
        let expected = expected.iter().copied().chain([selected]);
        let sorted = |mut all: Vec<String>| {
            all.sort_unstable();
            all
        };
        let expected = sorted(expected.map(str::to_owned).collect());
        assert_eq!(sorted(asked.clone()), expected);
    }
    assert_eq!(asked.len(), 4);
}

/// A server that names one page as its own next one.
#[tokio::test]
async fn a_list_whose_page_follows_itself_fails() {
    let answer = || async {
        let page = json!({
            "kind": "ConfigMapList", "apiVersion": "v1",
            "metadata": {"resourceVersion": "9", "continue": "more"}, "items": [map("a", "a", "1")],
        });
        page.to_string()
    };
    let client = client_of(Router::new().fallback(answer)).await;
    let (out, mut said) = mpsc::channel(1);
    tokio::spawn(follow::<Maps, _>(client, out, |said| said));
    let mut objects = 0;
    let failure = loop {
        let said = said.recv().await.unwrap();
        assert!(!matches!(said, Said::Listed));
        objects += usize::from(matches!(said, Said::Object(_)));
        if let Said::Failed(failure) = said {
            break failure;
        }
    };
    assert!(matches!(failure, Failure::Refused(_)), "{failure}");
    assert_eq!(objects, 2);
}

#[tokio::test]
async fn the_enforcer_says_who_it_is_and_which_version() {
    let (agents_in, mut agents) = mpsc::channel(8);
    let answer = move |headers: HeaderMap| {
        let agent = headers[header::USER_AGENT].to_str().unwrap().to_owned();
        let agents = agents_in.clone();
        async move {
            agents.send(agent).await.unwrap();
            StatusCode::NOT_FOUND
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), kubeconfig.to_string()).unwrap();
    let client = connect(Some(file.path())).await.unwrap();
    let maps = Api::<ConfigMap>::all(client);
    maps.list(&ListParams::default()).await.unwrap_err();
    let expected = format!("podgate-enforcer/{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(agents.recv().await.unwrap(), expected);
}
