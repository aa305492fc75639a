//! The verdict.
//!
//! ```text
//! record? ─► ethertype, parse ─► own source address ─► neighbours ─► node, own ─► fragment ─► flow? ─► judge
//! ```
//!
//! Nothing here loops over rules, blocks or ports: the cost does not depend on the policy.

use core::hint::black_box;

use crate::packet::{Content, Part, parse, tcp};
use crate::tables::bit_of;
use crate::{
    Address, Attachment, Bytes, CHUNK_ALL, CHUNK_NONE, Class, Column, Direction, Event, FlowEntry,
    FlowKey, FlowState, FlowTable, FlowValue, FlowWord, FragmentKey, FragmentValue, Initiator,
    Packet, PeerWord, PolicyWord, PortSet, Reason, RowKey, Ruleset, Slot, Tables, Verdict,
    ethertype,
};

/// Where a packet was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// The attachment whose filter it is.
    pub slot: Slot,
    /// The direction of the filter.
    pub direction: Direction,
    /// The frame's ethertype, in host order.
    pub ethertype: u16,
    /// The interface that the node received the packet from; 0 if the node itself made it.
    pub received_from: u32,
    /// The interface that the filter stands on.
    pub interface: u32,
}

impl Hook {
    #[inline(always)]
    const fn is_to_pod(&self) -> bool {
        matches!(self.direction, Direction::ToPod)
    }
}

/// The attachment's side of a verdict, each word read once, first.
struct Subject {
    to_pod: PolicyWord,
    from_pod: PolicyWord,
    birth: u32,
    routes: bool,
    /// There is a policy in the packet's direction.
    is_policed: bool,
    /// The packet is from the pod, and the pod may speak for itself only.
    is_bound: bool,
}

/// Decides one packet, and remembers its flow.
#[inline(always)]
pub fn decide<T: Tables>(tables: &T, bytes: &(impl Bytes + ?Sized), hook: &Hook) -> Verdict {
    Verdict::from(examine(tables, bytes, hook))
}

#[inline(always)]
fn examine<T: Tables>(tables: &T, bytes: &(impl Bytes + ?Sized), hook: &Hook) -> Reason {
    let Some(attachment) = tables.attachment(hook.slot) else {
        return Reason::NoRecord;
    };
    let origin = attachment.origin();
    if origin.birth() == 0 {
        return Reason::NoRecord;
    }
    let to_pod = attachment.word(Direction::ToPod);
    let from_pod = attachment.word(Direction::FromPod);
    let judging = if hook.is_to_pod() { to_pod } else { from_pod };
    let subject = Subject {
        to_pod,
        from_pod,
        birth: origin.birth(),
        routes: origin.routes(),
        is_policed: judging.ruleset() != Ruleset::ALLOW_ALL,
        is_bound: !hook.is_to_pod() && !origin.routes(),
    };
    match hook.ethertype {
        ethertype::IPV4 | ethertype::IPV6 => {}
        ethertype::ARP => return examine_arp(bytes, attachment, &subject),
        _ if subject.is_policed || subject.is_bound => return Reason::NotIp,
        _ => return Reason::Unpoliced,
    }
    let mut place = Case::default();
    let Some(case) = tables.case(&mut place) else {
        return Reason::NoRecord;
    };
    let reason = parse(bytes, hook.ethertype, hook.direction, &mut case.packet);
    if !reason.passes() {
        let is_kept_out = reason == Reason::MappedAddress || subject.is_policed || subject.is_bound;
        return if is_kept_out {
            reason
        } else {
            Reason::Unpoliced
        };
    }
    examine_packet(tables, hook, attachment, &subject, black_box(case))
}

/// What is known of a packet, and of the flow that it belongs to.
///
/// Whoever goes on with it takes it from a [`black_box`]: so the compiler reads it again instead of remembering
/// on which branch it was written, and the kernel's verifier has one state to follow where it had dozens.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Case {
    packet: Packet,
    key: FlowKey,
    /// The flow as it was found, or [`FlowWord::NONE`].
    flow: FlowWord,
    now: u64,
    /// The generation that the flow must carry.
    generation: u32,
    initiator: Initiator,
    /// The flow was found, or is to stand, in [`FlowTable::Flows`].
    is_in_flows: u8,
    from_node: u8,
    /// Has the key of a flow that the node began, but did not come from the node.
    is_posing: u8,
    /// The flow was let in by the policy in force, or needs none.
    is_current: u8,
    makes_flow: u8,
    is_error: u8,
    padding: u8,
}

