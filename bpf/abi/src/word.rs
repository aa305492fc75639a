// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One aligned 64-bit word of a table, shared with the kernel or with user space.

/// A word that others change while it is read; it is loaded and stored whole.
///
/// In user space an atomic. In the eBPF programs a volatile access, which one instruction performs.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Word(
    #[cfg(not(target_arch = "bpf"))] core::sync::atomic::AtomicU64,
    #[cfg(target_arch = "bpf")] core::cell::UnsafeCell<u64>,
);

#[cfg(not(target_arch = "bpf"))]
mod user {
    use core::sync::atomic::{AtomicU64, Ordering};

    impl super::Word {
        /// A word with this value.
        pub const fn new(value: u64) -> Self {
            Self(AtomicU64::new(value))
        }

        /// Its value.
        pub fn load(&self) -> u64 {
            self.0.load(Ordering::Acquire)
        }

        /// Gives it a value, after everything that was written before.
        pub fn store(&self, value: u64) {
            self.0.store(value, Ordering::Release);
        }

        /// Gives it the value `new` if it has the value `old`; else tells what it has.
        pub fn compare_exchange(&self, old: u64, new: u64) -> Result<u64, u64> {
            self.0
                .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
        }

        /// Adds to it.
        pub fn add(&self, addend: u64) {
            self.0.fetch_add(addend, Ordering::AcqRel);
        }

        /// Subtracts from it.
        pub fn subtract(&self, subtrahend: u64) {
            self.0.fetch_sub(subtrahend, Ordering::AcqRel);
        }

        /// Adds to it, and tells what it was.
        pub fn fetch_add(&self, addend: u64) -> u64 {
            self.0.fetch_add(addend, Ordering::AcqRel)
        }
    }
}

#[cfg(target_arch = "bpf")]
#[expect(
    unsafe_code,
    reason = "this target has no atomics in Rust: a volatile load and one instruction of assembly must do"
)]
mod kernel {
    use core::arch::asm;
    use core::cell::UnsafeCell;

    // SAFETY: every access is one instruction on one aligned word.
    unsafe impl Sync for super::Word {}

    impl super::Word {
        /// A word with this value.
        #[inline(always)]
        pub const fn new(value: u64) -> Self {
            Self(UnsafeCell::new(value))
        }

        /// Its value.
        #[inline(always)]
        pub fn load(&self) -> u64 {
            // SAFETY: the pointer is to the cell's own content, aligned.
            unsafe { self.0.get().read_volatile() }
        }

        /// Gives it a value.
        #[inline(always)]
        pub fn store(&self, value: u64) {
            // SAFETY: the pointer is to the cell's own content, aligned.
            unsafe { self.0.get().write_volatile(value) }
        }

        /// Adds to it.
        #[inline(always)]
        pub fn add(&self, addend: u64) {
            let word = self.0.get();
            // SAFETY: one atomic addition to the cell's own content. Rust has no such operation for a target without
            // compare-and-swap, and 5.10 has none that returns a value.
            unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) word, in(reg) addend) };
        }

        /// Subtracts from it.
        #[inline(always)]
        pub fn subtract(&self, subtrahend: u64) {
            self.add(subtrahend.wrapping_neg());
        }
    }
}
