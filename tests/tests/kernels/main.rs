// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Level `kernels`: what needs a kernel that this machine may not have. `tests/kernels/run` runs it in its guests, beside
//! tests of the levels `kernel` and `chain` that `tests/kernels/selection` names.

mod devices;
mod sctp;
mod skips;
