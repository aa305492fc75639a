// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Level `cluster`: pods of a real Kubernetes of two nodes, with our plugin in their conflist.

mod cases;
mod ending;
mod install;
mod lifecycle;
mod nodes;
mod outage;
mod permissions;
mod policies;
mod policyendpoints;
mod services;
mod suspended;
