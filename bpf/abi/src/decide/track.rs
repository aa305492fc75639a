// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Flows: which one a packet belongs to, who began it, and how far it has come.

use core::hint::black_box;

use super::judge::is_of_tunnels;
use super::{Hook, PacketCtx, PolicyView};
use crate::packet::{Content, SCTP, chunk, tcp};
use crate::{
    Address, Direction, FlowEntry, FlowKey, FlowState, FlowTable, FlowValue, FlowWord, Initiator,
    Life, Limit, Place, Put, Quota, RulesetId, Tables,
};

/// Finds the packet's flow, and who began it.
#[inline(always)]
pub(super) fn find_flow<T: Tables>(
    tables: &T,
    hook: &Hook,
    view: &PolicyView,
    peer: Address,
    ctx: &mut PacketCtx,
) {
    let packet = &ctx.packet;
    let is_error = packet.content == Content::ERROR;
    let makes_flow = packet.content == Content::TCP || packet.content == Content::DATAGRAM;
    let (peer_port, pod_port) = if hook.is_to_pod() {
        (packet.source_port, packet.destination_port)
    } else {
        (packet.destination_port, packet.source_port)
    };
    ctx.key = FlowKey {
        peer,
        peer_port,
        pod_port,
        slot: hook.slot.0 as u16,
        protocol: packet.protocol,
        padding: 0,
    };
    if is_error {
        ctx.key.peer = packet.about;
        ctx.key.protocol = packet.detail;
    }
    ctx.now = tables.now();
    ctx.makes_flow = u8::from(makes_flow);
    ctx.is_error = u8::from(is_error);
    ctx.place = Place::NOWHERE;
    ctx.poses_as_node = 0;
    ctx.is_silent = 0;
    ctx.flow = FlowWord::NONE;
    let ctx = black_box(ctx);
    if makes_flow || ctx.is_due != 0 {
        look_up(tables, view, ctx);
    }

    let ctx = black_box(ctx);
    let from_node = ctx.from_node != 0;
    let is_tcp = ctx.packet.content == Content::TCP;
    // An INIT is the only chunk of its packet (RFC 9260, section 6.10).
    let opens = if is_tcp {
        ctx.packet.detail & (tcp::SYN | tcp::ACK) == tcp::SYN
    } else {
        ctx.packet.content == Content::DATAGRAM
            && ctx.packet.protocol == SCTP
            && ctx.packet.detail == chunk::INIT
    };
    if ctx.flow != FlowWord::NONE {
        let flow = ctx.flow;
        let is_nodes = flow.initiator() == Initiator::NODE && !from_node;
        if is_nodes && !tables.peer_word(ctx.key.peer).is_node() {
            // The address is another host's by now, which may begin a flow in the place of the node's. The pod's end of a
            // connection may not: the address may come back to the node.
            let is_stream = is_tcp || ctx.packet.protocol == SCTP;
            ctx.poses_as_node = u8::from(is_stream && !opens && !hook.is_to_pod());
            ctx.flow = FlowWord::NONE;
        } else if is_nodes && hook.is_to_pod() && ctx.is_error == 0 {
            // Only the node's own packets belong to a flow that the node began; what else has its key is judged, and leaves
            // the flow alone.
            ctx.poses_as_node = 1;
            ctx.flow = FlowWord::NONE;
        } else if is_nodes && makes_flow && is_of_tunnels(tables, ctx) {
            // Where a tunnel ends nothing that the node began is answered: what it sends to a group begins a flow with each
            // pod, and others make it send.
            ctx.poses_as_node = 1;
            ctx.flow = FlowWord::NONE;
        } else if opens && begins_another(flow, hook.direction, from_node) {
            ctx.flow = FlowWord::NONE;
        }
    }
    let is_known = ctx.flow != FlowWord::NONE;
    let initiator = if is_known {
        ctx.flow.initiator()
    } else if from_node {
        Initiator::NODE
    } else if hook.is_to_pod() {
        Initiator::PEER
    } else if is_tcp && !opens {
        Initiator::MIDSTREAM
    } else {
        Initiator::POD
    };
    let generation = view.generation(initiator);
    let is_current =
        initiator == Initiator::NODE || (is_known && ctx.flow.generation() == generation);
    ctx.initiator = initiator;
    ctx.generation = generation;
    ctx.is_current = u8::from(is_current);
}

