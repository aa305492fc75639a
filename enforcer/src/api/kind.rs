// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A kind of objects, and one object of it as the API server sent it, trimmed to what is kept.
//!
//! An object is converted while it is parsed, so that a page of a list never holds what nobody reads. One that does
//! not fit its type is salvaged part by part: it is present as invalid, and the watch goes on for the others.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::Resource;
use kube::core::ObjectMeta;
use podgate_policy::model::ObjectName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::convert::{Complaint, Converted};
use crate::warning::Matter;

/// How many complaints about one object are told.
const TOLD: usize = 20;

/// A kind of objects that a source watches.
pub trait Kind: Debug + Clone + Send + Sync + 'static {
    /// The objects as the API server has them.
    type Object: Resource<DynamicType = ()> + DeserializeOwned;
    /// What is kept of an object.
    type Value: Debug + Clone + PartialEq + Send + Sync + 'static;

    /// The objects in logs and metrics, as in URLs: `pods`.
    const NAME: &'static str;
    /// Which of them are watched; an object that leaves the selection arrives as deleted.
    const FIELDS: Option<&'static str> = None;
    /// What it means when the API server does not have the kind.
    const MISSING: Missing = Missing::Awaited("");
    /// What is the matter with an object that is wrong in part, if its owner is told by an Event: of policies. Other
    /// objects are controllers' work, and many.
    const WRONG: Option<Matter> = None;

    /// What it means that the objects of a namespace are kept closed, and what a person can do.
    const CLOSED: &'static str = "";

    /// What is kept of an object, beside what is wrong with it.
    fn convert(object: &Self::Object) -> Converted<Self::Value>;

    /// What an object takes of the enforcer's memory, in bytes. A namespace whose objects do not fit has them kept closed.
    fn bytes(_: &Self::Value) -> usize {
        0
    }

    /// What is kept of an object for which there is no room: so much that what is not known of it allows nothing.
    fn closed(value: &Self::Value) -> Self::Value {
        value.clone()
    }

    /// What stands for an object that does not fit its type, and whose isolation must not be lost.
    fn salvage(parts: &Parts) -> Self::Value;
}

/// What it means when the API server does not have a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// An error, until it comes. With what a person can do about it, after a semicolon.
    Awaited(&'static str),
    /// There are no objects of it. It is looked whether it has come.
    Empty,
}

/// An object that does not fit its type, part by part.
#[derive(Debug)]
pub struct Parts {
    object: Value,
}

impl Parts {
    /// Its metadata, as far as they can be read.
    pub fn metadata(&self) -> ObjectMeta {
        let text = |field: &str| {
            let value = self.object.pointer(&format!("/metadata/{field}"))?;
            value.as_str().map(str::to_owned)
        };
        let texts = |field: &str| {
            let all = self.object.pointer(&format!("/metadata/{field}"))?;
            let readable = all.as_object()?.iter().filter_map(|(key, value)| {
                value.as_str().map(|value| (key.clone(), value.to_owned()))
            });
            Some(readable.collect())
        };
        let time = |field: &str| {
            let value = self.object.pointer(&format!("/metadata/{field}"))?;
            Time::deserialize(value).ok()
        };
        let owners = self.object.pointer("/metadata/ownerReferences");
        let owners = owners.and_then(Value::as_array);
        ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            labels: texts("labels"),
            annotations: texts("annotations"),
            deletion_timestamp: time("deletionTimestamp"),
            owner_references: owners.map(|owners| owners.iter().map(owner).collect()),
            ..ObjectMeta::default()
        }
    }

    /// A part, such as `spec`, if it can be read.
    pub fn part<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        T::deserialize(self.object.get(name)?).ok()
    }

    /// What is at a JSON pointer, such as `/spec/clusterIP`; none if that is nothing or null.
    pub fn at(&self, pointer: &str) -> Option<&Value> {
        let found = self.object.pointer(pointer);
        found.filter(|value| !value.is_null())
    }

    /// The text at a JSON pointer, if there is one.
    pub fn text(&self, pointer: &str) -> Option<String> {
        self.at(pointer)?.as_str().map(str::to_owned)
    }

    /// The elements of the list at a JSON pointer; none if there is no list.
    pub fn elements(&self, pointer: &str) -> &[Value] {
        let found = self.at(pointer).and_then(Value::as_array);
        found.map_or(&[], Vec::as_slice)
    }

    /// Whether each of its labels can be read.
    pub fn has_readable_labels(&self) -> bool {
        self.at("/metadata/labels").is_none_or(|labels| {
            let labels = labels.as_object();
            labels.is_some_and(|labels| labels.values().all(Value::is_string))
        })
    }
}

