// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a runtime is told when something cannot be done. The only place with CNI error numbers.

use std::error::Error;

/// The numbers of the CNI specification up to 99, and our own from 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Code {
    /// The configuration's `cniVersion` is not one of ours, or is too old for the verb.
    IncompatibleVersion = 1,
    /// The network configuration has keys that nobody knows; the message names each with its value.
    UnsupportedField = 2,
    /// A `CNI_*` variable is missing or wrong; the message names each.
    Environment = 4,
    /// Standard input or output failed.
    Io = 5,
    /// Standard input is no JSON object.
    Decode = 6,
    /// The network configuration is wrong; the message names each key.
    Config = 7,
    /// `CNI_NETNS` is no network namespace, or is the node's own.
    Netns = 8,
    /// The enforcer did not put the pod's policy in force in time, and `onTimeout` is `fail`.
    TryAgainLater = 11,
    /// STATUS: the mode is strict and the enforcer does not answer, so pods would start without network.
    NotAvailable = 50,
    /// The pod has no interface of this name.
    InterfaceMissing = 100,
    /// The pod's interface is no veth; podgate polices no other kind.
    InterfaceKind = 101,
    /// The other end of the pod's veth is not in the node's namespace, or does not point back.
    HostEnd = 102,
    /// The kernel could not be asked about interfaces, addresses or namespaces.
    Netlink = 103,
    /// The record or the filters could not be put in place.
    Attach = 104,
    /// CHECK: the attachment is not as ADD left it.
    Check = 105,
    /// GC: some attachments could not be read or removed; the others were removed.
    Gc = 106,
    /// The node's kernel is older than podgate supports.
    Kernel = 107,
}

/// An error as the runtime gets to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PluginError {
    pub(crate) code: Code,
    /// What went wrong, in one line.
    pub(crate) message: String,
    /// Why, and what can be done about it. May be empty.
    pub(crate) details: String,
}

impl PluginError {
    /// An error without details.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    /// Adds what a person can do, or what else is known.
    pub(crate) fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// An error that says what `error` and its causes say.
    pub(crate) fn from_error(code: Code, error: &dyn Error) -> Self {
        Self::new(code, chain(error))
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
