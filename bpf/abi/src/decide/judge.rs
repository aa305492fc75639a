// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the rulesets say of a flow: classes, rows, port sets.

use core::hint::black_box;

use super::{Hook, PacketCtx, PolicyView};
use crate::tables::bit_of;
use crate::{
    Address, CHUNK_ALL, CHUNK_NONE, Class, Column, FlowWord, Initiator, PeerWord, PortSetId,
    Reason, RowKey, RulesetId, Tables, WayWord,
};

/// The word of an address. Torn twice: [`PeerWord::TORN`].
///
/// An address whose element is just being replaced may be missed: the kernel links the new element before it
/// unlinks the old one, but who stands on the old one when it is used again may find the chain's end there (seen
/// once in 44 million look-ups). So absence is asked for twice as well.
#[inline(always)]
pub fn peer_word<T: Tables>(tables: &T, address: Address) -> PeerWord {
    let mut word = tables.peer(address);
    if word == PeerWord::ABSENT || !word.belongs_to(address) {
        word = tables.peer(address);
        if word != PeerWord::ABSENT && !word.belongs_to(address) {
            return PeerWord::TORN;
        }
    }
    word
}

/// Whom the UDP port of a peer is closed to, because a Service leads it into a tunnel that ends at a node: as an address and
/// port of the Service's, or as its NodePort, which at other nodes no ruleset has a row for.
#[inline(always)]
pub fn way_word<T: Tables>(tables: &T, peer: Address, port: u16) -> WayWord {
    let itself = tables.way(peer, port);
    if itself == WayWord::TO_ALL {
        return itself;
    }
    let nodes = if peer.is_ipv4() {
        Address::from_ipv4([0, 0, 0, 0])
    } else {
        Address::UNSPECIFIED
    };
    let at_nodes = tables.way(nodes, port);
    if at_nodes == WayWord::NONE {
        return itself;
    }
    let word = tables.peer_word(peer);
    if word == PeerWord::TORN || word.is_other_node() {
        WayWord::TO_ALL
    } else if word.is_node() {
        itself.max(at_nodes)
    } else if itself == WayWord::NONE {
        WayWord::TO_ALL_IF_HERE
    } else {
        itself
    }
}

