// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Routes of the table `local`: what the node takes for itself, beside its addresses.

use std::net::IpAddr;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use nix::errno::Errno;

use super::{NetlinkError, Socket};

/// `RT_TABLE_LOCAL` of `linux/rtnetlink.h`.
const LOCAL: u8 = 255;

/// A destination that the node takes for itself: local, or the broadcast address of one of its links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalRoute {
    /// The first address.
    pub network: IpAddr,
    /// Length of the prefix, in bits.
    pub prefix: u8,
}

impl Socket {
    /// Every local and broadcast route of the table `local`. Local routes of other tables are left out: `local 0.0.0.0/0`
    /// for marked packets (TPROXY) is no claim to the addresses.
    pub fn local_routes(&mut self) -> Result<Vec<LocalRoute>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header = RouteHeader {
                address_family: family,
                table: LOCAL,
                ..RouteHeader::default()
            };
            match self.request(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP) {
                Ok(answer) => routes.extend(answer.iter().filter_map(from_answer)),
                // A kernel without this family, as with `ipv6.disable=1`, has no routes of it. One whose table is still
                // empty says that there is none.
                Err(error)
                    if matches!(
                        error.errno(),
                        Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::ENOENT)
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(routes)
    }
}

fn from_answer(message: &RouteNetlinkMessage) -> Option<LocalRoute> {
    let RouteNetlinkMessage::NewRoute(message) = message else {
        return None;
    };
    let header = &message.header;
    let is_ours = matches!(header.kind, RouteType::Local | RouteType::Broadcast);
    if header.table != LOCAL || !is_ours {
        return None;
    }
    let network = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some((*address).into()),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some((*address).into()),
            _ => None,
        })?;
    Some(LocalRoute {
        network,
        prefix: header.destination_prefix_length,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn route(table: u8, kind: RouteType) -> RouteNetlinkMessage {
        let mut message = RouteMessage::default();
        message.header.table = table;
        message.header.kind = kind;
        message.header.destination_prefix_length = 24;
        let network = RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, 0));
        message.attributes = vec![RouteAttribute::Destination(network)];
        RouteNetlinkMessage::NewRoute(message)
    }

    #[test]
    fn what_the_node_takes_is_in_its_own_table() {
        let found = LocalRoute {
            network: Ipv4Addr::new(192, 0, 2, 0).into(),
            prefix: 24,
        };
        for kind in [RouteType::Local, RouteType::Broadcast] {
            assert_eq!(from_answer(&route(LOCAL, kind)), Some(found));
            assert_eq!(from_answer(&route(100, kind)), None);
        }
        assert_eq!(from_answer(&route(LOCAL, RouteType::Unicast)), None);
    }

    #[test]
    fn loopback_has_a_local_route_wherever_it_is_up() {
        let mut socket = Socket::open().unwrap();
        let of_loopback = |address: IpAddr| address.is_loopback();
        let has_loopback = socket
            .addresses()
            .unwrap()
            .iter()
            .any(|found| found.address.is_ipv4() && of_loopback(found.address));
        let routes = socket.local_routes().unwrap();
        let is_local = routes.iter().any(|route| of_loopback(route.network));
        assert!(is_local || !has_loopback, "{routes:?}");
    }
}