/// ARP over Ethernet for IPv4 (RFC 826): from the pod only for its own address, or the probe of RFC 5227, whose
/// sender is 0.0.0.0.
#[inline(always)]
fn examine_arp(
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

#[inline(always)]
fn examine_packet<T: Tables>(
    tables: &T,
    hook: &Hook,
    attachment: &Attachment,
    subject: &Subject,
    case: &mut Case,
) -> Reason {
    let packet = &case.packet;
    let (pod, peer) = if hook.is_to_pod() {
        (packet.destination, packet.source)
    } else {
        (packet.source, packet.destination)
    };
    let owns_source = !subject.is_bound || attachment.owns(pod);
    if packet.content == Content::NEIGHBOUR {
        return examine_neighbour(attachment, subject, packet, owns_source);
    }
    if packet.content == Content::LISTENER && is_listener_discovery(subject, packet, owns_source) {
        return Reason::Neighbour;
    }
    if !owns_source {
        return Reason::Spoofed;
    }
    if subject.is_bound && packet.content == Content::REDIRECT {
        return Reason::ForgedNeighbour;
    }
    let mut from_node = false;
    if hook.is_to_pod() {
        if hook.received_from == hook.interface {
            return Reason::Own;
        }
        // An IPv6 datagram that the node put together and cut up again loses where it came from.
        if hook.received_from == 0 && packet.has_fragment_header == 0 {
            let word = peer_word(tables, peer);
            if word == PeerWord::TORN {
                return Reason::Torn;
            }
            from_node = word.is_node();
        }
    } else if attachment.owns(peer) {
        return Reason::Own;
    }
    let unread = if from_node {
        Reason::Node
    } else {
        Reason::Unpoliced
    };
    if let Some(reason) = packet.content.defect() {
        // Others may read on where we gave up, and find a tunnel or an advertisement.
        return if (subject.is_policed || subject.is_bound) && !from_node {
            reason
        } else {
            unread
        };
    }
    if packet.part == Part::LATER {
        let key = fragment_key(hook, packet, pod, peer);
        return match tables.fragment(&key) {
            Some(value) if value.passed(&key, tables.now(), tables.second()) => Reason::Fragment,
            _ if subject.is_policed && !from_node => Reason::FragmentWithoutFirst,
            _ => unread,
        };
    }

    case.from_node = u8::from(from_node);
    let reason = examine_flow(tables, hook, subject, peer, black_box(case));

    let packet = &case.packet;
    if reason == Reason::Allowed || !reason.passes() {
        tables.report(&Event {
            pod,
            peer,
            when: tables.now(),
            source_port: packet.source_port,
            destination_port: packet.destination_port,
            slot: hook.slot as u16,
            protocol: packet.protocol,
            direction: hook.direction as u8,
            reason: reason as u8,
            padding: [0; 7],
        });
    }
    if packet.part == Part::FIRST {
        let key = fragment_key(hook, packet, pod, peer);
        tables.put_fragment(
            &key,
            FragmentValue::new(&key, reason.passes(), tables.now()),
        );
    }
    reason
}

/// Neighbour discovery (RFC 4861): without it IPv6 does not work, and who lies in it is taken for another.
#[inline(always)]
fn examine_neighbour(
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
    if is_honest {
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
fn is_listener_discovery(subject: &Subject, packet: &Packet, owns_source: bool) -> bool {
    let speaks_for_itself =
        packet.source.is_unspecified() || (packet.source.is_link_local() && owns_source);
    let asks = subject.is_bound && packet.detail == LISTENER_QUERY;
    packet.hop_limit == 1 && speaks_for_itself && !asks
}

#[inline(always)]
fn fragment_key(hook: &Hook, packet: &Packet, pod: Address, peer: Address) -> FragmentKey {
    FragmentKey {
        peer,
        pod,
        identification: packet.identification,
        slot: hook.slot as u16,
        direction: hook.direction as u8,
        protocol: if hook.ethertype == ethertype::IPV4 {
            packet.protocol
        } else {
            0
        },
    }
}

/// Looks for the packet's flow; without one, or with one that another policy let in, judges its first direction.
#[inline(always)]
fn examine_flow<T: Tables>(
    tables: &T,
    hook: &Hook,
    subject: &Subject,
    peer: Address,
    case: &mut Case,
) -> Reason {
    find_flow(tables, hook, subject, peer, case);
    let case = black_box(case);
    if case.is_current == 0 {
        // The node may always send; what it sends in a flow that has to be judged again judges nothing.
        if case.from_node != 0 {
            return Reason::Node;
        }
        let reason = judge(tables, hook, subject, peer, case);
        if reason != Reason::Allowed {
            return reason;
        }
    }
    let case = black_box(case);
    if case.makes_flow != 0 && case.is_posing == 0 {
        record(tables, hook, case);
    }
    if case.from_node != 0 {
        Reason::Node
    } else if case.is_error != 0 && case.flow != FlowWord::NONE {
        Reason::Related
    } else if case.is_current != 0 {
        Reason::Established
    } else {
        Reason::Allowed
    }
}

/// Finds the packet's flow, and who began it.
#[inline(always)]
fn find_flow<T: Tables>(
    tables: &T,
    hook: &Hook,
    subject: &Subject,
    peer: Address,
    case: &mut Case,
) {
    let packet = &case.packet;
    let is_error = packet.content == Content::ERROR;
    let makes_flow = packet.content == Content::TCP || packet.content == Content::DATAGRAM;
    let (peer_port, pod_port) = if hook.is_to_pod() {
        (packet.source_port, packet.destination_port)
    } else {
        (packet.destination_port, packet.source_port)
    };
    case.key = FlowKey {
        peer,
        peer_port,
        pod_port,
        slot: hook.slot as u16,
        protocol: packet.protocol,
        padding: 0,
    };
    if is_error {
        case.key.peer = packet.about;
        case.key.protocol = packet.detail;
    }
    case.now = tables.now();
    case.makes_flow = u8::from(makes_flow);
    case.is_error = u8::from(is_error);
    case.is_in_flows = 0;
    case.is_posing = 0;
    case.flow = FlowWord::NONE;
    let case = black_box(case);
    if makes_flow || is_error {
        case.flow = find(tables, FlowTable::Flows, case, subject.birth);
        if case.flow == FlowWord::NONE {
            case.flow = find(tables, FlowTable::Embryonic, case, subject.birth);
        } else {
            case.is_in_flows = 1;
        }
    }

    let case = black_box(case);
    let from_node = case.from_node != 0;
    let is_tcp = case.packet.content == Content::TCP;
    let opens = is_tcp && case.packet.detail & (tcp::SYN | tcp::ACK) == tcp::SYN;
    if case.flow != FlowWord::NONE {
        let flow = case.flow;
        // Only the node's own packets belong to a flow that the node began; what else has its key is judged,
        // and leaves the flow alone.
        if flow.initiator() == Initiator::NODE
            && hook.is_to_pod()
            && !from_node
            && case.is_error == 0
        {
            case.is_posing = 1;
            case.flow = FlowWord::NONE;
        } else if opens && begins_another(flow, hook.direction, from_node) {
            case.flow = FlowWord::NONE;
        }
    }
    let is_known = case.flow != FlowWord::NONE;
    let initiator = if is_known {
        case.flow.initiator()
    } else if from_node {
        Initiator::NODE
    } else if hook.is_to_pod() {
        Initiator::PEER
    } else if is_tcp && !opens {
        Initiator::UNPROVEN
    } else {
        Initiator::POD
    };
    let generation = subject.generation(initiator);
    let is_current =
        initiator == Initiator::NODE || (is_known && case.flow.generation() == generation);
    case.initiator = initiator;
    case.generation = generation;
    case.is_current = u8::from(is_current);
}

impl Subject {
    /// The generation that a flow of this initiator must carry.
    #[inline(always)]
    const fn generation(&self, initiator: Initiator) -> u32 {
        let (to_pod, from_pod) = (self.to_pod.generation(), self.from_pod.generation());
        match initiator {
            Initiator::POD => from_pod,
            // Generations grow, node-wide: the later one changes whenever either does.
            Initiator::UNPROVEN if (to_pod.wrapping_sub(from_pod) as i32) < 0 => from_pod,
            _ => to_pod,
        }
    }
}

/// Whether a SYN begins another connection than the flow that has its key.
#[inline(always)]
fn begins_another(flow: FlowWord, direction: Direction, from_node: bool) -> bool {
    let initiator = flow.initiator();
    !initiator.sends(direction)
        || flow.state() == FlowState::CLOSING
        || initiator == Initiator::UNPROVEN
        || (from_node && initiator != Initiator::NODE)
}

/// The flow in `table`, if it is in time and not older than the attachment.
#[inline(always)]
fn find<T: Tables>(tables: &T, table: FlowTable, case: &Case, birth: u32) -> FlowWord {
    let Some(entry) = tables.flow(table, &case.key) else {
        return FlowWord::NONE;
    };
    let value = entry.value();
    let word = value.word();
    let age = case.now.wrapping_sub(value.seen.load()) as i64;
    let limit = i64::from(word.state().timeout(case.key.protocol)) * i64::from(tables.second());
    // The element may have been replaced under us, or the slot have been another attachment's. Judged afresh,
    // nothing is lost.
    if !word.belongs_to(&case.key)
        || age > limit
        || (word.generation().wrapping_sub(birth) as i32) < 0
    {
        return FlowWord::NONE;
    }
    // Every 64 jiffies is often enough for a time-out of seconds, and spares the cache line.
    if age >= 64 {
        value.seen.store(case.now);
    }
    word
}

/// Writes down how far the flow has come, where that changed.
#[inline(always)]
fn record<T: Tables>(tables: &T, hook: &Hook, case: &Case) {
    let is_initiators = case.initiator.sends(hook.direction);
    let flags = if case.packet.content == Content::TCP {
        case.packet.detail
    } else {
        0
    };
    let step = flags & (tcp::SYN | tcp::ACK | tcp::RST);
    let is_known = case.flow != FlowWord::NONE;
    let before = case.flow.state();
    let state = if !is_known {
        if step & (tcp::SYN | tcp::ACK) == tcp::SYN {
            FlowState::SYN
        } else {
            FlowState::HALF
        }
    } else if before == FlowState::SYN && !is_initiators && step == tcp::SYN | tcp::ACK {
        FlowState::SYN_ACK
    } else if (before == FlowState::SYN_ACK && is_initiators && step == tcp::ACK)
        || (before == FlowState::HALF && !is_initiators && flags & tcp::RST == 0)
    {
        FlowState::ESTABLISHED
    } else if before == FlowState::ESTABLISHED && flags & (tcp::FIN | tcp::RST) != 0 {
        FlowState::CLOSING
    } else {
        before
    };
    let is_answered = state == FlowState::ESTABLISHED || state == FlowState::CLOSING;
    // A flow over budget stays embryonic, and is promoted once there is room.
    let is_promoted = is_answered && case.is_in_flows == 0 && tables.within_budget(hook.slot);
    let word = FlowWord::new(&case.key, case.generation, case.initiator, state);
    if word == case.flow && !is_promoted {
        return;
    }
    let value = FlowValue::new(word, case.now);
    if is_promoted && tables.put_flow(FlowTable::Flows, &case.key, &value) {
        tables.count_flow(hook.slot);
    } else if case.is_in_flows != 0 {
        tables.put_flow(FlowTable::Flows, &case.key, &value);
    } else {
        tables.put_flow(FlowTable::Embryonic, &case.key, &value);
    }
}

/// The word of an address. Torn twice: [`PeerWord::TORN`].
///
/// An address whose element is just being replaced may be missed: the kernel links the new element before it
/// unlinks the old one, but who stands on the old one when it is used again may find the chain's end there (seen
/// once in 44 million look-ups). So absence is asked for twice as well.
#[inline(always)]
fn peer_word<T: Tables>(tables: &T, address: Address) -> PeerWord {
    let mut word = tables.peer(address);
    if word == PeerWord::ABSENT || !word.belongs_to(address) {
        word = tables.peer(address);
        if word != PeerWord::ABSENT && !word.belongs_to(address) {
            return PeerWord::TORN;
        }
    }
    word
}

/// Asks the rulesets of the directions that must allow it. `sender` is the other end of the packet itself.
#[inline(always)]
fn judge<T: Tables>(
    tables: &T,
    hook: &Hook,
    subject: &Subject,
    sender: Address,
    case: &Case,
) -> Reason {
    let is_known = case.flow != FlowWord::NONE;
    let (pod_port, peer_port) = (case.key.pod_port, case.key.peer_port);
    // An error about no flow is judged by who sends it.
    let is_stray = case.is_error != 0 && !is_known;
    let peer = if is_stray { sender } else { case.key.peer };
    let protocol = if is_stray {
        case.packet.protocol
    } else {
        case.key.protocol
    };
    // Picked up, an unproven flow is judged as what it looks like; judged again, as either.
    let to_pod =
        case.initiator == Initiator::PEER || (case.initiator == Initiator::UNPROVEN && is_known);
    let from_pod = case.initiator != Initiator::PEER;
    let column = Column::of(protocol);
    let is_rest = column == Column::REST;
    let ingress = if to_pod {
        subject.to_pod.ruleset()
    } else {
        Ruleset::ALLOW_ALL
    };
    let egress = if from_pod {
        subject.from_pod.ruleset()
    } else {
        Ruleset::ALLOW_ALL
    };
    let mut class = Class::NONE;
    let mut broad = Class::NONE;
    if ingress > Ruleset::ALLOW_ALL || egress > Ruleset::ALLOW_ALL {
        let word = peer_word(tables, peer);
        if word == PeerWord::TORN {
            return Reason::Torn;
        }
        if word == PeerWord::ABSENT {
            broad = tables.prefix(peer);
        } else {
            class = word.class();
            broad = word.broad();
        }
    }
    // Hidden from the compiler, which would write the question out twice.
    let mut turn = black_box(0_u64);
    while turn < 2 {
        let (ruleset, port) = if turn == 0 {
            (ingress, pod_port)
        } else {
            (egress, peer_port)
        };
        let port = if is_rest { u16::from(protocol) } else { port };
        turn += 1;
        let reason = ask(tables, ruleset, class, broad, column, port);
        if reason != Reason::Allowed {
            return reason;
        }
    }
    if subject.routes {
        return Reason::Allowed;
    }
    // Whoever is policed, no tunnel leads from a pod to the node unless a rule names it: what comes out of it is
    // judged as another's packet. An isolated pod's ruleset says so itself, in its rows for the node's addresses.
    // What comes from a tunnel's port at the node could be answered into the tunnel.
    let (set, port) = if column == Column::UDP {
        (PortSet::TUNNEL_PORTS, peer_port)
    } else if column == Column::REST && from_pod {
        (PortSet::TUNNEL_PROTOCOLS, u16::from(protocol))
    } else {
        return Reason::Allowed;
    };
    if !holds(tables, set, port) {
        return Reason::Allowed;
    }
    let leads_here = if peer_word(tables, peer).is_node() {
        !from_pod || egress == Ruleset::ALLOW_ALL
    } else {
        from_pod
            && (peer.is_multicast_or_broadcast()
                || peer.is_ipv4_loopback()
                || tables.is_delivered_here(hook.interface, case.packet.source, peer))
    };
    if leads_here {
        Reason::Tunnel
    } else {
        Reason::Allowed
    }
}

/// Asks a ruleset: the row of the class, else of the broad class, else its own; then one bit.
#[inline(always)]
fn ask<T: Tables>(
    tables: &T,
    ruleset: Ruleset,
    class: Class,
    broad: Class,
    column: Column,
    port: u16,
) -> Reason {
    if ruleset == Ruleset::DENY_ALL {
        return Reason::DenyAll;
    }
    if ruleset == Ruleset::ALLOW_ALL {
        return Reason::Allowed;
    }
    let mut word = row_word(tables, ruleset, class, column);
    if word == 0 {
        word = row_word(tables, ruleset, broad, column);
    }
    if word == 0 {
        word = tables.default_row_word(ruleset, column.word());
    }
    if word == TORN_ROW {
        return Reason::Torn;
    }
    if holds(tables, column.set(word), port) {
        Reason::Allowed
    } else {
        Reason::Policy
    }
}

/// No row has this word: its tag would be that of no ruleset.
const TORN_ROW: u64 = u64::MAX;

/// The word of a row that has the column, or 0. Torn twice: [`TORN_ROW`].
#[inline(always)]
fn row_word<T: Tables>(tables: &T, ruleset: Ruleset, class: Class, column: Column) -> u64 {
    if class == Class::NONE {
        return 0;
    }
    let key = RowKey::new(ruleset, class);
    let mut word = tables.row_word(key, column.word());
    if word != 0 && word >> 32 != u64::from(key.0) {
        word = tables.row_word(key, column.word());
        if word != 0 && word >> 32 != u64::from(key.0) {
            return TORN_ROW;
        }
    }
    word
}

/// Whether the set has the port.
#[inline(always)]
fn holds<T: Tables>(tables: &T, set: PortSet, port: u16) -> bool {
    if set == PortSet::NONE {
        return false;
    }
    if set == PortSet::ALL {
        return true;
    }
    match tables.chunk_of(set.0, port) {
        CHUNK_NONE => false,
        CHUNK_ALL => true,
        chunk => tables.chunk_word(chunk, port) & bit_of(port).1 != 0,
    }
}
