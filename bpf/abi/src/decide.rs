//! The verdict.
//!
//! ```text
//! record? ─► ethertype, parse ─► own source address ─► neighbours ─► node, own ─► fragment ─► flow? ─► judge
//! ```
//!
//! Nothing here loops over rules, blocks or ports: the cost does not depend on the policy.

use crate::packet::{Content, Part, parse};
use crate::packet::{TCP, tcp};
use crate::tables::bit_of;
use crate::{
    ATTACHMENT_ROUTES, Address, Attachment, Bytes, CHUNK_ALL, CHUNK_NONE, Class, Column, Direction,
    FlowEntry, FlowKey, FlowState, FlowTable, FlowValue, FlowWord, FragmentKey, FragmentValue,
    Initiator, Packet, PeerWord, PolicyWord, PortSet, Reason, RowKey, Ruleset, Slot, Tables,
    Verdict, ethertype,
};
use core::sync::atomic::Ordering;

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

/// Decides one packet, and remembers its flow.
#[inline(always)]
pub fn decide<T: Tables>(tables: &T, bytes: &(impl Bytes + ?Sized), hook: &Hook) -> Verdict {
    match examine(tables, bytes, hook) {
        Ok(reason) | Err(reason) => Verdict::from(reason),
    }
}

/// The attachment's side of a verdict, each word read once.
struct Subject {
    to_pod: PolicyWord,
    from_pod: PolicyWord,
    birth: u32,
    routes: bool,
}

impl Subject {
    #[inline(always)]
    const fn word(&self, direction: Direction) -> PolicyWord {
        match direction {
            Direction::ToPod => self.to_pod,
            Direction::FromPod => self.from_pod,
        }
    }

    /// The generation that a flow of this initiator must carry.
    #[inline(always)]
    const fn generation(&self, initiator: Initiator) -> u32 {
        match initiator {
            Initiator::Pod => self.from_pod.generation(),
            Initiator::Peer | Initiator::Node => self.to_pod.generation(),
            // Generations grow, node-wide: the later one changes whenever either does.
            Initiator::Unproven => later(self.to_pod.generation(), self.from_pod.generation()),
        }
    }
}

/// The later of two generations, whose numbers may have wrapped.
#[inline(always)]
const fn later(a: u32, b: u32) -> u32 {
    if (a.wrapping_sub(b) as i32) < 0 { b } else { a }
}

#[inline(always)]
fn examine<T: Tables>(
    tables: &T,
    bytes: &(impl Bytes + ?Sized),
    hook: &Hook,
) -> Result<Reason, Reason> {
    let Some(attachment) = tables.attachment(hook.slot) else {
        return Err(Reason::NoRecord);
    };
    let subject = Subject {
        to_pod: attachment.word(Direction::ToPod),
        from_pod: attachment.word(Direction::FromPod),
        birth: attachment.birth.load(Ordering::Relaxed),
        routes: attachment.flags.load(Ordering::Relaxed) & ATTACHMENT_ROUTES != 0,
    };
    if subject.birth == 0 {
        return Err(Reason::NoRecord);
    }
    let policed = subject.word(hook.direction).ruleset() != Ruleset::ALLOW_ALL;
    let bound = matches!(hook.direction, Direction::FromPod) && !subject.routes;

    match hook.ethertype {
        ethertype::IPV4 | ethertype::IPV6 => {}
        ethertype::ARP => return examine_arp(bytes, attachment, bound),
        _ if policed || bound => return Err(Reason::NotIp),
        _ => return Ok(Reason::Unpoliced),
    }
    let packet = match parse(bytes, hook.ethertype, hook.direction) {
        Ok(packet) => packet,
        Err(Reason::MappedAddress) => return Err(Reason::MappedAddress),
        Err(reason) if policed || bound => return Err(reason),
        Err(_) => return Ok(Reason::Unpoliced),
    };
    let (pod, peer) = match hook.direction {
        Direction::ToPod => (packet.destination, packet.source),
        Direction::FromPod => (packet.source, packet.destination),
    };

    if let Content::Discovery(kind, code) = packet.content
        && let Some(reason) =
            examine_discovery(attachment, &packet, kind, code, hook.direction, bound)?
    {
        return Ok(reason);
    }
    if bound && !attachment.owns(pod) {
        return Err(Reason::Spoofed);
    }
    let mut from_node = false;
    match hook.direction {
        Direction::ToPod => {
            if hook.received_from == hook.interface {
                return Ok(Reason::Own);
            }
            // An IPv6 datagram that the node put together and cut up again loses where it came from.
            from_node =
                hook.received_from == 0 && !packet.has_fragment_header && is_node(tables, peer)?;
        }
        Direction::FromPod => {
            if attachment.owns(peer) {
                return Ok(Reason::Own);
            }
        }
    }

    match packet.content {
        Content::Unreadable(reason) if policed && !from_node => return Err(reason),
        Content::Unreadable(_) => {
            return Ok(if from_node {
                Reason::Node
            } else {
                Reason::Unpoliced
            });
        }
        Content::Hidden if from_node => return Ok(Reason::Node),
        Content::Hidden => {
            return match tables.fragment(&fragment_key(hook, &packet, pod, peer)) {
                Some(value)
                    if value.passed(
                        &fragment_key(hook, &packet, pod, peer),
                        tables.now(),
                        tables.second(),
                    ) =>
                {
                    Ok(Reason::Fragment)
                }
                _ if policed => Err(Reason::FragmentWithoutFirst),
                _ => Ok(Reason::Unpoliced),
            };
        }
        Content::Tcp(_)
        | Content::Datagram
        | Content::Discovery(..)
        | Content::Error(_)
        | Content::Message => {}
    }

    let result = examine_flow(tables, hook, &subject, &packet, peer, from_node);
    if matches!(packet.part, Part::First) {
        let key = fragment_key(hook, &packet, pod, peer);
        tables.put_fragment(&key, FragmentValue::new(&key, result.is_ok(), tables.now()));
    }
    result
}

