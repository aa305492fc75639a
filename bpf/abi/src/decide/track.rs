// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Flows: which one a packet belongs to, who began it, and how far it has come.

use core::hint::black_box;

use super::{Case, Hook, Subject};
use crate::packet::{Content, tcp};
use crate::{
    Address, Budget, Direction, FlowEntry, FlowKey, FlowState, FlowTable, FlowValue, FlowWord,
    Initiator, Life, Limit, Place, Put, RulesetId, Tables,
};

/// Finds the packet's flow, and who began it.
#[inline(always)]
pub(super) fn find_flow<T: Tables>(
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
        slot: hook.slot.0 as u16,
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
    case.place = Place::NOWHERE;
    case.is_posing = 0;
    case.is_silent = 0;
    case.flow = FlowWord::NONE;
    let case = black_box(case);
    if makes_flow || case.is_due != 0 {
        look_up(tables, subject, case);
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
    pub(super) const fn generation(&self, initiator: Initiator) -> u32 {
        let (to_pod, from_pod) = (self.to_pod.generation(), self.from_pod.generation());
        match initiator {
            Initiator::POD => from_pod,
            Initiator::UNPROVEN => self.life.latest(),
            _ => to_pod,
        }
    }
}

/// Whether a SYN begins another connection than the flow that has its key.
#[inline(always)]
fn begins_another(flow: FlowWord, direction: Direction, from_node: bool) -> bool {
    let initiator = flow.initiator();
    !initiator.sends(direction)
        || flow.state().is_ending()
        || initiator == Initiator::UNPROVEN
        || (from_node && initiator != Initiator::NODE)
}

/// Looks through the tables, in the order in which a flow may have come from one to the next.
#[inline(always)]
fn look_up<T: Tables>(tables: &T, subject: &Subject, case: &mut Case) {
    let mut flow = find(tables, FlowTable::Flows, case, subject.life);
    let mut place = Place::FLOWS;
    if flow == FlowWord::NONE {
        flow = find(tables, FlowTable::Embryonic, case, subject.life);
        place = Place::EMBRYONIC;
    }
    if flow == FlowWord::NONE {
        flow = find(tables, FlowTable::Crowd, case, subject.life);
        place = Place::CROWD;
    }
    if flow == FlowWord::NONE {
        // Another CPU may have moved it here after the first look.
        flow = find(tables, FlowTable::Flows, case, subject.life);
        place = Place::FLOWS;
    }
    if flow == FlowWord::NONE {
        place = Place::NOWHERE;
    }
    case.flow = flow;
    case.place = place;
}

/// The flow in `table`, if it is in time and not older than the attachment.
#[inline(always)]
fn find<T: Tables>(tables: &T, table: FlowTable, case: &mut Case, life: Life) -> FlowWord {
    let Some(entry) = tables.flow(table, &case.key) else {
        return FlowWord::NONE;
    };
    let value = entry.value();
    let word = value.word();
    let age = case.now.wrapping_sub(value.seen.load()) as i64;
    let limit = i64::from(word.state().timeout(case.key.protocol)) * i64::from(tables.second());
    // The element may have been replaced under us, or the slot have been another attachment's. Judged afresh,
    // nothing is lost.
    if !word.belongs_to(&case.key) || age > limit || word.is_older_than(life) {
        return FlowWord::NONE;
    }
    // Every 64 jiffies is often enough for a time-out of seconds, and spares the cache line.
    case.is_silent = u8::from(age >= 64);
    word
}

/// Writes down how far the flow of a packet that passes has come, where that changed, and else that it was seen.
#[inline(always)]
pub(super) fn record<T: Tables>(tables: &T, hook: &Hook, subject: &Subject, case: &mut Case) {
    if case.place != Place::FLOWS {
        case.needs_no_flow = u8::from(needs_no_flow(tables, subject, case));
    }
    let case = black_box(case);
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
        if case.place == Place::FLOWS {
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
    {
        FlowState::ESTABLISHED
    } else {
        before
    };
    // Kept with the packet, where the kernel's verifier forgets which state it is.
    case.state = state;
    let case = black_box(case);
    let state = case.state;
    let is_answered = state.is_answered();
    case.is_answered = u8::from(is_answered);
    case.state = if is_answered && case.flow != FlowWord::NONE {
        state.after(flags, hook.direction, !is_initiators)
    } else {
        state
    };
    let case = &*black_box(case);
    let is_answered = case.is_answered != 0;
    let word = FlowWord::new(&case.key, case.generation, case.initiator, case.state);
    let value = FlowValue::new(word, case.now);
    // A flow over budget is promoted once there is room.
    if is_answered && case.place != Place::FLOWS && promote(tables, hook, case, &value) {
        return;
    }
    let waits_no_more = is_answered && case.place == Place::EMBRYONIC;
    if word == case.flow && !waits_no_more {
        if case.is_silent != 0 {
            touch(tables, case);
        }
        return;
    }
    // What stands somewhere stays there, whoever begins it anew: so no look-up finds an older one first. If it went
    // away meanwhile, another CPU has moved it, or it has timed out.
    if case.place == Place::FLOWS {
        tables.put_flow(FlowTable::Flows, &case.key, &value, Put::Known);
    } else if case.place == Place::EMBRYONIC {
        let stands = tables.put_flow(FlowTable::Embryonic, &case.key, &value, Put::Known);
        if stands && waits_no_more {
            make_room(tables, hook, case, &value);
        }
    } else if case.place == Place::CROWD {
        tables.put_flow(FlowTable::Crowd, &case.key, &value, Put::Known);
    } else {
        begin(tables, hook, case, &value);
    }
}

/// Whether the flow is with this node, and nothing is lost without it: what the node sends always passes, and so does
/// what the pod sends to it, in a pod that may send anything at all.
///
/// Such flows take no room but what their pod is sure of. For a pod that may reach nobody they are all that it can
/// make, and no number of these pods takes room from others.
#[inline(always)]
fn needs_no_flow<T: Tables>(tables: &T, subject: &Subject, case: &Case) -> bool {
    subject.from_pod.ruleset() != RulesetId::DENY_ALL
        && (case.from_node != 0 || tables.peer_word(case.key.peer).is_node())
}

/// Writes down that the flow was seen just now.
#[inline(always)]
fn touch<T: Tables>(tables: &T, case: &Case) {
    let entry = if case.place == Place::FLOWS {
        tables.flow(FlowTable::Flows, &case.key)
    } else if case.place == Place::EMBRYONIC {
        tables.flow(FlowTable::Embryonic, &case.key)
    } else {
        tables.flow(FlowTable::Crowd, &case.key)
    };
    if let Some(entry) = entry
        && entry.value().word() == case.flow
    {
        entry.value().seen.store(case.now);
    }
}

/// Moves an answered flow that is over budget from `embryonic` to `crowd`: the share is for those that wait.
#[inline(always)]
fn make_room<T: Tables>(tables: &T, hook: &Hook, case: &Case, value: &FlowValue) {
    if case.needs_no_flow != 0 {
        // Of another's answer under the node's address (a NodePort) it stays: that one may not begin anything.
        if case.from_node != 0 {
            leave_embryonic(tables, hook, case);
        }
        return;
    }
    // In both until the second step, so that whoever looks through the tables finds it.
    if tables.put_flow(FlowTable::Crowd, &case.key, value, Put::Either) {
        leave_embryonic(tables, hook, case);
    }
}

/// Deletes a flow from `embryonic`. One CPU only is told that it was there, and that one subtracts it.
#[inline(always)]
fn leave_embryonic<T: Tables>(tables: &T, hook: &Hook, case: &Case) {
    if tables.remove_flow(FlowTable::Embryonic, &case.key)
        && let Some(budget) = tables.budget(hook.slot)
    {
        budget.embryonic.subtract(1);
    }
}

/// Moves an answered flow to `flows`, if its attachment may have one more there; whether it did.
///
/// Half of the table is guaranteed, so many to each attachment; the other half is for those that have more, as long as
/// there is room, and within what one may have.
#[inline(always)]
fn promote<T: Tables>(tables: &T, hook: &Hook, case: &Case, value: &FlowValue) -> bool {
    let (Some(budget), Some(common)) = (tables.budget(hook.slot), tables.common()) else {
        return false;
    };
    let is_sure = Budget::is_below(&budget.flows, tables.limit(Limit::Guarantee));
    if !is_sure
        && (!Budget::is_below(&budget.flows, tables.limit(Limit::Flows))
            || !Budget::is_below(common, tables.limit(Limit::Common))
            || case.needs_no_flow != 0)
    {
        return false;
    }
    if tables.put_flow(FlowTable::Flows, &case.key, value, Put::New) {
        budget.flows.add(1);
        if !is_sure {
            common.add(1);
        }
    } else if !tables.put_flow(FlowTable::Flows, &case.key, value, Put::Known) {
        return false;
    }
    // It stands in both until here, so that whoever looks through the tables, and at the first once more, finds it.
    if case.place == Place::EMBRYONIC {
        leave_embryonic(tables, hook, case);
    } else {
        tables.remove_flow(FlowTable::Crowd, &case.key);
    }
    true
}

/// Enters a new flow: into `embryonic` within the share of its attachment, else into `crowd`.
///
/// So the entries of an attachment that has no more than its share wait undisturbed, whatever the others send and send
/// again. Of what others begin only half the share is used: a crowd of clients leaves room for the pod's own. What may be
/// the pod's answer to one that was forgotten counts as theirs.
#[inline(always)]
fn begin<T: Tables>(tables: &T, hook: &Hook, case: &Case, value: &FlowValue) {
    if let Some(budget) = tables.budget(hook.slot) {
        let share = tables.limit(Limit::Embryonic);
        let is_pods = !hook.is_to_pod() && case.initiator != Initiator::UNPROVEN;
        let share = if is_pods { share } else { share / 2 };
        if Budget::is_below(&budget.embryonic, share) {
            if tables.put_flow(FlowTable::Embryonic, &case.key, value, Put::New) {
                budget.embryonic.add(1);
                return;
            }
            // One that timed out, or another CPU's, is counted; or else the table is full.
            if tables.put_flow(FlowTable::Embryonic, &case.key, value, Put::Known) {
                return;
            }
        }
    }
    if case.needs_no_flow == 0 {
        tables.put_flow(FlowTable::Crowd, &case.key, value, Put::Either);
    }
}
