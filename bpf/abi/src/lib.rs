// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layouts of the kernel tables, and the verdict.
//!
//! This crate is compiled twice: into the eBPF programs, where [`Tables`] is the kernel's maps, and into user
//! space, where it is a model of them under test. So the algorithm that decides a packet exists once.
//!
//! ```text
//! bytes of a packet ──► parse ──► Packet ──┐
//!                                          ├──► decide ──► Decision
//! attachments, peers, rows, flows ─ Tables ┘
//! ```
//!
//! Zero means deny everywhere: an attachment that was never written, a word of zeroes, ruleset 0, port set 0.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod address;
mod decide;
mod flow;
mod layout;
mod link;
mod packet;
mod reason;
mod tables;
mod word;

pub use address::Address;
pub use decide::{Answer, Hook, PacketCtx, ask, decide, may_be_foreign, peer_word, way_word};
pub(crate) use flow::Place;
pub use flow::{
    FlowKey, FlowState, FlowValue, FlowWord, FragmentKey, FragmentValue, Initiator, Life, Quota,
};
pub use layout::*;
pub use link::{Broadcasts, Foreign, HardwareWord, LinkWord};
pub use packet::{Bytes, Offload, Packet, ethertype, parse};
pub use podgate_core::{Direction, Slot, tunnel};
pub use reason::{Decision, Reason};
pub use tables::{FlowEntry, FlowTable, NextHop, Put, Tables};
pub use word::Word;

#[cfg(test)]
mod tests;
