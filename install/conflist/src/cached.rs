// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What libcni keeps of an ADD until the DEL, in a file below `/var/lib/cni/results` (libcni 0.8.0, `cacheAdd`).

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::network::{Malformed, Network};

/// One attachment, as libcni knows it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cached {
    /// The sandbox.
    pub container_id: String,
    /// The interface in it.
    pub if_name: String,
    /// The network's name.
    pub network_name: String,
    /// `CNI_ARGS`, as pairs.
    #[serde(default)]
    pub cni_args: Option<Vec<(String, String)>>,
    /// What the chain returned.
    pub result: Option<Box<RawValue>>,
    /// The conflist, in base64.
    config: String,
}

impl Cached {
    /// Reads a file's bytes.
    ///
    /// # Errors
    /// When they are not what libcni writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Whether the chain that set it up named our plugin, so that a runtime that goes by this file calls it for the DEL. A
    /// conflist that cannot be read counts as one that does.
    #[must_use]
    pub fn names_ours(&self) -> bool {
        let Ok(conflist) = STANDARD.decode(&self.config) else {
            return true;
        };
        Network::parse("cached.conflist", &conflist).is_ok_and(|it| it.has_ours())
            || Network::parse("cached.conf", &conflist).is_ok_and(|it| it.has_ours())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cached(conflist: &str) -> Cached {
        let text = serde_json::json!({
            "kind": "cniCacheV1",
            "containerId": "c1",
            "config": STANDARD.encode(conflist),
            "ifName": "eth0",
            "networkName": "pods",
            "cniArgs": [["K8S_POD_NAME", "web"]],
            "capabilityArgs": {},
            "result": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]},
        });
        Cached::parse(text.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn an_attachment_says_whether_its_chain_named_ours() {
        let chain = |kind| {
            format!(r#"{{"name": "pods", "plugins": [{{"type": "ptp"}}, {{"type": "{kind}"}}]}}"#)
        };
        assert!(cached(&chain("podgate")).names_ours());
        assert!(!cached(&chain("portmap")).names_ours());
        assert_eq!(cached("{}").cni_args.unwrap()[0].1, "web");
    }

    #[test]
    fn what_is_not_libcnis_is_refused() {
        for text in ["", "{}", r#"{"containerId": 7}"#] {
            assert!(Cached::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
