// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The verdict.
//!
//! ```text
//! record? ─► hardware address ─► ethertype, parse ─► for the pod? ─► own source address ─► neighbors, DHCP
//!                                                       └─► node, own ─► fragment ─► flow? ─► judge
//! ```
//!
//! Nothing here loops over rules, blocks or ports: the cost does not depend on the policy.

use core::hint::black_box;

use crate::packet::{Content, Part, parse};
use crate::{
    Address, Attachment, Bytes, Decision, Direction, Event, FlowKey, FlowState, FlowWord,
    FragmentKey, FragmentValue, Initiator, Life, Offload, Packet, PeerWord, Place, PolicyWord, Put,
    Reason, RulesetId, Slot, Tables, ethertype,
};

mod foreign;
mod judge;
mod neighbors;
mod track;

use foreign::admits;
pub use foreign::may_be_foreign;
pub use judge::{Answer, ask, peer_word, way_word};
use judge::{judge, leads_into_tunnel};
use neighbors::{dhcp, examine_arp, examine_listener, examine_neighbor};
use track::{find_flow, record};

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
        matches!(self.direction, Direction::Ingress)
    }
}

/// The attachment's side of a verdict, each word read once, first.
struct PolicyView {
    to_pod: PolicyWord,
    from_pod: PolicyWord,
    life: Life,
    /// The interface by which the node takes what the pod sends: the bridge, or the host end itself.
    link: u32,
    /// There is a policy in the packet's direction.
    is_policed: bool,
    /// The packet is from the pod, which may speak for itself only.
    is_bound: bool,
}

impl PolicyView {
    /// The same, with what was kept in `ctx`, of which the kernel's verifier does not know any more how it came about.
    #[inline(always)]
    const fn as_kept(&self, ctx: &PacketCtx) -> Self {
        Self {
            to_pod: self.to_pod,
            from_pod: self.from_pod,
            life: self.life,
            link: self.link,
            is_policed: ctx.is_policed != 0,
            is_bound: ctx.is_bound != 0,
        }
    }

    /// Names the policy of both directions, for the fragments that it lets follow a first one.
    #[inline(always)]
    const fn policy(&self) -> u32 {
        self.to_pod.generation() ^ self.from_pod.generation().rotate_left(16)
    }
}

/// Decides one packet, and remembers its flow.
#[inline(always)]
pub fn decide<T: Tables>(tables: &T, bytes: &(impl Bytes + ?Sized), hook: &Hook) -> Decision {
    Decision::from(examine(tables, bytes, hook))
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
    let to_pod = attachment.word(Direction::Ingress);
    let from_pod = attachment.word(Direction::Egress);
    let judging = if hook.is_to_pod() { to_pod } else { from_pod };
    let view = PolicyView {
        to_pod,
        from_pod,
        life: Life::new(origin.birth(), to_pod, from_pod),
        link: match attachment.link().master() {
            0 => hook.interface,
            master => master,
        },
        is_policed: judging.ruleset() != RulesetId::ALLOW_ALL,
        is_bound: !hook.is_to_pod(),
    };
    let offload = if view.is_policed || view.is_bound {
        bytes.offload()
    } else {
        Offload::NONE
    };
    if view.is_bound {
        // The last two bytes are the ethertype.
        let Some([first, second]) = bytes.load_words::<2>(6) else {
            return Reason::NotIp;
        };
        let source = (u32::from_be(first) as u64) << 16 | (u32::from_be(second) >> 16) as u64;
        if !attachment.hardware().admits(source) {
            return Reason::ForeignHardwareAddress;
        }
    }
    match hook.ethertype {
        ethertype::ARP if offload != Offload::NONE => return Reason::OffloadMetadata,
        ethertype::IPV4 | ethertype::IPV6 => {}
        ethertype::ARP => return examine_arp(tables, bytes, attachment, &view),
        _ if view.is_policed || view.is_bound => return Reason::NotIp,
        _ => return Reason::Unpoliced,
    }
    let mut place = PacketCtx::default();
    let Some(ctx) = tables.ctx(&mut place) else {
        return Reason::NoRecord;
    };
    ctx.offload = offload;
    ctx.is_policed = u8::from(view.is_policed);
    ctx.is_bound = u8::from(view.is_bound);
    let ctx = black_box(ctx);
    let reason = parse(bytes, hook.ethertype, hook.direction, &mut ctx.packet);
    if !reason.passes() {
        let is_kept_out = reason == Reason::MappedAddress || view.is_policed || view.is_bound;
        return if is_kept_out {
            reason
        } else {
            Reason::Unpoliced
        };
    }
    let ctx = black_box(ctx);
    if !ctx.offload.spares(&ctx.packet) {
        return Reason::OffloadMetadata;
    }
    let ctx = black_box(ctx);
    examine_packet(tables, hook, attachment, &view.as_kept(ctx), ctx)
}

