// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the node's kernel says: its addresses, interfaces that went away, filters that somebody removed or hung up.
//!
//! ```text
//! netlink groups ──► thread ── Noticed ──► mailbox of the engine
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::IpNet;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::TimeVal;
use podgate_datapath::filter;
use podgate_datapath::netlink::{Ifindex, Socket, Tunnel};
use podgate_policy::model::SCOPES;
use tokio::sync::oneshot;

use crate::gone::EngineGone;

/// Something that concerns attachments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noticed {
    /// The node's addresses are these now.
    Addresses(Addresses),
    /// The interface is gone; its number may be another's already.
    LinkGone(Ifindex),
    /// The interface is new, or is not as it was.
    LinkChanged(Ifindex),
    /// The interface is a port of another bridge than before, or of none.
    MasterChanged(Ifindex),
    /// On the interface a filter or a queueing discipline was removed, or somebody else hung a filter up.
    FiltersChanged(Ifindex),
    /// The kernel dropped messages: anything may have changed.
    Lost,
}

/// What the node takes for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The addresses of its interfaces but loopback's, which no packet of a pod can have.
    pub own: BTreeSet<IpAddr>,
    /// The broadcast addresses of its links, and the ranges of its local routes: see `World::node_scopes`.
    pub scopes: BTreeSet<IpNet>,
    /// Where its devices take tunnels: see `World::tunnel_ports`.
    pub tunnel_ports: BTreeSet<u16>,
}

/// Groups of `linux/rtnetlink.h`.
mod group {
    pub(super) const LINK: u32 = 1;
    pub(super) const TC: u32 = 4;
    pub(super) const IPV4_ADDRESS: u32 = 5;
    pub(super) const IPV4_ROUTE: u32 = 7;
    pub(super) const IPV6_ADDRESS: u32 = 9;
    pub(super) const IPV6_ROUTE: u32 = 11;
}

/// Message types of `linux/rtnetlink.h`.
mod kind {
    pub(super) const NEW_LINK: u16 = 16;
    pub(super) const DELETED_LINK: u16 = 17;
    pub(super) const NEW_ADDRESS: u16 = 20;
    pub(super) const DELETED_ADDRESS: u16 = 21;
    pub(super) const NEW_ROUTE: u16 = 24;
    pub(super) const DELETED_ROUTE: u16 = 25;
    pub(super) const DELETED_QDISC: u16 = 37;
    pub(super) const NEW_FILTER: u16 = 44;
    pub(super) const DELETED_FILTER: u16 = 45;
}

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Bytes that the kernel may queue for us; a node that starts a hundred pods at once fills the default.
const QUEUE: usize = 4 << 20;

/// When the addresses are read again that could not be.
const RETRY: Duration = Duration::from_secs(1);

/// What is known when the following begins.
#[derive(Debug)]
pub struct Followed {
    /// The node's addresses.
    pub addresses: Addresses,
    /// Dropped when nobody follows any more.
    pub alive: oneshot::Receiver<Infallible>,
}

/// Follows the namespace of the calling thread from now on, and says what it is like now.
///
/// # Errors
/// When a netlink socket cannot be made, or the addresses cannot be read.
pub fn follow(
    notice: impl Fn(Noticed) -> Result<(), EngineGone> + Send + 'static,
) -> Result<Followed> {
    let monitor = monitor().context("listen to the kernel's netlink groups")?;
    // After the monitor has begun, so that nothing falls between the two.
    let addresses = addresses_now()?;
    let tunnel_ports = addresses.tunnel_ports.clone();
    let (alive_in, alive) = oneshot::channel();
    std::thread::Builder::new()
        .name("node".into())
        .spawn(move || {
            let _alive = alive_in;
            listen(&monitor, Owed::Nothing, tunnel_ports, addresses_now, notice);
        })
        .context("start the thread that listens to netlink")?;
    Ok(Followed { addresses, alive })
}

/// Whether the addresses that were told last are older than what the kernel said of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    /// They are not.
    Nothing,
    /// They could not be read.
    Addresses,
}

fn monitor() -> io::Result<netlink_sys::Socket> {
    let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.set_rx_buf_sz(QUEUE)?;
    for group in [
        group::LINK,
        group::TC,
        group::IPV4_ADDRESS,
        group::IPV4_ROUTE,
        group::IPV6_ADDRESS,
        group::IPV6_ROUTE,
    ] {
        socket.add_membership(group)?;
    }
    Ok(socket)
}

