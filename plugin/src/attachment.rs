// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Attachments as the datapath knows them. The only place that calls it.

use std::{collections::BTreeSet, net::IpAddr};

pub(crate) use podgate_datapath::record::Record;
use podgate_datapath::{
    Paths,
    attach::{self, Request},
    isolated,
    record::{self, AttachmentId, PodName},
    release,
};

use crate::{
    config::Config,
    error::{Code, PluginError, chain},
    interface::PodInterface,
    invocation::Sandbox,
};

mod now;

pub(crate) use now::now;

/// Refuses a kernel that podgate does not support.
pub(crate) fn require_kernel() -> Result<(), PluginError> {
    release::require().map_err(|error| PluginError::from_error(Code::Kernel, &error))
}

/// Polices a pod's interface with its baseline. Nothing is left behind when it fails.
pub(crate) fn add(
    config: &Config<'_>,
    sandbox: &Sandbox,
    interface: &PodInterface,
    addresses: BTreeSet<IpAddr>,
) -> Result<Record, PluginError> {
    let request = Request {
        identity: sandbox.identity.clone(),
        network: config.network.clone(),
        pod: sandbox.pod.clone(),
        netns_inode: interface.netns.inode,
        pod_ifindex: interface.pod_ifindex,
        host_ifindex: interface.host_ifindex,
        pod_mac: interface.mac,
        addresses: addresses.into_iter().collect(),
        broadcasts: interface.broadcasts.iter().copied().collect(),
        baseline: config.settings.baseline(sandbox.pod.as_ref()),
    };
    attach::add(&config.settings.paths, request)
        .map_err(|error| PluginError::from_error(Code::Attach, &error))
}

/// Why ADD could not tell in which directions policies of the pod's namespace isolate, and denied both.
pub(crate) fn doubt(paths: &Paths, pod: Option<&PodName>) -> Option<PluginError> {
    let looked_up = isolated::look_up(paths, &pod?.namespace);
    looked_up
        .err()
        .map(|error| PluginError::from_error(Code::Attach, &error))
}

/// Takes an attachment away. One that does not exist is no error.
pub(crate) fn remove(paths: &Paths, identity: &AttachmentId) -> Result<(), PluginError> {
    attach::remove(paths, identity).map_err(|error| PluginError::from_error(Code::Attach, &error))
}

/// Whether an attachment is as ADD left it.
pub(crate) fn check(paths: &Paths, identity: &AttachmentId) -> Result<(), PluginError> {
    match attach::check(paths, identity) {
        Ok(_record) => Ok(()),
        Err(error) => Err(PluginError::from_error(Code::Check, &error)),
    }
}

/// The identities of all attachments of one network, and what is wrong with files that cannot be read.
pub(crate) fn of_network(
    paths: &Paths,
    network: &str,
) -> Result<(Vec<AttachmentId>, Vec<String>), PluginError> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for file in record::list(paths).map_err(|error| PluginError::from_error(Code::Gc, &error))? {
        match file {
            Ok(record) if record.network == network => found.push(record.identity),
            Ok(_) => {}
            Err(error) => problems.push(chain(&error)),
        }
    }
    Ok((found, problems))
}
