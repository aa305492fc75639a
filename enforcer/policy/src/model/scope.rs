// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses that say where they may be sent rather than who has them.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Ranges that stand for many receivers, or for another one on each link or host: a packet to (or from) an address of a
/// scope can reach a peer that has any other address, and that a block excepts. So a block speaks of an address of a
/// scope only where it lies inside that scope.
///
/// A block of all addresses of a family without exceptions speaks of them too: whoever it reaches is allowed.
pub const SCOPES: [IpNet; 9] = [
    // This host on this network: 0.0.0.0 is the sender itself, and Linux takes it for loopback.
    v4([0, 0, 0, 0], 8),
    // Loopback; with `route_localnet` the node's NodePorts.
    v4([127, 0, 0, 0], 8),
    // Link-local.
    v4([169, 254, 0, 0], 16),
    // Groups.
    v4([224, 0, 0, 0], 4),
    // The limited broadcast.
    v4([255, 255, 255, 255], 32),
    // The unspecified address, and loopback.
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128),
    // Link-local.
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    // Groups.
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
];

const fn v4(bytes: [u8; 4], length: u8) -> IpNet {
    let [a, b, c, d] = bytes;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6(words: [u16; 8], length: u8) -> IpNet {
    let [a, b, c, d, e, f, g, h] = words;
    IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(a, b, c, d, e, f, g, h),
        length,
    ))
}
