// SPDX-License-Identifier: Apache-2.0 OR MIT
/// An address of either family, 16 bytes in network order; IPv4 is mapped (`::ffff:a.b.c.d`).
///
/// Held as four words so that it can stand at offset 4 of an LPM key, and is compared by word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Address([u32; 4]);

/// The third word of every mapped IPv4 address.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Address {
    /// `::`, and the filler of unused places.
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// All DHCP servers and relays of a link (RFC 8415 section 7.1).
    pub const ALL_DHCP_SERVERS: Self =
        Self::new([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]);

    /// The address with these bytes.
    #[inline(always)]
    pub const fn new(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }

    /// The mapped form of an IPv4 address.
    #[inline(always)]
    pub const fn from_ipv4(octets: [u8; 4]) -> Self {
        Self([0, 0, MAPPED, u32::from_ne_bytes(octets)])
    }

    /// The address whose four words, as they lie in memory, these are.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The mapped form of the IPv4 address whose bytes, as they lie in memory, are this word.
    #[inline(always)]
    pub const fn from_ipv4_word(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// Its four words, as they lie in memory. The last one is an IPv4 address.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.0
    }

    /// Its two halves, as they lie in memory.
    #[inline(always)]
    pub const fn halves(self) -> [u64; 2] {
        let [a, b, c, d] = self.0;
        [(b as u64) << 32 | a as u64, (d as u64) << 32 | c as u64]
    }

    /// The address with these halves.
    #[inline(always)]
    pub const fn from_halves([first, second]: [u64; 2]) -> Self {
        Self([
            first as u32,
            (first >> 32) as u32,
            second as u32,
            (second >> 32) as u32,
        ])
    }

    /// Its 16 bytes.
    pub fn octets(self) -> [u8; 16] {
        let mut octets = [0; 16];
        for (place, word) in octets.chunks_exact_mut(4).zip(self.0) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        octets
    }

    /// In `::ffff:0:0/96`, where IPv4 lives.
    #[inline(always)]
    pub const fn is_ipv4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// `::`.
    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 0
    }

    /// In `fe80::/10` (RFC 4291 section 2.5.6).
    #[inline(always)]
    pub const fn is_link_local(self) -> bool {
        self.0[0] & 0xffc0_0000_u32.to_be() == 0xfe80_0000_u32.to_be()
    }

    /// For its link only: link-local, or multicast of that scope (RFC 4291 sections 2.5.6 and 2.7).
    #[inline(always)]
    pub const fn is_of_link(self) -> bool {
        self.is_link_local() || self.0[0] & 0xff0f_0000_u32.to_be() == 0xff02_0000_u32.to_be()
    }

    /// An address that more than one host may take for its own: IPv4 and IPv6 multicast, and the IPv4 limited
    /// broadcast.
    #[inline(always)]
    pub const fn is_multicast_or_broadcast(self) -> bool {
        if self.is_ipv4() {
            let last = self.0[3];
            last & 0xf000_0000_u32.to_be() == 0xe000_0000_u32.to_be() || last == u32::MAX
        } else {
            self.0[0] & 0xff00_0000_u32.to_be() == 0xff00_0000_u32.to_be()
        }
    }

    /// In `127.0.0.0/8`, all of which is a node's own that lets it in (`route_localnet`, which kube-proxy sets).
    #[inline(always)]
    pub const fn is_ipv4_loopback(self) -> bool {
        self.is_ipv4() && self.0[3] & 0xff00_0000_u32.to_be() == 0x7f00_0000_u32.to_be()
    }

    /// An address that one host has and routers forward: neither unspecified or of "this network" (RFC 1122 section
    /// 3.2.1.3), nor loopback, link-local, multicast or broadcast.
    #[inline(always)]
    pub const fn is_ordinary(self) -> bool {
        let [first, second, third, last] = self.0;
        if self.is_multicast_or_broadcast() {
            return false;
        }
        if self.is_ipv4() {
            let is_of_link = last & 0xffff_0000_u32.to_be() == 0xa9fe_0000_u32.to_be();
            last & 0xff00_0000_u32.to_be() != 0 && !self.is_ipv4_loopback() && !is_of_link
        } else {
            // `::/96` has `::`, `::1` and nothing that is in use.
            (first | second | third) != 0 && !self.is_link_local()
        }
    }

    /// 32 bits that depend on every bit of the address, for tags.
    #[inline(always)]
    pub const fn mix(self) -> u32 {
        let mut hash = 0x9e37_79b9_u32;
        let [a, b, c, d] = self.0;
        hash = (hash ^ a).wrapping_mul(0x85eb_ca6b).rotate_left(13);
        hash = (hash ^ b).wrapping_mul(0xc2b2_ae35).rotate_left(13);
        hash = (hash ^ c).wrapping_mul(0x27d4_eb2f).rotate_left(13);
        hash = (hash ^ d).wrapping_mul(0x1656_67b1);
        hash ^ (hash >> 15)
    }
}

#[cfg(feature = "user")]
impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::from_ipv4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self::new(v6.octets()),
        }
    }
}

#[cfg(feature = "user")]
impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        core::net::Ipv6Addr::from(address.octets()).to_canonical()
    }
}
