// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A conflist as a file has it.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::CniError;

/// A network configuration list, as it lies in `/etc/cni/net.d`.
#[derive(Debug, Clone, Deserialize)]
pub struct Conflist {
    /// The version of the protocol that its plugins are spoken to in.
    #[serde(rename = "cniVersion")]
    pub cni_version: String,
    /// The name of the network.
    pub name: String,
    /// The configuration of each plugin, in the order of ADD.
    pub plugins: Vec<Map<String, Value>>,
}

impl Conflist {
    /// Reads the conflist in the file `path`.
    ///
    /// # Errors
    /// [`CniError::Conflist`]: the file is missing, no JSON, or lacks a name, a version or plugins with a type.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, CniError> {
        let path = path.as_ref();
        let failed = |reason: String| CniError::Conflist {
            path: path.to_owned(),
            reason,
        };
        let text = fs::read(path).map_err(|e| failed(e.to_string()))?;
        let list: Self = serde_json::from_slice(&text).map_err(|e| failed(e.to_string()))?;
        if list
            .plugins
            .iter()
            .any(|plugin| plugin_type(plugin).is_empty())
        {
            return Err(failed("a plugin has no type".into()));
        }
        Ok(list)
    }

    /// Sets `key` of every plugin of type `plugin`.
    #[must_use]
    pub fn with(mut self, plugin: &str, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        for config in self
            .plugins
            .iter_mut()
            .filter(|config| plugin_type(config) == plugin)
        {
            config.insert(key.into(), value.clone());
        }
        self
    }
}

/// The type of the plugin that `config` configures; empty if it has none.
pub(super) fn plugin_type(config: &Map<String, Value>) -> &str {
    config
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
}
