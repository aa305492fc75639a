// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Answers of the API server, object by object: what is in memory of a list or a watch is one object and no more, however
//! many come with it.
//!
//! ```text
//! bytes ──► Splitter: elements of `items` one by one, then all else ──► Seen
//!       └─► lines of a watch, one by one ──────────────────────────────► WatchEvent<Seen>
//! ```
//! kube's own list gathers a page of five hundred objects, of up to three megabytes each, before it reads the first.

use std::io;

use futures::AsyncBufReadExt;
use futures::io::AsyncBufRead;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::watch::Bookmark;
use kube::core::{ListMeta, Request, Status};
use kube::{Client, Resource};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::kind::{Kind, Seen};

/// Bytes that an object, or an event, may have. An API server stores objects of 1.5 MiB and less unless it is told
/// otherwise, and its JSON may be several times longer.
const MAX_OBJECT_BYTES: usize = 16 << 20;
/// From how many bytes on room that was needed once is given back.
const KEPT: usize = 1 << 16;

/// The objects of a namespace, or of all, at their URL.
fn request<K: Kind>(namespace: Option<&str>) -> Request {
    Request::new(K::Object::url_path(&(), namespace))
}

/// A page of a list, on its way.
pub(crate) struct Page<R> {
    body: R,
    splitter: Splitter,
}

/// Asks for a page of the list of a kind.
///
/// # Errors
/// When the server refuses, or is not reached.
pub(crate) async fn list<K: Kind>(
    client: &Client,
    namespace: Option<&str>,
    params: &ListParams,
) -> kube::Result<Page<impl AsyncBufRead + use<K>>> {
    let request = request::<K>(namespace).list(params);
    let request = request.map_err(kube::Error::BuildRequest)?;
    Ok(Page {
        body: client.request_stream(request).await?,
        splitter: Splitter::default(),
    })
}

impl<R: AsyncBufRead + Unpin> Page<R> {
    /// The next object; none: there is no more, and this is what the page says of itself.
    ///
    /// # Errors
    /// When it cannot be read to its end.
    pub(crate) async fn next<K: Kind>(&mut self) -> kube::Result<Result<Seen<K>, ListMeta>> {
        loop {
            let bytes = self
                .body
                .fill_buf()
                .await
                .map_err(kube::Error::ReadEvents)?;
            if bytes.is_empty() {
                let page: Beside = serde_json::from_slice(&self.splitter.beside)
                    .map_err(kube::Error::SerdeError)?;
                return Ok(Err(page.metadata));
            }
            let (read, is_whole) = self.splitter.take(bytes);
            self.body.consume_unpin(read);
            let longest = self.splitter.element.len().max(self.splitter.beside.len());
            within_bounds(longest).map_err(kube::Error::ReadEvents)?;
            if is_whole {
                // Some of it is what clients wrote, byte by byte.
                let seen = Seen::read(&String::from_utf8_lossy(&self.splitter.element));
                self.splitter.forget();
                return Ok(Ok(seen));
            }
        }
    }
}

/// A page without its objects.
#[derive(Deserialize)]
struct Beside {
    #[serde(default)]
    metadata: ListMeta,
}

/// Takes the elements of `items` out of a JSON object, wherever it is cut to pieces.
#[derive(Debug, Default)]
struct Splitter {
    /// How many lists and objects are open.
    depth: usize,
    /// Whether this is in a text, and whether its next byte is escaped.
    in_text: bool,
    is_escaped: bool,
    /// The text that was read last directly in the outermost object.
    last: Vec<u8>,
    in_items: bool,
    /// What is read of the element.
    element: Vec<u8>,
    /// All that is no element.
    beside: Vec<u8>,
}

impl Splitter {
    /// Takes some bytes: how many, and whether an element is whole now.
    fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        for (at, byte) in bytes.iter().enumerate() {
            if self.take_one(*byte) {
                return (at + 1, true);
            }
        }
        (bytes.len(), false)
    }

    fn take_one(&mut self, byte: u8) -> bool {
        let of_element = self.in_items && (self.depth > 2 || byte == b'{');
        if self.in_text {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_text = false,
                _ => {}
            }
            if self.in_text && self.depth == 1 {
                self.last.push(byte);
            }
        } else {
            match byte {
                b'"' => {
                    self.in_text = true;
                    self.last.clear();
                }
                b'{' | b'[' => {
                    self.in_items |= self.depth == 1 && byte == b'[' && self.last == b"items";
                    self.depth += 1;
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.in_items &= self.depth > 1;
                }
                // Between elements.
                b',' if self.in_items && self.depth == 2 => return false,
                _ => {}
            }
        }
        if !of_element {
            self.beside.push(byte);
            return false;
        }
        self.element.push(byte);
        self.depth == 2 && !self.in_text
    }

    /// The element was used.
    fn forget(&mut self) {
        if self.element.capacity() > KEPT {
            self.element = Vec::new();
        }
        self.element.clear();
    }
}

/// What comes next of a watch.
pub(crate) enum Next<K: Kind> {
    /// An event.
    Event(Box<WatchEvent<Seen<K>>>),
    /// The server has ended the watch: it has said all that it had to say.
    Ended,
    /// The connection ended between two events, which may have been on their way.
    Cut,
}

/// What a watch says, line by line.
pub(crate) struct Events<R> {
    body: R,
    /// What has come of the next line.
    line: Vec<u8>,
}

/// Begins to watch a kind.
///
/// # Errors
/// When the server refuses, or is not reached.
pub(crate) async fn watch<K: Kind>(
    client: &Client,
    params: &WatchParams,
    version: &str,
) -> kube::Result<Events<impl AsyncBufRead + use<K>>> {
    let request = request::<K>(None).watch(params, version);
    let request = request.map_err(kube::Error::BuildRequest)?;
    Ok(Events {
        body: client.request_stream(request).await?,
        line: Vec::new(),
    })
}

