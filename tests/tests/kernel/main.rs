// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Level `kernel`: the committed object under `BPF_PROG_TEST_RUN`, and `decide()` on the host in step with it.

mod attacks;
mod connections;
mod crowd;
mod either;
mod endings;
mod foreign;
mod fragments;
mod guarantees;
mod headers;
mod hostile;
mod in_step;
mod kernel_compat;
mod links;
mod neighbors;
mod node;
mod offloads;
mod orders;
mod over_quota;
mod review;
mod rulesets;
mod setting;
mod time_outs;
mod torn;
mod upkeep;
mod worlds;
