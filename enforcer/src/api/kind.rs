// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A kind of objects, and one object of it as the API server sent it, trimmed to what is kept.
//!
//! An object is converted while it is parsed, so that a page of a list never holds what nobody reads. One that does
//! not fit its type is salvaged part by part: it is present as invalid, and the watch goes on for the others. So is one
//! of which nothing can be read, without a name.

use std::fmt::{Debug, Display};

use kube::Resource;
use kube::core::ObjectMeta;
use podgate_policy::model::ObjectName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::parts::Parts;
use crate::convert::{Converted, FieldError};
use crate::warning::Matter;

/// How many errors about one object are reported.
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
    /// What is the matter with an object with invalid fields, if its owner is told by an Event: of policies. Other
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
    fn from_malformed(parts: &Parts) -> Self::Value;
}

/// What it means when the API server does not have a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// What is reported until it comes. With what a person can do about it, after a semicolon.
    Awaited(&'static str),
    /// There are no objects of it. It is looked whether it has come.
    Empty,
}

/// One object as it was seen.
#[derive(Debug, Clone)]
pub struct Seen<K: Kind> {
    /// Its name, namespace, UID and resource version; nothing else.
    metadata: ObjectMeta,
    /// What is kept of it.
    pub value: K::Value,
    /// What is wrong with it, each with its field and what would be right.
    pub errors: Vec<String>,
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

    /// Reads one from its text, as far as that can be read.
    pub(super) fn read(text: &str) -> Self {
        let parts = match Parts::of(text) {
            Ok(parts) => parts,
            Err(error) => return Self::salvaged(&Parts::default(), &error),
        };
        match parts.whole::<K::Object>() {
            Ok(object) => Self::converted(&object),
            Err(why) => Self::salvaged(&parts, &why),
        }
    }

    fn converted(object: &K::Object) -> Self {
        let Converted { value, errors } = K::convert(object);
        Self {
            metadata: identity(object.meta()),
            value,
            errors: first_of(&errors),
        }
    }

    fn salvaged(parts: &Parts, why: &dyn Display) -> Self {
        Self {
            metadata: identity(&parts.metadata()),
            value: K::from_malformed(parts),
            errors: vec![format!("cannot be read by this version of podgate: {why}")],
        }
    }
}

/// The first errors about an object, and how many more there are.
fn first_of(errors: &[FieldError]) -> Vec<String> {
    let mut told: Vec<String> = errors.iter().take(TOLD).map(ToString::to_string).collect();
    if let Some(more @ 1..) = errors.len().checked_sub(TOLD) {
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
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self::read(text.get()))
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
