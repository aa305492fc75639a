// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One file: its bytes to the objects that it holds, all of them or none.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::{core, discovery, networking};
use podgate_policy::model::{EndpointSlice, Namespace, NetworkPolicy, ObjectName, Service};

use super::node::{Node, Place, Value};
use super::salvage::{self, Extent};
use super::typed;
use crate::convert::{self, Converted, FieldError, FieldPath, pod::IdentifiedPod};

/// How deep a document may be nested: twice what a Pod in a list needs, and far less than a thread's stack bears.
const DEPTH: usize = 32;

/// How many errors of one file are kept. A small file may have far more than there is memory for, and nobody reads them.
const MOST_ERRORS: usize = 100;

/// What is wrong with a file, or with the directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileError {
    /// The file or directory.
    pub path: PathBuf,
    /// The document within the file, counted from 1; empty documents do not count.
    pub document: Option<usize>,
    /// Where in the file.
    pub place: Option<Place>,
    /// The field, from the document's root.
    pub field: Option<FieldPath>,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(document) = self.document {
            write!(f, ", document {document}")?;
        }
        if let Some(place) = self.place {
            write!(f, ", line {}, column {}", place.line, place.column)?;
        }
        match &self.field {
            Some(field) if !field.0.is_empty() => write!(f, ": {field}: {}", self.reason),
            Some(_) | None => write!(f, ": {}", self.reason),
        }
    }
}

impl std::error::Error for FileError {}

/// What tells objects apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ObjectKey {
    /// A Namespace of this name.
    Namespace(String),
    /// A Pod.
    Pod(ObjectName),
    /// A NetworkPolicy.
    Policy(ObjectName),
    /// A Node of this name.
    Node(String),
    /// A Service.
    Service(ObjectName),
    /// An EndpointSlice.
    EndpointSlice(ObjectName),
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Pod(name) => write!(f, "Pod {name}"),
            Self::Policy(name) => write!(f, "NetworkPolicy {name}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Service(name) => write!(f, "Service {name}"),
            Self::EndpointSlice(name) => write!(f, "EndpointSlice {name}"),
        }
    }
}

/// An object of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Object {
    /// A Namespace.
    Namespace(Namespace),
    /// A Pod.
    Pod(Arc<IdentifiedPod>),
    /// A NetworkPolicy.
    Policy(Arc<NetworkPolicy>),
    /// The addresses of a Node.
    Node(Arc<BTreeSet<IpAddr>>),
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
}

/// An object, its name, and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) key: ObjectKey,
    pub(crate) object: Object,
    /// What it takes, whole.
    pub(crate) bytes: usize,
    /// Whether it is not kept whole.
    pub(crate) is_closed: bool,
    pub(crate) document: usize,
    pub(crate) place: Place,
}

/// What there is of a file that is wrong.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// What is wrong: the first [`MOST_ERRORS`].
    pub(crate) errors: Vec<FileError>,
    /// How much more is.
    pub(crate) unlisted: usize,
    /// Whom its policies isolate, as far as that can be read: without rules.
    pub(crate) isolating: Vec<(ObjectName, Arc<NetworkPolicy>)>,
}

impl Wrong {
    /// Keeps so many errors, at least one.
    pub(crate) fn keep(&mut self, most: usize) {
        let kept = self.errors.len().min(most.max(1));
        self.unlisted += self.errors.len() - kept;
        self.errors.truncate(kept);
        self.errors.shrink_to_fit();
    }

    /// What is wrong with the file, and how many errors are not named.
    pub(crate) fn listed(&self, path: &Path) -> impl Iterator<Item = FileError> {
        let more = (self.unlisted > 0).then(|| FileError {
            path: path.to_owned(),
            document: None,
            place: None,
            field: None,
            reason: format!(
                "has {} more errors: mend those that are listed first",
                self.unlisted
            ),
        });
        self.errors.iter().cloned().chain(more)
    }
}

