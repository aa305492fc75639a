// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Network interfaces, and the numbers of namespaces that they speak of.

use std::{
    fmt,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        BridgeBooleanOptionFlags as BridgeFlags, BridgeBooleanOptions, InfoBridge, InfoData,
        InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
    },
    nsid::{NsidAttribute, NsidMessage},
};
use nix::errno::Errno;

use super::{Ifindex, NetlinkError, Socket};

/// What an interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// One end of a virtual cable.
    Veth,
    /// Another kind that the kernel names: `bridge`, `macvlan`, `dummy`.
    Other(String),
    /// The kernel names no kind: loopback, and hardware.
    Unnamed,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Veth => f.write_str("veth"),
            Self::Other(name) => f.write_str(name),
            Self::Unnamed => f.write_str("hardware or loopback"),
        }
    }
}

/// One network interface as its own namespace sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub ifindex: Ifindex,
    /// Its name now; names change, numbers do not.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its hardware address, if that is of Ethernet's length.
    pub mac: Option<[u8; 6]>,
    /// `IFLA_LINK`: a veth's other end, a macvlan's lower device.
    pub link: Option<Ifindex>,
    /// `IFLA_LINK_NETNSID`: the namespace of [`Link::link`], in the numbers of this one; none where it is the same.
    pub link_netnsid: Option<i32>,
    /// Its group; 0 where nothing set one. It belongs to the device and dies with it.
    pub group: u32,
    /// `IFLA_MASTER`: the bridge, VRF or switch whose port it is.
    pub master: Option<Ifindex>,
    /// The XDP program that it runs.
    pub xdp: Option<u32>,
    /// Whether it is administratively up.
    pub up: bool,
}

/// Why an interface could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// There is no such interface.
    #[error("there is no interface {0}")]
    Missing(String),
    /// The kernel could not be asked.
    #[error("look up interface {name}")]
    Netlink {
        /// Its name, or its number.
        name: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
}

impl Socket {
    /// The interface with this name.
    pub fn link_by_name(&mut self, name: &str) -> Result<Link, LinkError> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.link(message, name.to_owned())
    }

    /// The interface with this number.
    pub fn link_by_index(&mut self, ifindex: Ifindex) -> Result<Link, LinkError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex.0;
        self.link(message, ifindex.to_string())
    }

    fn link(&mut self, mut message: LinkMessage, name: String) -> Result<Link, LinkError> {
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answer = match self.request(RouteNetlinkMessage::GetLink(message), 0) {
            Err(error) if error.errno() == Some(Errno::ENODEV) => {
                return Err(LinkError::Missing(name));
            }
            Err(source) => return Err(LinkError::Netlink { name, source }),
            Ok(answer) => answer,
        };
        answer
            .into_iter()
            .find_map(new_link)
            .map(Link::from_message)
            .ok_or(LinkError::Missing(name))
    }

    /// Every interface of the socket's namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        Ok(self.link_messages()?.map(Link::from_message).collect())
    }

    /// What the kernel says of each of them.
    pub(super) fn link_messages(
        &mut self,
    ) -> Result<impl Iterator<Item = LinkMessage> + use<>, NetlinkError> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answer = self.request(RouteNetlinkMessage::GetLink(message), NLM_F_DUMP)?;
        Ok(answer.into_iter().filter_map(new_link))
    }

    /// Puts an interface into a group.
    pub fn set_group(&mut self, ifindex: Ifindex, group: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex.0;
        message.attributes.push(LinkAttribute::Group(group));
        self.request(RouteNetlinkMessage::SetLink(message), 0)?;
        Ok(())
    }

    /// Has a bridge not learn addresses from frames to link-local groups (01-80-c2-00-00-0X), if the interface is a bridge that
    /// does (Linux 5.0). Such frames do not come by the bridge's hook at prerouting before it learns from them.
    pub fn learn_nothing_link_local(&mut self, ifindex: Ifindex) -> Result<(), NetlinkError> {
        let mut question = LinkMessage::default();
        question.header.index = ifindex.0;
        let answer = self.request(RouteNetlinkMessage::GetLink(question), 0)?;
        let flags = answer
            .into_iter()
            .filter_map(new_link)
            .find_map(|message| bridge_flags(&message));
        if flags.is_none_or(|flags| flags.contains(BridgeFlags::NoLinkLocalLearn)) {
            return Ok(());
        }
        let options = InfoBridge::MultiBoolOpt(BridgeBooleanOptions {
            value: BridgeFlags::NoLinkLocalLearn,
            mask: BridgeFlags::NoLinkLocalLearn,
        });
        let mut message = LinkMessage::default();
        message.header.index = ifindex.0;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![options])),
        ]));
        self.request(RouteNetlinkMessage::NewLink(message), 0)?;
        Ok(())
    }

    /// The number that the socket's namespace gives to namespace `netns`; none while it has given none.
    pub fn nsid_of(&mut self, netns: BorrowedFd<'_>) -> Result<Option<i32>, NetlinkError> {
        let mut message = NsidMessage::default();
        message
            .attributes
            .push(NsidAttribute::Fd(netns.as_raw_fd().cast_unsigned()));
        let answer = self.request(RouteNetlinkMessage::GetNsId(message), 0)?;
        Ok(answer.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewNsId(message) => message.attributes.into_iter().find_map(nsid),
            _ => None,
        }))
    }
}

