// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An API server small enough to be sent away and back at will: lists, watches and single objects over plain HTTP.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::Node;

/// How often a watch looks for news.
const LOOK: Duration = Duration::from_millis(10);

/// The kinds that the enforcer reads, each with the API group in its URLs and the version in its objects.
const KINDS: [(&str, &str, &str); 6] = [
    ("nodes", "Node", "v1"),
    ("namespaces", "Namespace", "v1"),
    ("pods", "Pod", "v1"),
    ("services", "Service", "v1"),
    ("endpointslices", "EndpointSlice", "discovery.k8s.io/v1"),
    ("networkpolicies", "NetworkPolicy", "networking.k8s.io/v1"),
];

#[derive(Debug, Default)]
struct State {
    /// The newest last.
    written: Vec<Written>,
    is_away: bool,
}

/// An object, as text: thousands of them that are large are no more than that.
#[derive(Debug)]
struct Written {
    kind: &'static str,
    namespace: String,
    name: String,
    text: Arc<str>,
}

/// The server. It ends with the process.
#[derive(Debug, Clone)]
pub struct Api {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
}

impl Api {
    /// Starts one that is reached on `node` only, and has nothing.
    pub fn start(node: &Node) -> Self {
        let listener = node
            .run(|| TcpListener::bind("127.0.0.1:0"))
            .expect("listen on the node");
        let api = Self {
            state: Arc::default(),
            address: listener.local_addr().expect("its address"),
        };
        let serving = api.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                // A client that goes away in the middle has what it wants.
                thread::spawn(move || serving.serve(stream).ok());
            }
        });
        api
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes an object of this kind, as in URLs, with this rest beside its metadata.
    pub fn create(
        &self,
        kind: &'static str,
        namespace: &str,
        name: &str,
        labels: Value,
        rest: Value,
    ) {
        let mut state = self.state();
        let version = (state.written.len() + 1).to_string();
        let (_, object_kind, api_version) = *KINDS
            .iter()
            .find(|(plural, ..)| *plural == kind)
            .expect("a kind that is served");
        let mut object = json!({
            "apiVersion": api_version, "kind": object_kind,
            "metadata": {"name": name, "uid": format!("{kind}-{name}"), "resourceVersion": version, "labels": labels},
        });
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
            object.extend(rest);
        }
        state.written.push(Written {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            text: object.to_string().into(),
        });
    }

    /// Every connection ends, and new ones get no answer, or no more.
    pub fn goes_away(&self, away: bool) {
        self.state().is_away = away;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with it")
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        for header in lines {
            if header?.is_empty() {
                break;
            }
        }
        if self.state().is_away {
            return Ok(());
        }
        let target = request.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let parts = &parts[if parts.first() == Some(&"apis") { 3 } else { 2 }.min(parts.len())..];
        let (namespace, kind, name) = match parts {
            ["namespaces", namespace, kind, name @ ..] => (Some(*namespace), *kind, name.first()),
            [kind, name @ ..] => (None, *kind, name.first()),
            [] => (None, "", None),
        };
        if query.contains("watch=true") {
            let from = query
                .split('&')
                .find_map(|part| part.strip_prefix("resourceVersion="));
            let from = from.and_then(|from| from.parse().ok()).unwrap_or(0);
            return self.watch(&mut stream, kind, from);
        }
        let (status, body) = self.look_up(kind, namespace, name.copied());
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    fn look_up(&self, kind: &str, namespace: Option<&str>, name: Option<&str>) -> (&str, String) {
        let state = self.state();
        let items: Vec<&str> = state
            .written
            .iter()
            .filter(|it| {
                it.kind == kind
                    && namespace.is_none_or(|namespace| it.namespace == namespace)
                    && name.is_none_or(|name| it.name == name)
            })
            .map(|it| it.text.as_ref())
            .collect();
        if name.is_none() {
            let version = state.written.len();
            let list = format!(
                "{{\"kind\": \"List\", \"apiVersion\": \"v1\", \"metadata\": {{\"resourceVersion\": \"{version}\"}}, \
                 \"items\": [{}]}}",
                items.join(", ")
            );
            return ("200 OK", list);
        }
        match items.first() {
            Some(object) => ("200 OK", object.to_string()),
            None => {
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "not found", "reason": "NotFound", "code": 404,
                });
                ("404 Not Found", status.to_string())
            }
        }
    }

    fn watch(&self, stream: &mut TcpStream, kind: &str, from: usize) -> std::io::Result<()> {
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )?;
        let mut seen = from;
        loop {
            let news: Vec<Arc<str>> = {
                let state = self.state();
                if state.is_away {
                    return Ok(());
                }
                let written = state.written.iter().skip(seen);
                let of_kind = written.filter(|it| it.kind == kind);
                let news = of_kind.map(|it| Arc::clone(&it.text)).collect();
                seen = seen.max(state.written.len());
                news
            };
            for object in news {
                let event = format!("{{\"type\": \"ADDED\", \"object\": {object}}}\n");
                write!(stream, "{:x}\r\n{event}\r\n", event.len())?;
                stream.flush()?;
            }
            thread::sleep(LOOK);
        }
    }
}
