// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DEL: forget an interface. It always succeeds, because an error would keep the plugins before us from theirs, and
//! needs nothing but the identity: no namespace, no result, no enforcer.

use crate::{
    attachment,
    config::settings_for_del,
    error::chain,
    invocation::{self, Getenv},
    log::Log,
    verbs::say_farewell,
};

/// Does what can be done, and logs what could not, after the `problems` so far; the enforcer sweeps up the rest.
pub(crate) fn del(getenv: Getenv<'_>, stdin: &[u8], mut problems: Vec<String>, log: &mut Log<'_>) {
    let identity = match invocation::identity(getenv) {
        Ok(identity) => identity,
        Err(error) => return log.line(&error.message),
    };
    let settings = settings_for_del(stdin, &mut problems);
    for problem in problems {
        log.line(&problem);
    }
    if let Err(error) = attachment::remove(&settings.paths, &identity) {
        log.line(&error.message);
    }
    if let Err(error) = say_farewell(&settings, &identity) {
        log.line(&chain(&error));
    }
}
