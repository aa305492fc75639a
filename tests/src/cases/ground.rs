// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Network namespaces that sockets are opened in, by a thread that enters them for it.

use std::fs::File;
use std::io::{self, Error};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, socket,
};
use podgate_demo::netns::enter;

use super::expect::What;
use podgate_policy::model::Protocol;

/// A network namespace, held open.
#[derive(Debug)]
pub struct Ground(File);

impl Ground {
    /// The namespace of the file `path`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// Runs `work` on a thread of its own in this namespace.
    ///
    /// # Panics
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&path).expect("enter a network namespace");
                work()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

/// A socket that is opening a connection, or sends what asks for an answer.
#[derive(Debug)]
pub enum Client {
    /// A TCP socket whose handshake is under way.
    Tcp(TcpStream),
    /// A UDP socket that is connected to its peer.
    Udp(UdpSocket),
    /// A raw socket that is connected to its peer, and the echo request that it sends.
    Echo(UdpSocket, Vec<u8>),
}

impl Client {
    /// Begins to open a connection, in the namespace of the calling thread. `number` tells echoes apart.
    ///
    /// # Errors
    /// What the kernel says at once; that it sends nothing is no answer.
    pub fn begin(what: What, address: IpAddr, number: u16) -> io::Result<Option<Self>> {
        let client = match what {
            What::Port(Protocol::Tcp, port) => {
                Self::Tcp(connecting(SocketAddr::new(address, port))?)
            }
            What::Port(Protocol::Udp, port) => {
                let any: IpAddr = match address {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
                socket.set_nonblocking(true)?;
                socket.connect(SocketAddr::new(address, port))?;
                Self::Udp(socket)
            }
            What::Port(Protocol::Sctp, _) => return Ok(None),
            What::Echo => Self::Echo(echoing(address)?, echo_request(address, number)),
        };
        client.ask()?;
        Ok(Some(client))
    }

    /// Sends what asks for an answer, once more; TCP does so by itself.
    ///
    /// # Errors
    /// What the kernel says at once.
    pub fn ask(&self) -> io::Result<()> {
        let sent = match self {
            Self::Tcp(_) => return Ok(()),
            Self::Udp(socket) => socket.send(b"?"),
            Self::Echo(socket, request) => socket.send(request),
        };
        sent.map(drop)
    }

    /// Whether the answer has come.
    ///
    /// # Errors
    /// When something else came instead: a reset, or an ICMP error.
    pub fn is_answered(&self) -> io::Result<bool> {
        match self {
            Self::Tcp(stream) => match stream.take_error()? {
                Some(error) => Err(error),
                None => Ok(stream.peer_addr().is_ok()),
            },
            Self::Udp(socket) => received(socket).map(|answer| answer.is_some()),
            Self::Echo(socket, request) => {
                while let Some(packet) = received(socket)? {
                    if answers(&packet, request) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }
}

/// What has come, if anything has.
///
/// # Errors
/// An ICMP error that came instead.
pub fn received(socket: &UdpSocket) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = [0; 2048];
    match socket.recv(&mut buffer) {
        Ok(length) => Ok(Some(buffer[..length].to_vec())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn connecting(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(
        family(to.ip()),
        SockType::Stream,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    begin_connecting(&socket, to)?;
    Ok(TcpStream::from(socket))
}

fn echoing(to: IpAddr) -> io::Result<UdpSocket> {
    let protocol = match to {
        IpAddr::V4(_) => SockProtocol::Icmp,
        IpAddr::V6(_) => SockProtocol::IcmpV6,
    };
    let socket = socket(
        family(to),
        SockType::Raw,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        protocol,
    )?;
    begin_connecting(&socket, SocketAddr::new(to, 0))?;
    // The standard library has no raw sockets; what it does to this one is send and receive.
    Ok(UdpSocket::from(socket))
}

fn begin_connecting(socket: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(()),
        Err(errno) => Err(Error::from(errno)),
    }
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The kernel fills in the checksum of ICMPv6, and not of ICMP.
fn echo_request(address: IpAddr, number: u16) -> Vec<u8> {
    let kind = if address.is_ipv4() { 8 } else { 128 };
    let mut request = vec![kind, 0, 0, 0];
    request.extend(number.to_be_bytes());
    request.extend([0, 1]);
    if address.is_ipv4() {
        let sum = (u32::from(kind) << 8) + u32::from(number) + 1;
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !u16::try_from(folded).expect("two halves carry once");
        request[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    request
}

/// Raw sockets of IPv4 get the IP header too.
fn answers(packet: &[u8], request: &[u8]) -> bool {
    let (message, reply) = match (request[0], packet.first()) {
        (8, Some(first)) => (packet.get(usize::from(first & 0xf) * 4..), 0),
        (_, _) => (Some(packet), 129),
    };
    message.is_some_and(|message| {
        message.len() >= 8 && message[0] == reply && message[4..8] == request[4..8]
    })
}

/// Someone who answers at a port.
#[derive(Debug)]
pub enum Server {
    /// Takes connections.
    Tcp(TcpListener),
    /// Sends datagrams back.
    Udp(UdpSocket),
}

impl Server {
    /// Answers at this port of this address, in the namespace of the calling thread.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn at(protocol: Protocol, place: SocketAddr) -> io::Result<Option<Self>> {
        Ok(match protocol {
            Protocol::Tcp => {
                let listener = TcpListener::bind(place)?;
                listener.set_nonblocking(true)?;
                Some(Self::Tcp(listener))
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(place)?;
                socket.set_nonblocking(true)?;
                Some(Self::Udp(socket))
            }
            Protocol::Sctp => None,
        })
    }
}