/// `tunnel_ports`: those that are known. A device that goes to another namespace still takes what arrives at this one, and
/// none of its messages but the last says that it went there, so a port is known until a device of it is no more.
fn listen(
    monitor: &netlink_sys::Socket,
    mut owed: Owed,
    mut tunnel_ports: BTreeSet<u16>,
    mut addresses: impl FnMut() -> Result<Addresses>,
    notice: impl Fn(Noticed) -> Result<(), EngineGone>,
) {
    let mut masters = Masters::default();
    loop {
        if let Err(error) = wait_no_longer_than(monitor, owed) {
            tracing::error!(%error, "netlink cannot be listened to with a limit");
        }
        let mut news = News {
            addresses: owed == Owed::Addresses,
            ..News::default()
        };
        match monitor.recv_from_full() {
            Ok((datagram, from)) if from.port_number() == 0 => news.read(&datagram, &mut masters),
            // Not from the kernel.
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Err(error) => {
                tracing::warn!(%error, "netlink messages were lost; everything is read again");
                news = News {
                    addresses: true,
                    noticed: vec![Noticed::Lost],
                    ..News::default()
                };
            }
        }
        tunnel_ports.retain(|port| !news.tunnels_gone.contains(port));
        if news.addresses {
            match addresses() {
                Ok(mut now) => {
                    tunnel_ports.append(&mut now.tunnel_ports);
                    now.tunnel_ports.clone_from(&tunnel_ports);
                    owed = Owed::Nothing;
                    news.noticed.push(Noticed::Addresses(now));
                }
                Err(error) => {
                    owed = Owed::Addresses;
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the node's addresses cannot be read; the old ones stay, and it is tried again"
                    );
                }
            }
        }
        if news
            .noticed
            .into_iter()
            .map(&notice)
            .any(|result| result.is_err())
        {
            return;
        }
    }
}

/// While something is owed, waiting for messages must end.
fn wait_no_longer_than(monitor: &netlink_sys::Socket, owed: Owed) -> nix::Result<()> {
    let limit = match owed {
        Owed::Nothing => Duration::ZERO,
        Owed::Addresses => RETRY,
    };
    let limit = TimeVal::new(limit.as_secs().cast_signed(), 0);
    setsockopt(monitor, ReceiveTimeout, &limit)
}

/// The node's addresses now.
///
/// # Errors
/// When they cannot be read.
pub fn addresses_now() -> Result<Addresses> {
    addresses(&mut Socket::open().context("open a netlink socket")?)
}

fn addresses(questions: &mut Socket) -> Result<Addresses> {
    let all = questions.addresses().context("read the node's addresses")?;
    let routes = questions
        .local_routes()
        .context("read the node's local routes")?;
    let own: BTreeSet<IpAddr> = all
        .into_iter()
        .map(|on_interface| on_interface.address)
        .filter(|address| !address.is_loopback())
        .collect();
    let scopes = routes
        .into_iter()
        .filter_map(|route| IpNet::new(route.network, route.prefix).ok())
        .map(|route| route.trunc())
        // Its own addresses have local routes, too; and loopback and link-local addresses are scopes anyway.
        .filter(|route| {
            let is_own =
                route.prefix_len() == route.max_prefix_len() && own.contains(&route.addr());
            !is_own && !SCOPES.iter().any(|scope| scope.contains(route))
        })
        .collect();
    let tunnel_ports = questions
        .tunnel_ports()
        .context("list the node's devices")?;
    Ok(Addresses {
        own,
        scopes,
        tunnel_ports,
    })
}

/// What a datagram says.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    /// Addresses came or went, or devices that take tunnels.
    addresses: bool,
    /// Ports of such devices that are no more, here or elsewhere.
    tunnels_gone: BTreeSet<u16>,
    noticed: Vec<Noticed>,
}

