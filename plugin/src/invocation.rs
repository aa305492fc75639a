// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The `CNI_*` variables: who is asked for what, about which interface of which pod.

use std::{collections::HashMap, ffi::OsString, path::PathBuf};

use podgate_datapath::record::{AttachmentId, PodName};

use crate::error::{Code, PluginError};

/// The longest container ID that is taken: with the interface's name it becomes a file name of at most 255 bytes.
const LONGEST_CONTAINER_ID: usize = 200;
/// `IFNAMSIZ` without its terminator.
const LONGEST_IFNAME: usize = 15;

/// What the runtime wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Police a new interface.
    Add,
    /// Forget an interface.
    Del,
    /// Say whether an interface is still policed.
    Check,
    /// Forget the interfaces that are not listed.
    Gc,
    /// Say whether an ADD could be served.
    Status,
    /// Say which protocol versions are spoken.
    Version,
}

impl Verb {
    /// The verb that `CNI_COMMAND` names.
    pub(crate) fn read(getenv: Getenv<'_>) -> Result<Self, PluginError> {
        let bad = |text: String| PluginError::new(Code::Environment, format!("CNI_COMMAND {text}"));
        let Some(value) = set(getenv, "CNI_COMMAND") else {
            return Err(bad("is not set".into()));
        };
        match value.to_str() {
            Some("ADD") => Ok(Self::Add),
            Some("DEL") => Ok(Self::Del),
            Some("CHECK") => Ok(Self::Check),
            Some("GC") => Ok(Self::Gc),
            Some("STATUS") => Ok(Self::Status),
            Some("VERSION") => Ok(Self::Version),
            Some(_) | None => Err(bad(format!(
                "is {value:?}, not ADD, DEL, CHECK, GC, STATUS or VERSION"
            ))),
        }
    }
}

/// Reads one variable of the environment.
pub(crate) type Getenv<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A variable's value; an empty one counts as missing, because runtimes set them all.
fn set(getenv: Getenv<'_>, name: &str) -> Option<OsString> {
    getenv(name).filter(|value| !value.is_empty())
}

/// Whom an ADD is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// Container ID and interface name.
    pub(crate) identity: AttachmentId,
    /// `CNI_NETNS`.
    pub(crate) netns: PathBuf,
    /// The pod, if the runtime is one of Kubernetes.
    pub(crate) pod: Option<PodName>,
}

impl Sandbox {
    /// Reads what ADD needs; every variable that is missing or wrong is named.
    pub(crate) fn read(getenv: Getenv<'_>) -> Result<Self, PluginError> {
        let mut problems = Vec::new();
        let identity = read_identity(getenv, &mut problems);
        let netns = set(getenv, "CNI_NETNS").map(PathBuf::from);
        match &netns {
            None => problems.push("CNI_NETNS is not set".to_owned()),
            Some(path) if !path.is_absolute() => {
                problems.push(format!("CNI_NETNS {path:?} is no absolute path"))
            }
            Some(_) => {}
        }
        let pod = read_pod(getenv, &mut problems);
        match (identity, netns) {
            (Some(identity), Some(netns)) if problems.is_empty() => Ok(Self {
                identity,
                netns,
                pod,
            }),
            (_, _) => Err(refused(&problems)),
        }
    }
}

/// Reads the identity alone, which is all that CHECK and DEL need.
pub(crate) fn identity(getenv: Getenv<'_>) -> Result<AttachmentId, PluginError> {
    let mut problems = Vec::new();
    read_identity(getenv, &mut problems).ok_or_else(|| refused(&problems))
}

fn refused(problems: &[String]) -> PluginError {
    PluginError::new(Code::Environment, problems.join("; "))
}

fn read_identity(getenv: Getenv<'_>, problems: &mut Vec<String>) -> Option<AttachmentId> {
    let mut checked = |name: &str, check: fn(&str) -> Result<(), &'static str>| {
        let problem = match set(getenv, name).map(OsString::into_string) {
            None => format!("{name} is not set"),
            Some(Err(value)) => format!("{name} {value:?} is not UTF-8"),
            Some(Ok(value)) => match check(&value) {
                Ok(()) => return Some(value),
                Err(why) => format!("{name} {value:?} {why}"),
            },
        };
        problems.push(problem);
        None
    };
    let container_id = checked("CNI_CONTAINERID", check_container_id);
    let ifname = checked("CNI_IFNAME", check_ifname);
    Some(AttachmentId {
        container_id: container_id?,
        ifname: ifname?,
    })
}

