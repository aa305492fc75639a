// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The plugin's program in the runtime's directory, and what the plugin says of its object in a chain.

use std::ffi::OsString;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use podgate::{Exit, Io};
use podgate_conflist::Entry;

use crate::files;

/// The program, kept as it is in the image.
#[derive(Debug)]
pub(crate) struct Program {
    target: PathBuf,
    bytes: Vec<u8>,
    /// What the file in place looked like when its bytes were the right ones.
    seen: Option<Look>,
}

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    inode: (u64, u64),
    size: u64,
    changed: (i64, i64),
    mode: u32,
}

impl Look {
    /// The kernel's time of a change goes on in ticks: a file that has just changed may change again and look the same.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.is_ok_and(|it| it.as_secs().cast_signed() > self.changed.0 + 1)
    }
}

impl Program {
    pub(crate) fn new(source: &Path, bin_dir: &Path) -> Result<Self> {
        let bytes =
            fs::read(source).with_context(|| format!("read the plugin {}", source.display()))?;
        Ok(Self {
            target: bin_dir.join(Entry::TYPE),
            bytes,
            seen: None,
        })
    }

    /// Has the program in place.
    pub(crate) fn heal(&mut self) -> Result<()> {
        // Before its bytes are read: what is written meanwhile is another look.
        let look = self.look()?;
        if self.seen.is_some() && self.seen == look {
            return Ok(());
        }
        let is_right = files::read_if_there(&self.target)?.is_some_and(|it| it == self.bytes)
            && look.is_some_and(|it| it.mode & 0o777 == 0o755);
        self.seen = look.filter(|it| is_right && it.is_settled());
        if !is_right {
            // A runtime that starts it meanwhile starts the old one or the new one.
            files::replace(&self.target, &self.bytes, 0o755)?;
            tracing::info!(file = %self.target.display(), "put the plugin in place");
        }
        Ok(())
    }

    fn look(&self) -> Result<Option<Look>> {
        match fs::symlink_metadata(&self.target) {
            Ok(found) => Ok(Some(Look {
                inode: (found.dev(), found.ino()),
                size: found.size(),
                changed: (found.ctime(), found.ctime_nsec()),
                mode: found.mode(),
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("look at {}", self.target.display())),
        }
    }
}

/// Reads the plugin's object, and has the plugin check its keys: a chain with a misspelled one would fail every pod.
///
/// A GC that lists nothing asks for nothing (CNI specification 1.1.0), but for a configuration that can be read.
pub(crate) fn check_entry(text: &str) -> Result<Entry> {
    let entry = Entry::parse(text).context("--entry")?;
    let mut object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)?;
    for (key, value) in [("cniVersion", "1.1.0"), ("name", "podgate-install")] {
        object.insert(key.into(), value.into());
    }
    let config = serde_json::to_vec(&object)?;
    let (mut said, mut log) = (Vec::new(), Vec::new());
    let exit = podgate::run(Io {
        getenv: &|name| (name == "CNI_COMMAND").then(|| OsString::from("GC")),
        stdin: &mut Cursor::new(config),
        stdout: &mut said,
        stderr: &mut log,
    });
    match exit {
        Exit::Success => Ok(entry),
        Exit::Failure => bail!(
            "the plugin refuses its object in the chain (--entry {text}): {}",
            String::from_utf8_lossy(&log).trim_end()
        ),
    }
}
