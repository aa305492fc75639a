// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What Linux 5.10 would refuse in the object, as far as the instructions tell without it.

use std::collections::BTreeSet;

static OBJECT: &[u8] = include_bytes!("../../../bpf/podgate.o");

/// The helpers that the programs call (`include/uapi/linux/bpf.h`), all in Linux 5.8 at the latest: maps look up, update
/// and delete; `skb_load_bytes`; `fib_lookup`; `probe_read_kernel`; `jiffies64`; the ring buffer's reserve, submit and discard.
const HELPERS: [i32; 10] = [1, 2, 3, 26, 69, 113, 118, 131, 132, 133];

/// `SHF_EXECINSTR`.
const EXECUTABLE: u64 = 4;

fn number<const N: usize>(at: usize) -> [u8; N] {
    *OBJECT[at..].first_chunk().expect("a whole ELF object")
}

fn long(at: usize) -> usize {
    usize::try_from(u64::from_le_bytes(number(at))).expect("a small object")
}

/// The instructions of all sections that have any: opcode, source register, offset and immediate.
fn instructions() -> Vec<(u8, u8, i16, i32)> {
    let (first, each, count) = (long(0x28), number(0x3a), number(0x3c));
    let mut found = Vec::new();
    for section in 0..usize::from(u16::from_le_bytes(count)) {
        let header = first + section * usize::from(u16::from_le_bytes(each));
        if u64::from_le_bytes(number(header + 8)) & EXECUTABLE == 0 {
            continue;
        }
        let (start, length) = (long(header + 24), long(header + 32));
        let mut at = start;
        while at < start + length {
            let [code, registers] = number(at);
            let offset = i16::from_le_bytes(number(at + 2));
            found.push((
                code,
                registers >> 4,
                offset,
                i32::from_le_bytes(number(at + 4)),
            ));
            // A load of 64 bits takes the place of two.
            at += if code == 0x18 { 16 } else { 8 };
        }
    }
    found
}

/// The object has no instruction and no helper that Linux 5.10 does not know.
#[test]
fn the_object_has_nothing_that_linux_5_10_does_not_know() {
    let instructions = instructions();
    assert!(instructions.len() > 1_000, "the programs were not found");
    let mut helpers = BTreeSet::new();
    for &(code, source, offset, immediate) in &instructions {
        let newer = match code {
            // Calls of a helper; 1 is one of a function of the object.
            0x85 if source == 0 => {
                helpers.insert(immediate);
                None
            }
            0x85 if source != 1 => Some("5.13: a call of a kernel function"),
            // Atomic operations on memory: addition only, without its result.
            0xc3 | 0xdb if immediate != 0 => {
                Some("5.12: an atomic operation other than an addition")
            }
            0x81 | 0x89 | 0x91 => Some("6.6: a load with sign"),
            0xb4 | 0xbc | 0xbf if offset != 0 => Some("6.6: a move with sign"),
            0x34 | 0x37 | 0x3c | 0x3f | 0x94 | 0x97 | 0x9c | 0x9f if offset != 0 => {
                Some("6.6: a division with sign")
            }
            0xd7 => Some("6.6: an unconditional swap of bytes"),
            0x06 => Some("6.6: a long jump"),
            0xe5 => Some("6.9: a jump that may end a loop"),
            _ => None,
        };
        assert_eq!(newer, None, "instruction {code:#x}");
    }
    let known = BTreeSet::from(HELPERS);
    let unknown: Vec<_> = helpers.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "helpers {unknown:?} are newer, or not listed here"
    );
    assert!(
        helpers.contains(&1) && helpers.contains(&118),
        "no calls were found"
    );
}

#[test]
fn the_oldest_release_supported_is_the_oldest_kernel_tested() {
    let pins = include_str!("../../kernels/pins");
    let first = pins
        .lines()
        .find(|line| !line.starts_with('#'))
        .and_then(|line| line.split(' ').next());
    let oldest = podgate_datapath::release::OLDEST.to_string();
    assert_eq!(first, Some(oldest.as_str()));
}
