// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What somebody should mend though it keeps no node from being ready, and the object that it is about.

use std::fmt;

use k8s_openapi::api::core::v1;
use kube::Resource;
use podgate_policy::model::ObjectName;

/// A `warning:` line of `/readyz`; and an Event, if it is about an object of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// What is the matter, why, and what a person can do.
    pub text: String,
    /// The object whose owner can do it, and the matter in one word; none: it is the node's own.
    pub about: Option<(Object, Matter)>,
}

impl Warning {
    /// One of an object.
    pub fn about(object: Object, matter: Matter, text: String) -> Self {
        Self {
            text,
            about: Some((object, matter)),
        }
    }

    /// What a namespace stores or asks for does not fit beside what others do, and what that means.
    pub fn suspended(namespace: &str, why: &str, meaning: &str) -> Self {
        let text = format!("namespace {namespace} is suspended: {why}; {meaning}");
        Self::about(
            Object::namespace(namespace),
            Matter::PoliciesSuspended,
            text,
        )
    }
}

impl From<String> for Warning {
    fn from(text: String) -> Self {
        Self { text, about: None }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An object of the API server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Its group and version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace and name. A Namespace is in itself, so that an Event about it is, too; other objects without a
    /// namespace have an empty one.
    pub name: ObjectName,
    /// Its UID, where it is known.
    pub uid: Option<String>,
}

impl Object {
    /// One of the kind `K`.
    pub fn of<K: Resource<DynamicType = ()>>(name: ObjectName, uid: Option<String>) -> Self {
        Self {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            name,
            uid,
        }
    }

    /// A Namespace.
    pub fn namespace(name: &str) -> Self {
        Self::of::<v1::Namespace>(ObjectName::new(name, name), None)
    }
}

/// What is the matter with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Matter {
    /// The policies of a Namespace do not fit beside those of others.
    PoliciesSuspended,
    /// An annotation of a Namespace has a value that means nothing.
    AnnotationInvalid,
    /// A policy has invalid fields; what is invalid allows nothing.
    PolicyInvalid,
    /// No controller has said what a policy allows.
    PolicyEndpointsMissing,
    /// A policy is of a kind that is not enforced.
    PolicyNotEnforced,
    /// A pod has nearly as many flows as it may have.
    FlowLimitNear,
}

impl Matter {
    /// As Events have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::PoliciesSuspended => "PoliciesSuspended",
            Self::AnnotationInvalid => "AnnotationInvalid",
            Self::PolicyInvalid => "PolicyInvalid",
            Self::PolicyEndpointsMissing => "PolicyEndpointsMissing",
            Self::PolicyNotEnforced => "PolicyNotEnforced",
            Self::FlowLimitNear => "FlowLimitNear",
        }
    }
}
