// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Chance that can be repeated.

use std::time::SystemTime;

/// Numbers by SplitMix64: the same for a seed on every machine.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// As `PODGATE_SEED` says; else one that stays the same, and with `PODGATE_LONG` a new one each time. It is printed.
    pub fn new(what: &str) -> Self {
        let seed = number_of("PODGATE_SEED").unwrap_or_else(|| {
            if number_of("PODGATE_LONG").is_none() {
                return 2;
            }
            let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock");
            now.as_nanos() as u64
        });
        println!("{what}: PODGATE_SEED={seed}");
        Self(seed)
    }

    /// Any number.
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_number() % bound as u64) as usize
    }

    /// Whether it happens, of so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is {text:?}, and is to be a number")))
}

/// How many packets a test sends that sends so many by itself.
pub fn packets(by_itself: u64) -> u64 {
    let times = if std::env::var_os("PODGATE_LONG").is_some() {
        10
    } else {
        1
    };
    number_of("PODGATE_PACKETS").unwrap_or(by_itself) * times
}
