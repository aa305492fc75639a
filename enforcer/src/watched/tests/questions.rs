// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Questions to an API server that has a few pods.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::response::IntoResponse;
use kube::Client;
use podgate_datapath::record::PodName;
use serde_json::{Value, json};

use super::super::Pods;
use super::super::asking::Asking;
use crate::api::Store;
use crate::source::{Answer, Question};

/// A server with one pod, `ns/web` on node `there`, which it finds by name and by field selector as the API server does.
/// It refuses the first requests, so many.
async fn server(refused: usize) -> Client {
    let requests = Arc::new(AtomicUsize::new(0));
    let answer = move |uri: Uri| async move {
        if requests.fetch_add(1, Ordering::Relaxed) < refused {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "pods is forbidden", "reason": "Forbidden", "code": 403,
            });
            return (StatusCode::FORBIDDEN, status.to_string()).into_response();
        }
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "ns", "uid": "u", "resourceVersion": "7"},
            "spec": {"containers": [], "nodeName": "there"},
        });
        if uri.path().ends_with("/pods/web") {
            return pod.to_string().into_response();
        }
        let query = uri.query().unwrap_or_default().replace("%3D", "=");
        let mut fields = query.split('&').map(|field| field.replace("%2C", ","));
        let selector =
            fields.find_map(|field| field.strip_prefix("fieldSelector=").map(str::to_owned));
        let selector = selector.unwrap_or_default();
        let is_chosen = |requirement: &str| {
            requirement == "metadata.name=web" || requirement == "spec.nodeName=there"
        };
        let items: Vec<Value> = match selector.split(',').all(is_chosen) {
            true => vec![pod],
            false => vec![],
        };
        let list = json!({
            "apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "9"}, "items": items,
        });
        list.to_string().into_response()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Client::try_from(kube::Config::new(server.parse().unwrap())).unwrap()
}

/// The pod, as a runtime that gives no UIDs names it.
fn web() -> PodName {
    PodName {
        namespace: "ns".to_owned(),
        name: "web".to_owned(),
        uid: None,
    }
}

/// The next answer, and whether the store has the pod then.
async fn answer(asking: &mut Asking) -> (Answer, bool) {
    answer_for(asking, web()).await
}

async fn answer_for(asking: &mut Asking, pod: PodName) -> (Answer, bool) {
    let mut pods = Store::<Pods>::default();
    assert_eq!(asking.ask(Question::Pod(pod), &mut pods), None);
    let ended = asking.next().await.unwrap();
    let (changes, answer) = asking.answered(ended, &mut pods);
    (answer.unwrap().1, !changes.is_empty())
}

/// A pod of another node is none for a source that knows its own node.
#[tokio::test]
async fn a_pod_of_another_node_is_none_if_the_own_node_is_known() {
    for (node, expected, is_known) in [
        (None, Answer::Known, true),
        (Some("there"), Answer::Known, true),
        (Some("here"), Answer::NoSuchPod, false),
    ] {
        let mut asking = Asking::new(server(0).await, node.map(str::to_owned));
        assert_eq!(answer(&mut asking).await, (expected, is_known), "{node:?}");
    }
}

/// A pod that is added here and is on another node shows that this node is misnamed. Otherwise every pod of the node
/// would be unknown, and open under the standard baseline, and no error would say so.
#[tokio::test]
async fn a_pod_added_here_but_on_another_node_shows_a_wrong_name() {
    for (uid, node, known, misnamed) in [
        ("u", "there", true, false),
        ("u", "here", false, true),
        ("namesake", "here", false, false),
    ] {
        let mut asking = Asking::new(server(0).await, Some(node.to_owned()));
        let pod = PodName {
            uid: Some(uid.to_owned()),
            ..web()
        };
        let (answer, is_known) = answer_for(&mut asking, pod).await;
        assert_eq!(is_known, known, "{uid} {node}");
        assert_eq!(matches!(answer, Answer::Failed(_)), misnamed, "{answer:?}");
        let error = asking.error();
        assert_eq!(error.is_some_and(|e| e.contains("--node-name")), misnamed);
    }
}

#[tokio::test]
async fn a_refusal_is_said_until_the_same_question_is_answered() {
    let client = server(2).await;
    let mut asking = Asking::new(client, None);
    let (refused, _) = answer(&mut asking).await;
    assert!(matches!(refused, Answer::Failed(_)), "{refused:?}");
    assert!(asking.error().unwrap().contains("forbidden"));
    // Nobody asks any more. The next time it is still refused, the time after that it is not.
    for expected in [true, false] {
        asking.hurry();
        let again = asking.next().await.unwrap();
        let (changes, answer) = asking.answered(again, &mut Store::default());
        assert!(
            changes.is_empty() && answer.is_none(),
            "nobody waits for it"
        );
        assert_eq!(asking.error().is_some(), expected);
    }
}
