// SPDX-License-Identifier: Apache-2.0 OR MIT
/// Why a packet was passed or dropped; the index of its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Passed: belongs to a flow that was allowed under the policy in force.
    Established = 0,
    /// Passed: allowed by the attachment's ruleset, as the first packet of its flow or judged again.
    Allowed = 1,
    /// Passed: no policy in this direction, and nothing in it that a flow could be made of.
    Unpoliced = 2,
    /// Passed: came from the node itself (Kubernetes: traffic from the node where a pod runs is always allowed).
    Node = 3,
    /// Passed: from the pod to itself, on its way back.
    Own = 4,
    /// Passed: what a link needs, within its rules: ARP, neighbor discovery, group membership, DHCP.
    Neighbor = 5,
    /// Passed: an ICMP error about a tracked flow.
    Related = 6,
    /// Passed: follows a fragment that was passed.
    Fragment = 7,
    /// Passed to the other ports of the pod's bridge, and not to the node, which would send it on by another interface:
    /// neighbor discovery.
    OnLink = 8,

    /// Dropped: no rule of the policy allows it.
    Policy = 32,
    /// Dropped: the ruleset denies everything: baseline deny, or isolated without any rule.
    DenyAll = 33,
    /// Dropped: the filter names a slot without a record.
    NoRecord = 34,
    /// Dropped: neither IPv4, IPv6 nor ARP, or a VLAN tag left in the data.
    NotIp = 35,
    /// Dropped: from the pod with a source address that is not its own.
    Spoofed = 36,
    /// Dropped: router advertisement, redirect of either family, or a neighbor advertisement for another's
    /// address, from the pod; or neighbor discovery with a hop limit other than 255 (RFC 4861 section 7.1), or from
    /// the pod to somebody behind a router.
    ForgedNeighbor = 37,
    /// Dropped: a tunnel to a node that no rule names.
    Tunnel = 38,
    /// Dropped: the IP header is cut short or contradicts itself.
    BadIpHeader = 39,
    /// Dropped: the transport header is cut short, or not all in the first fragment.
    BadTransportHeader = 40,
    /// Dropped: more IPv6 extension headers than are followed.
    TooManyHeaders = 41,
    /// Dropped: a source route, which hides the destination.
    SourceRoute = 42,
    /// Dropped: an IPv6 packet with an IPv4-mapped address.
    MappedAddress = 43,
    /// Dropped: follows a fragment that was dropped or not seen.
    FragmentWithoutFirst = 44,
    /// Dropped: a table entry was replaced while it was read, twice running.
    Torn = 45,
    /// Dropped: IPv6 extension headers in an order that receivers read in different ways: a fragment header behind
    /// anything but one leading hop-by-hop header, options or a routing header behind a fragment header, hop-by-hop
    /// options that are not first.
    AmbiguousHeaders = 46,
    /// Dropped: what goes with the packet has the kernel write a checksum where none of the headers that were judged has
    /// one, or segment what it cannot be.
    OffloadMetadata = 47,
    /// Dropped: to the pod for an address that is neither its own nor a group's; or from the pod
    /// for its own.
    NotForPod = 48,
    /// Dropped: from the pod with a hardware address that is not its own: of the frame, of an ARP sender, in an option
    /// of neighbor discovery, or of a DHCP client.
    ForeignHardwareAddress = 49,
    /// Dropped: the pod tells its link of more than its share: multicast groups, DHCP.
    TooManyReports = 50,
}

impl Reason {
    /// Room for all reasons in `counters`, for one direction.
    pub const COUNT: u32 = 64;

    /// Whether the packet passes.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        (self as u8) < Self::Policy as u8
    }
}

/// What becomes of a packet, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Goes on to whatever comes after us.
    Pass(Reason),
    /// Ends here, silently.
    Drop(Reason),
}

impl From<Reason> for Decision {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        if reason.passes() {
            Self::Pass(reason)
        } else {
            Self::Drop(reason)
        }
    }
}
