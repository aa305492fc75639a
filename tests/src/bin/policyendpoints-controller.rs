// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Plays the network policy controller of EKS on a cluster of `tests/cluster`, until it is ended.
//!
//! `policyendpoints-controller CLUSTER CHUNK-SIZE`

use std::time::Duration;

use anyhow::{Context, Result};
use podgate_tests::cluster::Cluster;
use podgate_tests::controller::Written;

/// How often it looks; the real one gathers changes of pods for a second.
const PERIOD: Duration = Duration::from_millis(500);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: policyendpoints-controller CLUSTER CHUNK-SIZE";
    let cluster = Cluster::that_is_up(arguments.next().context(usage)?);
    let chunk = arguments.next().and_then(|text| text.parse().ok());
    let controller = cluster.policy_controller(chunk.context(usage)?);
    loop {
        match controller.reconcile() {
            Ok(written) if written == Written::default() => {}
            Ok(written) => eprintln!("{written:?}"),
            Err(error) => eprintln!("{error:#}"),
        }
        std::thread::sleep(PERIOD);
    }
}
