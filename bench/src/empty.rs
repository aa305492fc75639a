// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A classifier that decides nothing: what a test run itself costs.
#![expect(
    unsafe_code,
    reason = "raw bpf(): aya loads programs from ELF files only, and these are two instructions"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use aya::programs::SchedClassifier;

/// `BPF_PROG_LOAD` and `BPF_OBJ_PIN` of linux/bpf.h.
const PROG_LOAD: u32 = 5;
const OBJ_PIN: u32 = 6;
/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;

/// `r0 = -1; exit`: what ours return to let a packet pass.
static INSTRUCTIONS: [u64; 2] = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];
static LICENSE: &[u8] = b"GPL\0";

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct LoadAttr {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for `BPF_OBJ_PIN`.
#[repr(C)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

fn bpf<A>(command: u32, attr: &A) -> io::Result<i32> {
    // SAFETY: `attr` is the beginning of the member of `union bpf_attr` that belongs to the command, and its size
    // is passed; what it points to lives until the call returns. The kernel only reads it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<A>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// Loads it and pins it at `pin`, which must be on a bpffs.
pub(crate) fn load(pin: &Path) -> Result<SchedClassifier> {
    let load = LoadAttr {
        program_type: SCHED_CLS,
        instruction_count: 2,
        instructions: INSTRUCTIONS.as_ptr().addr() as u64,
        license: LICENSE.as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let fd = bpf(PROG_LOAD, &load).context("load an empty program")?;
    // SAFETY: the kernel has just opened it for this call, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attr = PinAttr {
        path: path.as_ptr().addr() as u64,
        fd: fd.as_raw_fd().cast_unsigned(),
        flags: 0,
    };
    bpf(OBJ_PIN, &attr).with_context(|| format!("pin an empty program at {}", pin.display()))?;
    Ok(SchedClassifier::from_pin(pin)?)
}