/// Asks the rulesets of the directions that must allow it. `sender` is the other end of the packet itself.
///
/// A datagram does not say who began what. So one of a known flow whose initiator may not send any more, but which
/// would pass as the first of its own direction, passes as that, and the flow is from then on as if this one had begun
/// it: forgotten, the flow would come to the same. TCP and SCTP do say it, and what a revocation ended is not begun by
/// a segment in the middle.
#[expect(
    clippy::too_many_lines,
    reason = "one question after the other, in the order in which they count"
)]
#[inline(always)]
pub(super) fn judge<T: Tables>(
    tables: &T,
    hook: &Hook,
    view: &PolicyView,
    sender: Address,
    ctx: &mut PacketCtx,
) -> Reason {
    let is_known = ctx.flow != FlowWord::NONE;
    let (pod_port, peer_port) = (ctx.key.pod_port, ctx.key.peer_port);
    // An error about no flow is judged by who sends it.
    let is_stray = ctx.is_error != 0 && !is_known;
    let peer = if is_stray { sender } else { ctx.key.peer };
    let protocol = if is_stray {
        ctx.packet.protocol
    } else {
        ctx.key.protocol
    };
    // Picked up, an unproven flow is judged as what it looks like; judged again, as either.
    let is_midstream = ctx.initiator == Initiator::MIDSTREAM && is_known;
    let begins_to_pod = ctx.initiator == Initiator::PEER;
    let is_either = is_known
        && ctx.makes_flow != 0
        && protocol != crate::packet::TCP
        && protocol != crate::packet::SCTP
        && !ctx.initiator.sends(hook.direction);
    let to_pod = begins_to_pod || is_midstream || is_either;
    let from_pod = !begins_to_pod || is_either;
    let column = Column::of(protocol);
    let is_rest = column == Column::REST;
    let ingress = if to_pod {
        view.to_pod.ruleset()
    } else {
        RulesetId::ALLOW_ALL
    };
    let egress = if from_pod {
        view.from_pod.ruleset()
    } else {
        RulesetId::ALLOW_ALL
    };
    let mut class = Class::NONE;
    let mut broad = Class::NONE;
    if ingress > RulesetId::ALLOW_ALL || egress > RulesetId::ALLOW_ALL {
        let word = tables.peer_word(peer);
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
    let [ingress_port, egress_port] = if is_rest {
        [u16::from(protocol); 2]
    } else {
        [pod_port, peer_port]
    };
    let to_pod = tables.ask(ingress, class, broad, column, ingress_port);
    let from_pod = tables.ask(egress, class, broad, column, egress_port);
    if is_either {
        // The initiator's direction is asked first.
        let (its, others) = if begins_to_pod {
            (to_pod, from_pod)
        } else {
            (from_pod, to_pod)
        };
        if its != Answer::ALLOWED {
            if others != Answer::ALLOWED {
                return its.of_both(others);
            }
            ctx.initiator = if hook.is_to_pod() {
                Initiator::PEER
            } else {
                Initiator::POD
            };
            ctx.generation = view.generation(ctx.initiator);
        }
    } else if to_pod != Answer::ALLOWED {
        return to_pod.reason();
    } else if from_pod != Answer::ALLOWED {
        return from_pod.reason();
    }
    let ctx = black_box(ctx);
    // A Service leads no pod into a tunnel either. A packet from its address is no translation of this node's and passes, but makes
    // no flow: the node could translate the answer, which is evaluated by itself.
    if column == Column::UDP {
        let way = tables.way_word(peer, peer_port);
        // A ruleset of the pod's has rows for ways. They answer for what it sends, and not for what the peer may begin.
        let has_row = egress > RulesetId::ALLOW_ALL && from_pod == Answer::ALLOWED;
        if way == WayWord::TO_ALL
            || (way == WayWord::TO_OPEN && !has_row)
            || (way == WayWord::TO_ALL_IF_HERE
                && tables.is_delivered_here(view.link, ctx.pod(hook), peer))
        {
            if !hook.is_to_pod() {
                return Reason::Tunnel;
            }
            ctx.makes_flow = 0;
            return Reason::Allowed;
        }
        if way == WayWord::TO_OPEN && ctx.initiator == Initiator::PEER {
            // From now on it passes by that row.
            ctx.initiator = Initiator::POD;
            ctx.generation = view.generation(Initiator::POD);
        }
    }
    if leads_into_tunnel(tables, hook, view, ctx, peer, protocol) {
        Reason::Tunnel
    } else {
        Reason::Allowed
    }
}

/// Whether the flow's packets from the pod come to a tunnel's end at a node that no rule names. No table tells of what the
/// node takes for itself, so its routes are asked for every packet to what may be a tunnel's end.
///
/// With a policy or without, no tunnel leads from a pod to any node unless a rule names it: what comes out of it is judged as
/// another's packet. An isolated pod's ruleset says so itself, in its rows for the nodes' addresses. What comes from a tunnel
/// at a node could be answered into the tunnel, and so could what comes from an address that the node takes for its own
/// without having it.
#[inline(always)]
pub(super) fn leads_into_tunnel<T: Tables>(
    tables: &T,
    hook: &Hook,
    view: &PolicyView,
    ctx: &PacketCtx,
    peer: Address,
    protocol: u8,
) -> bool {
    if !is_tunnels(tables, protocol, ctx.key.peer_port) {
        return false;
    }
    if tables.peer_word(peer).is_any_node() {
        ctx.initiator == Initiator::PEER || view.from_pod.ruleset() == RulesetId::ALLOW_ALL
    } else {
        peer.is_multicast_or_broadcast()
            || peer.is_ipv4_loopback()
            || tables.is_delivered_here(view.link, ctx.pod(hook), peer)
    }
}

/// Whether a flow is of a protocol, or goes to a UDP port, at which tunnels end.
#[inline(always)]
pub(super) fn is_of_tunnels<T: Tables>(tables: &T, ctx: &PacketCtx) -> bool {
    is_tunnels(tables, ctx.key.protocol, ctx.key.peer_port)
}

#[inline(always)]
fn is_tunnels<T: Tables>(tables: &T, protocol: u8, peer_port: u16) -> bool {
    let column = Column::of(protocol);
    if column == Column::UDP {
        holds(tables, PortSetId::TUNNEL_PORTS, peer_port)
    } else if column == Column::REST {
        holds(tables, PortSetId::TUNNEL_PROTOCOLS, u16::from(protocol))
    } else {
        false
    }
}

/// What a ruleset says: a [`Reason`] as a number. No enum: see [`Column`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Answer(pub u32);

impl Answer {
    const ALLOWED: Self = Self(Reason::Allowed as u32);
    const POLICY: Self = Self(Reason::Policy as u32);
    const DENY_ALL: Self = Self(Reason::DenyAll as u32);
    const TORN: Self = Self(Reason::Torn as u32);

    /// The same, in words.
    #[inline(always)]
    const fn reason(self) -> Reason {
        match self {
            Self::ALLOWED => Reason::Allowed,
            Self::DENY_ALL => Reason::DenyAll,
            Self::TORN => Reason::Torn,
            _ => Reason::Policy,
        }
    }

    /// Why neither of two that deny lets a packet pass.
    #[inline(always)]
    fn of_both(self, other: Self) -> Reason {
        if self == Self::TORN || other == Self::TORN {
            Reason::Torn
        } else if self == Self::DENY_ALL && other == Self::DENY_ALL {
            Reason::DenyAll
        } else {
            Reason::Policy
        }
    }
}

/// Asks a ruleset: the row of the class, else of the broad class, else its own; then one bit.
#[inline(always)]
pub fn ask<T: Tables>(
    tables: &T,
    ruleset: RulesetId,
    class: Class,
    broad: Class,
    column: Column,
    port: u16,
) -> Answer {
    if ruleset == RulesetId::DENY_ALL {
        return Answer::DENY_ALL;
    }
    if ruleset == RulesetId::ALLOW_ALL {
        return Answer::ALLOWED;
    }
    let mut word = row_word(tables, ruleset, class, column);
    if word == 0 {
        word = row_word(tables, ruleset, broad, column);
    }
    if word == 0 {
        word = tables.default_row_word(ruleset, column.word());
    }
    if word == TORN_ROW {
        return Answer::TORN;
    }
    if holds(tables, column.set(word), port) {
        Answer::ALLOWED
    } else {
        Answer::POLICY
    }
}

/// No row has this word: its tag would be that of no ruleset.
const TORN_ROW: u64 = u64::MAX;

/// The word of a row that has the column, or 0. Torn twice: [`TORN_ROW`].
#[inline(always)]
fn row_word<T: Tables>(tables: &T, ruleset: RulesetId, class: Class, column: Column) -> u64 {
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
fn holds<T: Tables>(tables: &T, set: PortSetId, port: u16) -> bool {
    if set == PortSetId::NONE {
        return false;
    }
    if set == PortSetId::ALL {
        return true;
    }
    match tables.chunk_of(set.0, port) {
        CHUNK_NONE => false,
        CHUNK_ALL => true,
        chunk => tables.chunk_word(chunk, port) & bit_of(port).1 != 0,
    }
}