/// The objects of a file, or what is wrong with it. `path` is for the errors only.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Vec<Found>, Wrong> {
    let mut reader = Reader {
        path,
        found: Vec::new(),
        wrong: Wrong::default(),
    };
    if std::str::from_utf8(bytes).is_err() {
        reader.error(
            None,
            None,
            None,
            "is not UTF-8 text: save it as UTF-8".into(),
        );
        return reader.finish();
    }
    let mut rest = bytes;
    for (i, document) in documents(&mut rest).enumerate() {
        match document {
            Ok(node) => reader.object(&node, &node, &FieldPath::default(), i + 1),
            Err(e) => {
                // What follows a syntax error has no meaning.
                let place = e.location().map(Place::from);
                reader.error(Some(i + 1), place, None, e.without_snippet().to_string());
                if let (Some(place), Ok(text)) = (place, std::str::from_utf8(bytes)) {
                    reader.beginning(text, place);
                }
                break;
            }
        }
    }
    reader.finish()
}

/// The documents of a file. Numbers are read as `kubectl` reads them: 0120 is octal.
fn documents(rest: &mut &[u8]) -> impl Iterator<Item = Result<Node, serde_saphyr::Error>> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        legacy_octal_numbers: true,
        budget: serde_saphyr::budget! { max_depth: DEPTH },
    };
    serde_saphyr::read_with_options::<_, Node>(rest, options)
}

/// How many lines in front of a syntax error are given up until what is before them is a document.
const GIVEN_UP: usize = 32;

/// A beginning that is longer is not looked at: it is read up to [`GIVEN_UP`] times.
const LONGEST_BEGINNING: usize = 256 << 10;

/// What the beginning of the document says in which something at `place` is no YAML.
fn beginning(text: &str, place: Place) -> Option<Node> {
    let before = usize::try_from(place.line).ok()?.checked_sub(1)?;
    let lines: Vec<&str> = text.split_inclusive('\n').take(before).collect();
    let begins = lines
        .iter()
        .rposition(|line| line.starts_with("---"))
        .map_or(0, |marker| marker + 1);
    let lines = &lines[begins..];
    if lines.iter().map(|line| line.len()).sum::<usize>() > LONGEST_BEGINNING {
        return None;
    }
    (0..GIVEN_UP.min(lines.len())).find_map(|given_up| {
        let kept = lines[..lines.len() - given_up].concat();
        let mut rest = kept.as_bytes();
        documents(&mut rest).next()?.ok()
    })
}

struct Reader<'a> {
    path: &'a Path,
    found: Vec<Found>,
    wrong: Wrong,
}

