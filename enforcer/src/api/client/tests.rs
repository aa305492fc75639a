// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Credentials that are replaced under a running client, against a server that says who asks.

use std::path::Path;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::{MethodRouter, any};
use serde_json::json;

use super::*;

/// A server that answers every request so; its URL.
async fn serve(answer: MethodRouter) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    format!("http://{address}")
}

/// An API server that answers every request with its `Authorization`.
async fn server() -> String {
    let echo = any(|headers: HeaderMap| async move {
        let authorization = headers.get(header::AUTHORIZATION);
        let text = authorization.and_then(|value| value.to_str().ok());
        text.unwrap_or("nobody").to_owned()
    });
    serve(echo).await
}

/// Puts a kubeconfig of this user in its place, in one step.
fn write(path: &Path, server: &str, user: &serde_json::Value) {
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    });
    replace(path, kubeconfig.to_string().as_bytes());
}

fn replace(path: &Path, content: &[u8]) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// A user whose credentials this shell script prints.
fn plugin(script: &str) -> serde_json::Value {
    json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script],
        "interactiveMode": "Never",
    }})
}

async fn ask(client: &Client) -> Result<String, kube::Error> {
    let request = Request::get("/version").body(Vec::new()).unwrap();
    client.request_text(request).await
}

async fn who_asks(client: &Client) -> String {
    ask(client).await.unwrap()
}

/// How a server that refuses so is understood.
async fn refusal_of(answer: MethodRouter) -> kube::Error {
    let server = serve(answer).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    write(file.path(), &server, &json!({}));
    let client = connect(Some(file.path())).await.unwrap();
    ask(&client).await.unwrap_err()
}

/// Why no client can be made for this user, if none can.
async fn error_of(user: &serde_json::Value) -> Option<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    write(file.path(), "http://127.0.0.1:1", user);
    let error = connect(Some(file.path())).await.err()?;
    Some(format!("{:#}", anyhow::Error::from(error)))
}

/// Waits until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !is_so().await {
        assert!(tokio::time::Instant::now() < deadline, "not yet: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until requests come from `whom`.
async fn until_asked_by(client: &Client, whom: &str) {
    let asked = format!("asked by {whom}");
    until(&asked, async || who_asks(client).await == whom).await;
}

#[tokio::test]
async fn a_token_that_is_replaced_in_a_kubeconfig_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    let server = server().await;
    write(&path, &server, &json!({"token": "first"}));
    let client = connect_looking(Some(&path), Duration::from_millis(5))
        .await
        .unwrap();
    // Clones are made before the change, as every watch has one.
    let of_a_watch = client.clone();
    assert_eq!(who_asks(&of_a_watch).await, "Bearer first");
    write(&path, &server, &json!({"token": "second"}));
    until_asked_by(&of_a_watch, "Bearer second").await;
    // What cannot be used leaves what was, and what comes after it counts.
    replace(&path, b"users: [");
    assert_eq!(who_asks(&client).await, "Bearer second");
    write(
        &path,
        &server,
        &json!({"username": "somebody", "password": "x"}),
    );
    until_asked_by(&client, "Basic c29tZWJvZHk6eA==").await;
    std::fs::remove_file(&path).unwrap();
    write(&path, &server, &json!({"token": "third"}));
    until_asked_by(&client, "Bearer third").await;
}

#[test]
fn files_that_a_kubeconfig_names_are_followed_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    let user =
        json!({"client-certificate": "user.crt", "client-key": "user.key", "tokenFile": "token"});
    write(&path, "https://192.0.2.1", &user);
    for name in ["user.crt", "user.key", "token"] {
        let before = Said::now(Some(&path));
        assert!(before == Said::now(Some(&path)));
        replace(&directory.path().join(name), b"another");
        assert!(before != Said::now(Some(&path)), "{name}");
    }
}

/// The client reads a refusal whole, and would a body without an end, too.
#[tokio::test]
async fn a_refusal_without_an_end_is_not_read_to_it() {
    let endless = any(|| async {
        let chunk = axum::body::Bytes::from_static(&[b'x'; 1 << 16]);
        let chunks = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
        let body = axum::body::Body::from_stream(chunks);
        (axum::http::StatusCode::FORBIDDEN, body)
    });
    let error = refusal_of(endless).await;
    assert!(
        matches!(&error, kube::Error::Api(status) if status.code == 403),
        "{error}"
    );
}

/// Other tasks of the runtime go on while a credential plugin of the kubeconfig runs, and credentials that come after it are
/// used.
#[tokio::test(flavor = "current_thread")]
async fn a_credential_plugin_that_hangs_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    let server = server().await;
    write(&path, &server, &json!({"token": "first"}));
    let look = Duration::from_millis(5);
    let client = connect_looking(Some(&path), look).await.unwrap();
    let begun = directory.path().join("begun");
    let script = format!(
        "touch {}; while :; do sleep 1; kill -0 {} || exit; done",
        begun.display(),
        std::process::id()
    );
    write(&path, &server, &plugin(&script));
    until("the plugin is run", async || {
        assert_eq!(who_asks(&client).await, "Bearer first");
        begun.exists()
    })
    .await;
    write(&path, &server, &json!({"token": "second"}));
    until_asked_by(&client, "Bearer second").await;
}

