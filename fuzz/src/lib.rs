// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What must hold of any input. A target panics where it does not.
//!
//! `fuzz/run` has libFuzzer look for such inputs, from the files of `fuzz/corpus` on; the test below tries just these.

pub mod cni;
pub mod manifests;
pub mod packet;
pub mod policyendpoints;
pub mod verdict;

/// A target: its name, and what tries an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 5] = [
    ("cni", cni::run),
    ("manifests", manifests::run),
    ("packet", packet::run),
    ("policyendpoints", policyendpoints::run),
    ("verdict", verdict::run),
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn what_fuzzers_have_found_holds() {
        for (name, run) in TARGETS {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("corpus")
                .join(name);
            let mut tried = 0;
            for entry in fs::read_dir(&corpus).unwrap() {
                let path = entry.unwrap().path();
                println!("{}", path.display());
                run(&fs::read(&path).unwrap());
                tried += 1;
            }
            assert!(tried > 0, "{} is empty", corpus.display());
        }
    }
}
