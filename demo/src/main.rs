//! The Stars demo: real pods policed on one machine.
fn main() {}
