// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads attachment files again and again, each only when it may say something new.
//!
//! A file is never changed, but another may take its name. So it is known by what the file system says of it; and as
//! the clock for that is coarse, only when it lay some time back already when the file was read.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{COMPLETE, Record, files, read_file};
use crate::{Failed, Paths};

/// Far longer than a step of the clock that stamps files.
const COARSE: Duration = Duration::from_secs(1);

/// The files that were read, and what they said.
#[derive(Debug, Default)]
pub struct Reader(BTreeMap<PathBuf, Known>);

#[derive(Debug)]
struct Known {
    state: State,
    record: Record,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    inode: u64,
    length: u64,
    /// When it was last written, renamed or given to somebody: since the epoch.
    changed: Duration,
}

impl State {
    /// None: it may change again under the same stamp.
    fn of(file: &Metadata, now: SystemTime) -> Option<Self> {
        let (seconds, nanoseconds) = (file.ctime(), file.ctime_nsec());
        let changed = Duration::new(seconds.try_into().ok()?, nanoseconds.try_into().ok()?);
        let ago = now.duration_since(UNIX_EPOCH + changed);
        ago.is_ok_and(|ago| ago >= COARSE).then_some(Self {
            inode: file.ino(),
            length: file.len(),
            changed,
        })
    }
}

impl Reader {
    /// Every attachment, and for each file that cannot be read an error, as [`super::list`].
    ///
    /// # Errors
    /// When the directory itself cannot be read. No directory is no attachment.
    pub fn list(&mut self, paths: &Paths) -> Result<Vec<Result<Record, Failed>>, Failed> {
        self.list_at(paths, SystemTime::now())
    }

    fn list_at(
        &mut self,
        paths: &Paths,
        now: SystemTime,
    ) -> Result<Vec<Result<Record, Failed>>, Failed> {
        let mut before = std::mem::take(&mut self.0);
        let mut all = Vec::new();
        for path in files(paths, COMPLETE)? {
            let state = match fs::metadata(&path) {
                Ok(file) => State::of(&file, now),
                // Removed while we looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => None,
            };
            let known = before.remove(&path);
            let known = known.filter(|known| Some(known.state) == state);
            let record = match known {
                Some(Known { record, .. }) => record,
                None => match read_file(path.clone()) {
                    Ok(record) => record,
                    Err(error) if error.is_missing() => continue,
                    Err(error) => {
                        all.push(Err(error));
                        continue;
                    }
                },
            };
            if let Some(state) = state {
                let record = record.clone();
                self.0.insert(path, Known { state, record });
            }
            all.push(Ok(record));
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::super::{Slot, delete, write};
    use super::*;

    fn read(reader: &mut Reader, paths: &Paths, now: SystemTime) -> Vec<Record> {
        let all = reader.list_at(paths, now).unwrap();
        all.into_iter().map(Result::unwrap).collect()
    }

    #[test]
    fn it_says_what_the_files_say_whatever_came_went_or_took_a_name() {
        for old in [Duration::ZERO, 2 * COARSE] {
            let dir = tempfile::tempdir().unwrap();
            let paths = Paths::below(&dir);
            let mut reader = Reader::default();
            let mut said = || read(&mut reader, &paths, SystemTime::now() + old);
            assert_eq!(said(), []);
            let (a, b) = (record("a"), record("b"));
            write(&paths, &a).unwrap();
            assert_eq!(said(), std::slice::from_ref(&a));
            write(&paths, &b).unwrap();
            assert_eq!(said(), [a.clone(), b.clone()]);
            let slot = Slot(5);
            let anew = Record { slot, ..a.clone() };
            write(&paths, &anew).unwrap();
            assert_eq!(said(), [anew, b.clone()]);
            delete(&paths, &a.identity).unwrap();
            assert_eq!(said(), [b]);
            fs::write(paths.attachments().join("c:eth0.json"), b"{").unwrap();
            assert!(reader.list(&paths).unwrap().iter().any(Result::is_err));
        }
    }

    /// Only a file that was read when its time stamp lay far enough back is not read again.
    #[test]
    fn only_a_file_read_well_after_its_stamp_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        write(&paths, &record("a")).unwrap();
        let now = SystemTime::now();
        let mut reader = Reader::default();
        read(&mut reader, &paths, now);
        assert!(reader.0.is_empty(), "it may change under the same stamp");

        read(&mut reader, &paths, now + 2 * COARSE);
        let remembered = Record {
            slot: Slot(9),
            ..record("a")
        };
        for known in reader.0.values_mut() {
            known.record = remembered.clone();
        }
        assert_eq!(read(&mut reader, &paths, now + 2 * COARSE), [remembered]);
    }
}
