// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory that the process has freed, and its allocator has kept.
#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "no safe crate has this call of the C library")
)]

/// Gives it back to the kernel: glibc keeps what lies between what is in use, for each of its arenas. Takes some
/// milliseconds for each hundred megabytes, in which one arena at a time waits. Another C library does so by itself.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it takes no pointer, and may be called by any thread at any time.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use std::fs;

    /// Bytes of the process that are in memory.
    fn resident() -> usize {
        let pages = fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
        pages << 12
    }

    #[test]
    fn what_lies_between_what_is_in_use_is_given_back() {
        const EACH: usize = 32 << 10;
        let mut blocks: Vec<Vec<u8>> = (0..4_000).map(|_| vec![1; EACH]).collect();
        let mut number = 0;
        blocks.retain(|_| {
            number += 1;
            number % 50 == 0
        });
        let before = resident();
        super::give_back();
        let given = before.saturating_sub(resident());
        assert!(given > 2_000 * EACH, "{given}");
        assert_eq!(blocks.len(), 80);
    }
}
