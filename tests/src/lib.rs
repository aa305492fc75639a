// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Harness, and every test that needs a kernel, a namespace or a runtime.

pub mod browser;
pub mod cases;
pub mod cluster;
pub mod controller;
pub mod demo;
pub mod frame;
pub mod ground;
pub mod hostile;
pub mod kernel;
pub mod metrics;
pub mod node;
pub mod opening;
