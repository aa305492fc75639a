// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How the types of `podgate_core` are written in an attachment's file.

use podgate_core::{AttachmentId, Baseline, PodName, Slot};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(remote = "AttachmentId")]
pub(super) struct AttachmentIdJson {
    container_id: String,
    ifname: String,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Baseline", rename_all = "lowercase")]
pub(super) enum BaselineJson {
    Allow,
    Deny,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "PodName")]
struct PodNameJson {
    namespace: String,
    name: String,
    uid: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Slot", transparent)]
pub(super) struct SlotJson(u32);

/// The pod, or `null`.
pub(super) mod pod {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{PodName, PodNameJson};

    #[derive(Serialize)]
    struct Borrowed<'a>(#[serde(with = "PodNameJson")] &'a PodName);

    #[derive(Deserialize)]
    struct Owned(#[serde(with = "PodNameJson")] PodName);

    pub(in super::super) fn serialize<S: Serializer>(
        pod: &Option<PodName>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        pod.as_ref().map(Borrowed).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PodName>, D::Error> {
        let pod = Option::<Owned>::deserialize(deserializer)?;
        Ok(pod.map(|Owned(pod)| pod))
    }
}