impl News {
    fn read(&mut self, mut rest: &[u8], masters: &mut Masters) {
        while let Some((length, header)) = header(rest) {
            let body = &rest[HEADER..length];
            // `ifinfomsg` and `tcmsg` both have the interface's number at byte 4.
            let interface = body.get(4..8).and_then(|bytes| bytes.try_into().ok());
            let interface = interface.map(|bytes| Ifindex(u32::from_ne_bytes(bytes)));
            // Of other families are the kernel's words about a bridge's ports and about IPv6.
            if matches!(header, kind::NEW_LINK | kind::DELETED_LINK) && body.first() == Some(&0) {
                self.read_tunnel(body, header == kind::DELETED_LINK);
            }
            match (header, interface) {
                (kind::NEW_ADDRESS | kind::DELETED_ADDRESS, _) => self.addresses = true,
                (kind::NEW_LINK, Some(interface)) if body.first() == Some(&0) => {
                    self.noticed.push(Noticed::LinkChanged(interface));
                    if masters.differ(interface, body) {
                        self.noticed.push(Noticed::MasterChanged(interface));
                    }
                }
                (kind::NEW_ROUTE | kind::DELETED_ROUTE, _) if is_local_route(body) => {
                    self.addresses = true;
                }
                (kind::DELETED_LINK, Some(interface)) => {
                    masters.0.remove(&interface);
                    self.noticed.push(Noticed::LinkGone(interface))
                }
                (kind::DELETED_QDISC | kind::DELETED_FILTER, Some(interface)) => {
                    self.noticed.push(Noticed::FiltersChanged(interface));
                }
                (kind::NEW_FILTER, Some(interface)) if !is_ours(body) => {
                    self.noticed.push(Noticed::FiltersChanged(interface));
                }
                (_, _) => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }

    /// Takes note of a device that takes tunnels. What is not understood may be one.
    fn read_tunnel(&mut self, body: &[u8], is_gone: bool) {
        match Tunnel::of(body) {
            Ok(None) => {}
            Ok(Some(tunnel)) => {
                self.addresses = true;
                if is_gone && !tunnel.moved {
                    self.tunnels_gone.extend(tunnel.ports);
                }
            }
            Err(_) => self.addresses = true,
        }
    }
}

/// Whether an `rtmsg` is of a local route or a broadcast address, in the table of those. A router changes others often.
fn is_local_route(message: &[u8]) -> bool {
    const LOCAL_TABLE: u8 = 255;
    const LOCAL: u8 = 2;
    const BROADCAST: u8 = 3;
    message.get(4) == Some(&LOCAL_TABLE) && matches!(message.get(7), Some(&(LOCAL | BROADCAST)))
}

/// What interfaces were ports of when the kernel last said it. An interface that flaps says it each time, and concerns
/// nobody.
#[derive(Debug, Default)]
struct Masters(BTreeMap<Ifindex, u32>);

impl Masters {
    /// Whether an `ifinfomsg` names another master than before; 0 is none.
    fn differ(&mut self, interface: Ifindex, message: &[u8]) -> bool {
        /// Length of `struct ifinfomsg`.
        const LENGTH: usize = 16;
        const IFLA_MASTER: u16 = 10;
        let mut rest = message.get(LENGTH..).unwrap_or_default();
        let mut master = 0;
        while let Some((length, kind)) = attribute(rest) {
            let value = rest.get(4..8).and_then(|bytes| bytes.try_into().ok());
            if kind == IFLA_MASTER && length == 8 {
                master = value.map_or(0, u32::from_ne_bytes);
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        let before = if master == 0 {
            self.0.remove(&interface)
        } else {
            self.0.insert(interface, master)
        };
        before.unwrap_or(0) != master
    }
}

/// Length and type of the first attribute, if it is whole.
fn attribute(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
    (4..=bytes.len())
        .contains(&length)
        .then_some((length, kind))
}

/// Whether a `tcmsg` is about a filter where ours hang: those are hung up at every ADD and every swap.
fn is_ours(message: &[u8]) -> bool {
    let word = |at: usize| {
        let bytes = message.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(bytes))
    };
    let priority = word(16).map(|info| info >> 16);
    word(8) == Some(filter::HANDLE) && priority == Some(u32::from(filter::PRIORITY))
}

/// Length and type of the first message, if it is whole.
fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    (HEADER..=bytes.len())
        .contains(&length)
        .then_some((length, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, interface: u32) -> Vec<u8> {
        let body = [[0; 4], interface.to_ne_bytes()].concat();
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(body);
        bytes
    }

    fn read(datagram: &[u8]) -> News {
        let mut news = News::default();
        news.read(datagram, &mut Masters::default());
        news
    }

    #[test]
    fn another_master_is_noticed_once_and_a_flapping_link_is_not() {
        let link = |interface: u32, master: Option<u32>| {
            let mut bytes = message(16, interface);
            bytes.extend([0; 8]);
            // A name before it.
            bytes.extend([7, 0, 3, 0, b'v', b'0', 0, 0]);
            if let Some(master) = master {
                bytes.extend([8, 0, 10, 0]);
                bytes.extend(master.to_ne_bytes());
            }
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            bytes
        };
        let mut masters = Masters::default();
        let mut said = |interface, master| {
            let mut news = News::default();
            news.read(&link(interface, master), &mut masters);
            // Each says first that something changed.
            assert_eq!(
                news.noticed.remove(0),
                Noticed::LinkChanged(Ifindex(interface))
            );
            news.noticed
        };
        let changed = [Noticed::MasterChanged(Ifindex(7))];
        assert_eq!(said(7, None), []);
        assert_eq!(said(7, Some(3)), changed);
        assert_eq!(said(7, Some(3)), []);
        assert_eq!(said(7, Some(4)), changed);
        assert_eq!(said(7, None), changed);
        assert_eq!(said(7, None), []);
    }

    #[test]
    fn a_datagram_of_several_messages_is_read_to_its_end() {
        let datagram = [
            message(16, 1),
            message(17, 2),
            message(20, 3),
            message(45, 4),
            message(37, 5),
        ]
        .concat();
        assert_eq!(
            read(&datagram),
            News {
                addresses: true,
                noticed: vec![
                    Noticed::LinkChanged(Ifindex(1)),
                    Noticed::LinkGone(Ifindex(2)),
                    Noticed::FiltersChanged(Ifindex(4)),
                    Noticed::FiltersChanged(Ifindex(5)),
                ],
                ..News::default()
            }
        );
    }

    #[test]
    fn a_filter_of_another_process_is_noticed_and_ours_is_not() {
        let filter = |handle: u32, priority: u16| {
            let mut bytes = message(44, 7);
            for word in [handle, 0, u32::from(priority) << 16 | 0x300] {
                bytes.extend(word.to_ne_bytes());
            }
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            read(&bytes).noticed
        };
        let noticed = [Noticed::FiltersChanged(Ifindex(7))];
        assert_eq!(filter(filter::HANDLE, filter::PRIORITY), []);
        assert_eq!(filter(filter::HANDLE, 1), noticed);
        assert_eq!(filter(1, filter::PRIORITY), noticed);
    }

    #[test]
    fn unreadable_addresses_are_read_again_without_a_new_message() {
        let (out, told) = std::sync::mpsc::channel();
        let monitor = netlink_sys::Socket::new(NETLINK_ROUTE).unwrap();
        let address = Addresses {
            own: [IpAddr::from([192, 0, 2, 1])].into(),
            ..Addresses::default()
        };
        let mut tries = 0;
        let addresses = || {
            tries += 1;
            anyhow::ensure!(tries > 1, "not yet");
            Ok(address.clone())
        };
        let notice = |noticed| {
            out.send(noticed).unwrap();
            Err(EngineGone)
        };
        listen(
            &monitor,
            Owed::Addresses,
            BTreeSet::new(),
            addresses,
            notice,
        );
        assert_eq!(told.recv().unwrap(), Noticed::Addresses(address));
    }

    #[test]
    fn a_datagram_that_is_cut_anywhere_is_read_as_far_as_it_goes() {
        let datagram = [message(45, 2), message(21, 3)].concat();
        for length in 0..datagram.len() {
            let news = read(&datagram[..length]);
            assert_eq!(news.noticed.len(), usize::from(length >= 24), "{length}");
            assert!(!news.addresses, "{length}");
        }
    }

    #[test]
    fn routes_of_the_table_local_are_noticed_and_others_are_not() {
        let route = |table: u8, kind: u8| {
            let mut bytes = message(24, u32::from_ne_bytes([table, 0, 0, kind]));
            bytes.extend([0; 4]);
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            read(&bytes).addresses
        };
        assert!(route(255, 2) && route(255, 3));
        assert!(!route(254, 1) && !route(254, 2) && !route(255, 1));
    }

    #[test]
    fn a_message_without_a_length_ends_the_datagram() {
        assert_eq!(read(&[0; 64]), News::default());
    }

    #[test]
    fn loopback_is_no_address_of_the_node() {
        let mut questions = Socket::open().unwrap();
        assert!(
            addresses(&mut questions)
                .unwrap()
                .own
                .iter()
                .all(|a| !a.is_loopback())
        );
    }
}
