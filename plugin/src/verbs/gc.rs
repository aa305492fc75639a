// SPDX-License-Identifier: Apache-2.0 OR MIT
//! GC: forget every interface of this network that the runtime does not list.

use crate::{
    attachment,
    config::Config,
    error::{Code, PluginError, chain},
    log::Log,
    verbs::say_farewell,
};

/// Goes on after an error, and reports all of them at the end. A runtime that lists nothing at all asks for nothing.
pub(crate) fn gc(config: &Config<'_>, log: &mut Log<'_>) -> Result<(), PluginError> {
    let Some(valid) = &config.valid_attachments else {
        return Ok(());
    };
    let paths = &config.settings.paths;
    let (found, mut problems) = attachment::of_network(paths, &config.network)?;
    let mut removed = Vec::new();
    for identity in found {
        if valid.contains(&identity) {
            continue;
        }
        match attachment::remove(paths, &identity) {
            Ok(()) => removed.push(identity),
            Err(error) => {
                problems.push(format!(
                    "{} {}: {}",
                    identity.container_id, identity.ifname, error.message
                ));
            }
        }
    }
    for identity in removed {
        // An enforcer that does not answer now is not asked again for each of the others.
        if let Err(error) = say_farewell(&config.settings, &identity) {
            log.line(&chain(&error));
            break;
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        let message = format!(
            "{} attachments could not be read or removed",
            problems.len()
        );
        Err(PluginError::new(Code::Gc, message).with_details(problems.join("; ")))
    }
}
