// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `bpf()` and `mmap()`, for what aya does not have, and for pins: aya asks about 25 questions to open three.
#![expect(
    unsafe_code,
    reason = "raw system calls, and memory shared with the kernel"
)]

use std::{
    ffi::CString,
    fs, io,
    mem::size_of,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr::{self, NonNull},
    slice,
    sync::{Once, atomic::AtomicU64},
};

use bytemuck::{Pod, Zeroable};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

/// `enum bpf_cmd` of linux/bpf.h.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ObjPin = 6,
    ObjGet = 7,
    InfoByFd = 15,
    ProgQuery = 16,
}

/// `BPF_MAP_TYPE_ARRAY`.
pub(crate) const ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
pub(crate) const ARRAY_OF_MAPS: u32 = 12;
/// `BPF_F_MMAPABLE`.
pub(crate) const MMAPABLE: u32 = 1 << 10;
/// `BPF_TCX_INGRESS`.
pub(crate) const TCX_INGRESS: u32 = 46;
/// `BPF_TCX_EGRESS`.
pub(crate) const TCX_EGRESS: u32 = 47;

/// Lifts this process's limit on locked memory, which tables and programs count against before Linux 5.11: its default
/// of 64 KiB to 8 MiB is less than the tables need. Without `CAP_SYS_RESOURCE` the limit stays, and making a table tells.
pub(crate) fn lift_memory_limit() {
    static LIFTED: Once = Once::new();
    LIFTED.call_once(|| {
        setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).ok();
    });
}

/// Runs one command; `attr` is the member of `union bpf_attr` that belongs to it.
fn bpf<A: Pod>(command: Command, attr: &mut A) -> io::Result<i32> {
    // SAFETY: `attr` is plain data of the size that is passed; the pointers in it are valid for the call, which is
    // what the callers in this file see to. The kernel writes within that size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as u32,
            ptr::from_mut(attr),
            size_of::<A>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just opened it for this call, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

fn path_of(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Opens what is pinned at `path`.
pub(crate) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = path_of(path)?;
    let mut attr = PinAttr {
        path: path.as_ptr().addr() as u64,
        fd: 0,
        flags: 0,
    };
    bpf(Command::ObjGet, &mut attr).map(owned)
}

/// Pins an object at `path`.
pub(crate) fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path_of(path)?;
    let mut attr = PinAttr {
        path: path.as_ptr().addr() as u64,
        fd: raw(fd),
        flags: 0,
    };
    bpf(Command::ObjPin, &mut attr).map(drop)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_fd: u32,
}

