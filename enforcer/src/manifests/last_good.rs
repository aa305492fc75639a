// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What files last said, kept where the next start of the enforcer finds it: without it, a file that is wrong at a
//! start would say nothing, and open what its policies had closed.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

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
        let read = || -> io::Result<_> {
            let mut all = Vec::new();
            for entry in fs::read_dir(&self.0)? {
                let entry = entry?;
                let name = PathBuf::from(entry.file_name());
                if super::entry::is_manifest(&name) {
                    all.push((name, fs::read(entry.path())?));
                }
            }
            Ok(all)
        };
        read().unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                self.complain("what manifests last said cannot be read", &error);
            }
            Vec::new()
        })
    }

    /// What the file last said; none if that is not known.
    pub(crate) fn said(&self, file: &Path) -> Option<Vec<u8>> {
        fs::read(self.0.join(file.file_name()?)).ok()
    }

    /// Keeps what the file said, in one step.
    pub(crate) fn keep(&self, file: &Path, said: &[u8]) {
        let Some(name) = file.file_name() else { return };
        let (path, unfinished) = (self.0.join(name), self.0.join(".unfinished"));
        let write = || -> io::Result<()> {
            if fs::read(&path).is_ok_and(|kept| kept == said) {
                return Ok(());
            }
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.0)?;
            File::create(&unfinished)?.write_all(said)?;
            fs::rename(&unfinished, &path)
        };
        if let Err(error) = write() {
            self.complain("what a manifest says cannot be kept", &error);
        }
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
