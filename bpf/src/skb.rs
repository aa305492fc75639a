// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What goes with a packet and stands neither in its bytes nor in `__sk_buff`: it is read from the kernel's `sk_buff`.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::programs::TcContext;
use podgate_abi::Offload;

/// Where `sk_buff` has the byte with `ip_summed`; 0 if that is not known, and then nothing is read. This and the next are
/// set by whoever loads the object.
#[unsafe(no_mangle)]
static SKB_IP_SUMMED: u32 = 0;
/// The lowest bit of `ip_summed` in that byte.
#[unsafe(no_mangle)]
static SKB_IP_SUMMED_SHIFT: u32 = 0;
/// Where it has `csum_start`, and behind that `csum_offset`.
#[unsafe(no_mangle)]
static SKB_CSUM_START: u32 = 0;
/// Where it has `network_header`.
#[unsafe(no_mangle)]
static SKB_NETWORK_HEADER: u32 = 0;

/// `CHECKSUM_PARTIAL` of linux/skbuff.h.
const PARTIAL: u32 = 3;

/// Length of the Ethernet header, after which the network header stands.
const ETHERNET: u16 = 14;

#[inline(always)]
fn constant(of: &'static u32) -> usize {
    // SAFETY: a static that only the loader writes, before the program exists.
    unsafe { (&raw const *of).read_volatile() as usize }
}

/// What the kernel is still to do to the packet.
#[inline(always)]
pub(crate) fn offload(ctx: &TcContext) -> Offload {
    // SAFETY: the kernel gives every classifier a valid `__sk_buff`.
    let segment = unsafe { (*ctx.skb.skb).gso_size };
    let checksum = checksum(ctx).unwrap_or(Offload::UNKNOWN.checksum);
    Offload { checksum, segment }
}

#[inline(always)]
fn checksum(ctx: &TcContext) -> Result<u32, i32> {
    let ip_summed = constant(&SKB_IP_SUMMED);
    // Known when the program is verified: where it is 0, the calls below are no part of the program, and need not be
    // allowed (kernel lockdown forbids them).
    if ip_summed == 0 {
        return Ok(0);
    }
    // The context of a classifier is the `sk_buff` itself; its members have other places in the program's view.
    let skb: *const u8 = ctx.skb.skb.cast();
    // SAFETY: the helper reads any address, and fails where there is nothing.
    let flags = unsafe { bpf_probe_read_kernel::<u8>(skb.wrapping_add(ip_summed))? };
    if u32::from(flags) >> (constant(&SKB_IP_SUMMED_SHIFT) & 7) & 3 != PARTIAL {
        return Ok(0);
    }
    let place = skb.wrapping_add(constant(&SKB_CSUM_START));
    // SAFETY: as above.
    let [start, offset] = unsafe { bpf_probe_read_kernel::<[u16; 2]>(place.cast())? };
    let place = skb.wrapping_add(constant(&SKB_NETWORK_HEADER));
    // SAFETY: as above.
    let network = unsafe { bpf_probe_read_kernel::<u16>(place.cast())? };
    // Both count from the beginning of the buffer.
    let start = start.wrapping_sub(network).wrapping_add(ETHERNET);
    Ok(Offload::checksum(start, offset).checksum)
}
