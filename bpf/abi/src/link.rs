//! What an attachment is on its link: hardware address, broadcast addresses, the bridge that it is a port of.

use crate::Address;

/// The hardware address that every frame of a bound pod carries as its source.
///
/// Bits 47..0 the address as a number, first byte highest; bit 63 set where nobody recorded it. Zero is no pod's
/// address: nothing passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HardwareWord(pub u64);

impl HardwareWord {
    /// The address was not recorded at ADD, as by a podgate of before: frames are not bound to one.
    pub const UNBOUND: Self = Self(1 << 63);

    /// Frames carry this address.
    pub const fn bound(address: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = address;
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    /// Whether a frame may say that it comes from `address`, which is a number as in the word.
    #[inline(always)]
    pub const fn admits(self, address: u64) -> bool {
        self.0 == address || self.0 == Self::UNBOUND.0
    }
}

/// The directed broadcast addresses of the pod's IPv4 networks, two at most: bits 63..32 and 31..0 as they lie in
/// memory, 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Broadcasts(pub u64);

impl Broadcasts {
    /// How many there are at most.
    pub const COUNT: usize = 2;

    /// These two; `0.0.0.0` is none.
    pub const fn new(first: [u8; 4], second: [u8; 4]) -> Self {
        let first = u32::from_ne_bytes(first) as u64;
        Self(first << 32 | u32::from_ne_bytes(second) as u64)
    }

    /// Whether `address` is one of them.
    #[inline(always)]
    pub const fn holds(self, address: Address) -> bool {
        let [.., last] = address.words();
        address.is_ipv4() && last != 0 && (last == (self.0 >> 32) as u32 || last == self.0 as u32)
    }
}

/// Bits 31..0: the interface that the host end is a port of, 0 if of none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkWord(pub u64);

impl LinkWord {
    /// A port of `master`, or of nothing.
    pub const fn port_of(master: Option<u32>) -> Self {
        match master {
            Some(ifindex) => Self(ifindex as u64),
            None => Self(0),
        }
    }

    /// What the host end is a port of; 0 if of nothing.
    #[inline(always)]
    pub const fn master(self) -> u32 {
        self.0 as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_bound_to_one_hardware_address_or_to_none() {
        let own = [2, 0, 0, 0, 0, 9];
        let word = HardwareWord::bound(own);
        assert!(word.admits(0x0200_0000_0009));
        assert!(!word.admits(0x0200_0000_0008));
        assert!(!HardwareWord(0).admits(0x0200_0000_0009));
        assert!(HardwareWord::UNBOUND.admits(0x0200_0000_0009));
    }

    #[test]
    fn broadcast_addresses_are_two_at_most_and_none_is_no_address() {
        let address = |octets| Address::from_ipv4(octets);
        let both = Broadcasts::new([10, 0, 0, 255], [10, 1, 255, 255]);
        assert!(both.holds(address([10, 0, 0, 255])));
        assert!(both.holds(address([10, 1, 255, 255])));
        assert!(!both.holds(address([10, 0, 0, 254])));
        let one = Broadcasts::new([10, 0, 0, 255], [0; 4]);
        assert!(!one.holds(address([0; 4])));
        assert!(!one.holds(Address::UNSPECIFIED));
    }
}
