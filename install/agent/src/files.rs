// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files that appear, change and go in one step, and survive a loss of power as the old or as the new one.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use podgate_conflist::{Directory, is_candidate};

/// What a file is called until it is complete. It is in the directory of the complete one: containerd loads a directory again
/// when a file in it is renamed, and not when one is moved in from elsewhere; and by its end no runtime reads it.
fn unfinished(path: &Path) -> Result<PathBuf> {
    let name = path
        .file_name()
        .with_context(|| format!("{} is no file", path.display()))?;
    let id = std::process::id();
    Ok(path.with_file_name(format!(".{}.{id}.podgate-tmp", name.display())))
}

/// Puts these bytes there, in place of what was there.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let parent = parent(path)?;
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    let temporary = unfinished(path)?;
    let write = || {
        remove_file(&temporary)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        // Whatever the umask.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, path)
    };
    if let Err(error) = write() {
        let left = remove_file(&temporary).err();
        let left = left.map(|it| format!("; {} is left: {it}", temporary.display()));
        return Err(error)
            .with_context(|| format!("write {}{}", path.display(), left.unwrap_or_default()));
    }
    sync(parent)
}

/// Takes the file away, and its directory below `root` if that is empty then.
pub(crate) fn remove(root: &Path, path: &Path) -> Result<()> {
    remove_file(path).with_context(|| format!("remove {}", path.display()))?;
    let parent = parent(path)?;
    sync(parent)?;
    if parent != root {
        match fs::remove_dir(parent) {
            Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => {
                return Err(error).with_context(|| format!("remove {}", parent.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// That it is not there is no error.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn parent(path: &Path) -> Result<&Path> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => Ok(parent),
        Some(_) | None => bail!("{} has no directory", path.display()),
    }
}

/// Names in a directory are kept when it is synced, not when its files are.
fn sync(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|it| it.sync_all())
        .with_context(|| format!("sync {}", directory.display()))
}

/// Takes away what a process that was killed left of files that it was writing.
pub(crate) fn remove_unfinished(directory: &Path) -> Result<()> {
    for path in list(directory)? {
        if path.extension().is_some_and(|it| it == "podgate-tmp") {
            remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// The paths in a directory; one that is not there is empty.
pub(crate) fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    match read() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.with_context(|| format!("list {}", directory.display())),
    }
}

/// The networks of a directory, and the drop-in files of this name.
pub(crate) fn read_networks(directory: &Path, drop_in: &str) -> Result<Directory> {
    let mut files = Vec::new();
    for path in list(directory)? {
        let Some(name) = path.file_name().and_then(|it| it.to_str()) else {
            continue;
        };
        if path.is_dir() {
            let path = path.join(drop_in);
            let bytes = read_if_there(&path)?;
            files.extend(bytes.map(|it| (format!("{name}/{drop_in}"), it)));
        } else if is_candidate(name) {
            // It may be a link that leads nowhere: a runtime fails on it, so it counts as one that cannot be read.
            let bytes = read_if_there(&path)?;
            files.push((name.to_owned(), bytes.unwrap_or_default()));
        }
    }
    Ok(files.into_iter().collect())
}

/// A file's permissions, if it is there.
pub(crate) fn mode_of(path: &Path) -> Result<Option<u32>> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found.permissions().mode() & 0o777)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("look at {}", path.display())),
    }
}

/// A file's bytes, if it is there.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}