/// The number in an attribute; -1 means that none is assigned.
fn nsid(attribute: NsidAttribute) -> Option<i32> {
    match attribute {
        NsidAttribute::Id(id) if id >= 0 => Some(id),
        _ => None,
    }
}

fn new_link(message: RouteNetlinkMessage) -> Option<LinkMessage> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(message),
        _ => None,
    }
}

impl Link {
    fn from_message(message: LinkMessage) -> Self {
        let mut link = Self {
            ifindex: Ifindex(message.header.index),
            name: String::new(),
            kind: Kind::Unnamed,
            mac: None,
            link: None,
            link_netnsid: None,
            group: 0,
            master: None,
            xdp: None,
            up: message.header.flags.contains(LinkFlags::Up),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac.try_into().ok(),
                LinkAttribute::Link(ifindex) => link.link = Some(Ifindex(ifindex)),
                LinkAttribute::Group(group) => link.group = group,
                LinkAttribute::Controller(master) => link.master = Some(Ifindex(master)),
                LinkAttribute::Xdp(facts) => link.xdp = facts.into_iter().find_map(program),
                LinkAttribute::LinkNetNsId(id) => link.link_netnsid = Some(id),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.into_iter().find_map(kind).unwrap_or(Kind::Unnamed);
                }
                _ => {}
            }
        }
        link
    }
}

/// The options of a bridge; none of anything else, and of a kernel that knows none.
fn bridge_flags(message: &LinkMessage) -> Option<BridgeFlags> {
    let facts = data_of(message).find_map(|data| match data {
        InfoData::Bridge(facts) => Some(facts),
        _ => None,
    });
    facts?.iter().find_map(|fact| match fact {
        InfoBridge::MultiBoolOpt(options) => Some(options.value),
        _ => None,
    })
}

/// What the kernel says of an interface that only interfaces of its kind have.
pub(super) fn data_of(message: &LinkMessage) -> impl Iterator<Item = &InfoData> {
    let infos = message
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => infos.as_slice(),
            _ => &[],
        });
    infos.filter_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    })
}

fn program(fact: LinkXdp) -> Option<u32> {
    match fact {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) => Some(id),
        _ => None,
    }
}

fn kind(info: LinkInfo) -> Option<Kind> {
    match info {
        LinkInfo::Kind(InfoKind::Veth) => Some(Kind::Veth),
        LinkInfo::Kind(kind) => Some(Kind::Other(kind.to_string())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;

    #[test]
    fn the_loopback_is_found_by_name_by_number_and_in_the_dump() {
        let mut socket = Socket::open().unwrap();
        let link = socket.link_by_name("lo").unwrap();
        assert_eq!(
            (link.ifindex, link.name.as_str(), &link.kind),
            (Ifindex(1), "lo", &Kind::Unnamed)
        );
        assert_eq!(socket.link_by_index(Ifindex(1)).unwrap(), link);
        assert!(socket.links().unwrap().contains(&link));
    }

    #[test]
    fn an_interface_that_is_not_there_is_missing() {
        let mut socket = Socket::open().unwrap();
        assert_eq!(
            socket.link_by_name("podgate-none").unwrap_err().to_string(),
            "there is no interface podgate-none"
        );
        assert!(matches!(
            socket.link_by_index(Ifindex(i32::MAX as u32)),
            Err(LinkError::Missing(_))
        ));
    }

    #[test]
    fn a_namespace_without_a_number_has_none() {
        let own = File::open("/proc/thread-self/ns/net").unwrap();
        assert_eq!(Socket::open().unwrap().nsid_of(own.as_fd()).unwrap(), None);
    }
}
