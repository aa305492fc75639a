// SPDX-License-Identifier: Apache-2.0 OR MIT
//! STATUS: whether an ADD could be served now.

use std::time::Duration;

use podgate_handoff::{Reply, Request};

use crate::{
    attachment,
    client::{Enforcer, Patience},
    config::{Config, EnforcingMode},
    error::{Code, PluginError, chain},
};

/// How long the enforcer may take to answer; runtimes ask every few seconds.
const BUDGET: Duration = Duration::from_secs(1);

/// In standard mode a pod starts without the enforcer too; in strict mode it would start without network.
pub(crate) fn status(config: &Config<'_>) -> Result<(), PluginError> {
    attachment::require_kernel()?;
    match config.settings.enforcing_mode {
        EnforcingMode::Standard => return Ok(()),
        EnforcingMode::Strict => {}
    }
    let why = match Enforcer::of_root(&config.settings.socket).ask(
        &Request::Status,
        BUDGET,
        Patience::Once,
    ) {
        Ok(Reply::Done) => return Ok(()),
        Ok(Reply::Failed(why)) => format!("the enforcer is not ready: {why}"),
        Ok(Reply::InForce | Reply::Unknown | Reply::UnknownVersion) => {
            "the enforcer answered something else than was asked".into()
        }
        Err(error) => chain(&error),
    };
    Err(PluginError::new(Code::NotAvailable, why).with_details(
        "enforcingMode is strict: new pods have no network until podgate-enforcer answers",
    ))
}
