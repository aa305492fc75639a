// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What hosts on a link tell each other: ARP, neighbor discovery, group membership, DHCP.
//!
//! None of it asks a policy, because no interface works without it. So it must say who the pod is and nothing else, stay
//! on the link, and have no room for data.

use super::foreign::may_claim;
use super::{Hook, PolicyView};
use crate::packet::{Content, Part, UDP, port};
use crate::{Address, Attachment, Bytes, NextHop, Packet, Reason, RulesetId, Tables};

/// The shortest Ethernet frame without its checksum: what is shorter is padded.
const SHORTEST: u32 = 60;

/// ARP over Ethernet for IPv4 (RFC 826): from the pod only for addresses that it may claim, or the probe of RFC 5227 for one of
/// them, whose sender is 0.0.0.0.
#[inline(always)]
pub(super) fn examine_arp<T: Tables>(
    tables: &T,
    bytes: &(impl Bytes + ?Sized),
    attachment: &Attachment,
    view: &PolicyView,
) -> Reason {
    if !view.is_bound {
        return Reason::Neighbor;
    }
    let Some(arp) = bytes.load::<28>(14) else {
        return Reason::ForgedNeighbor;
    };
    let [
        ..,
        a,
        b,
        c,
        d,
        e,
        f,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
    ] = arp;
    let hardware = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    if !attachment.hardware().admits(hardware) {
        return Reason::ForeignHardwareAddress;
    }
    let is_ipv4 = matches!(arp, [0, 1, 8, 0, 6, 4, 0, 1 | 2, ..]);
    let is_probe = matches!(
        arp,
        [_, _, _, _, _, _, _, 1, _, _, _, _, _, _, 0, 0, 0, 0, ..]
    );
    let sender = Address::from_ipv4([arp[14], arp[15], arp[16], arp[17]]);
    let target = Address::from_ipv4([arp[24], arp[25], arp[26], arp[27]]);
    let speaks_for_itself = may_claim(tables, attachment, if is_probe { target } else { sender });
    if is_ipv4 && speaks_for_itself && bytes.load::<1>(SHORTEST).is_none() {
        Reason::Neighbor
    } else {
        Reason::ForgedNeighbor
    }
}

/// Neighbor discovery (RFC 4861): without it IPv6 does not work, and who lies in it is taken for another.
#[inline(always)]
pub(super) fn examine_neighbor<T: Tables>(
    tables: &T,
    attachment: &Attachment,
    view: &PolicyView,
    packet: &Packet,
) -> Reason {
    // RFC 4861 sections 6.1 and 7.1: anything but 255 came through a router. RFC 6980: never in fragments.
    if packet.hop_limit != 255 || packet.has_fragment_header != 0 {
        return Reason::ForgedNeighbor;
    }
    if !view.is_bound {
        return Reason::Neighbor;
    }
    if packet.stated != 0 && !attachment.hardware().admits(packet.stated) {
        return Reason::ForeignHardwareAddress;
    }
    // From `::` asks who is about to take an address (RFC 4862 section 5.4): of another's, it takes it away.
    let is_nobody = packet.source.is_unspecified();
    let owns_source = may_claim(tables, attachment, packet.source);
    let owns_target = may_claim(tables, attachment, packet.about);
    let is_honest = match packet.detail {
        ROUTER_SOLICITATION => owns_source || is_nobody,
        NEIGHBOR_SOLICITATION => owns_source || (is_nobody && owns_target),
        NEIGHBOR_ADVERTISEMENT => owns_source && owns_target,
        _ => false,
    };
    if !is_honest || packet.is_plain == 0 {
        return Reason::ForgedNeighbor;
    }
    let to = packet.destination;
    if to.is_of_link() || view.from_pod.ruleset() == RulesetId::ALLOW_ALL {
        return Reason::Neighbor;
    }
    if to.is_multicast_or_broadcast() {
        return Reason::ForgedNeighbor;
    }
    // What a router would take to anybody else, out of the pod's policy, is not for the pod to send. Where the host end is no
    // bridge's port, the node is the only router.
    let next_hop = tables.next_hop(view.link, packet.source, to);
    let link = attachment.link();
    if link.master() == 0 {
        return if next_hop == NextHop::ROUTER {
            Reason::ForgedNeighbor
        } else {
            Reason::Neighbor
        };
    }
    // On a bridge the neighbor is asked past the node, which need not be the way to the addresses of its ports, and other routers
    // may be there, which forward what the node does not. So these are neighbors: those of the pod's own networks, which no router
    // takes anywhere, those that the node itself has on this link, and the node.
    let stays = next_hop != NextHop::ROUTER;
    if attachment.is_near(to) {
        if stays {
            Reason::Neighbor
        } else if link.is_guarded() {
            Reason::OnLink
        } else {
            Reason::ForgedNeighbor
        }
    } else if next_hop == NextHop::ITSELF || (stays && tables.peer_word(to).is_node()) {
        Reason::Neighbor
    } else {
        Reason::ForgedNeighbor
    }
}