impl PolicyView {
    /// The generation that a flow of this initiator must carry.
    #[inline(always)]
    pub(super) const fn generation(&self, initiator: Initiator) -> u32 {
        let (to_pod, from_pod) = (self.to_pod.generation(), self.from_pod.generation());
        match initiator {
            Initiator::POD => from_pod,
            Initiator::MIDSTREAM => self.life.latest(),
            _ => to_pod,
        }
    }
}

/// Whether a SYN or an INIT begins another connection than the flow that has its key.
#[inline(always)]
fn begins_another(flow: FlowWord, direction: Direction, from_node: bool) -> bool {
    let initiator = flow.initiator();
    !initiator.sends(direction)
        || flow.state().is_ending()
        || initiator == Initiator::MIDSTREAM
        || (from_node && initiator != Initiator::NODE)
}

/// Looks through the tables, in the order in which a flow may have come from one to the next.
#[inline(always)]
fn look_up<T: Tables>(tables: &T, view: &PolicyView, ctx: &mut PacketCtx) {
    let mut flow = find(tables, FlowTable::Flows, ctx, view.life);
    let mut place = Place::FLOWS;
    if flow == FlowWord::NONE {
        flow = find(tables, FlowTable::Embryonic, ctx, view.life);
        place = Place::EMBRYONIC;
    }
    if flow == FlowWord::NONE {
        flow = find(tables, FlowTable::Crowd, ctx, view.life);
        place = Place::CROWD;
    }
    if flow == FlowWord::NONE {
        // Another CPU may have moved it here after the first look.
        flow = find(tables, FlowTable::Flows, ctx, view.life);
        place = Place::FLOWS;
    }
    if flow == FlowWord::NONE {
        place = Place::NOWHERE;
    }
    ctx.flow = flow;
    ctx.place = place;
}

/// The flow in `table`, if it is in time and not older than the attachment.
#[inline(always)]
fn find<T: Tables>(tables: &T, table: FlowTable, ctx: &mut PacketCtx, life: Life) -> FlowWord {
    let Some(entry) = tables.flow(table, &ctx.key) else {
        return FlowWord::NONE;
    };
    let value = entry.value();
    let word = value.word();
    let age = ctx.now.wrapping_sub(value.seen.load()) as i64;
    let limit = i64::from(word.state().timeout(ctx.key.protocol)) * i64::from(tables.second());
    // The element may have been replaced under us, or the slot have been another attachment's. Judged afresh,
    // nothing is lost.
    if !word.belongs_to(&ctx.key) || age > limit || word.is_older_than(life) {
        return FlowWord::NONE;
    }
    // Every 64 jiffies is often enough for a time-out of seconds, and spares the cache line.
    ctx.is_silent = u8::from(age >= 64);
    word
}

