// SPDX-License-Identifier: Apache-2.0 OR MIT
//! All who may read a packet, each in its own way.

use super::{Delivered, Receiver, Router};

/// Hosts with and without connection tracking, at once and behind a router.
#[derive(Debug)]
pub struct Readers {
    hosts: [Receiver; 2],
    router: Router,
    behind_router: [Receiver; 2],
}

impl Default for Readers {
    fn default() -> Self {
        let hosts = || [false, true].map(Receiver::new);
        Self {
            hosts: hosts(),
            router: Router::default(),
            behind_router: hosts(),
        }
    }
}

impl Readers {
    /// What they take a frame for: where, the protocol and port, and all that was delivered.
    pub fn read(&mut self, frame: &[u8]) -> Vec<(&'static str, (u8, u16), Delivered)> {
        let mut found = Vec::new();
        for host in &mut self.hosts {
            found.push((host.take(frame), "as it is"));
        }
        for frame in self.router.forward(frame) {
            for host in &mut self.behind_router {
                found.push((host.take(&frame), "behind a router"));
            }
        }
        let delivered = found.into_iter().filter_map(|(delivered, place)| {
            let delivered = delivered?;
            Some((place, delivered.target()?, delivered))
        });
        delivered.collect()
    }
}