/// The specification's rule: a letter or digit, then letters, digits, `_`, `.` and `-`.
fn check_container_id(id: &str) -> Result<(), &'static str> {
    if id.len() > LONGEST_CONTAINER_ID {
        Err("is longer than 200 characters")
    } else if !id.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Err("does not begin with a letter or digit")
    } else if !id
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
    {
        Err("has characters other than letters, digits, '_', '.' and '-'")
    } else {
        Ok(())
    }
}

/// The kernel's rule (`dev_valid_name`).
fn check_ifname(name: &str) -> Result<(), &'static str> {
    if name.len() > LONGEST_IFNAME {
        Err("is longer than 15 characters")
    } else if name == "." || name == ".." {
        Err("is no name")
    } else if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        Err("has a slash, a colon, a space or a control character")
    } else {
        Ok(())
    }
}

fn read_pod(getenv: Getenv<'_>, problems: &mut Vec<String>) -> Option<PodName> {
    match set(getenv, "CNI_ARGS")?.into_string() {
        Ok(arguments) => pod_of(&arguments),
        Err(value) => {
            problems.push(format!("CNI_ARGS {value:?} is not UTF-8"));
            None
        }
    }
}

/// The pod that `CNI_ARGS` names. Its parts come in any order; those that are not ours are ignored.
fn pod_of(arguments: &str) -> Option<PodName> {
    let mut values: HashMap<&str, &str> = arguments
        .split(';')
        .filter_map(|argument| argument.split_once('='))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    Some(PodName {
        namespace: values.remove("K8S_POD_NAMESPACE")?.to_owned(),
        name: values.remove("K8S_POD_NAME")?.to_owned(),
        uid: values.remove("K8S_POD_UID").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        |name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.into())
        }
    }

    #[test]
    fn the_pod_is_read_from_arguments_in_any_order() {
        let pod = PodName {
            namespace: "stars".into(),
            name: "backend-0".into(),
            uid: Some("u-1".into()),
        };
        for arguments in [
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=stars;K8S_POD_NAME=backend-0;K8S_POD_UID=u-1",
            "K8S_POD_UID=u-1;K8S_POD_NAME=backend-0;K8S_POD_INFRA_CONTAINER_ID=x;K8S_POD_NAMESPACE=stars",
            ";K8S_POD_NAME=backend-0;;K8S_POD_UID=u-1;nonsense;K8S_POD_NAMESPACE=stars;IP=",
        ] {
            assert_eq!(pod_of(arguments), Some(pod.clone()), "{arguments}");
        }
    }

    #[test]
    fn an_argument_is_split_at_its_first_equals_sign() {
        let pod = pod_of("K8S_POD_NAMESPACE=a=b;K8S_POD_NAME=c").unwrap();
        assert_eq!((pod.namespace.as_str(), pod.uid), ("a=b", None));
    }

    #[test]
    fn half_a_pod_is_none() {
        assert_eq!(pod_of("K8S_POD_NAMESPACE=stars"), None);
        assert_eq!(pod_of("K8S_POD_NAMESPACE=;K8S_POD_NAME=x"), None);
    }

    #[test]
    fn every_variable_that_is_missing_or_wrong_is_named_at_once() {
        let error = Sandbox::read(&environment(&[
            ("CNI_CONTAINERID", ""),
            ("CNI_IFNAME", "a/b"),
            ("CNI_NETNS", "x"),
        ]));
        assert_eq!(
            error.unwrap_err(),
            PluginError::new(
                Code::Environment,
                "CNI_CONTAINERID is not set; CNI_IFNAME \"a/b\" has a slash, a colon, a space or a control character; \
                 CNI_NETNS \"x\" is no absolute path"
            )
        );
    }

    #[test]
    fn container_ids_follow_the_specification() {
        for good in ["a", "0", "ABC", "a_b.c-d", &"a".repeat(200)] {
            assert_eq!(check_container_id(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            ".a",
            "-a",
            "_",
            "a/b",
            "a b",
            "../x",
            "é",
            "a\n",
            &"a".repeat(201),
        ] {
            assert!(check_container_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names_follow_the_kernel() {
        for good in ["eth0", "eth0.100", "a", "abcdefghijklmno", "net1@x"] {
            assert_eq!(check_ifname(good), Ok(()), "{good}");
        }
        for bad in [
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "a\tb",
            "abcdefghijklmnop",
            "a\0",
        ] {
            assert!(check_ifname(bad).is_err(), "{bad}");
        }
    }
}
