//! The eBPF programs that decide each packet.
fn main() {}