/// ARP over Ethernet for IPv4 (RFC 826): from the pod only for its own address, or the probe of RFC 5227, whose
/// sender is 0.0.0.0.
#[inline(always)]
fn examine_arp(
    bytes: &(impl Bytes + ?Sized),
    attachment: &Attachment,
    bound: bool,
) -> Result<Reason, Reason> {
    if !bound {
        return Ok(Reason::Neighbour);
    }
    let Some(arp) = bytes.load::<28>(14) else {
        return Err(Reason::ForgedNeighbour);
    };
    let is_ipv4 = matches!(arp, [0, 1, 8, 0, 6, 4, 0, ..]);
    let is_probe = matches!(
        arp,
        [_, _, _, _, _, _, _, 1, _, _, _, _, _, _, 0, 0, 0, 0, ..]
    );
    let sender = Address::from_ipv4([arp[14], arp[15], arp[16], arp[17]]);
    if is_ipv4 && (is_probe || attachment.owns(sender)) {
        Ok(Reason::Neighbour)
    } else {
        Err(Reason::ForgedNeighbour)
    }
}

/// Neighbour discovery (RFC 4861) and multicast listener discovery (RFC 2710, RFC 3810), without which IPv6
/// does not work. None: judged like anything else.
#[inline(always)]
fn examine_discovery(
    attachment: &Attachment,
    packet: &Packet,
    kind: u8,
    code: u8,
    direction: Direction,
    bound: bool,
) -> Result<Option<Reason>, Reason> {
    let from_own_link = packet.source.is_link_local() || packet.source.is_unspecified();
    // Listener discovery: RFC 2710 section 3 and RFC 3810 section 5 ask for hop limit 1 and a link-local
    // source; a report may come from `::` before there is one.
    if kind <= 132 || kind == 143 {
        let speaks_for_itself =
            !bound || packet.source.is_unspecified() || attachment.owns(packet.source);
        let is_query = kind == 130 && matches!(direction, Direction::FromPod);
        return Ok((packet.hop_limit == 1
            && from_own_link
            && speaks_for_itself
            && !(bound && is_query))
            .then_some(Reason::Neighbour));
    }
    // RFC 4861 section 6.1 and 7.1: anything but 255 came through a router. RFC 6980: never in fragments.
    if packet.hop_limit != 255 || code != 0 || packet.has_fragment_header {
        return Err(Reason::ForgedNeighbour);
    }
    if !bound {
        return Ok(Some(Reason::Neighbour));
    }
    let source_is_own = attachment.owns(packet.source);
    let honest = match kind {
        133 | 135 => source_is_own || packet.source.is_unspecified(),
        136 => source_is_own && attachment.owns(packet.about),
        _ => false,
    };
    if honest {
        Ok(Some(Reason::Neighbour))
    } else {
        Err(Reason::ForgedNeighbour)
    }
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

/// A flow as it was found, in time and not older than the attachment.
#[derive(Clone, Copy)]
struct Found {
    table: FlowTable,
    word: FlowWord,
}

#[inline(always)]
fn examine_flow<T: Tables>(
    tables: &T,
    hook: &Hook,
    subject: &Subject,
    packet: &Packet,
    peer: Address,
    from_node: bool,
) -> Result<Reason, Reason> {
    let (peer_port, pod_port) = match hook.direction {
        Direction::ToPod => (packet.source_port, packet.destination_port),
        Direction::FromPod => (packet.destination_port, packet.source_port),
    };
    let (flow_peer, protocol, is_error) = match packet.content {
        Content::Error(protocol) => (packet.about, protocol, true),
        Content::Hidden
        | Content::Unreadable(_)
        | Content::Tcp(_)
        | Content::Datagram
        | Content::Discovery(..)
        | Content::Message => (peer, packet.protocol, false),
    };
    let key = FlowKey {
        peer: flow_peer,
        peer_port,
        pod_port,
        slot: hook.slot as u16,
        protocol,
        padding: 0,
    };
    let makes_flow = matches!(packet.content, Content::Tcp(_) | Content::Datagram);
    let flags = match packet.content {
        Content::Tcp(flags) => flags,
        Content::Hidden
        | Content::Unreadable(_)
        | Content::Datagram
        | Content::Discovery(..)
        | Content::Error(_)
        | Content::Message => 0,
    };
    let opens = flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
    let now = tables.now();

    let known = if makes_flow || is_error {
        find(tables, &key, subject.birth, now)
    } else {
        None
    };
    let (found, stale) = match known {
        Some(flow) if opens && begins_another(flow.word, hook.direction, from_node) => {
            (None, Some(flow.table))
        }
        // Only the node's own packets belong to a flow that the node began; what else comes is judged, and
        // leaves the flow alone.
        Some(flow) if is_posing_as_node(flow.word, hook.direction, from_node, is_error) => {
            (None, None)
        }
        flow => (flow, None),
    };
    let is_posing = known.is_some() && found.is_none() && stale.is_none();

    let initiator = match found {
        Some(flow) => flow.word.initiator(),
        None if from_node => Initiator::Node,
        None => match hook.direction {
            Direction::ToPod => Initiator::Peer,
            Direction::FromPod if makes_flow && protocol == TCP && !opens => Initiator::Unproven,
            Direction::FromPod => Initiator::Pod,
        },
    };
    let generation = subject.generation(initiator);
    let is_current = match found {
        Some(flow) => flow.word.generation() == generation || matches!(initiator, Initiator::Node),
        None => from_node,
    };
    if !is_current && from_node {
        // The node may answer a flow whose policy changed; that judges nothing.
        return Ok(Reason::Node);
    }
    if !is_current {
        // An error about no flow is judged by who sends it, a flow by who began it.
        let about_nothing = is_error && found.is_none();
        let judged_peer = if about_nothing { peer } else { flow_peer };
        let judged_protocol = if about_nothing {
            packet.protocol
        } else {
            protocol
        };
        // Picked up now, an unproven flow is judged as what it shows; judged again, as either.
        let (to_pod, from_pod) = match (initiator, found.is_some()) {
            (Initiator::Unproven, true) => (true, true),
            (Initiator::Pod | Initiator::Unproven, _) => (false, true),
            (Initiator::Peer | Initiator::Node, _) => (true, false),
        };
        let class = classify(tables, subject, judged_peer, to_pod, from_pod)?;
        let column = Column::of(judged_protocol);
        if to_pod {
            let port = if matches!(column, Column::Rest) {
                u16::from(judged_protocol)
            } else {
                pod_port
            };
            judge(tables, subject.to_pod.ruleset(), class, column, port)?;
        }
        if from_pod {
            let port = if matches!(column, Column::Rest) {
                u16::from(judged_protocol)
            } else {
                peer_port
            };
            refuse_tunnel(tables, subject, judged_peer, column, port)?;
            judge(tables, subject.from_pod.ruleset(), class, column, port)?;
        }
    }
    let reason = match found {
        _ if from_node => Reason::Node,
        Some(_) if is_error => Reason::Related,
        Some(_) if is_current => Reason::Established,
        _ => Reason::Allowed,
    };
    if makes_flow && !is_posing {
        let found = found.map(|flow| (flow.table, Some(flow.word)));
        let place = found.unwrap_or((stale.unwrap_or(FlowTable::Embryonic), None));
        record(tables, hook, &key, place, initiator, generation, flags, now);
    }
    Ok(reason)
}

/// Whether a SYN in `direction` begins another connection than the flow that has its key.
#[inline(always)]
fn begins_another(flow: FlowWord, direction: Direction, from_node: bool) -> bool {
    let initiator = flow.initiator();
    initiator.direction() as u8 != direction as u8
        || matches!(flow.state(), FlowState::Closing)
        || matches!(initiator, Initiator::Unproven)
        || (from_node && !matches!(initiator, Initiator::Node))
}

/// Whether a packet has the key of a flow that the node began, but did not come from the node.
#[inline(always)]
fn is_posing_as_node(
    flow: FlowWord,
    direction: Direction,
    from_node: bool,
    is_error: bool,
) -> bool {
    matches!(flow.initiator(), Initiator::Node)
        && matches!(direction, Direction::ToPod)
        && !from_node
        && !is_error
}

/// Looks the flow up, where answered flows are and then where the others are.
#[inline(always)]
fn find<T: Tables>(tables: &T, key: &FlowKey, birth: u32, now: u64) -> Option<Found> {
    match find_in(tables, FlowTable::Flows, key, birth, now) {
        Some(flow) => Some(flow),
        None => find_in(tables, FlowTable::Embryonic, key, birth, now),
    }
}

#[inline(always)]
fn find_in<T: Tables>(
    tables: &T,
    table: FlowTable,
    key: &FlowKey,
    birth: u32,
    now: u64,
) -> Option<Found> {
    let entry = tables.flow(table, key)?;
    let value = entry.value();
    let word = value.word();
    // The element may have been replaced under us. Judged afresh, nothing is lost.
    if !word.belongs_to(key) {
        return None;
    }
    let seen = value.seen.load(Ordering::Relaxed);
    let age = now.wrapping_sub(seen) as i64;
    if age > i64::from(word.state().timeout(key.protocol)) * i64::from(tables.second()) {
        return None;
    }
    // Another attachment had the slot before.
    if (word.generation().wrapping_sub(birth) as i32) < 0 {
        return None;
    }
    // Every 64 jiffies is often enough for a time-out of seconds, and spares the cache line.
    if age >= 64 {
        value.seen.store(now, Ordering::Relaxed);
    }
    Some(Found { table, word })
}

/// Writes down how far the flow has come, where that changed: in `table`, which holds `word` of it already or
/// what it takes the place of.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "one call, all inlined; a struct would cost stack"
)]
fn record<T: Tables>(
    tables: &T,
    hook: &Hook,
    key: &FlowKey,
    (table, known): (FlowTable, Option<FlowWord>),
    initiator: Initiator,
    generation: u32,
    flags: u8,
    now: u64,
) {
    let from_initiator = initiator.direction() as u8 == hook.direction as u8;
    let is_tcp = key.protocol == TCP;
    let ends = flags & (tcp::FIN | tcp::RST) != 0;
    let before = match known {
        Some(word) => word.state(),
        None if flags & (tcp::SYN | tcp::ACK) == tcp::SYN => FlowState::Syn,
        None => FlowState::Half,
    };
    let state = match before {
        FlowState::Syn
            if !from_initiator && flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK =>
        {
            FlowState::SynAck
        }
        FlowState::SynAck
            if from_initiator && flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::ACK =>
        {
            FlowState::Established
        }
        FlowState::Half if !from_initiator => FlowState::Established,
        FlowState::Established if is_tcp && ends => FlowState::Closing,
        state => state,
    };
    let word = FlowWord::new(key, generation, initiator, state);
    let answered = matches!(state, FlowState::Established | FlowState::Closing);
    // A flow over budget stays embryonic and is promoted once there is room.
    let promotes =
        answered && matches!(table, FlowTable::Embryonic) && tables.within_budget(hook.slot);
    if known == Some(word) && !promotes {
        return;
    }
    let value = FlowValue::new(word, now);
    if promotes && tables.put_flow(FlowTable::Flows, key, &value) {
        tables.count_flow(hook.slot);
        return;
    }
    tables.put_flow(table, key, &value);
}

