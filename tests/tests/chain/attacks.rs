// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The attacks of `docs/threat-model.md` that need real namespaces, plugins or packets, by their numbers there.
//!
//! A packet that must not arrive is first seen to arrive from a pod without podgate: so it is a real one.

mod addresses;
mod errors;
mod floods;
mod flows;
mod fragments;
mod frames;
mod hostile;
mod links;
mod listeners;
mod neighbors;
mod numbers;
mod offloads;
mod orders;
mod own_address;
mod own_end;
mod reports;
mod scopes;
mod tunnels;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use podgate_demo::netns::NetNs;
use podgate_tests::node::LOST;

/// The `spec` of a policy that lets out datagrams to this port of the outside, and nothing else.
fn lets_out_to(port: u16) -> String {
    format!(
        "policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: 192.0.2.0/24}}}}, {{ipBlock: {{cidr: '2001:db8::/64'}}}}], \
         ports: [{{protocol: UDP, port: {port}}}]}}]"
    )
}

/// A socket in a namespace on which a packet shows that it arrived.
struct Receiver(UdpSocket);

impl Receiver {
    fn new(netns: &NetNs, address: IpAddr) -> Self {
        Self::at(netns, SocketAddr::new(address, 0))
    }

    fn at(netns: &NetNs, address: SocketAddr) -> Self {
        let socket = netns
            .run(|| UdpSocket::bind(address).expect("bind"))
            .expect("enter a namespace");
        Self(socket)
    }

    fn address(&self) -> (IpAddr, u16) {
        let address = self.0.local_addr().expect("an address");
        (address.ip(), address.port())
    }

    fn got(&self, limit: Duration, data: &[u8]) -> bool {
        self.got_some(limit, |buffer| buffer == data)
    }

    /// Whether something that `is_it` comes within `limit` of what came before it.
    fn got_some(&self, limit: Duration, is_it: impl Fn(&[u8]) -> bool) -> bool {
        self.0.set_read_timeout(Some(limit)).expect("a limit");
        let mut buffer = [0; 4096];
        while let Ok((length, _)) = self.0.recv_from(&mut buffer) {
            if is_it(&buffer[..length]) {
                return true;
            }
        }
        false
    }

    /// For a datagram that should come.
    fn gets(&self, data: &[u8]) -> bool {
        self.got(25 * LOST, data)
    }

    /// For one that should not.
    fn misses(&self, data: &[u8]) -> bool {
        !self.got(LOST, data)
    }
}
