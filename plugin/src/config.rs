// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The network configuration on stdin: what the runtime inserts, and our own keys.

use std::{fmt, path::PathBuf, time::Duration};

use podgate_datapath::{
    Paths,
    record::{AttachmentId, Baseline, PodName},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Code, PluginError};

mod keys;

/// A version of the CNI protocol that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum CniVersion {
    /// The first with `prevResult`.
    #[serde(rename = "0.3.0")]
    V0_3_0,
    /// What kind, GKE, flannel and Calico write.
    #[serde(rename = "0.3.1")]
    V0_3_1,
    /// The first with CHECK, and with `prevResult` on DEL.
    #[serde(rename = "0.4.0")]
    V0_4_0,
    /// The first without a version in each address.
    #[serde(rename = "1.0.0")]
    V1_0_0,
    /// The first with GC and STATUS.
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

/// Every version that we speak, oldest first.
pub(crate) const SUPPORTED: &[CniVersion] = &[
    CniVersion::V0_3_0,
    CniVersion::V0_3_1,
    CniVersion::V0_4_0,
    CniVersion::V1_0_0,
    CniVersion::V1_1_0,
];

impl CniVersion {
    /// The newest that we speak, used while the caller's is not known.
    pub(crate) const LATEST: Self = Self::V1_1_0;
}

/// Standard input, with every value as it was written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(borrow)]
    cni_version: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    prev_result: Option<&'a RawValue>,
    #[serde(borrow)]
    enforcing_mode: Option<&'a RawValue>,
    #[serde(borrow)]
    wait_ms: Option<&'a RawValue>,
    #[serde(borrow)]
    on_timeout: Option<&'a RawValue>,
    #[serde(borrow)]
    socket: Option<&'a RawValue>,
    #[serde(borrow)]
    exempt_namespaces: Option<&'a RawValue>,
    #[serde(borrow)]
    run_dir: Option<&'a RawValue>,
    #[serde(borrow)]
    bpffs_dir: Option<&'a RawValue>,
    #[serde(borrow, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<&'a RawValue>,
    /// The name that libcni uses by mistake, beside the right one.
    #[serde(borrow, rename = "cni.dev/attachments")]
    attachments: Option<&'a RawValue>,
}

/// `enforcingMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EnforcingMode {
    /// Pods are open until a policy selects them.
    Standard,
    /// Pods are closed until a policy opens them.
    Strict,
}

/// `onTimeout`: what becomes of an ADD whose policy is not in force in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnTimeout {
    /// The pod starts: denied in each direction in which a policy of its namespace is known to isolate, and under its baseline in
    /// the others.
    Baseline,
    /// The ADD fails, and the runtime tries again.
    Fail,
}

/// Our own keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Whether a pod without a policy is open or closed.
    pub(crate) enforcing_mode: EnforcingMode,
    /// How long ADD waits for the policy.
    pub(crate) wait: Duration,
    /// What happens when that is not long enough.
    pub(crate) on_timeout: OnTimeout,
    /// The enforcer's socket.
    pub(crate) socket: PathBuf,
    /// Namespaces whose pods are open until a policy selects them, in strict mode too.
    pub(crate) exempt_namespaces: Vec<String>,
    /// The directories of attachments and pins.
    pub(crate) paths: Paths,
}

impl Settings {
    /// The verdict that holds for a pod in a direction in which no known policy isolates it.
    pub(crate) fn baseline(&self, pod: Option<&PodName>) -> Baseline {
        match self.enforcing_mode {
            EnforcingMode::Standard => Baseline::Allow,
            EnforcingMode::Strict => match pod {
                Some(pod) if self.exempt_namespaces.contains(&pod.namespace) => Baseline::Allow,
                Some(_) | None => Baseline::Deny,
            },
        }
    }
}

/// What stdin says.
#[derive(Debug)]
pub(crate) struct Config<'a> {
    /// The protocol version that the caller speaks.
    pub(crate) version: CniVersion,
    /// The network's name.
    pub(crate) network: String,
    /// Our own keys.
    pub(crate) settings: Settings,
    /// The result of the plugin before us, as it was written.
    pub(crate) prev_result: Option<&'a RawValue>,
    /// GC: what is still in use; none where the runtime did not say.
    pub(crate) valid_attachments: Option<Vec<AttachmentId>>,
}

/// A configuration that cannot be used, and the version in which to say so.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) version: CniVersion,
    pub(crate) error: PluginError,
}

