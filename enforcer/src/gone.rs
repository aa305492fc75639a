// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What all that feed the engine learn when it has ended.

/// The engine has ended, and takes nothing any more: the enforcer is stopping.
#[derive(Debug, thiserror::Error)]
#[error("tell the engine: the enforcer is stopping")]
pub struct EngineGone;
