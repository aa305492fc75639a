// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The task against a server that keeps Events by name.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use serde_json::{Value, json};

use super::*;
use crate::warning::{Matter, Object, Warning};

/// Long enough for a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// What a server has, and who wrote it.
type Kept = Arc<Mutex<BTreeMap<String, Value>>>;

fn status(code: StatusCode, reason: &str, details: &Value) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code.as_u16(), "details": details,
    });
    (code, Json(status)).into_response()
}

/// As an API server does. Namespaces are named after what it does with Events in them.
async fn create(
    State(kept): State<Kept>,
    Path(namespace): Path<String>,
    Json(event): Json<Value>,
) -> Response {
    let name = format!("{namespace}/{}", event["metadata"]["name"]);
    match namespace.as_str() {
        "forbidden" => status(StatusCode::FORBIDDEN, "Forbidden", &json!({})),
        "ending" => {
            let causes = json!({"causes": [{"reason": "NamespaceTerminating", "message": "ends"}]});
            status(StatusCode::FORBIDDEN, "Forbidden", &causes)
        }
        "missing" => status(StatusCode::NOT_FOUND, "NotFound", &json!({})),
        "busy" => status(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            &json!({}),
        ),
        "invalid" => status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", &json!({})),
        _ => {
            let mut kept = kept.lock().unwrap();
            if kept.contains_key(&name) {
                return status(StatusCode::CONFLICT, "AlreadyExists", &json!({}));
            }
            kept.insert(name, event.clone());
            (StatusCode::CREATED, Json(event)).into_response()
        }
    }
}

/// A client of a server that keeps Events here.
async fn client(kept: Kept) -> Client {
    let path = "/apis/events.k8s.io/v1/namespaces/{namespace}/events";
    let server = Router::new().route(path, post(create)).with_state(kept);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, server).await });
    Client::try_from(kube::Config::new(address.parse().unwrap())).unwrap()
}

fn suspended(namespace: &str) -> Warning {
    let object = Object::namespace(namespace);
    Warning::about(object, Matter::PoliciesSuspended, "too heavy".to_owned())
}

fn draft_of(namespace: &str) -> Draft {
    let drafts = draft::of(&[suspended(namespace)]);
    drafts.into_values().next().unwrap()
}

#[tokio::test]
async fn each_answer_of_the_api_server_means_something() {
    let mut writer = Writer {
        client: client(Kept::default()).await,
        node: "node1".to_owned(),
        is_refused: false,
    };
    let refused = |why: &str| Outcome::Refused(why.to_owned());
    for (namespace, expected) in [
        ("shop", Outcome::Created),
        ("shop", Outcome::Found),
        ("ending", Outcome::Ending),
        ("missing", Outcome::Ending),
        ("forbidden", refused("Forbidden (status 403)")),
        ("invalid", refused("Invalid (status 422)")),
        (
            "busy",
            Outcome::Failed("InternalError (status 500)".to_owned()),
        ),
    ] {
        let outcome = writer.write(&draft_of(namespace)).await;
        assert_eq!(outcome, expected, "{namespace}");
    }
    let nobody = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    writer.client = Client::try_from(nobody).unwrap();
    let outcome = writer.write(&draft_of("shop")).await;
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
}

/// The others are refused, which keeps nothing from being written, and neither node writes what the other has written.
#[tokio::test]
async fn two_nodes_write_one_event_an_object_and_end_with_the_engine() {
    let kept = Kept::default();
    let client = client(kept.clone()).await;
    let condition = |namespaces: &[&str]| Condition::Degraded {
        reasons: vec!["of the node".to_owned()],
        warnings: namespaces.iter().map(|name| suspended(name)).collect(),
    };
    let (engine, said) = watch::channel(Condition::Starting(Vec::new()));
    let tasks = ["node1", "node2"]
        .map(|node| tokio::spawn(write(client.clone(), node.to_owned(), said.clone())));
    engine.send_replace(condition(&["forbidden", "shop", "invalid", "busy"]));
    let deadline = Instant::now() + LIMIT;
    let until = async |number: usize| {
        while kept.lock().unwrap().len() < number {
            assert!(Instant::now() < deadline, "{number}: {kept:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    until(1).await;
    engine.send_replace(condition(&["forbidden", "shop", "garden"]));
    until(2).await;
    drop(engine);
    for task in tasks {
        timeout(LIMIT, task).await.unwrap().unwrap();
    }
    let kept = kept.lock().unwrap();
    let regarding: Vec<_> = kept
        .values()
        .map(|event| event["regarding"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(regarding, ["garden", "shop"]);
}
