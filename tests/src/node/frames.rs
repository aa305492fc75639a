//! Frames as they are, by packet sockets.

#![expect(
    unsafe_code,
    reason = "neither std nor nix can set PACKET_QDISC_BYPASS"
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

/// A packet socket on one interface.
#[derive(Debug)]
pub struct Frames {
    socket: OwnedFd,
    interface: LinkAddr,
}

impl Frames {
    /// Every frame of interface `name` of a namespace, from now on, in both directions.
    pub fn on(netns: &NetNs, name: &str) -> Self {
        netns
            .run(|| Self::here(name))
            .expect("enter a namespace")
            .unwrap_or_else(|e| panic!("open a packet socket on {name}: {e}"))
    }

    fn here(name: &str) -> io::Result<Self> {
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
        let on: libc::c_int = 1;
        // SAFETY: the option's value is an `int`, which lives during the call; its length is given.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_QDISC_BYPASS,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        Errno::result(result).expect("set PACKET_QDISC_BYPASS");
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
