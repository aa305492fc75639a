// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One file for each verb that does something.

pub(crate) mod add;
pub(crate) mod del;
pub(crate) mod gc;
pub(crate) mod status;

use std::time::Duration;

use podgate_handoff::{AttachmentId, Request};

use crate::{
    client::{Enforcer, HandoffError, Patience},
    config::Settings,
};

/// How long the enforcer may take to hear that an attachment is gone. It would find out by itself.
const FAREWELL: Duration = Duration::from_millis(500);

/// Tells the enforcer that an attachment is gone, once, if it is there.
fn say_farewell(settings: &Settings, identity: &AttachmentId) -> Result<(), HandoffError> {
    let request = Request::Del(identity.clone());
    Enforcer::of_root(&settings.socket).ask(&request, FAREWELL, Patience::Once)?;
    Ok(())
}
