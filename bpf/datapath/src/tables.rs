// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A table set, and the tables that all sets share: typed reads and writes.
//!
//! Tables are opened when they are first used, so that whoever needs three of them opens three.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use podgate_abi::Direction;

use crate::{
    Failed, Paths, Sizes,
    bpffs::{self, SetName},
    lock::Lock,
    map_spec::directory_of_shared,
    object::{self, LoadError},
    sys::{self, Map, MappedArray},
};

mod attachment;
mod policy;
mod upkeep;

pub use crate::map_spec::MapName;
pub use attachment::{Changed, Over};
pub(crate) use attachment::{life, origin};
pub use upkeep::{FlowUse, Usage};

/// One table set, with the shared tables, which it may have from the set before it.
#[derive(Debug)]
pub struct TableSet {
    name: SetName,
    paths: Paths,
    directory: PathBuf,
    shared: PathBuf,
    maps: [OnceLock<Map>; MapName::ALL.len()],
    arrays: [OnceLock<MappedArray>; MapName::ALL.len()],
    /// The kernel's number of its program from pods, if it was named current here.
    program: Option<u32>,
}

/// A table set that has a place, and as yet no tables and programs of its own.
#[derive(Debug)]
#[must_use]
pub struct Begun {
    name: SetName,
    paths: Paths,
    sizes: Sizes,
}

/// A table set that has all of them, and as yet no name.
#[derive(Debug)]
#[must_use]
pub struct Loaded(Begun);

impl Begun {
    /// Loads the programs, and makes the tables.
    ///
    /// # Errors
    /// When the kernel refuses them, or somebody begins another set meanwhile.
    pub fn load(self) -> Result<Loaded, LoadError> {
        object::load(&self.paths, self.name, &self.sizes)?;
        Ok(Loaded(self))
    }
}

impl Loaded {
    /// Gives it a name, and fills it with what is the same for everybody.
    ///
    /// # Errors
    /// When somebody began another set meanwhile.
    pub fn finish(self, lock: &Lock) -> Result<Unnamed, LoadError> {
        let Self(Begun { name, paths, sizes }) = self;
        object::finish(&paths, name, lock)?;
        let set = TableSet::at(&paths, name);
        set.fill_constants(&sizes)?;
        Ok(Unnamed(set))
    }
}

/// A table set that is not current: no plugin attaches to it, and only its maker writes what it says of addresses. An ADD
/// deletes its own here, if it finds this set, and the maker may have them still to write: it finds the ADD's file under the
/// lock, deletes them, and writes them again before this is named. So what is written needs no lock.
#[derive(Debug)]
pub struct Unnamed(TableSet);

impl std::ops::Deref for Unnamed {
    type Target = TableSet;

    fn deref(&self) -> &TableSet {
        &self.0
    }
}

impl Unnamed {
    /// Names it current: attachments go there from now on.
    ///
    /// # Errors
    /// When the link cannot be replaced.
    pub fn name_current(self, _lock: &Lock) -> Result<TableSet, Failed> {
        let program = self.0.program_id(Direction::Egress)?;
        bpffs::name_current(&self.0.paths, self.0.name)?;
        Ok(TableSet {
            program: Some(program),
            ..self.0
        })
    }
}

fn full(map: MapName, index: u32) -> Failed {
    let why = "it has no such element; the table must grow";
    Failed::new(
        "use element",
        format_args!("{index} of table {}", map.name()),
        io::Error::other(why),
    )
}

impl TableSet {
    /// Makes a new table set, filled with what is the same for everybody: not current yet. The caller fills the
    /// rest, and names it.
    ///
    /// # Errors
    /// When the kernel refuses it, or a pin cannot be made.
    pub fn create(paths: &Paths, lock: &Lock, sizes: &Sizes) -> Result<Unnamed, LoadError> {
        Self::begin(paths, lock, sizes)?.load()?.finish(lock)
    }

    /// Begins to make one: what takes long of it needs no lock.
    ///
    /// # Errors
    /// When a pin cannot be made.
    pub fn begin(paths: &Paths, lock: &Lock, sizes: &Sizes) -> Result<Begun, LoadError> {
        Ok(Begun {
            name: object::begin(paths, lock, sizes)?,
            paths: paths.clone(),
            sizes: *sizes,
        })
    }

    /// Opens the current table set, if there is one.
    ///
    /// # Errors
    /// When its layout is another version's.
    pub fn open_current(paths: &Paths) -> Result<Option<Self>, Failed> {
        let Some(name) = bpffs::current(paths)? else {
            return Ok(None);
        };
        if name.abi != podgate_abi::ABI {
            let why = format!(
                "its layout {} is not {}; let the enforcer that made it attach",
                name.abi,
                podgate_abi::ABI
            );
            return Err(Failed::new("open table set", name, io::Error::other(why)));
        }
        Ok(Some(Self::at(paths, name)))
    }

    /// Opens a table set of this version's layout.
    #[must_use]
    pub fn at(paths: &Paths, name: SetName) -> Self {
        Self {
            name,
            paths: paths.clone(),
            directory: name.path(paths),
            shared: directory_of_shared(&name.path(paths)),
            maps: [const { OnceLock::new() }; MapName::ALL.len()],
            arrays: [const { OnceLock::new() }; MapName::ALL.len()],
            program: None,
        }
    }

