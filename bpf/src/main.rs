// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The eBPF programs: one pair for all pods.
//!
//! `from_pod` stands at the ingress of the host end of a pod's veth, `to_pod` at its egress. Which attachment a
//! packet belongs to is told by the class ID of the filter that runs the program. What becomes of it is told by
//! [`podgate_abi::decide`]; here are only its tables and its bytes.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "the kernel's memory is reached by raw pointers")]

mod maps;
mod skb;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use podgate_abi::{Bytes, Decision, Direction, Hook, Offload, Reason, Slot, decide};

/// Judges what goes to the pod: its ingress policy.
#[classifier]
pub(crate) fn to_pod(ctx: TcContext) -> i32 {
    run(&ctx, Direction::Ingress)
}

/// Judges what comes from the pod: its egress policy.
#[classifier]
pub(crate) fn from_pod(ctx: TcContext) -> i32 {
    run(&ctx, Direction::Egress)
}

/// The bytes of the packet, wherever they lie.
struct Frame<'a>(&'a TcContext);

impl Bytes for Frame<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.load::<[u8; N]>(offset as usize).ok()
    }

    #[inline(always)]
    fn load_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.0.load::<[u32; N]>(offset as usize).ok()
    }

    #[inline(always)]
    fn offload(&self) -> Offload {
        skb::offload(self.0)
    }
}

#[inline(always)]
fn run(ctx: &TcContext, direction: Direction) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel gives every classifier a valid `__sk_buff`.
    let (class_id, protocol, received_from, interface) = unsafe {
        (
            (*skb).tc_classid,
            (*skb).protocol,
            (*skb).ingress_ifindex,
            (*skb).ifindex,
        )
    };
    let hook = Hook {
        slot: Slot(class_id & Slot::MAX.0),
        direction,
        ethertype: u16::from_be(protocol as u16),
        received_from,
        interface,
    };
    match decide(&maps::Maps(Some(ctx)), &Frame(ctx), &hook) {
        Decision::Pass(reason) => {
            if direction == Direction::Egress {
                // The guard behind us lets nothing else through.
                // SAFETY: as above.
                unsafe { (*skb).priority = priority(reason) };
            }
            finish(direction, reason, TC_ACT_UNSPEC)
        }
        Decision::Drop(reason) => finish(direction, reason, TC_ACT_SHOT),
    }
}

/// By what the guard knows where a packet may go.
#[inline(always)]
fn priority(reason: Reason) -> u32 {
    if reason as u8 == Reason::OnLink as u8 {
        podgate_abi::ON_LINK_PRIORITY
    } else {
        podgate_abi::PASSED_PRIORITY
    }
}

/// By what the kernel knows that the programs may call helpers that are for the GPL only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Counts the reason, and gives the action: "unspecified" lets the filters after us run.
#[inline(always)]
fn finish(direction: Direction, reason: Reason, action: i32) -> i32 {
    maps::count(direction, reason);
    action
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
