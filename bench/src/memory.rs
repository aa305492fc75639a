// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the tables cost in memory.

use anyhow::Result;
use podgate_datapath::Sizes;
use podgate_datapath::lock::Lock;
use podgate_datapath::tables::TableSet;

use crate::node::Place;

/// Prints what a table set of the default sizes costs, table by table.
pub(crate) fn print() -> Result<()> {
    let place = Place::new()?;
    let lock = Lock::take(&place.paths())?;
    let set = TableSet::create(&place.paths(), &lock, &Sizes::default())?;
    println!(
        "\nmemory of the tables, default sizes\n{:<14}{:>10}{:>10}",
        "", "elements", "KiB"
    );
    let mut sums = [0, 0];
    for usage in set.usage()? {
        sums[usize::from(usage.map.is_shared())] += usage.bytes;
        println!(
            "{:<14}{:>10}{:>10}{}",
            usage.map.name(),
            usage.capacity,
            usage.bytes.div_ceil(1024),
            if usage.map.is_shared() {
                "  shared"
            } else {
                ""
            }
        );
    }
    let mega = |bytes: u64| f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) / 1024.0;
    println!(
        "a table set of its own {:.1} MiB, shared by all sets {:.1} MiB, together {:.1} MiB",
        mega(sums[0]),
        mega(sums[1]),
        mega(sums[0] + sums[1])
    );
    Ok(())
}
