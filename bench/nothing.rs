// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A program that does nothing: what the start of any program costs.

fn main() {}
