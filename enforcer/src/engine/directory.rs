// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether the attachment files are those that were read last: known by their directory's time of change, so that an
//! event does not read as many files as the node has pods.
//!
//! Files come and go by rename and removal, under the lock, and each changes that time. The kernel's clock for it is
//! coarse, so a time counts only when it lay some time back already when the files were read.

use std::fs;
use std::time::{Duration, SystemTime};

use podgate_datapath::Paths;

/// Far longer than a step of the clock that stamps files.
const COARSE: Duration = Duration::from_secs(1);

/// The directory as it was when its files were read; nothing if that cannot be told.
#[derive(Debug, Default)]
pub struct Directory(Option<SystemTime>);

impl Directory {
    /// Before its files are read.
    pub(super) fn now(paths: &Paths) -> Self {
        let changed = fs::metadata(paths.attachments()).and_then(|directory| directory.modified());
        Self(changed.ok().filter(|changed| {
            SystemTime::now()
                .duration_since(*changed)
                .is_ok_and(|ago| ago >= COARSE)
        }))
    }

    /// As it was at that time.
    #[cfg(test)]
    pub(super) fn changed_at(time: SystemTime) -> Self {
        Self(Some(time))
    }

    /// Whether its files are still those that were read then.
    pub(super) fn is_still(&self, then: &Self) -> bool {
        self.0.is_some() && self.0 == then.0
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use super::*;

    fn paths(root: &std::path::Path, changed: SystemTime) -> Paths {
        let paths = Paths {
            run: root.to_owned(),
            bpffs: root.to_owned(),
        };
        fs::create_dir_all(paths.attachments()).unwrap();
        let directory = File::open(paths.attachments()).unwrap();
        let times = FileTimes::new().set_modified(changed);
        directory.set_times(times).unwrap();
        paths
    }

    #[test]
    fn a_directory_is_still_the_same_until_a_file_comes_or_goes() {
        let root = tempfile::tempdir().unwrap();
        let long_ago = SystemTime::now() - 2 * COARSE;
        let paths = paths(root.path(), long_ago);
        let then = Directory::now(&paths);
        assert!(Directory::now(&paths).is_still(&then));
        File::create(paths.attachments().join("new.json")).unwrap();
        assert!(!Directory::now(&paths).is_still(&then));
    }

    #[test]
    fn what_changed_just_now_may_change_again_under_the_same_time() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path(), SystemTime::now());
        let then = Directory::now(&paths);
        assert!(!Directory::now(&paths).is_still(&then));
        assert!(!Directory::default().is_still(&Directory::default()));
    }
}
