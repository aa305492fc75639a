// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Loads the embedded programs with their tables, and pins both.

use std::{
    fs, io,
    os::{fd::AsFd, unix::fs::DirBuilderExt},
    path::Path,
};

use aya::{EbpfLoader, include_bytes_aligned, programs::SchedClassifier};
use podgate_abi::Direction;

use crate::{
    Failed, Paths, Sizes, SkbLayout,
    bpffs::{self, SetName},
    lock::Lock,
    map_spec::{MapName, directory_of_shared},
    sys,
};

/// The programs, as `bpf/build` makes them.
static OBJECT: &[u8] = include_bytes_aligned!("../../podgate.o");

/// Why the programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file, a pin or a small table.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The kernel refused the object.
    #[error("load the eBPF programs{}", explanation(source))]
    Object {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn explanation(error: &impl ToString) -> &'static str {
    if error.to_string().contains("Operation not permitted") {
        " (are CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON there, and before Linux 5.11 CAP_SYS_RESOURCE?)"
    } else {
        ""
    }
}

fn refused(source: impl std::error::Error + Send + Sync + 'static) -> LoadError {
    LoadError::Object {
        source: Box::new(source),
    }
}

fn make_dir(path: &Path) -> Result<(), Failed> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Failed::at("make directory", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes the place of a table set: a directory of its own, under the name that it is to have. The current set hands its
/// shared tables on to it, but for those that are to have another size: those are made anew, and empty.
pub(crate) fn begin(paths: &Paths, _lock: &Lock, sizes: &Sizes) -> Result<SetName, Failed> {
    bpffs::ensure(paths)?;
    let name = bpffs::next(paths)?;
    make_generation(&paths.generation())?;
    let directory = name.unfinished(paths);
    let shared = directory_of_shared(&directory);
    make_dir(&directory)?;
    make_dir(&shared)?;
    if let Some(before) = bpffs::current(paths)? {
        inherit_shared(&directory_of_shared(&before.path(paths)), &shared, sizes)?;
    }
    Ok(name)
}

/// Loads the programs and makes their tables, and pins everything there. Needs no lock: who begins another one meanwhile
/// removes the directory, and this fails.
pub(crate) fn load(paths: &Paths, name: SetName, sizes: &Sizes) -> Result<(), LoadError> {
    sys::lift_memory_limit();
    let directory = name.unfinished(paths);
    let shared = directory_of_shared(&directory);
    let hz = sys::ticks_per_second().map_err(|e| Failed::new("ask", "the kernel's clock", e))?;
    let mut loader = EbpfLoader::new();
    loader.override_global("HZ", &hz, true);
    // Without it the programs do not look at what goes with a packet. The enforcer says so.
    let skb = SkbLayout::of_kernel().unwrap_or_default();
    for (name, value) in skb.globals() {
        loader.override_global(name, value, true);
    }
    for map in MapName::ALL {
        if let Some(size) = map.size(sizes) {
            loader.map_max_entries(map.name(), size);
        }
        if map.is_shared() && map.is_in_object() {
            loader.map_pin_path(map.name(), shared.join(map.name()));
        }
    }
    let mut ebpf = loader.load(OBJECT).map_err(refused)?;

    for map in MapName::ALL.into_iter().filter(|map| !map.is_shared()) {
        let found = ebpf
            .map(map.name())
            .ok_or_else(|| Failed::new("find table", map.name(), io::ErrorKind::NotFound.into()))?;
        found.pin(directory.join(map.name())).map_err(refused)?;
    }
    for direction in Direction::BOTH {
        let symbol = direction.program();
        let found: &mut SchedClassifier = ebpf
            .program_mut(symbol)
            .ok_or_else(|| Failed::new("find program", symbol, io::ErrorKind::NotFound.into()))?
            .try_into()
            .map_err(refused)?;
        found.load().map_err(refused)?;
        let pin = directory.join(symbol);
        let fd = found.fd().map_err(refused)?;
        sys::obj_pin(fd.as_fd(), &pin).map_err(Failed::at("pin program at", &pin))?;
    }
    Ok(())
}

/// Gives a table set its name, in one step.
pub(crate) fn finish(paths: &Paths, name: SetName, _lock: &Lock) -> Result<(), Failed> {
    let complete = name.path(paths);
    let directory = name.unfinished(paths);
    fs::rename(directory, &complete).map_err(Failed::at("name table set", &complete))
}

/// Pins the shared tables of the set before once more, for the new set: those that have the size that they are to have.
fn inherit_shared(before: &Path, shared: &Path, sizes: &Sizes) -> Result<(), Failed> {
    for map in MapName::ALL {
        if !map.is_shared() || !map.is_in_object() {
            continue;
        }
        let (old, new) = (before.join(map.name()), shared.join(map.name()));
        let fd = match sys::obj_get(&old) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Failed::at("open table", &old)(error)),
        };
        let found = sys::map_info(fd.as_fd()).map_err(Failed::at("ask for the size of", &old))?;
        if map.size(sizes).is_none_or(|size| size == found.max_entries) {
            sys::obj_pin(fd.as_fd(), &new).map_err(Failed::at("pin table at", &new))?;
        }
    }
    Ok(())
}

/// The counter of generations and the next slot: two elements.
fn make_generation(pin: &Path) -> Result<(), Failed> {
    if pin.exists() {
        return Ok(());
    }
    sys::map_create(sys::ARRAY, 8, 2, sys::MMAPABLE, None)
        .and_then(|fd| sys::obj_pin(fd.as_fd(), pin))
        .map_err(Failed::at("make table", pin))
}
