// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The API server gone, for as long as a test wants.

use std::process::Command;

use super::kubectl::run;
use super::{Alone, Cluster, script};

/// The API server is gone, and what it had is kept. It comes back at the latest when the value is dropped.
#[derive(Debug)]
pub struct Outage<'a> {
    cluster: &'a Cluster,
    is_over: bool,
}

impl Alone {
    /// Ends the API server by SIGKILL.
    pub fn outage(&self) -> Outage<'_> {
        let outage = Outage {
            cluster: self,
            is_over: false,
        };
        outage.api_server("kill").expect("end the API server");
        outage
    }
}

impl Outage<'_> {
    /// Starts the API server again, and waits until it is ready.
    pub fn end(mut self) {
        self.is_over = true;
        self.api_server("start")
            .unwrap_or_else(|said| panic!("the API server does not come back: {said}"));
    }

    fn api_server(&self, verb: &str) -> Result<String, String> {
        let mut command = Command::new(script("api-server"));
        run(command.args(["--name", &self.cluster.name, verb]), "")
    }
}

impl Drop for Outage<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // Other tests miss it, and say so.
            self.api_server("start").ok();
        }
    }
}
