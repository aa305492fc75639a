// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The specification's items, each as a named case, judged by the oracle and by the compiler.

mod fixture;
mod isolation;
mod own_node;
mod peers;
mod ports;
mod scopes;
mod services;
mod ways;