/// What is known of a packet, and of the flow that it belongs to.
///
/// Whoever goes on with it takes it from a [`black_box`]: so the compiler reads it again instead of remembering
/// on which branch it was written, and the kernel's verifier has one state to follow where it had dozens.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct PacketCtx {
    packet: Packet,
    offload: Offload,
    key: FlowKey,
    /// The flow as it was found, or [`FlowWord::NONE`].
    flow: FlowWord,
    now: u64,
    /// The generation that the flow must carry.
    generation: u32,
    initiator: Initiator,
    /// Where the flow stands.
    place: Place,
    from_node: u8,
    /// The packet's end at the pod is a foreign address that the attachment's mode admits.
    is_foreign: u8,
    /// Has the key of a flow that the node began, but is none of its packets, and leaves it alone.
    poses_as_node: u8,
    /// The flow was let in by the policy in force, or needs none.
    is_current: u8,
    makes_flow: u8,
    is_error: u8,
    /// An ICMP error that may belong to a flow of the pod's.
    is_due: u8,
    /// The flow was seen long enough ago to write down that it was seen now.
    is_silent: u8,
    /// The state that the flow comes to.
    state: FlowState,
    /// It was seen in both directions.
    is_answered: u8,
    /// As in [`PolicyView`].
    is_policed: u8,
    is_bound: u8,
    /// The flow is one with this node, of which nothing is lost if it is forgotten.
    needs_no_flow: u8,
}