/// The word of a known address. Torn twice: dropped.
#[inline(always)]
fn peer_word<T: Tables>(tables: &T, address: Address) -> Result<Option<PeerWord>, Reason> {
    match tables.peer(address) {
        None => Ok(None),
        Some(word) if word.belongs_to(address) => Ok(Some(word)),
        Some(_) => match tables.peer(address) {
            None => Ok(None),
            Some(word) if word.belongs_to(address) => Ok(Some(word)),
            Some(_) => Err(Reason::Torn),
        },
    }
}

#[inline(always)]
fn is_node<T: Tables>(tables: &T, address: Address) -> Result<bool, Reason> {
    Ok(peer_word(tables, address)?.is_some_and(PeerWord::is_node))
}

/// The class and the broad class of a peer, if a ruleset is going to ask.
#[inline(always)]
fn classify<T: Tables>(
    tables: &T,
    subject: &Subject,
    peer: Address,
    to_pod: bool,
    from_pod: bool,
) -> Result<(Class, Class), Reason> {
    let asks = (to_pod && subject.to_pod.ruleset() > Ruleset::ALLOW_ALL)
        || (from_pod && subject.from_pod.ruleset() > Ruleset::ALLOW_ALL);
    if !asks {
        return Ok((Class::NONE, Class::NONE));
    }
    Ok(match peer_word(tables, peer)? {
        Some(word) => (word.class(), word.broad()),
        None => (
            Class::NONE,
            tables.prefix(peer).map_or(Class::NONE, |word| word.broad()),
        ),
    })
}

