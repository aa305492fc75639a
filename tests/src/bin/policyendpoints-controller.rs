//! Plays the network policy controller of EKS on a cluster of `tests/cluster`, until it is ended.
//!
//! `policyendpoints-controller KUBECTL CHUNK-SIZE`

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_tests::controller::{Controller, Written};

/// How often it looks; the real one gathers changes of pods for a second.
const PERIOD: Duration = Duration::from_millis(500);

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let usage = "usage: policyendpoints-controller KUBECTL CHUNK-SIZE";
    let kubectl = arguments.next().context(usage)?;
    let chunk = arguments.next().context(usage)?;
    let chunk = chunk.to_str().and_then(|text| text.parse().ok());
    let controller = Controller::new(&Command::new(kubectl), chunk.context(usage)?);
    loop {
        match controller.reconcile() {
            Ok(written) if written == Written::default() => {}
            Ok(written) => eprintln!("{written:?}"),
            Err(error) => eprintln!("{error:#}"),
        }
        std::thread::sleep(PERIOD);
    }
}