impl PacketCtx {
    /// The packet's address at the pod's end.
    #[inline(always)]
    const fn pod(&self, hook: &Hook) -> Address {
        if hook.is_to_pod() {
            self.packet.destination
        } else {
            self.packet.source
        }
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "one question after the other, in the order in which they count"
)]
#[inline(always)]
fn examine_packet<T: Tables>(
    tables: &T,
    hook: &Hook,
    attachment: &Attachment,
    view: &PolicyView,
    ctx: &mut PacketCtx,
) -> Reason {
    let packet = &ctx.packet;
    let (pod, peer) = if hook.is_to_pod() {
        (packet.destination, packet.source)
    } else {
        (packet.source, packet.destination)
    };
    if packet.content == Content::NEIGHBOR && !hook.is_to_pod() {
        return examine_neighbor(tables, attachment, view, packet);
    }
    let is_own = if hook.is_to_pod() {
        attachment.is_addressed_by(pod)
    } else {
        attachment.owns(pod)
    };
    let is_foreign = !is_own && admits(tables, attachment, view, pod);
    let owns_source = is_own || is_foreign;
    if hook.is_to_pod() && !owns_source {
        return Reason::NotForPod;
    }
    ctx.is_foreign = u8::from(is_foreign);
    let ctx = black_box(ctx);
    let packet = &ctx.packet;
    if packet.content == Content::NEIGHBOR {
        return examine_neighbor(tables, attachment, view, packet);
    }
    if packet.content == Content::MLD {
        let reason = examine_listener(tables, attachment, view, packet, owns_source);
        if reason != Reason::Allowed {
            return reason;
        }
    }
    let reason = dhcp(tables, hook, attachment, view, packet, owns_source);
    if reason != Reason::Allowed {
        return reason;
    }
    if !owns_source {
        return Reason::Spoofed;
    }
    // What a pod sends to itself goes by its loopback. What leaves it is to be taken by somebody else: by the hardware
    // address, or by a translation at the node, past the policy of both ends.
    if view.is_bound && attachment.owns(peer) {
        return Reason::NotForPod;
    }
    if view.is_bound && packet.content == Content::REDIRECT {
        return Reason::ForgedNeighbor;
    }
    let mut from_node = false;
    if hook.is_to_pod() {
        if hook.received_from == hook.interface {
            return Reason::Own;
        }
        // An IPv6 datagram that the node put together and cut up again loses where it came from.
        if hook.received_from == 0 && packet.has_fragment_header == 0 {
            let word = tables.peer_word(peer);
            if word == PeerWord::TORN {
                return Reason::Torn;
            }
            from_node = word.is_node();
        }
    }
    let unread = if from_node {
        Reason::Node
    } else {
        Reason::Unpoliced
    };
    if let Some(reason) = packet.content.defect() {
        // Others may read on where we gave up, and find a tunnel or an advertisement.
        return if (view.is_policed || view.is_bound) && !from_node {
            reason
        } else {
            unread
        };
    }
    if packet.part == Part::LATER {
        let key = fragment_key(hook, packet, pod, peer);
        return match tables.fragment(&key) {
            Some(value) if value.passed(&key, view.policy(), tables.now(), tables.second()) => {
                Reason::Fragment
            }
            _ if view.is_policed && !from_node => Reason::FragmentWithoutFirst,
            _ => unread,
        };
    }

    // An error is about a packet of this pod's; any router may send it. What the pod sends goes to the sender of what it is
    // about, or a connection with one peer would carry errors, and what is in them, to all others.
    let is_due = packet.content == Content::ERROR
        && (hook.is_to_pod() || packet.about == peer)
        && (attachment.owns(packet.near) || (ctx.is_foreign != 0 && packet.near == pod));
    ctx.from_node = u8::from(from_node);
    ctx.is_due = u8::from(is_due);
    let ctx = black_box(ctx);
    let reason = examine_flow(tables, hook, &view.as_kept(ctx), peer, ctx);

    let packet = &ctx.packet;
    if reason == Reason::Allowed || !reason.passes() {
        tables.report(&Event {
            pod,
            peer,
            when: tables.now(),
            source_port: packet.source_port,
            destination_port: packet.destination_port,
            slot: hook.slot.0 as u16,
            protocol: packet.protocol,
            direction: hook.direction as u8,
            reason: reason as u8,
            padding: [0; 7],
        });
    }
    if packet.part == Part::FIRST {
        let key = fragment_key(hook, packet, pod, peer);
        let passed = reason.passes();
        let value = FragmentValue::new(&key, view.policy(), passed, tables.now());
        // A first one that was dropped is as good as none: it shuts out what an earlier one let follow, and takes no
        // place.
        let put = if passed { Put::Either } else { Put::Known };
        tables.put_fragment(&key, value, put);
    }
    reason
}

#[inline(always)]
fn fragment_key(hook: &Hook, packet: &Packet, pod: Address, peer: Address) -> FragmentKey {
    FragmentKey {
        peer,
        pod,
        identification: packet.identification,
        slot: hook.slot.0 as u16,
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
    view: &PolicyView,
    peer: Address,
    ctx: &mut PacketCtx,
) -> Reason {
    find_flow(tables, hook, view, peer, ctx);
    let ctx = black_box(ctx);
    if ctx.is_current == 0 {
        // The node may always send; what it sends in a flow that has to be judged again judges nothing.
        if ctx.from_node != 0 {
            return Reason::Node;
        }
        let reason = judge(tables, hook, view, peer, ctx);
        if reason != Reason::Allowed {
            return reason;
        }
    } else if ctx.from_node == 0 && ctx.initiator != Initiator::NODE && ctx.makes_flow != 0 {
        let protocol = ctx.key.protocol;
        if leads_into_tunnel(tables, hook, view, ctx, peer, protocol) {
            return Reason::Tunnel;
        }
    }
    let ctx = black_box(ctx);
    if ctx.makes_flow != 0 && ctx.poses_as_node == 0 {
        record(tables, hook, view, ctx);
    }
    if ctx.from_node != 0 {
        Reason::Node
    } else if ctx.is_error != 0 && ctx.flow != FlowWord::NONE {
        Reason::Related
    } else if ctx.is_current != 0 {
        Reason::Established
    } else {
        Reason::Allowed
    }
}
