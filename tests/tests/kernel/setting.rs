// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The scene of most tests: one pod, peers of one family, and the packets between them.

use std::net::IpAddr;

use podgate_abi::{
    Class, Direction, FlowKey, PortSetId, Reason, RowKey, RowSets, RowWords, RulesetId,
};
use podgate_demo::netns::NetNs;
use podgate_tests::frame::{self, Payload};
use podgate_tests::kernel::{Kernel, Origin, Pod, PolicyOf, SLOT};
use podgate_tests::node::sh;

/// Everything in a row.
pub(crate) const ALL: RowSets = of(PortSetId::ALL);
/// Nothing in a row.
pub(crate) const NOTHING: RowSets = of(PortSetId::NONE);
/// The ruleset that tests compile by hand.
pub(crate) const RULESET: RulesetId = RulesetId::FIRST;
/// The class of [`Scene::friend`].
pub(crate) const FRIENDS: Class = Class(5);
/// The broad class of the same.
pub(crate) const NEIGHBORHOOD: Class = Class(9);

/// The same port set for every protocol.
pub(crate) const fn of(set: PortSetId) -> RowSets {
    RowSets {
        tcp: set,
        udp: set,
        sctp: set,
        rest: set,
    }
}

/// Which family a scene is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Both.
pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A pod that is policed by [`RULESET`] both ways: all with its friend, nothing with strangers.
pub(crate) struct Scene {
    pub(crate) kernel: Kernel,
    pub(crate) family: Family,
    pub(crate) pod: IpAddr,
    pub(crate) friend: IpAddr,
    pub(crate) stranger: IpAddr,
    pub(crate) node: IpAddr,
}

impl Scene {
    /// The scene with this policy.
    pub(crate) fn new(family: Family, policy: PolicyOf) -> Self {
        Self::with_kernel(Kernel::default(), family, policy)
    }

    /// The scene with tables of other sizes.
    pub(crate) fn with_kernel(mut kernel: Kernel, family: Family, policy: PolicyOf) -> Self {
        let address = |text: [&str; 2]| -> IpAddr {
            text[usize::from(family == Family::V6)]
                .parse()
                .expect("an address")
        };
        let scene = |kernel| Self {
            kernel,
            family,
            pod: address(["10.1.0.10", "fd00:1::10"]),
            friend: address(["10.1.0.20", "fd00:1::20"]),
            stranger: address(["10.1.0.30", "fd00:1::30"]),
            node: address(["10.1.0.1", "fd00:1::1"]),
        };
        kernel.put_default_row(RULESET, RowWords::new(RowKey(0), NOTHING));
        kernel.put_row(RULESET, FRIENDS, ALL);
        let mut scene = scene(kernel);
        scene.kernel.put_peer(scene.friend, FRIENDS, NEIGHBORHOOD);
        scene.kernel.put_node(scene.node);
        scene.attach(policy);
        scene
    }

    /// Attaches the pod anew.
    pub(crate) fn attach(&mut self, policy: PolicyOf) {
        let mut addresses = vec![self.pod];
        if self.family == Family::V6 {
            addresses.push("fe80::10".parse().expect("an address"));
        }
        self.kernel.attach(&Pod { addresses, policy });
    }

    /// A packet to the pod from elsewhere.
    pub(crate) fn peer_sends(&mut self, source: IpAddr, payload: Payload) -> Reason {
        let frame = frame::packet(source, self.pod, payload).frame();
        self.kernel
            .run(Direction::Ingress, Origin::Elsewhere, &frame)
    }

    /// A packet that the node itself sends to the pod, or so it seems.
    pub(crate) fn node_sends(&mut self, source: IpAddr, payload: Payload) -> Reason {
        let frame = frame::packet(source, self.pod, payload).frame();
        self.kernel.run(Direction::Ingress, Origin::Node, &frame)
    }

    /// A packet from the pod.
    pub(crate) fn pod_sends(&mut self, destination: IpAddr, payload: Payload) -> Reason {
        let frame = frame::packet(self.pod, destination, payload).frame();
        self.sends(&frame)
    }

    /// Any frame from the pod.
    pub(crate) fn sends(&mut self, frame: &[u8]) -> Reason {
        self.kernel.run(Direction::Egress, Origin::Elsewhere, frame)
    }