impl<'a> Config<'a> {
    /// Reads a configuration; every key that is wrong is named.
    pub(crate) fn read(stdin: &'a [u8]) -> Result<Self, Refused> {
        let latest = |error| Refused {
            version: CniVersion::LATEST,
            error,
        };
        let undecodable = |error| {
            let message = format!("read the network configuration from stdin: {error}");
            latest(PluginError::new(Code::Decode, message))
        };
        let document: Document<'a> = serde_json::from_slice(stdin).map_err(undecodable)?;
        let unknown = keys::unknown(stdin).map_err(undecodable)?;
        let version = read_version(document.cni_version).map_err(latest)?;
        let mut problems = Vec::new();
        let network: String = read_key("name", document.name, &mut problems).unwrap_or_default();
        if network.is_empty() && problems.is_empty() {
            problems.push("name: is missing".to_owned());
        }
        let settings = read_settings(&document, &mut problems);
        let valid_attachments = read_valid_attachments(&document, &mut problems);
        let code = if !problems.is_empty() {
            Code::Config
        } else if !unknown.is_empty() {
            Code::UnsupportedField
        } else {
            return Ok(Self {
                version,
                network,
                settings,
                prev_result: document.prev_result,
                valid_attachments,
            });
        };
        problems.extend(unknown);
        Err(Refused {
            version,
            error: PluginError::new(code, problems.join("; ")),
        })
    }
}

/// Reads as much of our own keys as can be read, whatever else is wrong: what DEL works with.
pub(crate) fn settings_for_del(stdin: &[u8], problems: &mut Vec<String>) -> Settings {
    let document = serde_json::from_slice(stdin).unwrap_or_else(|error| {
        problems.push(format!(
            "read the network configuration from stdin: {error}"
        ));
        Document::default()
    });
    // What cannot be read has been told.
    problems.extend(keys::unknown(stdin).unwrap_or_default());
    read_settings(&document, problems)
}

fn read_version(value: Option<&RawValue>) -> Result<CniVersion, PluginError> {
    // The first versions of the specification had no such key.
    let raw = value.map_or("\"0.1.0\"", RawValue::get);
    let written: String = serde_json::from_str(raw)
        .map_err(|error| PluginError::new(Code::Config, format!("cniVersion: {error}")))?;
    serde_json::from_str(raw).map_err(|_| {
        PluginError::new(
            Code::IncompatibleVersion,
            format!("cniVersion {written:?} is not spoken by podgate"),
        )
        .with_details(
            "podgate speaks 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0; set one of them in the conflist",
        )
    })
}

fn read_settings(document: &Document<'_>, problems: &mut Vec<String>) -> Settings {
    let defaults = Paths::default();
    let run = read_path("runDir", document.run_dir, problems).unwrap_or(defaults.run);
    let bpffs = read_path("bpffsDir", document.bpffs_dir, problems).unwrap_or(defaults.bpffs);
    Settings {
        enforcing_mode: read_key("enforcingMode", document.enforcing_mode, problems)
            .unwrap_or(EnforcingMode::Standard),
        wait: Duration::from_millis(
            read_key::<u32>("waitMs", document.wait_ms, problems)
                .unwrap_or(2000)
                .into(),
        ),
        on_timeout: read_key("onTimeout", document.on_timeout, problems)
            .unwrap_or(OnTimeout::Baseline),
        socket: read_path("socket", document.socket, problems)
            .unwrap_or_else(|| run.join("cni.sock")),
        exempt_namespaces: read_key("exemptNamespaces", document.exempt_namespaces, problems)
            .unwrap_or_else(|| vec!["kube-system".to_owned()]),
        paths: Paths { run, bpffs },
    }
}

/// An attachment as GC lists it.
#[derive(Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

fn read_valid_attachments(
    document: &Document<'_>,
    problems: &mut Vec<String>,
) -> Option<Vec<AttachmentId>> {
    let (key, value) = match document.valid_attachments {
        Some(value) => ("cni.dev/valid-attachments", value),
        None => ("cni.dev/attachments", document.attachments?),
    };
    let listed: Vec<ValidAttachment> = read_key(key, Some(value), problems)?;
    let identity = |listed: ValidAttachment| AttachmentId {
        container_id: listed.container_id,
        ifname: listed.ifname,
    };
    Some(listed.into_iter().map(identity).collect())
}

/// The value of one key. A missing one and `null` are none; a wrong one is none too, and a problem.
fn read_key<T: for<'de> Deserialize<'de>>(
    key: impl fmt::Display,
    value: Option<&RawValue>,
    problems: &mut Vec<String>,
) -> Option<T> {
    match serde_json::from_str(value?.get()) {
        Ok(value) => Some(value),
        Err(error) => {
            problems.push(format!("{key}: {}", without_position(&error.to_string())));
            None
        }
    }
}

/// A parser's message without the position in the value, which is not that in the file.
fn without_position(message: &str) -> &str {
    message
        .split_once(" at line ")
        .map_or(message, |(message, _)| message)
}

fn read_path(key: &str, value: Option<&RawValue>, problems: &mut Vec<String>) -> Option<PathBuf> {
    let path: PathBuf = read_key(key, value, problems)?;
    if path.is_absolute() {
        Some(path)
    } else {
        problems.push(format!("{key}: {path:?} is no absolute path"));
        None
    }
}

#[cfg(test)]
mod tests;
