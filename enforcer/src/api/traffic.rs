// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is asked of the API server and what comes from it, counted and bounded where every request passes.

use std::future::{Future, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Bytes, HttpBody};
use axum::http::{Method, Request, Response, StatusCode, Uri};
use futures::{StreamExt, TryFutureExt, stream};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper::body::Frame;
use kube::client::{Body, DynBody};
use serde_json::{Map, Value};
use tower::{Layer, Service};

/// Bytes that the body of a refusal may have, which the client takes into memory whole.
const MAX_ERROR_BODY: usize = 64 << 10;

/// Counts requests by their outcome, and the bytes that are received. Bounds the bodies of those that are refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counting;

/// A service whose requests are counted.
#[derive(Debug, Clone)]
pub(super) struct Counted<S> {
    inner: S,
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct About {
    /// The kind of objects, as in URLs.
    kind: String,
    verb: &'static str,
}

impl About {
    /// Reads `/api/v1/…` and `/apis/GROUP/VERSION/…`, each followed by `[namespaces/NAME/]KIND[/NAME]`.
    fn of(method: &Method, uri: &Uri) -> Self {
        let mut parts = uri.path().split('/').filter(|part| !part.is_empty());
        let before = if parts.next() == Some("apis") { 2 } else { 1 };
        let parts: Vec<&str> = parts.skip(before).collect();
        let (kind, is_one) = match parts.as_slice() {
            ["namespaces", _, kind, rest @ ..] | [kind, rest @ ..] => (*kind, !rest.is_empty()),
            [] => ("", false),
        };
        let is_watch = uri
            .query()
            .is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
        Self {
            kind: kind.to_owned(),
            verb: match (method == Method::POST, is_one, is_watch) {
                (true, _, _) => "create",
                (false, true, _) => "get",
                (false, false, true) => "watch",
                (false, false, false) => "list",
            },
        }
    }
}

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counted { inner }
    }
}

type Answer = Response<Box<DynBody>>;

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Answer>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let About { kind, verb } = About::of(request.method(), request.uri());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = match &answer {
                Ok(answer) => answer.status().as_str().to_owned(),
                Err(_) => "none".to_owned(),
            };
            metrics::counter!("podgate_api_requests_total", "kind" => kind.clone(), "verb" => verb, "code" => code)
                .increment(1);
            let received = metrics::counter!("podgate_api_received_bytes_total", "kind" => kind, "verb" => verb);
            let (head, body) = answer?.into_parts();
            let counted = body.map_frame(move |frame| {
                let bytes = frame.data_ref().map_or(0, |data| data.len());
                received.increment(bytes as u64);
                frame
            });
            let is_refused = head.status.is_client_error() || head.status.is_server_error();
            let body: Box<DynBody> = if is_refused {
                Box::new(refusal(counted, head.status))
            } else {
                Box::new(counted)
            };
            Ok(Response::from_parts(head, body))
        })
    }
}

/// The body of a refusal: its first [`MAX_ERROR_BODY`] bytes, or somewhat more, as if they were all.
fn refusal<B>(body: B, status: StatusCode) -> impl HttpBody<Data = Bytes, Error = B::Error> + Unpin
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let frames = BodyStream::new(body).scan(0, |taken, frame| {
        let is_over = *taken >= MAX_ERROR_BODY;
        if let Ok(frame) = &frame {
            *taken += frame.data_ref().map_or(0, Bytes::len);
        }
        ready((!is_over).then_some(frame))
    });
    let whole = Box::pin(BodyExt::collect(StreamBody::new(frames)));
    let said = whole.map_ok(move |whole| Frame::data(with_code(whole.to_bytes(), status)));
    StreamBody::new(Box::pin(stream::once(said)))
}

/// Kubernetes' `Status` has the code of the answer. What has another one, or none, comes from something between the server and
/// us, and kube would take it for a `Status` all the same.
fn with_code(body: Bytes, status: StatusCode) -> Bytes {
    let mut said = match serde_json::from_slice(&body) {
        Ok(Value::Object(said)) => said,
        // It may be an array, which serde takes for a `Status`, too.
        Ok(other) => Map::from_iter([("message".to_owned(), other.to_string().into())]),
        // kube makes a `Status` of a text.
        Err(_) => return body,
    };
    said.insert("code".to_owned(), status.as_u16().into());
    serde_json::to_vec(&said).map_or(body, Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_by_its_url() {
        for (uri, kind, verb) in [
            ("/api/v1/pods?limit=500", "pods", "list"),
            ("/api/v1/pods?limit=500&watch=true", "pods", "watch"),
            ("/api/v1/namespaces?", "namespaces", "list"),
            ("/api/v1/namespaces/a", "namespaces", "get"),
            ("/api/v1/namespaces/a/pods/p?", "pods", "get"),
            (
                "/apis/networking.k8s.io/v1/namespaces/watch=true/networkpolicies",
                "networkpolicies",
                "list",
            ),
            (
                "/apis/discovery.k8s.io/v1/endpointslices?&watch=true",
                "endpointslices",
                "watch",
            ),
            ("/version", "", "list"),
        ] {
            let about = About::of(&Method::GET, &uri.parse().unwrap());
            assert_eq!((about.kind.as_str(), about.verb), (kind, verb), "{uri}");
        }
        let uri = "/apis/events.k8s.io/v1/namespaces/a/events?"
            .parse()
            .unwrap();
        let about = About::of(&Method::POST, &uri);
        assert_eq!((about.kind.as_str(), about.verb), ("events", "create"));
    }
}
