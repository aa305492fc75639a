// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Raw sockets, which hear what a stack delivers to a protocol, whatever its port and its checksum.

#![expect(unsafe_code, reason = "nix opens raw sockets of a few protocols only")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use podgate_demo::netns::NetNs;

/// TCP, UDP, SCTP, mobility headers, UDP-Lite.
const PROTOCOLS: [u8; 5] = [6, 17, 132, 135, 136];

/// A raw socket of each family and protocol.
#[derive(Debug)]
pub struct Ears(Vec<(u8, bool, OwnedFd)>);

impl Ears {
    /// From now on, in a namespace.
    ///
    /// # Panics
    /// When a socket cannot be opened.
    pub fn of(netns: &NetNs) -> Self {
        let open = || {
            let families = [(libc::AF_INET, true), (libc::AF_INET6, false)];
            let all = PROTOCOLS.into_iter().flat_map(|protocol| {
                families.map(|(family, is_ipv4)| (protocol, is_ipv4, raw(family, protocol)))
            });
            all.collect()
        };
        Self(netns.run(open).expect("enter a namespace"))
    }

    /// Protocol and destination port of each packet since the last time.
    ///
    /// # Panics
    /// When a socket fails.
    pub fn heard(&self) -> Vec<(u8, u16)> {
        let mut heard = Vec::new();
        let mut buffer = vec![0; 65_536];
        for (protocol, is_ipv4, socket) in &self.0 {
            loop {
                let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                    Ok(length) => length,
                    Err(Errno::EAGAIN) => break,
                    Err(Errno::EINTR) => continue,
                    Err(error) => panic!("receive by a raw socket: {error}"),
                };
                let mut bytes = &buffer[..length];
                if *is_ipv4 {
                    let header = usize::from(bytes.first().map_or(0, |byte| byte & 15)) * 4;
                    bytes = bytes.get(header..).unwrap_or_default();
                }
                let needed = match protocol {
                    6 => 20,
                    132 => 12,
                    135 => 4,
                    _ => 8,
                };
                // No socket gets less than a header.
                if bytes.len() >= needed {
                    heard.push((*protocol, u16::from_be_bytes([bytes[2], bytes[3]])));
                }
            }
        }
        heard
    }
}

fn raw(family: libc::c_int, protocol: u8) -> OwnedFd {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes numbers only.
    let socket = unsafe { libc::socket(family, kind, protocol.into()) };
    let socket = Errno::result(socket).expect("open a raw socket");
    // SAFETY: the kernel has just opened it, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    if family == libc::AF_INET6 {
        take_any_checksum(&socket);
    }
    setsockopt(&socket, sockopt::RcvBuf, &(4 << 20)).expect("a large buffer");
    socket
}

/// Of mobility headers, a socket is given by itself only those whose checksum is right (`rawv6_init_sk`).
fn take_any_checksum(socket: &OwnedFd) {
    let offset: libc::c_int = -1;
    let length = size_of_val(&offset) as libc::socklen_t;
    let (level, option) = (libc::IPPROTO_IPV6, libc::IPV6_CHECKSUM);
    // SAFETY: the kernel reads `length` bytes at `offset`, which lives during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const offset).cast(),
            length,
        )
    };
    Errno::result(result).expect("a socket that takes any checksum");
}