/// Gateways answer in JSON of their own.
#[tokio::test]
async fn a_refusal_has_the_code_of_the_answer() {
    for (said, code) in [
        (r#"{"message": "no healthy upstream"}"#, 502),
        (r#"{"code": 0}"#, 502),
        (r#"{"code": "x"}"#, 502),
        (r#"{"code": 14}"#, 502),
        ("no healthy upstream", 502),
        ("[]", 502),
        ("", 502),
    ] {
        let answer = any(move || async move { (axum::http::StatusCode::BAD_GATEWAY, said) });
        let error = refusal_of(answer).await;
        assert!(
            matches!(&error, kube::Error::Api(status) if status.code == code),
            "{said}: {error}"
        );
    }
}

/// A plugin that hangs when its credentials expire delays no request. Its process group is killed when the client is not used
/// any more.
#[tokio::test]
async fn a_plugin_that_hangs_at_the_end_of_a_token_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    let [token, hangs, begun] = ["token", "hangs", "begun"].map(|it| directory.path().join(it));
    let script = format!(
        "if test -e {hangs}; then sh -c 'echo $$ > {begun}.new; mv {begun}.new {begun}; while test -e {hangs}; do sleep 0.05; done'; fi
         printf '{{\"kind\": \"ExecCredential\", \"status\": {{\"token\": \"%s\", \"expirationTimestamp\": \"2020-01-01T00:00:00Z\"}}}}' $(cat {token})",
        hangs = hangs.display(),
        begun = begun.display(),
        token = token.display(),
    );
    write(&path, &server().await, &plugin(&script));
    std::fs::write(&token, "first").unwrap();
    let look = Duration::from_millis(5);
    let client = connect_looking(Some(&path), look).await.unwrap();
    std::fs::write(&hangs, "").unwrap();
    until("the plugin hangs", async || begun.exists()).await;
    for _ in 0..5 {
        assert_eq!(who_asks(&client).await, "Bearer first");
    }
    std::fs::write(&token, "second").unwrap();
    std::fs::remove_file(&hangs).unwrap();
    until_asked_by(&client, "Bearer second").await;
    std::fs::remove_file(&begun).ok();
    std::fs::write(&hangs, "").unwrap();
    let other = tokio::time::timeout(
        Duration::from_millis(500),
        connect_looking(Some(&path), LOOK),
    );
    assert!(other.await.is_err(), "it hangs");
    drop(client);
    until("it is killed", async || {
        let Ok(number) = std::fs::read_to_string(&begun) else {
            return false;
        };
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", number.trim()));
        stat.map_or(true, |stat| stat.contains(") Z "))
    })
    .await;
    std::fs::remove_file(&hangs).unwrap();
}

/// What the server refuses is asked for again, whenever it says it is at its end.
#[tokio::test]
async fn a_token_that_is_refused_is_asked_for_again() {
    let directory = tempfile::tempdir().unwrap();
    let [path, token] = ["kubeconfig", "token"].map(|it| directory.path().join(it));
    let judge = any(|headers: HeaderMap| async move {
        let authorization = headers.get(header::AUTHORIZATION).cloned();
        match authorization.as_ref().and_then(|it| it.to_str().ok()) {
            Some("Bearer good") => Ok("Bearer good"),
            _ => Err(StatusCode::UNAUTHORIZED),
        }
    });
    let script = format!("echo 'status: {{token: '$(cat {})'}}'", token.display());
    write(&path, &serve(judge).await, &plugin(&script));
    std::fs::write(&token, "bad").unwrap();
    let look = Duration::from_millis(5);
    let client = connect_looking(Some(&path), look).await.unwrap();
    assert!(ask(&client).await.is_err());
    std::fs::write(&token, "good").unwrap();
    until("it is accepted", async || ask(&client).await.is_ok()).await;
}

/// What goes before a plugin, and what kube cannot take.
#[tokio::test]
async fn a_user_with_two_credentials_or_none_is_understood() {
    let fails = json!({"command": "false", "interactiveMode": "Never"});
    let provider = json!({"name": "gcp", "config": {"cmd-path": "/bin/true"}});
    for (user, wrong) in [
        (json!({"token": "t", "exec": fails}), None),
        (json!({"exec": fails}), Some("false failed")),
        (json!({"token": "t\n"}), Some("the token has a line end")),
        (json!({"auth-provider": provider}), Some("name it as exec")),
    ] {
        let error = error_of(&user).await;
        match (&error, wrong) {
            (None, None) => {}
            (Some(error), Some(wrong)) if error.contains(wrong) => {}
            _ => panic!("{user}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn a_plugin_that_fails_or_says_nothing_says_why() {
    for (script, why) in [
        (
            "echo '{\"status\": {\"token\": \"\"}}'",
            "a token or a certificate",
        ),
        ("echo '\"secret\"'", "with a status"),
        ("echo go away >&2; exit 3", "go away"),
        ("echo '{}'", "printed no ExecCredential"),
        (
            "echo '{\"status\": {}}'",
            "printed no ExecCredential with a token",
        ),
    ] {
        let error = error_of(&plugin(script)).await.unwrap();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn an_authority_without_a_certificate_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (path, authority) = ("kubeconfig", "ca.crt");
    let [path, authority] = [path, authority].map(|name| directory.path().join(name));
    std::fs::write(&authority, "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1", "certificate-authority": authority}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(&path, kubeconfig.to_string()).unwrap();
    let error = connect(Some(&path)).await.err().expect("no authority");
    assert!(
        matches!(error, ConnectError::NoAuthority { .. }),
        "{error:?}"
    );
}