    /// Every table set that is pinned, of whatever layout.
    ///
    /// # Errors
    /// When the directory of pins cannot be read.
    pub fn list_sets(paths: &Paths) -> Result<Vec<SetName>, Failed> {
        bpffs::list(paths)
    }

    /// All other sets that are pinned.
    pub(crate) fn others(&self) -> Result<Vec<Self>, Failed> {
        let names = bpffs::list(&self.paths)?;
        let others = names.into_iter().filter(|name| *name != self.name);
        Ok(others.map(|name| Self::at(&self.paths, name)).collect())
    }

    /// Whether it has shared tables of the layout that is known here, whatever its own is.
    pub(crate) fn has_shared_tables(&self) -> bool {
        self.shared.is_dir()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> SetName {
        self.name
    }

    /// Where a table is pinned.
    #[must_use]
    pub fn pin(&self, map: MapName) -> PathBuf {
        if map == MapName::Generation {
            self.paths.generation()
        } else if map.is_shared() {
            self.shared.join(map.name())
        } else {
            self.directory.join(map.name())
        }
    }

    pub(crate) fn map(&self, name: MapName) -> Result<&Map, Failed> {
        let cell = &self.maps[name as usize];
        if let Some(map) = cell.get() {
            return Ok(map);
        }
        let pin = self.pin(name);
        let map = sys::obj_get(&pin)
            .and_then(|fd| Map::new(fd, name == MapName::Counters))
            .map_err(Failed::at("open table", &pin))?;
        Ok(cell.get_or_init(|| map))
    }

    pub(crate) fn array(&self, name: MapName) -> Result<&MappedArray, Failed> {
        let cell = &self.arrays[name as usize];
        if let Some(array) = cell.get() {
            return Ok(array);
        }
        let array = MappedArray::new(self.map(name)?.as_fd())
            .map_err(Failed::at("map table", &self.pin(name)))?;
        Ok(cell.get_or_init(|| array))
    }

    fn words(&self, name: MapName, index: u32) -> Result<&[AtomicU64], Failed> {
        self.array(name)?
            .element(index)
            .ok_or_else(|| full(name, index))
    }

    fn store(&self, name: MapName, index: u32, content: &[u64]) -> Result<(), Failed> {
        for (word, value) in self.words(name, index)?.iter().zip(content) {
            word.store(*value, Ordering::Release);
        }
        Ok(())
    }

    fn load(&self, name: MapName, index: u32) -> Result<Vec<u64>, Failed> {
        let words = self.words(name, index)?;
        Ok(words
            .iter()
            .map(|word| word.load(Ordering::Acquire))
            .collect())
    }

    /// The program that judges a direction.
    pub(crate) fn program(&self, direction: Direction) -> Result<OwnedFd, Failed> {
        let pin = self.directory.join(direction.program());
        sys::obj_get(&pin).map_err(Failed::at("open program", &pin))
    }

    /// The kernel's number of the program that judges a direction.
    ///
    /// # Errors
    /// When the pin cannot be opened.
    pub fn program_id(&self, direction: Direction) -> Result<u32, Failed> {
        let fd = self.program(direction)?;
        sys::prog_id(fd.as_fd())
            .map_err(|e| Failed::new("ask for the number of program", direction.program(), e))
    }

    /// Whether plugins attach to this set, which was named current here. Where its pins were removed since, its name may be
    /// another set's: names are used again, the numbers of programs are not.
    ///
    /// # Errors
    /// When that cannot be asked for want of memory or descriptors. A set that cannot be opened is not this one.
    pub fn is_current(&self) -> Result<bool, Failed> {
        let current = Self::open_current(&self.paths)
            .and_then(|set| set.map(|set| set.program_id(Direction::Egress)).transpose());
        match current {
            Ok(program) => Ok(program.is_some() && program == self.program),
            Err(error) if error.is_exhaustion() => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// The kernel's numbers of both programs, of whatever layout the set is.
    pub(crate) fn program_ids(&self) -> Result<[u32; 2], Failed> {
        Ok([
            self.program_id(Direction::Ingress)?,
            self.program_id(Direction::Egress)?,
        ])
    }

    fn update(&self, map: MapName, key: &[u8], value: &[u8]) -> Result<(), Failed> {
        self.map(map)?
            .update(key, value)
            .map_err(|e| Failed::new("write table", map.name(), e))
    }

    fn delete(&self, map: MapName, key: &[u8]) -> Result<bool, Failed> {
        self.map(map)?
            .delete(key)
            .map_err(|e| Failed::new("delete from table", map.name(), e))
    }

    fn lookup(&self, map: MapName, key: &[u8]) -> Result<Option<Vec<u8>>, Failed> {
        self.map(map)?
            .lookup(key)
            .map_err(|e| Failed::new("read table", map.name(), e))
    }

    fn lookup_word(&self, map: MapName, key: &[u8]) -> Result<Option<u64>, Failed> {
        Ok(self
            .lookup(map, key)?
            .map(|value| bytemuck::pod_read_unaligned(&value)))
    }

    fn keys<K: bytemuck::AnyBitPattern>(&self, map: MapName) -> Result<Vec<K>, Failed> {
        let keys = self
            .map(map)?
            .keys()
            .map_err(|e| Failed::new("list table", map.name(), e))?;
        Ok(keys
            .iter()
            .map(|key| bytemuck::pod_read_unaligned(key))
            .collect())
    }
}
