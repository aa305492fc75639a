// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One file for each verb that does something.

pub(crate) mod add;
pub(crate) mod del;
pub(crate) mod gc;
pub(crate) mod status;

use std::time::Duration;

use podgate_handoff::{AttachmentId, Request};

use crate::{
    attachment::Identity,
    config::Settings,
    enforcer::{Enforcer, HandoffError, Patience},
};

/// How long the enforcer may take to hear that an attachment is gone. It would find out by itself.
const FAREWELL: Duration = Duration::from_millis(500);

/// An attachment's identity as the enforcer is told it.
fn attachment_id(identity: &Identity) -> AttachmentId {
    AttachmentId {
        container_id: identity.container_id.clone(),
        ifname: identity.ifname.clone(),
    }
}

/// Tells the enforcer that an attachment is gone, once, if it is there.
fn say_farewell(settings: &Settings, identity: &Identity) -> Result<(), HandoffError> {
    let request = Request::Del(attachment_id(identity));
    Enforcer::of_root(&settings.socket).ask(&request, FAREWELL, Patience::Once)?;
    Ok(())
}
