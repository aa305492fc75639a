// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A lock that is never free. In a process of its own: others would wait beside it.

use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use podgate_datapath::Paths;
use podgate_datapath::lock::Lock;

#[test]
fn a_lock_that_is_never_free_does_not_pile_up_threads() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths {
        run: dir.path().join("run"),
        bpffs: dir.path().join("bpffs"),
    };
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let held = Lock::take(&paths).unwrap();
    for _ in 0..50 {
        let soon = Instant::now() + Duration::from_millis(5);
        let error = Lock::take_until(&paths, soon).unwrap_err();
        assert_eq!(error.source.kind(), ErrorKind::TimedOut);
    }
    assert!(threads() <= before + 16);
    drop(held);
    Lock::take(&paths).unwrap();
}