    /// Any frame to the pod.
    pub(crate) fn receives(&mut self, frame: &[u8]) -> Reason {
        self.kernel
            .run(Direction::Ingress, Origin::Elsewhere, frame)
    }

    /// A packet between the pod and a peer, from one of the two.
    pub(crate) fn end_sends(&mut self, end: End, peer: IpAddr, payload: Payload) -> Reason {
        match end {
            End::Pod => self.pod_sends(peer, payload),
            End::Peer => self.peer_sends(peer, payload),
        }
    }

    /// A segment of a connection between the friend's port and port 80 of the pod, from one of the two.
    pub(crate) fn segment(&mut self, end: End, friends_port: u16, flags: u8) -> Reason {
        let (from, to) = match end {
            End::Pod => (80, friends_port),
            End::Peer => (friends_port, 80),
        };
        self.end_sends(end, self.friend, frame::tcp(from, to, flags))
    }

    /// The third step of a TCP handshake that the friend or the pod began, and the two before it.
    pub(crate) fn handshake(&mut self, peer: IpAddr, peer_port: u16, pod_port: u16, by: End) {
        use frame::flag::{ACK, SYN};
        for (end, flags, expected) in [
            (by, SYN, Reason::Allowed),
            (by.other(), SYN | ACK, Reason::Established),
            (by, ACK, Reason::Established),
        ] {
            let (from, to) = match end {
                End::Pod => (pod_port, peer_port),
                End::Peer => (peer_port, pod_port),
            };
            let reason = self.end_sends(end, peer, frame::tcp(from, to, flags));
            assert_eq!(reason, expected, "{end:?}");
        }
    }
}

/// One of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The pod.
    Pod,
    /// The peer.
    Peer,
}

impl End {
    /// Both.
    pub(crate) const BOTH: [Self; 2] = [Self::Pod, Self::Peer];

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Pod => Self::Peer,
            Self::Peer => Self::Pod,
        }
    }

    /// The direction of what it sends.
    pub(crate) const fn direction(self) -> Direction {
        match self {
            Self::Pod => Direction::Egress,
            Self::Peer => Direction::Ingress,
        }
    }

    /// [`RULESET`] for what it sends, and nothing for what the other sends.
    pub(crate) const fn policy(self) -> PolicyOf {
        match self {
            Self::Pod => PolicyOf::from_pod(RULESET),
            Self::Peer => PolicyOf::to_pod(RULESET),
        }
    }
}

/// In which of the tables beside `flows` this one stands: `embryonic`, `crowd`.
pub(crate) fn places(
    scene: &Scene,
    peer: IpAddr,
    peer_port: u16,
    pod_port: u16,
    protocol: u8,
) -> [bool; 2] {
    let key = FlowKey {
        peer: peer.into(),
        peer_port,
        pod_port,
        slot: SLOT.0 as u16,
        protocol,
        padding: 0,
    };
    let bytes: [u8; 24] = bytemuck::cast(key);
    let kernel = &scene.kernel;
    let found = [&kernel.embryonic, &kernel.crowd].map(|table| table.get(&bytes, 0).is_ok());
    let host = [&kernel.host.embryonic, &kernel.host.crowd].map(|table| table.get(&key).is_some());
    assert_eq!(found, host, "kernel and host have it in the same tables");
    found
}

/// In `embryonic` only, of these two.
pub(crate) const EMBRYONIC: [bool; 2] = [true, false];
/// In `crowd` only.
pub(crate) const CROWD: [bool; 2] = [false, true];
/// In neither.
pub(crate) const NOWHERE: [bool; 2] = [false, false];

/// Works in a namespace that forwards what is for others: where nothing is forwarded, all of it may be the node's.
pub(crate) fn on_a_router(work: impl FnOnce() + Send) {
    let dir = tempfile::tempdir().expect("a directory");
    let netns = NetNs::create(dir.path().join("netns")).expect("make a namespace");
    sh(
        &netns,
        "echo 1 > /proc/sys/net/ipv4/ip_forward && echo 1 > /proc/sys/net/ipv6/conf/all/forwarding && \
         ip link set lo up && ip link add out type veth peer name far && ip link set out up && \
         ip link set far up && ip addr add 100.64.0.1/24 dev out && ip route add default via 100.64.0.2 && \
         ip -6 route add default dev out",
    );
    netns.run(work).expect("enter the namespace");
}
