// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Entries of the directory: which are manifests, and whether one has changed.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

/// Bytes that a manifest may have: room for some thousand objects, and far less than the enforcer's memory.
const MOST: u64 = 16 << 20;

/// What a file holds, unless that is more than a manifest may have. What is no file is neither read nor waited for, though
/// it took the place of one just now: to open a FIFO waits for its writer.
pub(crate) fn content(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(not_a_file());
    }
    let mut bytes = Vec::new();
    file.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        let why = "it is larger than 16 MiB: split it into several files";
        return Err(io::Error::other(why));
    }
    Ok(bytes)
}

/// Why a directory, a FIFO or a device is not read.
pub(crate) fn not_a_file() -> io::Error {
    io::Error::other("it is not a file")
}

/// What tells one content of a file from the next without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// What is known of a file.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known {
    /// As it was when it was read last.
    pub(crate) read: Option<Stamp>,
    /// As the last scan saw it.
    pub(crate) scanned: Option<Stamp>,
}

fn name_of(path: &Path) -> &str {
    path.file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default()
}

/// Whether a file of this name is read: `*.yaml`, `*.yml`, `*.json`, and not hidden.
pub(crate) fn is_manifest(path: &Path) -> bool {
    let is_one = matches!(
        path.extension().and_then(|e| e.to_str()),
        Some("yaml" | "yml" | "json")
    );
    is_one && !name_of(path).starts_with('.')
}

/// Whether editors make such files beside the one they edit.
pub(crate) fn is_editor_file(path: &Path) -> bool {
    let name = name_of(path);
    name.ends_with('~')
        || name.ends_with(".swp")
        || name.ends_with(".swx")
        || name.starts_with(".#")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    /// A FIFO that takes the place of a file after somebody looked what is there.
    #[test]
    fn a_fifo_without_a_writer_is_an_error_and_no_wait() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let (done, read) = channel();
        thread::spawn(move || done.send(content(&path)));
        let read = read.recv_timeout(Duration::from_secs(10));
        let error = read.expect("it is read in time").unwrap_err();
        assert_eq!(error.to_string(), "it is not a file");
    }
}
