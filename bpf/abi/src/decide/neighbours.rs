//! What neighbours on a link say of themselves: ARP, neighbour discovery, multicast listeners.

use super::{Hook, Subject};
use crate::{Address, Attachment, Bytes, Packet, Reason, Tables};

/// ARP over Ethernet for IPv4 (RFC 826): from the pod only for its own address, or the probe of RFC 5227, whose
/// sender is 0.0.0.0.
#[inline(always)]
pub(super) fn examine_arp(
    bytes: &(impl Bytes + ?Sized),
    attachment: &Attachment,
    subject: &Subject,
) -> Reason {
    if !subject.is_bound {
        return Reason::Neighbour;
    }
    let Some(arp) = bytes.load::<28>(14) else {
        return Reason::ForgedNeighbour;
    };
    let is_ipv4 = matches!(arp, [0, 1, 8, 0, 6, 4, 0, ..]);
    let is_probe = matches!(
        arp,
        [_, _, _, _, _, _, _, 1, _, _, _, _, _, _, 0, 0, 0, 0, ..]
    );
    let sender = Address::from_ipv4([arp[14], arp[15], arp[16], arp[17]]);
    if is_ipv4 && (is_probe || attachment.owns(sender)) {
        Reason::Neighbour
    } else {
        Reason::ForgedNeighbour
    }
}

/// Neighbour discovery (RFC 4861): without it IPv6 does not work, and who lies in it is taken for another.
#[inline(always)]
pub(super) fn examine_neighbour<T: Tables>(
    tables: &T,
    hook: &Hook,
    attachment: &Attachment,
    subject: &Subject,
    packet: &Packet,
    owns_source: bool,
) -> Reason {
    // RFC 4861 sections 6.1 and 7.1: anything but 255 came through a router. RFC 6980: never in fragments.
    if packet.hop_limit != 255 || packet.has_fragment_header != 0 {
        return Reason::ForgedNeighbour;
    }
    if !subject.is_bound {
        return Reason::Neighbour;
    }
    let is_honest = match packet.detail {
        ROUTER_SOLICITATION | NEIGHBOUR_SOLICITATION => {
            owns_source || packet.source.is_unspecified()
        }
        NEIGHBOUR_ADVERTISEMENT => owns_source && attachment.owns(packet.about),
        _ => false,
    };
    // No policy is asked, so it must not leave the link: a router would take it to anybody, with what it carries.
    let to = packet.destination;
    let is_for_neighbours = to.is_of_link()
        || (!to.is_multicast_or_broadcast()
            && !tables.is_sent_on(hook.interface, packet.source, to));
    if is_honest && is_for_neighbours {
        Reason::Neighbour
    } else {
        Reason::ForgedNeighbour
    }
}

const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const LISTENER_QUERY: u8 = 130;

/// Multicast listener discovery, without which a snooping bridge keeps solicitations from the pod: hop limit 1
/// and a link-local source (RFC 2710 section 3, RFC 3810 section 5), or `::` while there is none. Queries are a
/// router's.
#[inline(always)]
pub(super) fn is_listener_discovery(subject: &Subject, packet: &Packet, owns_source: bool) -> bool {
    let speaks_for_itself =
        packet.source.is_unspecified() || (packet.source.is_link_local() && owns_source);
    let asks = subject.is_bound && packet.detail == LISTENER_QUERY;
    packet.hop_limit == 1 && speaks_for_itself && !asks
}