impl Reader<'_> {
    fn finish(self) -> Result<Vec<Found>, Wrong> {
        if self.wrong.errors.is_empty() {
            Ok(self.found)
        } else {
            Err(self.wrong)
        }
    }

    fn error(
        &mut self,
        document: Option<usize>,
        place: Option<Place>,
        field: Option<FieldPath>,
        reason: String,
    ) {
        if self.wrong.errors.len() >= MOST_ERRORS {
            self.wrong.unlisted += 1;
            return;
        }
        self.wrong.errors.push(FileError {
            path: self.path.to_owned(),
            document,
            place,
            field,
            reason,
        });
    }

    fn complain(&mut self, root: &Node, prefix: &FieldPath, document: usize, error: FieldError) {
        let mut path = prefix.clone();
        path.0.extend(error.path.0);
        self.error(
            Some(document),
            Some(root.locate(&path)),
            Some(path),
            error.reason,
        );
    }

    /// Notes whom a document isolates of which only the lines in front of `place` can be read.
    fn beginning(&mut self, text: &str, place: Place) {
        let policy =
            beginning(text, place).and_then(|node| salvage::isolating(&node, Extent::Beginning));
        self.wrong.isolating.extend(policy);
    }

    /// Reads the object `node`, which stands at `path` of the document `root`.
    fn object(&mut self, root: &Node, node: &Node, path: &FieldPath, document: usize) {
        let policy = salvage::isolating(node, Extent::Whole);
        self.wrong.isolating.extend(policy);
        let says = |field: &str| node.get(field).and_then(Node::text).unwrap_or_default();
        match (says("apiVersion"), says("kind")) {
            ("v1", "List" | "NamespaceList" | "NodeList" | "PodList" | "ServiceList")
            | ("networking.k8s.io/v1", "NetworkPolicyList")
            | ("discovery.k8s.io/v1", "EndpointSliceList") => {
                self.list(root, node, path, document);
            }
            ("v1", "Namespace") => self.convert(root, node, path, document, |object| {
                convert::namespace::convert(object)
                    .map(|n| (ObjectKey::Namespace(n.name), Object::Namespace(n.namespace)))
            }),
            ("v1", "Pod") => self.convert(root, node, path, document, |object: &core::v1::Pod| {
                convert::pod::convert(object)
                    .map(|p| (ObjectKey::Pod(p.name.clone()), Object::Pod(Arc::new(p))))
            }),
            ("networking.k8s.io/v1", "NetworkPolicy") => {
                self.convert(
                    root,
                    node,
                    path,
                    document,
                    |object: &networking::v1::NetworkPolicy| {
                        convert::network_policy::convert(object)
                            .map(|p| (ObjectKey::Policy(p.name), Object::Policy(p.policy)))
                    },
                );
            }
            ("v1", "Node") => {
                self.convert(root, node, path, document, |object: &core::v1::Node| {
                    convert::node::convert(object)
                        .map(|n| (ObjectKey::Node(n.name), Object::Node(Arc::new(n.addresses))))
                })
            }
            ("v1", "Service") => {
                self.convert(root, node, path, document, |object: &core::v1::Service| {
                    convert::service::convert(object)
                        .map(|s| (ObjectKey::Service(s.name), Object::Service(s.service)))
                });
            }
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                self.convert(
                    root,
                    node,
                    path,
                    document,
                    |object: &discovery::v1::EndpointSlice| {
                        convert::endpoint_slice::convert(object).map(|s| {
                            (
                                ObjectKey::EndpointSlice(s.name),
                                Object::EndpointSlice(s.slice),
                            )
                        })
                    },
                );
            }
            (version, kind) => {
                let reason = format!(
                    "kind {kind:?} of apiVersion {version:?} is not read here: use v1 Namespace, v1 Node, v1 Pod, \
                     v1 Service, networking.k8s.io/v1 NetworkPolicy, discovery.k8s.io/v1 EndpointSlice, \
                     or a List of them"
                );
                self.complain(
                    root,
                    path,
                    document,
                    FieldError {
                        path: FieldPath::default(),
                        reason,
                    },
                );
            }
        }
    }

    fn list(&mut self, root: &Node, node: &Node, path: &FieldPath, document: usize) {
        let Value::Map(entries) = &node.value else {
            return;
        };
        let mut has_items = false;
        for entry in entries {
            let at = FieldPath::default().key(&entry.key);
            match (entry.key.as_str(), &entry.value.value) {
                ("apiVersion" | "kind" | "metadata", _) => {}
                ("items", Value::List(items)) => {
                    has_items = true;
                    for (i, item) in items.iter().enumerate() {
                        self.object(root, item, &path.key("items").index(i), document);
                    }
                }
                ("items", Value::Null) => has_items = true,
                ("items", _) => {
                    has_items = true;
                    self.complain(
                        root,
                        path,
                        document,
                        FieldError {
                            path: at,
                            reason: "is not a list: write each object after a -".into(),
                        },
                    );
                }
                _ => self.complain(
                    root,
                    path,
                    document,
                    FieldError {
                        path: at,
                        reason: "Kubernetes knows no such field of a list: remove it".into(),
                    },
                ),
            }
        }
        if !has_items {
            let reason = "has no items: add them, or remove the list".into();
            self.complain(
                root,
                path,
                document,
                FieldError {
                    path: FieldPath::default(),
                    reason,
                },
            );
        }
    }

    fn convert<T: for<'de> serde::Deserialize<'de>>(
        &mut self,
        root: &Node,
        node: &Node,
        path: &FieldPath,
        document: usize,
        convert: impl FnOnce(&T) -> Converted<(ObjectKey, Object)>,
    ) {
        let errors = match typed::read::<T>(node) {
            Ok(object) => {
                let Converted {
                    value: (key, object),
                    errors,
                } = convert(&object);
                if let Some(first) = self.found.iter().find(|f| f.key == key) {
                    let reason = format!(
                        "{key} is in this file twice, first in document {}, line {}: keep one",
                        first.document, first.place.line
                    );
                    self.complain(
                        root,
                        path,
                        document,
                        FieldError {
                            path: FieldPath::default(),
                            reason,
                        },
                    );
                }
                self.found.push(Found {
                    key,
                    bytes: Found::bytes_of(&object),
                    is_closed: false,
                    object,
                    document,
                    place: node.place,
                });
                errors
            }
            Err(errors) => errors,
        };
        for error in errors {
            self.complain(root, path, document, error);
        }
    }
}
