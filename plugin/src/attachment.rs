//! Attachments as the datapath knows them. The only place that calls it.
//!
//! The datapath is written at the same time; until it is there, nothing can be attached, and ADD says so.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

use crate::{
    config::Config,
    error::{Code, PluginError},
    interface::PodInterface,
    invocation::Sandbox,
};

/// The directories of attachments and pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Paths {
    pub(crate) run: PathBuf,
    pub(crate) bpffs: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            run: "/run/podgate".into(),
            bpffs: "/sys/fs/bpf/podgate".into(),
        }
    }
}

/// One interface of one pod sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) container_id: String,
    pub(crate) ifname: String,
}

/// A pod, as the runtime names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodName {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
}

/// The verdict that holds until a policy is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Baseline {
    /// Everything passes.
    Allow,
    /// Nothing passes.
    Deny,
}

/// Where in the kernel the filters are hung up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// The classic queueing discipline.
    Clsact,
    /// The newer links.
    Tcx,
}

/// Polices a pod's interface with its baseline. Nothing is left behind when it fails.
pub(crate) fn add(
    config: &Config<'_>,
    sandbox: &Sandbox,
    interface: &PodInterface,
    addresses: BTreeSet<IpAddr>,
) -> Result<(), PluginError> {
    let wanted = (
        &sandbox.identity,
        interface,
        addresses,
        config.settings.baseline(sandbox.pod.as_ref()),
    );
    Err(PluginError::new(
        Code::Attach,
        format!("this build cannot attach yet; wanted {wanted:?}"),
    ))
}

/// Takes an attachment away. One that does not exist is no error.
pub(crate) fn remove(_paths: &Paths, _identity: &Identity) -> Result<(), PluginError> {
    Ok(())
}

/// Whether an attachment is as ADD left it.
pub(crate) fn check(_paths: &Paths, identity: &Identity) -> Result<(), PluginError> {
    Err(PluginError::new(
        Code::Check,
        format!("there is no attachment {identity:?}"),
    ))
}

/// The identities of all attachments of one network, and what is wrong with files that cannot be read.
pub(crate) fn of_network(
    _paths: &Paths,
    _network: &str,
) -> Result<(Vec<Identity>, Vec<String>), PluginError> {
    Ok((Vec::new(), Vec::new()))
}