/// An owner, as far as it can be read.
fn owner(reference: &Value) -> OwnerReference {
    let text = |field: &str| {
        let value = reference.get(field).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let flag = |field: &str| reference.get(field)?.as_bool();
    OwnerReference {
        api_version: text("apiVersion"),
        kind: text("kind"),
        name: text("name"),
        uid: text("uid"),
        controller: flag("controller"),
        block_owner_deletion: flag("blockOwnerDeletion"),
    }
}

/// One object as it was seen.
#[derive(Debug, Clone)]
pub struct Seen<K: Kind> {
    /// Its name, namespace, UID and resource version; nothing else.
    metadata: ObjectMeta,
    /// What is kept of it.
    pub value: K::Value,
    /// What is wrong with it, each with its field and what would be right.
    pub complaints: Vec<String>,
}

impl<K: Kind> Seen<K> {
    /// Its namespace, which is empty for a kind without namespaces, and its name.
    pub fn name(&self) -> ObjectName {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        ObjectName {
            namespace: part(&self.metadata.namespace),
            name: part(&self.metadata.name),
        }
    }

    /// Its UID.
    pub fn uid(&self) -> Option<&str> {
        self.metadata.uid.as_deref()
    }

    /// The version of this state of it.
    pub fn version(&self) -> Option<&str> {
        let version = self.metadata.resource_version.as_deref();
        version.filter(|version| !version.is_empty())
    }

    /// Reads one from its text.
    ///
    /// # Errors
    /// When that is no JSON.
    pub(super) fn read(text: &[u8]) -> serde_json::Result<Self> {
        match serde_json::from_slice::<K::Object>(text) {
            Ok(object) => Ok(Self::converted(&object)),
            // A tree takes many times as much memory, so only what does not fit is made one.
            Err(_) => Ok(Self::of(serde_json::from_slice(text)?)),
        }
    }

    fn converted(object: &K::Object) -> Self {
        let Converted { value, complaints } = K::convert(object);
        Self {
            metadata: identity(object.meta()),
            value,
            complaints: first_of(&complaints),
        }
    }

    fn of(object: Value) -> Self {
        let error = match K::Object::deserialize(&object) {
            Ok(object) => return Self::converted(&object),
            Err(error) => error,
        };
        let parts = Parts { object };
        Self {
            metadata: identity(&parts.metadata()),
            value: K::salvage(&parts),
            complaints: vec![format!(
                "cannot be read by this version of podgate: {error}"
            )],
        }
    }
}

/// The first complaints about an object, and how many more there are.
fn first_of(complaints: &[Complaint]) -> Vec<String> {
    let mut told: Vec<String> = complaints
        .iter()
        .take(TOLD)
        .map(ToString::to_string)
        .collect();
    if let Some(more @ 1..) = complaints.len().checked_sub(TOLD) {
        told.push(format!("{more} more like these"));
    }
    told
}

/// What tells one state of one object from all others.
fn identity(metadata: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        ..ObjectMeta::default()
    }
}

impl<'de, K: Kind> Deserialize<'de> for Seen<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::of)
    }
}

impl<K: Kind> Resource for Seen<K> {
    type DynamicType = ();
    type Scope = <K::Object as Resource>::Scope;

    fn kind((): &()) -> std::borrow::Cow<'_, str> {
        K::Object::kind(&())
    }

    fn group((): &()) -> std::borrow::Cow<'_, str> {
        K::Object::group(&())
    }

    fn version((): &()) -> std::borrow::Cow<'_, str> {
        K::Object::version(&())
    }

    fn plural((): &()) -> std::borrow::Cow<'_, str> {
        K::Object::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