const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// Group membership, without which a snooping bridge keeps groups from the pod: time to live 1, and in IPv6 a link-local
/// source (RFC 2236, RFC 3376; RFC 2710 section 3, RFC 3810 section 5), or none while there is none. Queries are a
/// router's. [`Reason::Allowed`]: it is judged as any other packet.
#[inline(always)]
pub(super) fn examine_listener<T: Tables>(
    tables: &T,
    attachment: &Attachment,
    view: &PolicyView,
    packet: &Packet,
    owns_source: bool,
) -> Reason {
    let is_nobody =
        packet.source.is_unspecified() || packet.source == Address::from_ipv4([0, 0, 0, 0]);
    let is_hosts = owns_source && (packet.source.is_ipv4() || packet.source.is_link_local());
    let is_of_link = packet.hop_limit == 1
        && packet.part == Part::WHOLE
        && packet.has_fragment_header == 0
        && packet.destination.is_multicast_or_broadcast()
        && (is_nobody || is_hosts);
    if !view.is_bound {
        return if is_of_link {
            Reason::Neighbor
        } else {
            Reason::Allowed
        };
    }
    // Bridges look at nothing but the message, so what is out of the rules is no ordinary packet either.
    if !is_of_link || !is_report(packet.detail) {
        return if owns_source || is_nobody {
            Reason::ForgedNeighbor
        } else {
            Reason::Spoofed
        };
    }
    if may_tell(tables, attachment, packet.weight) {
        Reason::Neighbor
    } else {
        Reason::TooManyReports
    }
}

/// Reports of membership and of its end: of MLD 131, 132 and 143, of IGMP 0x12, 0x16, 0x17 and 0x22.
#[inline(always)]
const fn is_report(kind: u8) -> bool {
    matches!(kind, 131 | 132 | 143 | 0x12 | 0x16 | 0x17 | 0x22)
}

/// What a pod may tell its link at once without a rule, in units of its weight: a report of so many groups, or half a
/// dozen requests of DHCP. A bridge of Linux before 5.0 gives up snooping at 512 groups, of which a pod has half at most:
/// it forgets one after 260 s, in which the pod gets back as many.
const SHARE: u64 = 128;

/// How long it takes until a unit may be told again, in seconds.
const PACE: u64 = 2;

/// Whether the attachment may tell its link so much more, and notes it. CPUs that ask together may all be told yes: what
/// they overdraw is paid for before the next.
#[inline(always)]
fn may_tell<T: Tables>(tables: &T, attachment: &Attachment, weight: u8) -> bool {
    let pace = PACE * tables.second() as u64;
    let (now, cost) = (tables.now(), weight as u64 * pace);
    let told = attachment.told.load();
    let owes = told.wrapping_sub(now);
    let owes = if (owes as i64) < 0 { 0 } else { owes };
    if owes + cost > SHARE * pace {
        return false;
    }
    if owes == 0 {
        attachment.told.store(now);
    }
    attachment.told.add(cost);
    true
}

/// How long the answers to a request are waited for, in seconds.
const ANSWER: u64 = 60;

/// How many there may be: of some servers, an offer and an acknowledgment each.
const ANSWERS: u64 = 8;

/// One answer in [`Attachment::asked`], above the time.
const HEARD: u64 = 1 << 56;

/// DHCP (RFC 2131, RFC 8415), without which a pod loses the address that it got by it: requests to everybody on the link,
/// which no router forwards, and the answers to them. [`Reason::Allowed`]: it is judged as any other packet.
///
/// A renewal that is sent to the server alone is an ordinary packet, and a policy for egress has to name it.
#[inline(always)]
pub(super) fn dhcp<T: Tables>(
    tables: &T,
    hook: &Hook,
    attachment: &Attachment,
    view: &PolicyView,
    packet: &Packet,
    owns_source: bool,
) -> Reason {
    let is_ipv4 = packet.source.is_ipv4();
    let (client, server) = if is_ipv4 {
        (port::DHCP_CLIENT, port::DHCP_SERVER)
    } else {
        (port::DHCPV6_CLIENT, port::DHCPV6_SERVER)
    };
    let is_datagram = packet.content == Content::DATAGRAM
        && packet.protocol == UDP
        && packet.part == Part::WHOLE
        && packet.has_fragment_header == 0;
    if !is_datagram {
        return Reason::Allowed;
    }
    if hook.is_to_pod() {
        let is_answer = packet.source_port == server
            && packet.destination_port == client
            && packet.is_plain != 0
            && (packet.stated == 0 || attachment.hardware().admits(packet.stated))
            && (is_ipv4 || packet.source.is_link_local());
        if !is_answer {
            return Reason::Allowed;
        }
        let asked = attachment.asked.load();
        let age = tables.now().wrapping_sub(asked % HEARD);
        let is_due =
            asked != 0 && age <= ANSWER * tables.second() as u64 && asked / HEARD < ANSWERS;
        if !is_due {
            return Reason::Allowed;
        }
        // Two that are counted as one let in one more.
        attachment.asked.store(asked + HEARD);
        return Reason::Neighbor;
    }
    let is_request = packet.source_port == client && packet.destination_port == server;
    if !view.is_bound || !is_request {
        return Reason::Allowed;
    }
    let is_of_link = if is_ipv4 {
        let is_nobody = packet.source == Address::from_ipv4([0, 0, 0, 0]);
        packet.destination == Address::from_ipv4([255, 255, 255, 255]) && (owns_source || is_nobody)
    } else {
        owns_source
            && packet.source.is_link_local()
            && packet.destination == Address::ALL_DHCP_SERVERS
    };
    let reason = if !is_of_link || packet.is_plain == 0 {
        Reason::Spoofed
    } else if packet.stated != 0 && !attachment.hardware().admits(packet.stated) {
        Reason::ForeignHardwareAddress
    } else if may_tell(tables, attachment, packet.weight) {
        attachment.asked.store(tables.now());
        Reason::Neighbor
    } else {
        Reason::TooManyReports
    };
    // With an address of its own it may be allowed by a rule.
    if reason != Reason::Neighbor && owns_source {
        Reason::Allowed
    } else {
        reason
    }
}