/// Whoever is policed, no tunnel leads from a pod to the node unless a rule names it: what comes out of it is
/// judged as another's packet. An isolated pod's ruleset says so in its rows for the node.
#[inline(always)]
fn refuse_tunnel<T: Tables>(
    tables: &T,
    subject: &Subject,
    peer: Address,
    column: Column,
    port: u16,
) -> Result<(), Reason> {
    if subject.routes || subject.from_pod.ruleset() != Ruleset::ALLOW_ALL {
        return Ok(());
    }
    let set = match column {
        Column::Udp => PortSet::TUNNEL_PORTS,
        Column::Rest => PortSet::TUNNEL_PROTOCOLS,
        Column::Tcp | Column::Sctp => return Ok(()),
    };
    if holds(tables, set, port) && (peer.is_multicast_or_broadcast() || is_node(tables, peer)?) {
        return Err(Reason::Tunnel);
    }
    Ok(())
}

/// Asks a ruleset: the row of the class, else of the broad class, else its own; then one bit.
#[inline(always)]
fn judge<T: Tables>(
    tables: &T,
    ruleset: Ruleset,
    (class, broad): (Class, Class),
    column: Column,
    port: u16,
) -> Result<(), Reason> {
    match ruleset {
        Ruleset::DENY_ALL => return Err(Reason::DenyAll),
        Ruleset::ALLOW_ALL => return Ok(()),
        _ => {}
    }
    let mut word = row_word(tables, ruleset, class, column)?;
    if word.is_none() {
        word = row_word(tables, ruleset, broad, column)?;
    }
    let word = match word {
        Some(word) => word,
        None => match tables.default_row(ruleset) {
            Some(row) => row.0[column.word()],
            None => return Err(Reason::Policy),
        },
    };
    if holds(tables, column.set(word), port) {
        Ok(())
    } else {
        Err(Reason::Policy)
    }
}

