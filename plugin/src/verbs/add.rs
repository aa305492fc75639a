// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ADD: police a new interface, then wait until its policy is in force.

use podgate_handoff::{Reply, Request};
use serde_json::value::RawValue;

use crate::{
    attachment::{self, Record},
    client::{Enforcer, Patience},
    config::{Config, OnTimeout},
    error::{Code, PluginError, chain},
    interface,
    invocation::Sandbox,
    log::Log,
    prev_result,
};

/// Returns the result to print, which is the one that came.
pub(crate) fn add<'a>(
    sandbox: &Sandbox,
    config: &Config<'a>,
    log: &mut Log<'_>,
) -> Result<&'a RawValue, PluginError> {
    let result = config.prev_result.ok_or_else(|| {
        PluginError::new(
            Code::Config,
            "prevResult: is missing: podgate polices the interface of another plugin",
        )
        .with_details(
            "put podgate behind a main plugin (ptp, bridge, aws-cni) in the plugins of a conflist",
        )
    })?;
    attachment::require_kernel()?;
    let interface = interface::look_up(&sandbox.netns, &sandbox.identity.ifname)?;
    let mut addresses = interface.addresses.clone();
    addresses.extend(prev_result::addresses(result));
    addresses.retain(|address| {
        !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
    });

    let record = attachment::add(config, sandbox, &interface, addresses)?;
    match wait_until_in_force(sandbox, config) {
        Ok(InForce::Yes) => {}
        Ok(InForce::NotKnown) => log.line(&format!(
            "the enforcer does not know the pod yet: {}",
            meanwhile(config, &record)
        )),
        Err(why) => match config.settings.on_timeout {
            OnTimeout::Baseline => log.line(&format!("{why}: {}", meanwhile(config, &record))),
            OnTimeout::Fail => return Err(undo(sandbox, config, why)),
        },
    }
    Ok(result)
}

/// What holds for a pod whose policy may not be in force, for people.
fn meanwhile(config: &Config<'_>, record: &Record) -> String {
    let paths = &config.settings.paths;
    let now = match attachment::now(paths, record) {
        Ok(now) => format!("for now {now}"),
        Err(error) => error.message,
    };
    match attachment::doubt(paths, record.pod.as_ref()) {
        None => now,
        Some(doubt) => format!("{now} ({})", doubt.message),
    }
}

/// What the enforcer says of a new attachment.
enum InForce {
    /// Its policy decides.
    Yes,
    /// The enforcer knows no such pod; that is final until its source says otherwise.
    NotKnown,
}

fn wait_until_in_force(sandbox: &Sandbox, config: &Config<'_>) -> Result<InForce, String> {
    let request = Request::Add(sandbox.identity.clone());
    let enforcer = Enforcer::of_root(&config.settings.socket);
    match enforcer.ask(&request, config.settings.wait, Patience::WaitForIt) {
        Ok(Reply::InForce) => Ok(InForce::Yes),
        Ok(Reply::Unknown) => Ok(InForce::NotKnown),
        Ok(Reply::Failed(why)) => Err(format!(
            "the enforcer could not put the policy in force: {why}"
        )),
        Ok(Reply::Done | Reply::UnknownVersion) => {
            Err("the enforcer answered something else than was asked".into())
        }
        Err(error) => Err(chain(&error)),
    }
}

/// Takes the attachment away again. What fails in doing so is told beside the cause, not instead of it.
fn undo(sandbox: &Sandbox, config: &Config<'_>, why: String) -> PluginError {
    let error = PluginError::new(Code::TryAgainLater, why);
    match attachment::remove(&config.settings.paths, &sandbox.identity) {
        Ok(()) => error.with_details("onTimeout is fail: the attachment was taken away again; check that podgate-enforcer is running"),
        Err(cleanup) => error.with_details(format!("taking the attachment away again went wrong too: {}", cleanup.message)),
    }
}