/// A line of a watch.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

impl<R: AsyncBufRead + Unpin> Events<R> {
    /// What comes next. What is not awaited to its end loses nothing.
    ///
    /// # Errors
    /// When it cannot be read, or ends within an event.
    pub(crate) async fn next<K: Kind>(&mut self) -> kube::Result<Next<K>> {
        loop {
            match self.read_line().await {
                Ok(()) => {}
                Err(error) if is_cut(&error) && self.line.trim_ascii().is_empty() => {
                    return Ok(Next::Cut);
                }
                Err(error) => return Err(kube::Error::ReadEvents(error)),
            }
            let is_last = self.line.last() != Some(&b'\n');
            let line = std::mem::take(&mut self.line);
            match (line.trim_ascii().is_empty(), is_last) {
                (true, true) => return Ok(Next::Ended),
                (true, false) => continue,
                (false, _) => {}
            }
            return match event(&line) {
                Ok(event) => Ok(Next::Event(Box::new(event))),
                // The rest of it will not come.
                Err(error) if is_last && error.is_eof() => {
                    let end = io::ErrorKind::UnexpectedEof;
                    let within = io::Error::new(end, "the watch ended within an event");
                    Err(kube::Error::ReadEvents(within))
                }
                Err(error) => Err(match refusal(&line) {
                    Some(status) => kube::Error::Api(status.boxed()),
                    None => kube::Error::SerdeError(error),
                }),
            };
        }
    }
}

impl<R: AsyncBufRead + Unpin> Events<R> {
    /// Reads up to the end of a line, or of the watch.
    async fn read_line(&mut self) -> io::Result<()> {
        loop {
            let bytes = self.body.fill_buf().await?;
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let read = end.map_or(bytes.len(), |end| end + 1);
            let is_whole = end.is_some() || bytes.is_empty();
            self.line.extend_from_slice(&bytes[..read]);
            self.body.consume_unpin(read);
            if is_whole {
                return Ok(());
            }
            within_bounds(self.line.len())?;
        }
    }
}

/// Whether something of which so many bytes have come may go on.
fn within_bounds(bytes: usize) -> io::Result<()> {
    if bytes <= MAX_OBJECT_BYTES {
        return Ok(());
    }
    let text = format!(
        "an object of more than {} MiB, which none may have",
        MAX_OBJECT_BYTES >> 20
    );
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

fn event<K: Kind>(line: &[u8]) -> serde_json::Result<WatchEvent<Seen<K>>> {
    // An object may have bytes in it that are no text.
    let line = String::from_utf8_lossy(line);
    let Line { kind, object } = serde_json::from_str(&line)?;
    let seen = || Seen::read(object.get());
    Ok(match kind.as_str() {
        "ADDED" => WatchEvent::Added(seen()),
        "MODIFIED" => WatchEvent::Modified(seen()),
        "DELETED" => WatchEvent::Deleted(seen()),
        "BOOKMARK" => WatchEvent::Bookmark(serde_json::from_str::<Bookmark>(object.get())?),
        "ERROR" => WatchEvent::Error(Box::new(serde_json::from_str::<Status>(object.get())?)),
        other => {
            let unknown = format!("a watch says {other:?}, which is no event");
            return Err(serde::de::Error::custom(unknown));
        }
    })
}

/// What the server says in place of a watch.
fn refusal(line: &[u8]) -> Option<Status> {
    #[derive(Deserialize)]
    struct Kinded {
        kind: String,
    }
    // Everything in a Status may be absent, so any object could be read as one.
    let Kinded { kind } = serde_json::from_slice(line).ok()?;
    (kind == "Status").then(|| serde_json::from_slice(line).ok())?
}

fn is_cut(error: &io::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(
                error.kind(),
                io::ErrorKind::TimedOut | io::ErrorKind::UnexpectedEof
            )
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// The elements, and what is beside them, of a text that comes in pieces of this size.
    fn split(text: &str, size: usize) -> (Vec<Value>, Value) {
        let mut splitter = Splitter::default();
        let mut elements = Vec::new();
        for mut piece in text.as_bytes().chunks(size) {
            while !piece.is_empty() {
                let (read, is_whole) = splitter.take(piece);
                piece = &piece[read..];
                if is_whole {
                    elements.push(serde_json::from_slice(&splitter.element).unwrap());
                    splitter.forget();
                }
            }
        }
        (elements, serde_json::from_slice(&splitter.beside).unwrap())
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            "[\\[\\]{}\",:\\\\ aé]{0,6}".prop_map(Value::from),
            Just(Value::from("items")),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            let key = prop_oneof![Just("items".to_owned()), "[a\"\\\\{\\[]{0,3}"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec((key, inner), 0..3)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn elements_come_one_by_one_wherever_the_text_is_cut(
            items in prop::collection::vec(prop::collection::vec(("[a-z]{1,5}", values()), 0..3), 0..4),
            before in values(),
            after in values(),
            size in 1_usize..9,
            pretty in any::<bool>(),
        ) {
            let items: Vec<Value> = items
                .into_iter()
                .map(|entries| Value::Object(entries.into_iter().collect()))
                .collect();
            // `a` before and `z` after it, as maps are sorted.
            let whole = json!({"a": before, "items": items.clone(), "z": after});
            let text = if pretty { serde_json::to_string_pretty(&whole) } else { serde_json::to_string(&whole) };
            let (elements, beside) = split(&text.unwrap(), size);
            prop_assert_eq!(elements, items);
            prop_assert_eq!(beside, json!({"a": whole["a"], "items": [], "z": whole["z"]}));
        }
    }
}
