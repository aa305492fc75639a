// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A file that whoever opens it waits for.
#![expect(unsafe_code, reason = "nix has no leases")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Which signal tells that a lease is asked for: `fcntl(2)`; the crate `libc` lacks it here.
const F_SETSIG: libc::c_int = 10;

/// A lease on a file: nobody else gets it open until this is dropped, or for as long as the kernel puts up with that
/// (45 s, `/proc/sys/fs/lease-break-time`).
#[derive(Debug)]
pub struct Lease(File);

impl Lease {
    /// Takes it.
    ///
    /// # Panics
    /// When somebody has the file open.
    pub fn on(path: &Path) -> Self {
        let options = OpenOptions::new().read(true).write(true).open(path);
        let lease = Self(options.expect("open the file"));
        // The signal that it is asked for would end the test; this one is ignored.
        lease.ask(F_SETSIG, libc::SIGURG);
        lease.ask(libc::F_SETLEASE, libc::F_WRLCK);
        lease
    }

    /// Whether somebody waits to open the file.
    pub fn is_waited_for(&self) -> bool {
        self.ask(libc::F_GETLEASE, 0) != libc::F_WRLCK
    }

    fn ask(&self, what: libc::c_int, argument: libc::c_int) -> libc::c_int {
        // SAFETY: these commands take a number and no pointer.
        let answer = unsafe { libc::fcntl(self.0.as_raw_fd(), what, argument) };
        assert!(answer >= 0, "fcntl {what}: {}", io::Error::last_os_error());
        answer
    }
}
