//! ADD: police a new interface, then wait until its policy is in force.

use podgate_handoff::{Reply, Request};
use serde_json::value::RawValue;

use super::attachment_id;
use crate::{
    attachment::{self, Isolated},
    config::{Config, OnTimeout},
    enforcer::{Enforcer, Patience},
    error::{Code, PluginError, chain},
    interface,
    invocation::Sandbox,
    prev_result,
    run::Log,
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

    attachment::add(config, sandbox, &interface, addresses)?;
    match wait_until_in_force(sandbox, config) {
        Ok(InForce::Yes) => {}
        Ok(InForce::NotKnown) => log.line(
            "the enforcer does not know the pod yet: it is denied in the directions in which policies of its namespace isolate, and its baseline holds in the others",
        ),
        Err(why) => match config.settings.on_timeout {
            OnTimeout::Baseline => {
                let meanwhile = until_in_force(sandbox, config);
                log.line(&format!("{why}: {meanwhile} until its policy is in force"));
            }
            OnTimeout::Fail => return Err(undo(sandbox, config, why)),
        },
    }
    Ok(result)
}

/// What holds for a pod whose policy is not in force, for people.
fn until_in_force(sandbox: &Sandbox, config: &Config<'_>) -> String {
    let Some(pod) = &sandbox.pod else {
        return "the pod's baseline holds".into();
    };
    let (isolated, why) = match attachment::isolated(&config.settings.paths, &pod.namespace) {
        Ok(isolated) => (isolated, String::new()),
        Err(error) => (Isolated::BOTH, format!(" ({})", chain(&error))),
    };
    match (isolated.to_pod, isolated.from_pod) {
        (false, false) => "the pod's baseline holds".into(),
        (true, true) => format!("the pod is denied in both directions{why}"),
        (true, false) => "the pod is denied ingress, and its baseline holds for egress".into(),
        (false, true) => "the pod is denied egress, and its baseline holds for ingress".into(),
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
    let request = Request::Add(attachment_id(&sandbox.identity));
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
        Ok(()) => error.with_details("onTimeout is fail: the attachment was taken away again; see that podgate-enforcer runs"),
        Err(cleanup) => error.with_details(format!("taking the attachment away again went wrong too: {}", cleanup.message)),
    }
}
