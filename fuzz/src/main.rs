// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The target that `PODGATE_FUZZ` names, driven by libFuzzer. One binary for all: each would be as large as the enforcer.
#![no_main]

use std::env;
use std::sync::LazyLock;

use podgate_fuzz::TARGETS;

static RUN: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = env::var("PODGATE_FUZZ").expect("PODGATE_FUZZ names a target");
    let mut targets = TARGETS.into_iter();
    let target = targets.find(|(name, _)| *name == wanted);
    target.expect("PODGATE_FUZZ names no target").1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| RUN(data));