/// Makes a table with 4-byte keys. `inner` is the model of a table of tables' elements.
pub(crate) fn map_create(
    map_type: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    lift_memory_limit();
    let mut attr = CreateAttr {
        map_type,
        key_size: 4,
        value_size,
        max_entries,
        flags,
        inner_fd: inner.map_or(0, raw),
    };
    bpf(Command::MapCreate, &mut attr).map(owned)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_map_info`.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct MapInfo {
    pub(crate) map_type: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

/// The beginning of `struct bpf_prog_info`.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct ProgInfo {
    prog_type: u32,
    id: u32,
}

fn info<T: Pod>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::zeroed();
    let mut attr = InfoAttr {
        fd: raw(fd),
        length: size_of::<T>() as u32,
        info: ptr::from_mut(&mut info).addr() as u64,
    };
    bpf(Command::InfoByFd, &mut attr)?;
    Ok(info)
}

/// What a table is.
pub(crate) fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(fd)
}

/// The kernel's number of a program.
pub(crate) fn prog_id(fd: BorrowedFd<'_>) -> io::Result<u32> {
    info::<ProgInfo>(fd).map(|info| info.id)
}

/// Bytes of kernel memory that a table or program uses, as its fdinfo says.
pub(crate) fn memory(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
        .ok_or_else(|| io::Error::other("fdinfo has no memlock"))
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ElementAttr {
    fd: u32,
    padding: u32,
    key: u64,
    /// Or where the next key goes.
    value: u64,
    flags: u64,
}

fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr().addr() as u64
}

/// A table with the sizes of its keys and values, so that no call passes a buffer that is too short.
#[derive(Debug)]
pub(crate) struct Map {
    fd: OwnedFd,
    key: usize,
    /// Bytes that a look-up writes.
    value: usize,
    pub(crate) capacity: u32,
    /// The kernel's number of it: two pins with the same number are one table.
    pub(crate) id: u32,
}

impl Map {
    /// Takes a table over. `per_cpu`: each value is one of each possible CPU.
    pub(crate) fn new(fd: OwnedFd, per_cpu: bool) -> io::Result<Self> {
        let info = map_info(fd.as_fd())?;
        let value = info.value_size as usize;
        Ok(Self {
            fd,
            key: info.key_size as usize,
            value: if per_cpu {
                value.next_multiple_of(8) * possible_cpus()?
            } else {
                value
            },
            capacity: info.max_entries,
            id: info.id,
        })
    }

    fn element(&self, key: &[u8], value: u64, flags: u64) -> io::Result<ElementAttr> {
        if key.len() != self.key {
            return Err(io::Error::other("the key has another size"));
        }
        Ok(ElementAttr {
            fd: raw(self.fd.as_fd()),
            padding: 0,
            key: address(key),
            value,
            flags,
        })
    }

    /// The value at `key`.
    pub(crate) fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0_u8; self.value];
        let mut attr = self.element(key, value.as_mut_ptr().addr() as u64, 0)?;
        present(bpf(Command::MapLookup, &mut attr)).map(|found| found.then_some(value))
    }

    /// Puts `value` at `key`.
    pub(crate) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if value.len() != self.value {
            return Err(io::Error::other("the value has another size"));
        }
        let mut attr = self.element(key, address(value), 0)?;
        bpf(Command::MapUpdate, &mut attr).map(drop)
    }

    /// Deletes `key`; whether it was there.
    pub(crate) fn delete(&self, key: &[u8]) -> io::Result<bool> {
        let mut attr = self.element(key, 0, 0)?;
        present(bpf(Command::MapDelete, &mut attr))
    }

    /// Every key. One that comes or goes meanwhile may be missing; none is there twice.
    pub(crate) fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0_u8; self.key];
            let mut attr = ElementAttr {
                fd: raw(self.fd.as_fd()),
                padding: 0,
                key: keys.last().map_or(0, |key| address(key)),
                value: next.as_mut_ptr().addr() as u64,
                flags: 0,
            };
            // A key that was deleted meanwhile makes the kernel begin again: that would never end.
            if !present(bpf(Command::MapNextKey, &mut attr))?
                || keys.len() > 2 * self.capacity as usize
            {
                keys.sort_unstable();
                keys.dedup();
                return Ok(keys);
            }
            keys.push(next);
        }
    }

    /// Bytes of kernel memory that it uses.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        memory(self.fd.as_fd())
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn present(result: io::Result<i32>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The highest number of CPUs that this kernel can have, as it lays out per-CPU values.
pub(crate) fn possible_cpus() -> io::Result<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    text.trim()
        .rsplit(['-', ','])
        .next()
        .and_then(|last| last.parse::<usize>().ok())
        .map(|last| last + 1)
        .ok_or_else(|| io::Error::other(format!("possible CPUs are {text:?}")))
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The programs of one TCX hook of an interface, in the order in which they run; none on a kernel without TCX.
pub(crate) fn tcx_programs(ifindex: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    const ROOM: usize = 64;
    let mut ids = [0_u32; ROOM];
    let mut attr = QueryAttr {
        target: ifindex,
        attach_type,
        prog_ids: ids.as_mut_ptr().addr() as u64,
        count: ROOM as u32,
        ..QueryAttr::zeroed()
    };
    match bpf(Command::ProgQuery, &mut attr) {
        Ok(_) => Ok(ids[..(attr.count as usize).min(ROOM)].to_vec()),
        // Before 6.6 the kernel does not know the attach type.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Vec::new()),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Ticks of the kernel's clock a second.
pub(crate) fn ticks_per_second() -> io::Result<u32> {
    let mut resolution = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `resolution` is valid for writing.
    let result = unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut resolution) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(resolution.tv_nsec)
        .ok()
        .and_then(|nanoseconds| 1_000_000_000_u32.checked_div(nanoseconds))
        .ok_or_else(|| io::Error::other("the coarse clock has no resolution"))
}

/// The kernel's release, as `uname -r` prints it.
pub(crate) fn release() -> io::Result<String> {
    let mut names = std::mem::MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: `names` is valid for writing, and all zeros are a `utsname`.
    let (result, names) = unsafe { (libc::uname(names.as_mut_ptr()), names.assume_init()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = names.release.iter().map(|byte| byte.to_ne_bytes()[0]);
    let text: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The time as `bpf_jiffies64` tells it, give or take a second: Linux begins five minutes before the 32-bit counter
/// wraps (`INITIAL_JIFFIES`), and counts with the monotonic clock.
pub(crate) fn jiffies() -> io::Result<u64> {
    let ticks = u64::from(ticks_per_second()?);
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    let (seconds, nanoseconds) = (now.tv_sec().cast_unsigned(), now.tv_nsec().cast_unsigned());
    let since_boot = seconds * ticks + nanoseconds * ticks / 1_000_000_000;
    Ok((1 << 32) - 300 * ticks + since_boot)
}

/// The elements of an array table, mapped into memory: every element some aligned 64-bit words.
#[derive(Debug)]
pub(crate) struct MappedArray {
    start: NonNull<AtomicU64>,
    bytes: usize,
    /// Words of an element.
    words: usize,
    /// Elements.
    pub(crate) len: usize,
}

// SAFETY: it owns the mapping, and gives out nothing but atomics.
unsafe impl Send for MappedArray {}
// SAFETY: as above.
unsafe impl Sync for MappedArray {}

impl MappedArray {
    /// Maps a table that was made with `BPF_F_MMAPABLE`.
    pub(crate) fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let info = map_info(fd)?;
        if info.map_type != ARRAY || info.flags & MMAPABLE == 0 {
            return Err(io::Error::other("the table is no memory-mapped array"));
        }
        let words = (info.value_size as usize).div_ceil(8);
        let len = info.max_entries as usize;
        let bytes = len * words * 8;
        // SAFETY: a new shared mapping at an address that the kernel chooses, over `bytes` bytes of the table, which
        // it refuses if the table has fewer pages. No memory of ours is touched.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start =
            NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self {
            start,
            bytes,
            words,
            len,
        })
    }

    /// The words of element `index`; none beyond the end.
    pub(crate) fn element(&self, index: u32) -> Option<&[AtomicU64]> {
        let index = index as usize;
        // SAFETY: the element lies within the mapping, which lives as long as `self`; page-aligned, so its words
        // are; others change it as atomics or, as the kernel does, by whole words.
        (index < self.len).then(|| unsafe {
            slice::from_raw_parts(self.start.as_ptr().add(index * self.words), self.words)
        })
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; the references that were given out have ended.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