/// Writes down how far the flow of a packet that passes has come, where that changed, and else that it was seen.
#[inline(always)]
pub(super) fn record<T: Tables>(tables: &T, hook: &Hook, view: &PolicyView, ctx: &mut PacketCtx) {
    if ctx.place != Place::FLOWS {
        ctx.needs_no_flow = u8::from(needs_no_flow(tables, view, ctx));
    }
    let ctx = black_box(ctx);
    let is_initiators = ctx.initiator.sends(hook.direction);
    let flags = if ctx.packet.content == Content::TCP {
        ctx.packet.detail
    } else {
        0
    };
    let step = flags & (tcp::SYN | tcp::ACK | tcp::RST);
    let is_known = ctx.flow != FlowWord::NONE;
    let before = ctx.flow.state();
    let state = if !is_known {
        if ctx.place == Place::FLOWS {
            // The receiver may ignore the SYN, and go on with what stands there.
            FlowState::CLOSING
        } else if step & (tcp::SYN | tcp::ACK) == tcp::SYN {
            FlowState::SYN
        } else {
            FlowState::HALF
        }
    } else if before == FlowState::SYN && !is_initiators && step == tcp::SYN | tcp::ACK {
        FlowState::SYN_ACK
    } else if (before == FlowState::SYN_ACK && is_initiators && step == tcp::ACK)
        || (before == FlowState::HALF && !is_initiators && flags & tcp::RST == 0)
        // Only TCP has flags that end a connection: an answer of another protocol shows that the new flow is alive.
        || (before == FlowState::CLOSING && !is_initiators && ctx.packet.content != Content::TCP)
    {
        FlowState::ESTABLISHED
    } else {
        before
    };
    // Kept with the packet, where the kernel's verifier forgets which state it is.
    ctx.state = state;
    let ctx = black_box(ctx);
    let state = ctx.state;
    let is_answered = state.is_answered();
    ctx.is_answered = u8::from(is_answered);
    ctx.state = if is_answered && ctx.flow != FlowWord::NONE {
        state.after(flags, hook.direction, !is_initiators)
    } else {
        state
    };
    let ctx = &*black_box(ctx);
    let is_answered = ctx.is_answered != 0;
    let word = FlowWord::new(&ctx.key, ctx.generation, ctx.initiator, ctx.state);
    let value = FlowValue::new(word, ctx.now);
    // A flow over quota is promoted once there is room.
    if is_answered && ctx.place != Place::FLOWS && promote(tables, hook, ctx, &value) {
        return;
    }
    let waits_no_more = is_answered && ctx.place == Place::EMBRYONIC;
    if word == ctx.flow && !waits_no_more {
        if ctx.is_silent != 0 {
            touch(tables, ctx);
        }
        return;
    }
    // What stands somewhere stays there, whoever begins it anew: so no look-up finds an older one first. If it went
    // away meanwhile, another CPU has moved it, or it has timed out.
    if ctx.place == Place::FLOWS {
        tables.put_flow(FlowTable::Flows, &ctx.key, &value, Put::Known);
    } else if ctx.place == Place::EMBRYONIC {
        let stands = tables.put_flow(FlowTable::Embryonic, &ctx.key, &value, Put::Known);
        if stands && waits_no_more {
            make_room(tables, hook, ctx, &value);
        }
    } else if ctx.place == Place::CROWD {
        tables.put_flow(FlowTable::Crowd, &ctx.key, &value, Put::Known);
    } else {
        begin(tables, hook, ctx, &value);
    }
}

/// Whether the flow is with this node, and nothing is lost without it: what the node sends always passes, and so does
/// what the pod sends to it, in a pod that may send anything at all.
///
/// Such flows take no room but what their pod is sure of. For a pod that may reach nobody they are all that it can
/// make, and no number of these pods takes room from others.
#[inline(always)]
fn needs_no_flow<T: Tables>(tables: &T, view: &PolicyView, ctx: &PacketCtx) -> bool {
    view.from_pod.ruleset() != RulesetId::DENY_ALL
        && (ctx.from_node != 0 || tables.peer_word(ctx.key.peer).is_node())
}

/// Writes down that the flow was seen just now.
#[inline(always)]
fn touch<T: Tables>(tables: &T, ctx: &PacketCtx) {
    let entry = if ctx.place == Place::FLOWS {
        tables.flow(FlowTable::Flows, &ctx.key)
    } else if ctx.place == Place::EMBRYONIC {
        tables.flow(FlowTable::Embryonic, &ctx.key)
    } else {
        tables.flow(FlowTable::Crowd, &ctx.key)
    };
    if let Some(entry) = entry
        && entry.value().word() == ctx.flow
    {
        entry.value().seen.store(ctx.now);
    }
}

