// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A PolicyEndpoint as an API server may have it: its schema lets many fields through.

use podgate_enforcer::policyendpoints;

/// It is read or refused, and the same each time.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let check = || policyendpoints::check(text).ok();
    assert_eq!(check(), check());
}
