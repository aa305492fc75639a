// SPDX-License-Identifier: Apache-2.0 OR MIT
use alloc::string::String;
use core::fmt;

/// Which attachment: one interface of one pod sandbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentId {
    /// The sandbox (`CNI_CONTAINERID`).
    pub container_id: String,
    /// The interface's name in it (`CNI_IFNAME`).
    pub ifname: String,
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.container_id, self.ifname)
    }
}

/// A pod as the runtime named it at ADD.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, if the runtime said it.
    pub uid: Option<String>,
}
