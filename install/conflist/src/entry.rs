// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Our plugin's object in a chain.

use serde_json::value::RawValue;
use thiserror::Error;

use crate::object::Object;

/// Our plugin's object, as it stands in a chain: `{"type": "podgate", …}`. Its other keys are the plugin's to check.
#[derive(Debug, Clone)]
pub struct Entry {
    text: String,
    object: Object,
}

/// Why a text is no entry.
#[derive(Debug, Error)]
pub enum EntryError {
    /// It is not a JSON object.
    #[error("the plugin's entry is not a JSON object: {0}")]
    Json(#[from] serde_json::Error),
    /// Another plugin's.
    #[error("the plugin's entry needs \"type\": \"{ours}\"", ours = Entry::TYPE)]
    Type,
}

impl Entry {
    /// The plugin's `type`, which is the name of its program.
    pub const TYPE: &'static str = "podgate";

    /// Reads the JSON text of an entry.
    ///
    /// # Errors
    /// When the text is not a JSON object with our plugin's `type`.
    pub fn parse(text: &str) -> Result<Self, EntryError> {
        let raw: &RawValue = serde_json::from_str(text)?;
        let object: Object = serde_json::from_str(raw.get())?;
        match object.get_as::<String>("type") {
            Some(Ok(kind)) if kind == Self::TYPE => Ok(Self {
                text: raw.get().to_owned(),
                object,
            }),
            Some(Ok(_) | Err(_)) | None => Err(EntryError::Type),
        }
    }

    /// As it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// A file that adds the plugin to a network from outside of its conflist (libcni 1.3.0, `LoadNetworkConf`): the entry with
    /// the network's version.
    pub(crate) fn drop_in(&self, version: Option<&str>) -> String {
        let version = version.map(|it| ("cniVersion", it));
        let keys = version.into_iter().chain(
            self.object
                .iter()
                .filter(|(key, _)| *key != "cniVersion" || version.is_none()),
        );
        let lines: Vec<String> = keys
            .map(|(key, value)| format!("  {}: {value}", serde_json::Value::from(key)))
            .collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }
}
