// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an attachment is on its link: hardware address, broadcast addresses, the bridge that it is a port of.

use crate::Address;

/// The hardware address that every frame of a bound pod carries as its source.
///
/// Bits 47..0 the address as a number, first byte highest; bit 63 set where nobody recorded it. Zero is no pod's
/// address: nothing passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HardwareWord(pub u64);

impl HardwareWord {
    /// The interface had no hardware address at ADD: frames are not bound to one.
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

/// What the enforcer keeps up to date: bit 34 whether that interface is a bridge behind which the guard stands, bits 33..32 the
/// [`Foreign`] mode, 31..0 the interface that the host end is a port of, 0 if of none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkWord(pub u64);

impl LinkWord {
    const GUARDED: u64 = 1 << 34;
    const MODE: u64 = 3 << 32;

    /// The same, as a port of `master`, or of nothing. `is_guarded`: it is a bridge, and the guard drops what has
    /// [`crate::ON_LINK_PRIORITY`] where it hands that to the node.
    #[must_use]
    pub const fn with_master(self, master: Option<u32>, is_guarded: bool) -> Self {
        let mode = self.0 & Self::MODE;
        match master {
            Some(ifindex) if is_guarded => Self(mode | Self::GUARDED | ifindex as u64),
            Some(ifindex) => Self(mode | ifindex as u64),
            None => Self(mode),
        }
    }

    /// Whether frames can be kept to the other ports of the bridge.
    #[inline(always)]
    pub const fn is_guarded(self) -> bool {
        self.0 & Self::GUARDED != 0
    }

    /// The same, under another mode.
    #[must_use]
    pub const fn with_foreign(self, mode: Foreign) -> Self {
        Self(self.0 & !Self::MODE | (mode as u64) << 32)
    }

    /// What the host end is a port of; 0 if of nothing.
    #[inline(always)]
    pub const fn master(self) -> u32 {
        self.0 as u32
    }

    /// Whether the mode lets foreign addresses through, of an attachment that is isolated or not.
    #[inline(always)]
    pub const fn admits_foreign(self, is_isolated: bool) -> bool {
        self.speaks_for_foreign() || (self.mode() == Foreign::Unisolated as u64 && !is_isolated)
    }

    /// Whether the mode lets the pod speak for foreign addresses to its neighbors.
    #[inline(always)]
    pub const fn speaks_for_foreign(self) -> bool {
        self.mode() == Foreign::Allow as u64
    }

    #[inline(always)]
    const fn mode(self) -> u64 {
        self.0 >> 32 & 3
    }
}

/// What becomes of foreign addresses: those that are not the pod's own, and that no pod, node or Service has.
///
/// A pod has them where it routes for others, or as addresses that no CNI plugin assigned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u64)]
pub enum Foreign {
    /// They are dropped, as source of what the pod sends and as destination of what is for it.
    #[default]
    Deny = 0,
    /// They pass while no policy isolates the pod in either direction.
    Unisolated = 1,
    /// They pass, judged as any other, and the pod may say at its link that it has them.
    Allow = 2,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_word_keeps_its_master_and_its_mode_apart() {
        let word = LinkWord(0).with_master(Some(u32::MAX), true);
        assert!(!word.admits_foreign(false));
        for (mode, isolated, not_isolated) in [
            (Foreign::Deny, false, false),
            (Foreign::Unisolated, false, true),
            (Foreign::Allow, true, true),
        ] {
            let word = word.with_foreign(Foreign::Allow).with_foreign(mode);
            let another = word.with_master(Some(7), false);
            for word in [word, another, word.with_master(None, true)] {
                assert_eq!(word.admits_foreign(true), isolated);
                assert_eq!(word.admits_foreign(false), not_isolated);
                assert_eq!(word.speaks_for_foreign(), mode == Foreign::Allow);
            }
            assert_eq!((word.master(), word.is_guarded()), (u32::MAX, true));
            assert_eq!((another.master(), another.is_guarded()), (7, false));
            let none = word.with_master(None, true);
            assert_eq!((none.master(), none.is_guarded()), (0, false));
        }
        assert!(!LinkWord(3 << 32).admits_foreign(false));
    }

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
