// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Real SCTP associations, policed by peer and port.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect,
    listen, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use podgate_abi::Direction;
use podgate_demo::netns::NetNs;
use podgate_tests::node::{
    Enforcer, Node, Pod, in_force, lets_in, namespace, pod, policy, wait_until,
};
use serde_json::json;

/// The port that the policy opens, and one that it does not.
const OPEN: u16 = 5000;
const SHUT: u16 = 5001;

/// How long an association that should come may take: its first packet may be lost to a busy machine, and is sent again
/// after three seconds.
const FOUND: Duration = Duration::from_secs(20);
/// How long one that should not come is waited for.
const LOST: Duration = Duration::from_secs(2);

/// A one-to-one SCTP socket: std's stream types serve it, once it is connected or listens.
fn sctp(address: IpAddr) -> OwnedFd {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(family, SockType::Stream, flags, SockProtocol::Sctp).expect("an SCTP socket")
}

/// A server, at an address of a namespace.
fn serve(netns: &NetNs, address: IpAddr, port: u16) -> TcpListener {
    let at = SocketAddr::new(address, port);
    let socket = netns
        .run(|| {
            let socket = sctp(address);
            bind(socket.as_raw_fd(), &SockaddrStorage::from(at)).expect("bind");
            listen(&socket, Backlog::new(8).expect("a backlog")).expect("listen");
            socket
        })
        .expect("enter a namespace");
    TcpListener::from(socket)
}

/// The client's end of an association from a namespace, if it comes within `limit`.
fn associate(netns: &NetNs, at: SocketAddr, limit: Duration) -> Option<TcpStream> {
    let socket = netns
        .run(|| {
            let socket = sctp(at.ip());
            let seconds = i64::try_from(limit.as_secs()).expect("a few seconds");
            setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(seconds, 0)).expect("a limit");
            let connected = connect(socket.as_raw_fd(), &SockaddrStorage::from(at));
            connected.is_ok().then_some(socket)
        })
        .expect("enter a namespace")?;
    Some(TcpStream::from(socket))
}

/// Whether the next message of `from` comes out at `to` within `limit`.
fn carries(from: &mut TcpStream, to: &mut TcpStream, limit: Duration) -> bool {
    from.write_all(b"podgate").expect("send a message");
    to.set_read_timeout(Some(limit)).expect("a limit");
    let deadline = Instant::now() + limit;
    let mut buffer = [0; 16];
    loop {
        match to.read(&mut buffer) {
            Ok(length) => return buffer[..length] == *b"podgate",
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("receive a message: {error}"),
        }
        assert!(Instant::now() < deadline);
    }
}

/// Puts a policy for `web` in force, in place of the one that is.
fn change(node: &Node, web: &Pod, spec: &str) {
    let ruleset = || {
        let slot = web.record(node).slot;
        let word = node.tables().read_word(slot, Direction::Ingress);
        word.expect("the pod's word").ruleset()
    };
    let before = ruleset();
    node.apply("policy", &policy("p", "app: web", spec));
    wait_until("the policy is in force", || ruleset() != before);
}

#[test]
fn real_sctp_associations_are_policed_by_peer_and_port() {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    for name in ["web", "free", "friend", "stranger"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    let from_friend = format!(
        "policyTypes: [Ingress], ingress: [{{from: [{{podSelector: {{matchLabels: {{app: friend}}}}}}], \
         ports: [{{protocol: SCTP, port: {OPEN}}}]}}]"
    );
    node.apply("policy", &policy("p", "app: web", &from_friend));
    let _enforcer = Enforcer::start(&node);
    let conflist = node.ptp(in_force(json!({})));
    let [web, free, friend, stranger] =
        ["web", "free", "friend", "stranger"].map(|name| Pod::start(&node, &conflist, name));
    for number in 0..2 {
        let servers: Vec<_> = [(&web, OPEN), (&web, SHUT), (&free, OPEN), (&free, SHUT)]
            .map(|(pod, port)| serve(&pod.netns, pod.addresses[number], port))
            .into();
        let at = |server: usize| servers[server].local_addr().expect("an address");
        // The packets of strangers, and to that port, are real: they reach the pod without a policy.
        for port in [2, 3] {
            for client in [&friend, &stranger] {
                assert!(associate(&client.netns, at(port), FOUND).is_some());
            }
        }
        let mut client = associate(&friend.netns, at(0), FOUND).expect("the policy allows it");
        let (mut server, _) = servers[0].accept().expect("the association");
        assert!(carries(&mut client, &mut server, FOUND));
        assert!(carries(&mut server, &mut client, FOUND));
        assert!(associate(&node.netns, at(1), FOUND).is_some(), "the node's");
        assert!(associate(&friend.netns, at(1), LOST).is_none());
        assert!(associate(&stranger.netns, at(0), LOST).is_none());

        // The association does not outlive the policy that allowed it, and goes on when it is allowed once more.
        change(&node, &web, &lets_in("app: nobody"));
        assert!(associate(&friend.netns, at(0), LOST).is_none());
        assert!(!carries(&mut client, &mut server, LOST));
        change(&node, &web, &from_friend);
        assert!(associate(&friend.netns, at(0), FOUND).is_some());
        server.set_read_timeout(Some(FOUND)).expect("a limit");
        let mut buffer = [0; 16];
        let length = server
            .read(&mut buffer)
            .expect("what was denied is sent again");
        assert_eq!(buffer[..length], *b"podgate");
    }
}
