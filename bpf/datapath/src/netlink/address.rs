// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses on interfaces.

use std::net::IpAddr;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
};
use nix::errno::Errno;

use super::{Ifindex, NetlinkError, Socket};

/// An address on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceAddress {
    /// The interface that has it.
    pub ifindex: Ifindex,
    /// The interface's own address, never the other end's of a point-to-point one.
    pub address: IpAddr,
    /// Length of its prefix, in bits.
    pub prefix: u8,
}

impl Socket {
    /// Every IPv4 and IPv6 address of the socket's namespace, link-local and tentative ones too.
    pub fn addresses(&mut self) -> Result<Vec<InterfaceAddress>, NetlinkError> {
        self.addresses_at(0)
    }

    /// Every IPv4 and IPv6 address of one interface, link-local and tentative ones too.
    pub fn addresses_of(
        &mut self,
        ifindex: Ifindex,
    ) -> Result<Vec<InterfaceAddress>, NetlinkError> {
        let mut addresses = self.addresses_at(ifindex.0)?;
        addresses.retain(|address| address.ifindex == ifindex);
        Ok(addresses)
    }

    fn addresses_at(&mut self, index: u32) -> Result<Vec<InterfaceAddress>, NetlinkError> {
        let mut addresses = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = AddressMessage::default();
            message.header.family = family;
            message.header.index = index;
            match self.request(RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP) {
                Ok(answer) => addresses.extend(answer.into_iter().filter_map(from_answer)),
                // A kernel without this family, as with `ipv6.disable=1`, has no addresses of it.
                Err(error)
                    if matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(addresses)
    }
}

fn from_answer(message: RouteNetlinkMessage) -> Option<InterfaceAddress> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    // IPv6 gives a lone address as `IFA_ADDRESS`; where there are both, that one is the other end's.
    Some(InterfaceAddress {
        ifindex: Ifindex(message.header.index),
        address: local.or(address)?,
        prefix: message.header.prefix_len,
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn the_own_address_is_local_not_the_other_end() {
        let mut message = AddressMessage::default();
        message.header.index = 3;
        message.header.prefix_len = 32;
        message.attributes = vec![
            AddressAttribute::Address(Ipv4Addr::new(10, 0, 0, 1).into()),
            AddressAttribute::Local(Ipv4Addr::new(10, 0, 0, 2).into()),
        ];
        let expected = InterfaceAddress {
            ifindex: Ifindex(3),
            address: Ipv4Addr::new(10, 0, 0, 2).into(),
            prefix: 32,
        };
        assert_eq!(
            from_answer(RouteNetlinkMessage::NewAddress(message)),
            Some(expected)
        );
    }

    #[test]
    fn a_lone_ipv6_address_is_the_own_one() {
        let mut message = AddressMessage::default();
        message.attributes = vec![AddressAttribute::Address(Ipv6Addr::LOCALHOST.into())];
        let found = from_answer(RouteNetlinkMessage::NewAddress(message)).unwrap();
        assert_eq!(found.address, IpAddr::from(Ipv6Addr::LOCALHOST));
    }

    #[test]
    fn an_interface_has_its_own_addresses_only() {
        let mut socket = Socket::open().unwrap();
        let all = socket.addresses().unwrap();
        let of_loopback = socket.addresses_of(Ifindex(1)).unwrap();
        assert!(
            of_loopback
                .iter()
                .all(|address| address.ifindex == Ifindex(1) && all.contains(address))
        );
    }
}
