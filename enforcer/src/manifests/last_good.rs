// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What files last said, kept where the next start of the enforcer finds it: without it, a file that is wrong at a
//! start would say nothing, and open what its policies had closed.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

/// Room of the file system that copies leave to others, as attachments are there too: an eighth, or this.
const LEFT: u64 = 4 << 20;

/// The directory of copies, one for each file, of the same name.
#[derive(Debug)]
pub(crate) struct LastGood(PathBuf);

impl LastGood {
    /// The copies in `directory`, which is made when the first is.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// Every copy: the name of its file, and what that said.
    pub(crate) fn all(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                self.complain("what manifests last said cannot be read", &error);
                return Vec::new();
            }
        };
        let read = |entry: io::Result<fs::DirEntry>| -> io::Result<_> {
            let entry = entry?;
            let name = PathBuf::from(entry.file_name());
            if !super::entry::is_manifest(&name) {
                return Ok(None);
            }
            let said = fs::read(entry.path())
                .map_err(|error| io::Error::other(format!("{}: {error}", name.display())))?;
            Ok(Some((name, said)))
        };
        let copies = entries.filter_map(|entry| {
            // One that cannot be read takes no other with it.
            read(entry).unwrap_or_else(|error| {
                self.complain("what a manifest last said cannot be read", &error);
                None
            })
        });
        copies.collect()
    }

    /// What the file last said; none if that is not known.
    pub(crate) fn said(&self, file: &Path) -> Option<Vec<u8>> {
        fs::read(self.0.join(file.file_name()?)).ok()
    }

    /// Where they are.
    pub(crate) fn directory(&self) -> &Path {
        &self.0
    }

    /// Keeps what the file said, in one step. Where that fails, the copy of what it said before gives its room; it would open
    /// what the file has closed since, so it goes in any case.
    ///
    /// # Errors
    /// When it cannot be written in that room either: there is no copy then, unless the error says that an older one stays.
    pub(crate) fn keep(&self, file: &Path, said: &[u8]) -> io::Result<()> {
        let Some(name) = file.file_name() else {
            return Ok(());
        };
        let path = self.0.join(name);
        if fs::read(&path).is_ok_and(|kept| kept == said) {
            return Ok(());
        }
        self.write(&path, said).or_else(|_| {
            match fs::remove_file(&path) {
                // An empty one opens nothing either.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    File::create(&path).map_err(|error| stays(&error))?;
                }
                Ok(()) | Err(_) => {}
            }
            self.write(&path, said)
        })
    }

    fn write(&self, path: &Path, said: &[u8]) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)?;
        self.require_room(said.len())?;
        let unfinished = self.0.join(".unfinished");
        let written = File::create(&unfinished)
            .and_then(|mut file| file.write_all(said))
            .and_then(|()| fs::rename(&unfinished, path));
        if written.is_err() {
            // It may have taken the last room.
            drop(fs::remove_file(&unfinished));
        }
        written
    }

    /// Whether there is room for so many bytes beside what others need.
    fn require_room(&self, bytes: usize) -> io::Result<()> {
        let found = statvfs(&self.0)?;
        let block = found.fragment_size();
        let left = LEFT.min(found.blocks().saturating_mul(block) / 8);
        let free = found.blocks_available().saturating_mul(block);
        let needed = left.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        // A file system without blocks has no limit.
        if found.blocks() == 0 || free >= needed {
            return Ok(());
        }
        let text = format!("{free} bytes are free there, and {needed} are needed");
        Err(io::Error::new(io::ErrorKind::StorageFull, text))
    }

    /// Forgets what the file said.
    pub(crate) fn forget(&self, file: &Path) {
        let Some(name) = file.file_name() else { return };
        match fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.complain("what a manifest said cannot be forgotten", &error);
            }
            Ok(()) | Err(_) => {}
        }
    }

    fn complain(&self, what: &str, error: &io::Error) {
        tracing::warn!(directory = %self.0.display(), %error, "{what}");
    }
}

/// The copy of what the file said before can be neither replaced nor removed.
fn stays(error: &io::Error) -> io::Error {
    io::Error::other(format!("an older copy stays there: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const FILE: &str = "a.yaml";

    /// Copies in `run`, and the name of the temporary file beside them.
    fn copies(run: &tempfile::TempDir) -> (LastGood, PathBuf) {
        let directory = run.path().join("kept");
        let unfinished = directory.join(".unfinished");
        (LastGood::new(directory), unfinished)
    }

    /// The copy of what a file said before would open what the file has closed since.
    #[test]
    fn a_copy_that_cannot_be_replaced_is_removed() {
        let run = tempfile::tempdir().unwrap();
        let (kept, unfinished) = copies(&run);
        let file = Path::new(FILE);
        kept.keep(file, b"before").unwrap();
        // A directory has the name of the temporary file.
        fs::create_dir(&unfinished).unwrap();
        kept.keep(file, b"now").unwrap_err();
        assert_eq!(kept.said(file), None);
        fs::remove_dir(&unfinished).unwrap();
        kept.keep(file, b"now").unwrap();
        assert_eq!(kept.said(file), Some(b"now".to_vec()));
    }

    #[test]
    fn a_copy_may_have_the_room_of_the_one_it_replaces() {
        let run = tempfile::tempdir().unwrap();
        let (kept, unfinished) = copies(&run);
        let file = Path::new(FILE);
        kept.keep(file, b"before").unwrap();
        // The first write finds no room.
        symlink("/dev/full", &unfinished).unwrap();
        kept.keep(file, b"now").unwrap();
        assert_eq!(kept.said(file), Some(b"now".to_vec()));
    }

    #[test]
    fn a_copy_that_cannot_be_read_takes_no_other_with_it() {
        let run = tempfile::tempdir().unwrap();
        let (kept, _) = copies(&run);
        kept.keep(Path::new(FILE), b"said").unwrap();
        fs::create_dir(kept.directory().join("b.yaml")).unwrap();
        assert_eq!(kept.all(), [(PathBuf::from(FILE), b"said".to_vec())]);
    }

    /// What is not kept is tried again, and others write to this file system.
    #[test]
    fn copies_leave_room_to_others() {
        let run = tempfile::tempdir().unwrap();
        let kept = LastGood::new(run.path().to_owned());
        let found = statvfs(run.path()).unwrap();
        let free = found.blocks_available() * found.fragment_size();
        let all = usize::try_from(free).unwrap();
        let error = kept.require_room(all).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
        kept.require_room(all / 2).unwrap();
    }

    #[test]
    fn a_copy_that_cannot_be_written_takes_no_room() {
        let run = tempfile::tempdir().unwrap();
        let (kept, unfinished) = copies(&run);
        // A directory has the name of the copy.
        fs::create_dir_all(run.path().join("kept").join(FILE)).unwrap();
        kept.keep(Path::new(FILE), b"now").unwrap_err();
        assert!(!unfinished.exists());
    }
}
