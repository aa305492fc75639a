// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An object as text, read part by part where it is asked for.
//!
//! Nothing but what is asked for becomes more than the text that it is: JSON without a type takes a hundred times as much
//! memory as its text, and may be nested deeper than it can be read.

use std::cell::Cell;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::Resource;
use kube::core::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde::de::value::MapDeserializer;
use serde_json::value::RawValue;

/// What clients write about who wrote what: of any shape, and nobody here asks for it.
const UNREAD: &str = "managedFields";

/// An object of JSON, one level deep.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Parts<'a> {
    #[serde(borrow)]
    parts: BTreeMap<String, &'a RawValue>,
}

impl<'a> Parts<'a> {
    /// Those of the object that the text is.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn of(text: &'a str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// All of it as what it should be, but for what nobody needs.
    ///
    /// # Errors
    /// What it does not fit, and in which part.
    pub(super) fn whole<T>(&self) -> Result<T, String>
    where
        T: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let metadata = self.metadata_but_unread()?;
        // Some types ask that there be some.
        let none: &RawValue = serde_json::from_str("{}").map_err(|error| error.to_string())?;
        let others = self.parts.iter().filter(|(name, _)| *name != "metadata");
        let others = others.map(|(name, part)| (name.as_str(), *part));
        let mut object: T = typed([("metadata", none)].into_iter().chain(others))?;
        *object.meta_mut() = metadata;
        Ok(object)
    }

    fn metadata_but_unread(&self) -> Result<ObjectMeta, String> {
        let Some(metadata) = self.present("metadata") else {
            return Ok(ObjectMeta::default());
        };
        let within = |why: &dyn std::fmt::Display| format!("metadata: {why}");
        let metadata = Parts::of(metadata.get()).map_err(|error| within(&error))?;
        let read = metadata.parts.iter().filter(|(name, _)| *name != UNREAD);
        typed(read.map(|(name, part)| (name.as_str(), *part))).map_err(|why| within(&why))
    }

    fn present(&self, name: &str) -> Option<&'a RawValue> {
        let part = self.parts.get(name).copied();
        part.filter(|part| part.get() != "null")
    }

    /// Whether there is such a part, and not null.
    pub fn has(&self, name: &str) -> bool {
        self.present(name).is_some()
    }

    /// A part, such as `spec`, if it can be read.
    pub fn part<T: Deserialize<'a>>(&self, name: &str) -> Option<T> {
        read(self.present(name)?)
    }

    /// A part that is a text.
    pub fn text(&self, name: &str) -> Option<String> {
        self.part(name)
    }

    /// The elements that can be read of a part that is a list; none if it is no list.
    pub fn elements<T: Deserialize<'a>>(&self, name: &str) -> Vec<T> {
        let elements: Vec<&RawValue> = self.part(name).unwrap_or_default();
        elements.into_iter().filter_map(read).collect()
    }

    /// Those of its parts that are texts.
    fn texts(&self) -> BTreeMap<String, String> {
        let names = self.parts.keys();
        names
            .filter_map(|name| Some((name.clone(), self.text(name)?)))
            .collect()
    }

    /// Its metadata, as far as they can be read.
    pub fn metadata(&self) -> ObjectMeta {
        let metadata: Parts<'a> = self.part("metadata").unwrap_or_default();
        let texts = |name| Some(metadata.part::<Parts<'a>>(name)?.texts());
        let owners: Option<Vec<&RawValue>> = metadata.part("ownerReferences");
        let owner = |reference| read::<Parts<'a>>(reference).unwrap_or_default().owner();
        ObjectMeta {
            name: metadata.text("name"),
            namespace: metadata.text("namespace"),
            uid: metadata.text("uid"),
            resource_version: metadata.text("resourceVersion"),
            labels: texts("labels"),
            annotations: texts("annotations"),
            deletion_timestamp: metadata.part::<Time>("deletionTimestamp"),
            owner_references: owners.map(|owners| owners.into_iter().map(owner).collect()),
            ..ObjectMeta::default()
        }
    }

    /// An owner, as far as it can be read.
    fn owner(&self) -> OwnerReference {
        let text = |name| self.text(name).unwrap_or_default();
        OwnerReference {
            api_version: text("apiVersion"),
            kind: text("kind"),
            name: text("name"),
            uid: text("uid"),
            controller: self.part("controller"),
            block_owner_deletion: self.part("blockOwnerDeletion"),
        }
    }

    /// Whether each of its labels can be read.
    pub fn has_readable_labels(&self) -> bool {
        if !self.has("metadata") {
            return true;
        }
        self.part::<Parts<'a>>("metadata").is_some_and(|metadata| {
            let labels = || metadata.part::<BTreeMap<String, String>>("labels");
            !metadata.has("labels") || labels().is_some()
        })
    }
}

fn read<'a, T: Deserialize<'a>>(part: &'a RawValue) -> Option<T> {
    serde_json::from_str(part.get()).ok()
}

/// What has these parts; or in which of them it is something else, and what.
fn typed<'a, T: DeserializeOwned>(
    parts: impl Iterator<Item = (&'a str, &'a RawValue)>,
) -> Result<T, String> {
    let last = Cell::new("");
    let parts = parts.inspect(|(name, _)| last.set(name));
    T::deserialize(MapDeserializer::<_, serde_json::Error>::new(parts))
        .map_err(|error| format!("{}: {error}", last.get()))
}
