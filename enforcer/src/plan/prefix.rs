// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Blocks and addresses of both families in one table of 128-bit prefixes.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use podgate_abi::{Address, PrefixKey};

/// The prefix that is always there, so that no IPv6 prefix answers for IPv4.
pub(super) fn all_of_ipv4() -> IpNet {
    IpNet::V4(Ipv4Net::default())
}

/// Whether an IPv6 address would stand where an IPv4 address stands. No packet that passes carries it.
pub(super) fn is_mapped(address: IpAddr) -> bool {
    address.is_ipv6() && Address::from(address).is_ipv4()
}

/// Whether an IPv6 block would stand where an IPv4 block stands. No packet that passes comes from there.
pub(super) fn is_mapped_block(prefix: &IpNet) -> bool {
    prefix.prefix_len() >= 96 && is_mapped(prefix.addr())
}

/// A prefix as the kernel has it.
pub(super) fn lowered(prefix: &IpNet) -> PrefixKey {
    let length = u32::from(prefix.prefix_len());
    PrefixKey {
        length: match prefix {
            IpNet::V4(_) => 96 + length,
            IpNet::V6(_) => length,
        },
        address: Address::from(prefix.addr()),
    }
}