/// Moves an answered flow that is over quota from `embryonic` to `crowd`: the share is for those that wait.
#[inline(always)]
fn make_room<T: Tables>(tables: &T, hook: &Hook, ctx: &PacketCtx, value: &FlowValue) {
    if ctx.needs_no_flow != 0 {
        // Of another's answer under the node's address (a NodePort) it stays: that one may not begin anything.
        if ctx.from_node != 0 {
            leave_embryonic(tables, hook, ctx);
        }
        return;
    }
    // In both until the second step, so that whoever looks through the tables finds it.
    if tables.put_flow(FlowTable::Crowd, &ctx.key, value, Put::Either) {
        leave_embryonic(tables, hook, ctx);
    }
}

/// Deletes a flow from `embryonic`. One CPU only is told that it was there, and that one subtracts it.
#[inline(always)]
fn leave_embryonic<T: Tables>(tables: &T, hook: &Hook, ctx: &PacketCtx) {
    if tables.remove_flow(FlowTable::Embryonic, &ctx.key)
        && let Some(quota) = tables.quota(hook.slot)
    {
        quota.embryonic.subtract(1);
    }
}

/// Moves an answered flow to `flows`, if its attachment may have one more there; whether it did.
///
/// Half of the table is guaranteed, so many to each attachment; the other half is for those that have more, as long as
/// there is room, and within what one may have.
#[inline(always)]
fn promote<T: Tables>(tables: &T, hook: &Hook, ctx: &PacketCtx, value: &FlowValue) -> bool {
    let (Some(quota), Some(common)) = (tables.quota(hook.slot), tables.common()) else {
        return false;
    };
    let is_sure = Quota::is_below(&quota.flows, tables.limit(Limit::Guarantee));
    if !is_sure
        && (!Quota::is_below(&quota.flows, tables.limit(Limit::Flows))
            || !Quota::is_below(common, tables.limit(Limit::Common))
            || ctx.needs_no_flow != 0)
    {
        return false;
    }
    if tables.put_flow(FlowTable::Flows, &ctx.key, value, Put::New) {
        quota.flows.add(1);
        if !is_sure {
            common.add(1);
        }
    } else if !tables.put_flow(FlowTable::Flows, &ctx.key, value, Put::Known) {
        return false;
    }
    // It stands in both until here, so that whoever looks through the tables, and at the first once more, finds it.
    if ctx.place == Place::EMBRYONIC {
        leave_embryonic(tables, hook, ctx);
    } else {
        tables.remove_flow(FlowTable::Crowd, &ctx.key);
    }
    true
}

/// Enters a new flow: into `embryonic` within the share of its attachment, else into `crowd`.
///
/// So the entries of an attachment that has no more than its share wait undisturbed, whatever the others send and send
/// again. Of what others begin only half the share is used: a crowd of clients leaves room for the pod's own. What may be
/// the pod's answer to one that was forgotten counts as theirs.
#[inline(always)]
fn begin<T: Tables>(tables: &T, hook: &Hook, ctx: &PacketCtx, value: &FlowValue) {
    if let Some(quota) = tables.quota(hook.slot) {
        let share = tables.limit(Limit::Embryonic);
        let is_pods = !hook.is_to_pod() && ctx.initiator != Initiator::MIDSTREAM;
        let share = if is_pods { share } else { share / 2 };
        if Quota::is_below(&quota.embryonic, share) {
            if tables.put_flow(FlowTable::Embryonic, &ctx.key, value, Put::New) {
                quota.embryonic.add(1);
                return;
            }
            // One that timed out, or another CPU's, is counted; or else the table is full.
            if tables.put_flow(FlowTable::Embryonic, &ctx.key, value, Put::Known) {
                return;
            }
        }
    }
    if ctx.needs_no_flow == 0 {
        tables.put_flow(FlowTable::Crowd, &ctx.key, value, Put::Either);
    }
}
