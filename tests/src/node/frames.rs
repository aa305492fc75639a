// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Frames as they are, by packet sockets.

#![expect(
    unsafe_code,
    reason = "neither std nor nix can drop capabilities, or set these options of packet sockets"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use podgate_demo::netns::NetNs;

/// `struct virtio_net_hdr` of linux/virtio_net.h: what a sender tells the kernel of a frame.
#[derive(Debug, Clone, Copy, Default)]
pub struct Offload {
    /// A checksum is to be computed: from this byte of the frame on, and put so many bytes behind it.
    pub checksum: Option<(u16, u16)>,
    /// How the frame is to be segmented: 0 not at all, 1 TCP over IPv4, 3 UDP into fragments, 4 TCP over IPv6, 5 UDP.
    pub gso_type: u8,
    /// How long the headers are.
    pub header_length: u16,
    /// How much a segment carries.
    pub gso_size: u16,
}

/// Leaves the calling thread no capability but `CAP_NET_RAW`, which container runtimes give by default.
fn keep_only_net_raw() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    const NET_RAW: u32 = 1 << 13;
    let header = [VERSION_3, 0];
    // Effective, permitted and inheritable, twice 32 bits of each.
    let sets = [NET_RAW, NET_RAW, 0, 0, 0, 0];
    // SAFETY: both have the layout that version 3 of the call reads (`man 2 capset`), and live during the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    Errno::result(result)?;
    Ok(())
}

/// A packet socket on one interface.
#[derive(Debug)]
pub struct Frames {
    socket: OwnedFd,
    interface: LinkAddr,
}

impl Frames {
    /// Every frame of interface `name` of a namespace, from now on, in both directions. Opened with no capability but
    /// `CAP_NET_RAW`.
    pub fn on(netns: &NetNs, name: &str) -> Self {
        netns
            .run(|| Self::here(name))
            .expect("enter a namespace")
            .unwrap_or_else(|e| panic!("open a packet socket on {name}: {e}"))
    }

    fn here(name: &str) -> io::Result<Self> {
        keep_only_net_raw()?;
        // An address of a packet socket, without making one by hand.
        let interface = nix::ifaddrs::getifaddrs()?
            .filter(|found| found.interface_name == name)
            .find_map(|found| found.address?.as_link_addr().copied())
            .ok_or(io::ErrorKind::NotFound)?;
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )?;
        bind(socket.as_raw_fd(), &interface)?;
        setsockopt(&socket, sockopt::RcvBuf, &(4 << 20))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000))?;
        Ok(Self { socket, interface })
    }

    /// Sends one frame. An egress filter on the interface may drop it.
    pub fn send(&self, frame: &[u8]) {
        let to = self.socket.as_raw_fd();
        match sendto(to, frame, &self.interface, MsgFlags::empty()) {
            Ok(_) | Err(Errno::ENOBUFS) => {}
            Err(error) => panic!("send a frame: {error}"),
        }
    }

    /// Has the frames that are sent pass by the interface's queueing discipline and egress filters
    /// (`PACKET_QDISC_BYPASS`).
    pub fn bypass_filters(&self) {
        self.set_option(libc::PACKET_QDISC_BYPASS, 1);
    }

    /// Sends one frame with what the kernel is told of it (`PACKET_VNET_HDR`).
    pub fn send_with(&self, offload: Offload, frame: &[u8]) {
        self.set_option(libc::PACKET_VNET_HDR, 1);
        let mut bytes = vec![u8::from(offload.checksum.is_some()), offload.gso_type];
        let (start, offset) = offload.checksum.unwrap_or_default();
        for number in [offload.header_length, offload.gso_size, start, offset] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(frame);
        let to = self.socket.as_raw_fd();
        // What the kernel itself refuses is no attack.
        match sendto(to, &bytes, &self.interface, MsgFlags::empty()) {
            Ok(_) | Err(Errno::ENOBUFS | Errno::EINVAL | Errno::ENOMEM | Errno::EMSGSIZE) => {}
            Err(error) => panic!("send a frame with {offload:?}: {error}"),
        }
        self.set_option(libc::PACKET_VNET_HDR, 0);
    }

    fn set_option(&self, option: libc::c_int, value: libc::c_int) {
        // SAFETY: the option's value is an `int`, which lives during the call; its length is given.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const value).cast(),
                size_of_val(&value) as libc::socklen_t,
            )
        };
        Errno::result(result).expect("set an option of a packet socket");
    }

    /// Whether a frame that `is_it` is among those that have come since the last look. Takes them up to it.
    pub fn saw(&self, is_it: impl Fn(&[u8]) -> bool) -> bool {
        let mut buffer = vec![0; 65_536];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) if is_it(&buffer[..length]) => return true,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return false,
                Err(error) => panic!("receive a frame: {error}"),
            }
        }
    }

    /// Whether a frame that `is_it` comes within `limit`.
    pub fn sees(&self, limit: Duration, is_it: impl Fn(&[u8]) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut buffer = vec![0; 65_536];
        while Instant::now() < deadline {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) if is_it(&buffer[..length]) => return true,
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => panic!("receive a frame: {error}"),
            }
        }
        false
    }
}
