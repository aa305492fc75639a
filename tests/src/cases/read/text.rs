// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What stands in a file, as it is written.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::cases::case::LabelsEdit;

/// A document of a file.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct CaseText {
    pub(super) name: Spanned<String>,
    pub(super) items: Vec<u8>,
    pub(super) not_on_cluster: Option<String>,
    #[serde(default)]
    pub(super) not_through: NotThroughText,
    #[serde(default)]
    pub(super) namespaces: BTreeMap<String, Option<NamespaceText>>,
    #[serde(default)]
    pub(super) pods: BTreeMap<String, Option<PodText>>,
    #[serde(default)]
    pub(super) policies: BTreeMap<String, Option<Value>>,
    #[serde(default)]
    pub(super) services: BTreeMap<String, Option<Value>>,
    pub(super) expect: Spanned<String>,
    pub(super) opens: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) steps: Vec<StepText>,
}

/// By source, why it cannot express the case.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NotThroughText {
    pub(super) networkpolicies: Option<String>,
    pub(super) policyendpoints: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct StepText {
    pub(super) does: Spanned<String>,
    #[serde(default)]
    pub(super) namespaces: BTreeMap<String, Option<NamespaceText>>,
    #[serde(default)]
    pub(super) pods: BTreeMap<String, Option<PodText>>,
    #[serde(default)]
    pub(super) policies: BTreeMap<String, Option<Value>>,
    #[serde(default)]
    pub(super) services: BTreeMap<String, Option<Value>>,
    pub(super) expect: Spanned<String>,
    pub(super) opens: Option<Spanned<String>>,
    pub(super) opened: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct NamespaceText {
    #[serde(default)]
    pub(super) labels: LabelsEdit,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct PodText {
    #[serde(default)]
    pub(super) labels: LabelsEdit,
    pub(super) node: Option<NodeText>,
    #[serde(default)]
    pub(super) host_network: bool,
    pub(super) addresses_of: Option<String>,
    pub(super) phase: Option<PhaseText>,
}

#[derive(Deserialize)]
pub(super) enum NodeText {
    #[serde(rename = "node-1")]
    One,
    #[serde(rename = "node-2")]
    Two,
}

#[derive(Deserialize)]
pub(super) enum PhaseText {
    Pending,
    Running,
    Succeeded,
    Failed,
}