/// The word of a row that has the column. Torn twice: dropped.
#[inline(always)]
fn row_word<T: Tables>(
    tables: &T,
    ruleset: Ruleset,
    class: Class,
    column: Column,
) -> Result<Option<u64>, Reason> {
    if class == Class::NONE {
        return Ok(None);
    }
    let key = RowKey::new(ruleset, class);
    let index = column.word();
    match tables.row_word(key, index) {
        None => Ok(None),
        Some(word) if word >> 32 == u64::from(key.0) => Ok(Some(word)),
        Some(_) => match tables.row_word(key, index) {
            None => Ok(None),
            Some(word) if word >> 32 == u64::from(key.0) => Ok(Some(word)),
            Some(_) => Err(Reason::Torn),
        },
    }
}

/// Whether the set has the port.
#[inline(always)]
fn holds<T: Tables>(tables: &T, set: PortSet, port: u16) -> bool {
    match set {
        PortSet::NONE => return false,
        PortSet::ALL => return true,
        _ => {}
    }
    match tables.chunk_of(set.0, port) {
        None | Some(CHUNK_NONE) => false,
        Some(CHUNK_ALL) => true,
        Some(chunk) => tables
            .chunk_word(chunk, port)
            .is_some_and(|word| word & bit_of(port).1 != 0),
    }
}
