// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Properties of plans, on a model of the tables, by the very `decide()` that runs in the kernel.

mod beginners;
mod bench;
mod numbers;
mod order;
mod room;
mod single;
mod spared;
