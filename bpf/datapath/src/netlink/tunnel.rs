// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Devices that take tunnels by UDP, and at which ports.

use std::collections::BTreeSet;

use netlink_packet_core::{DecodeError, Parseable};
use netlink_packet_route::link::{
    InfoAmt, InfoBareUdp, InfoData, InfoGeneve, InfoGre, InfoGre6, InfoIpTunnel, InfoVxlan,
    LinkAttribute, LinkMessage,
};

use super::link::data_of;
use super::{NetlinkError, Socket};

/// GTP-U and GTP', at which every GTP device listens.
const GTP: [u16; 2] = [2152, 3386];

/// What the kernel says of one such device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Where it takes tunnels.
    pub ports: BTreeSet<u16>,
    /// It went to another namespace. What it receives by stays in the one where it was made.
    pub moved: bool,
}

impl Tunnel {
    /// From the body of a message about a link; none if the device is no tunnel by UDP.
    ///
    /// # Errors
    /// When the message says something that is not understood.
    pub fn of(body: &[u8]) -> Result<Option<Self>, DecodeError> {
        let message = LinkMessage::parse(body)?;
        let ports = ports_of(&message);
        let moved = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::NewNetnsId(_));
        Ok((!ports.is_empty()).then(|| Self {
            ports,
            moved: message.attributes.iter().any(moved),
        }))
    }
}

impl Socket {
    /// The UDP ports at which devices of the socket's namespace take tunnels.
    pub fn tunnel_ports(&mut self) -> Result<BTreeSet<u16>, NetlinkError> {
        let ports = self.link_messages()?.flat_map(|message| ports_of(&message));
        Ok(ports.collect())
    }
}

fn ports_of(message: &LinkMessage) -> BTreeSet<u16> {
    let ports = data_of(message).flat_map(ports_in);
    ports.filter(|port| *port != 0).collect()
}

fn ports_in(data: &InfoData) -> Vec<u16> {
    let vxlan = |info: &InfoVxlan| match info {
        InfoVxlan::Port(port) => Some(*port),
        _ => None,
    };
    let geneve = |info: &InfoGeneve| match info {
        InfoGeneve::Port(port) => Some(*port),
        _ => None,
    };
    let bareudp = |info: &InfoBareUdp| match info {
        InfoBareUdp::Port(port) => Some(*port),
        _ => None,
    };
    let amt = |info: &InfoAmt| match info {
        InfoAmt::RelayPort(port) | InfoAmt::GatewayPort(port) => Some(*port),
        _ => None,
    };
    let ip_tunnel = |info: &InfoIpTunnel| match info {
        InfoIpTunnel::EncapSPort(port) | InfoIpTunnel::EncapDPort(port) => Some(*port),
        _ => None,
    };
    let gre = |info: &InfoGre| match info {
        InfoGre::SourcePort(port) | InfoGre::DestinationPort(port) => Some(*port),
        _ => None,
    };
    let gre6 = |info: &InfoGre6| match info {
        InfoGre6::SourcePort(port) | InfoGre6::DestinationPort(port) => Some(*port),
        _ => None,
    };
    match data {
        InfoData::Vxlan(infos) => infos.iter().filter_map(vxlan).collect(),
        InfoData::Geneve(infos) => infos.iter().filter_map(geneve).collect(),
        InfoData::BareUdp(infos) => infos.iter().filter_map(bareudp).collect(),
        InfoData::Amt(infos) => infos.iter().filter_map(amt).collect(),
        InfoData::Gtp(_) => GTP.into(),
        // In UDP by "foo over UDP": the port of the far end is as a rule the one of this.
        InfoData::IpTunnel(infos) => infos.iter().filter_map(ip_tunnel).collect(),
        InfoData::GreTap(infos) | InfoData::GreTun(infos) | InfoData::ErSpan(infos) => {
            infos.iter().filter_map(gre).collect()
        }
        InfoData::GreTap6(infos) | InfoData::GreTun6(infos) | InfoData::Ip6ErSpan(infos) => {
            infos.iter().filter_map(gre6).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;
    use netlink_packet_route::link::{InfoKind, LinkInfo};

    use super::*;

    fn body(kind: InfoKind, data: InfoData, attributes: &[LinkAttribute]) -> Vec<u8> {
        let mut message = LinkMessage::default();
        let infos = vec![LinkInfo::Kind(kind), LinkInfo::Data(data)];
        message.attributes = vec![LinkAttribute::LinkInfo(infos)];
        message.attributes.extend_from_slice(attributes);
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn each_kind_of_device_says_its_ports() {
        let is = |kind, data, ports: &[u16]| {
            let found = Tunnel::of(&body(kind, data, &[]));
            let expected = (!ports.is_empty()).then(|| Tunnel {
                ports: ports.iter().copied().collect(),
                moved: false,
            });
            assert_eq!(found.unwrap(), expected);
        };
        let vxlan = InfoData::Vxlan(vec![InfoVxlan::Id(7), InfoVxlan::Port(14789)]);
        is(InfoKind::Vxlan, vxlan, &[14789]);
        let geneve = InfoData::Geneve(vec![InfoGeneve::Port(16081)]);
        is(InfoKind::Geneve, geneve, &[16081]);
        let bareudp = InfoData::BareUdp(vec![InfoBareUdp::Port(16635)]);
        is(InfoKind::BareUdp, bareudp, &[16635]);
        let amt = InfoData::Amt(vec![InfoAmt::RelayPort(12268), InfoAmt::GatewayPort(12269)]);
        is(InfoKind::Amt, amt, &[12268, 12269]);
        is(InfoKind::Gtp, InfoData::Gtp(Vec::new()), &GTP);
        let ports = vec![InfoIpTunnel::EncapSPort(15555), InfoIpTunnel::EncapDPort(0)];
        is(InfoKind::IpIp, InfoData::IpTunnel(ports), &[15555]);
        let ports = vec![InfoGre::SourcePort(15555), InfoGre::DestinationPort(15556)];
        is(InfoKind::GreTap, InfoData::GreTap(ports), &[15555, 15556]);
        is(InfoKind::Bridge, InfoData::Bridge(Vec::new()), &[]);
    }

    /// A device that went to another network namespace is distinguished from one that is no more.
    #[test]
    fn a_device_moved_to_another_netns_is_not_a_deleted_one() {
        let vxlan = InfoData::Vxlan(vec![InfoVxlan::Port(14789)]);
        let body = body(InfoKind::Vxlan, vxlan, &[LinkAttribute::NewNetnsId(3)]);
        let tunnel = Tunnel::of(&body).unwrap();
        assert!(tunnel.is_some_and(|tunnel| tunnel.moved));
    }
}
