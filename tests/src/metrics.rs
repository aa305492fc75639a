// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `/metrics` says.

use std::fmt::Debug;
use std::str::FromStr;

/// The value of a series, given by its name with labels as they are written; none where there is no such series.
pub fn value_of<T: FromStr<Err: Debug>>(metrics: &str, series: &str) -> Option<T> {
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(value.parse().expect("a number"))
}
