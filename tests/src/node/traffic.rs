// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ordinary traffic between namespaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use podgate_demo::netns::NetNs;

/// How long what must not come is waited for.
pub const LOST: Duration = Duration::from_millis(200);

/// So long on a machine like those that podgate runs on; on one that is emulated so many times that as
/// `PODGATE_PATIENCE` says.
fn patience(usual: Duration) -> Duration {
    let times =
        std::env::var("PODGATE_PATIENCE").map_or(1, |times| times.parse().expect("a number"));
    usual * times
}

/// Waits until `condition` holds; panics with `what` when it does not within a minute: an enforcer at nice 7 on a busy
/// machine was not ready in half of that.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let (shortest, longest) = (Duration::from_millis(5), Duration::from_millis(50));
    let deadline = Instant::now() + patience(Duration::from_secs(60));
    loop {
        let began = Instant::now();
        if condition() {
            return;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        // On one core, who asks all the time holds up what is waited for.
        std::thread::sleep((4 * began.elapsed()).clamp(shortest, longest));
    }
}

fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Sends one datagram from `from` to `at` in `to`; where it came from, if it came within `limit`.
fn send_once(from: &NetNs, to: &NetNs, at: IpAddr, limit: Duration) -> Option<SocketAddr> {
    let receiver = to
        .run(|| UdpSocket::bind(SocketAddr::new(at, 0)).expect("a socket at the address"))
        .expect("enter a namespace");
    receiver.set_read_timeout(Some(limit)).expect("a limit");
    let target = receiver.local_addr().expect("its port");
    let sender = from
        .run(|| UdpSocket::bind(SocketAddr::new(any(at), 0)).expect("a socket"))
        .expect("enter a namespace");
    // One that has no route does not arrive.
    sender.send_to(b"podgate", target).ok()?;
    let mut buffer = [0; 16];
    let (length, source) = receiver.recv_from(&mut buffer).ok()?;
    assert_eq!(&buffer[..length], b"podgate");
    Some(source)
}

/// Whether a datagram from `from` reaches `at` in `to`. For one that should.
pub fn arrives(from: &NetNs, to: &NetNs, at: IpAddr) -> bool {
    send_once(from, to, at, patience(Duration::from_secs(5))).is_some()
}

/// Whether a datagram from `from` to `at` in `to` is lost. For one that should be.
pub fn is_lost(from: &NetNs, to: &NetNs, at: IpAddr) -> bool {
    send_once(from, to, at, LOST).is_none()
}

/// Whether `from` can open a TCP connection to `at` in `to`, within `limit`.
pub fn connects(from: &NetNs, to: &NetNs, at: IpAddr, limit: Duration) -> bool {
    let listener = to
        .run(|| TcpListener::bind(SocketAddr::new(at, 0)).expect("a socket at the address"))
        .expect("enter a namespace");
    let target = listener.local_addr().expect("its port");
    from.run(|| TcpStream::connect_timeout(&target, limit).is_ok())
        .expect("enter a namespace")
}
