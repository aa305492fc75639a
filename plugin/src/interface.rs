// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The pod's interface, and the other end of it on the node, by netlink.
//!
//! Names, order and `sandbox` of a result prove nothing, so the kernel is asked from both sides:
//!
//! ```text
//! pod:  eth0    kind veth, IFLA_LINK = host ifindex, in the namespace that the pod's calls by the node's number
//! node: vethX   kind veth, IFLA_LINK = pod ifindex, in the namespace that the node's calls by the pod's number
//! ```
//!
//! The kind must be veth: a macvlan has an `IFLA_LINK` too, which is the node's own card.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::Path,
};

use podgate_datapath::netlink::{
    Ifindex, Kind, Link, LinkError, NetlinkError, Netns, NetnsError, NetnsId, Socket,
};

use crate::error::{Code, PluginError, chain};

/// A pod's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodInterface {
    /// The pod's namespace.
    pub(crate) netns: NetnsId,
    /// Its number in the pod.
    pub(crate) pod_ifindex: Ifindex,
    /// Its other end's number on the node.
    pub(crate) host_ifindex: Ifindex,
    /// Its hardware address.
    pub(crate) mac: Option<[u8; 6]>,
    /// Its addresses as the kernel has them, and the link-local one that it will have.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// The directed broadcast addresses of its IPv4 networks.
    pub(crate) broadcasts: BTreeSet<Ipv4Addr>,
}

/// Why a pod's interface cannot be policed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InterfaceError {
    /// The path does not lead to a namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The namespace is the node's.
    #[error("CNI_NETNS {0} is the node's own network namespace: podgate does not police the node")]
    OwnNetns(String),
    /// The interface is of a kind that we do not police.
    #[error("the pod's interface {name} is of kind {kind}: podgate polices veth interfaces only")]
    Kind {
        /// `CNI_IFNAME`.
        name: String,
        /// What it is.
        kind: Kind,
    },
    /// The two ends do not belong together.
    #[error("the other end of the pod's interface {name}: {why}")]
    HostEnd {
        /// `CNI_IFNAME`.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// An interface is missing.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The kernel could not be asked.
    #[error("ask the kernel about the pod's interface")]
    Netlink(#[from] NetlinkError),
}

impl From<InterfaceError> for PluginError {
    fn from(error: InterfaceError) -> Self {
        let code = match &error {
            InterfaceError::Netns(NetnsError::Open { .. }) => {
                let message = format!("CNI_NETNS: {}", chain(&error));
                return Self::new(Code::Environment, message);
            }
            InterfaceError::Kind { .. } => {
                return Self::from_error(Code::InterfaceKind, &error).with_details(
                    "use a main plugin that makes veth pairs (ptp, bridge, aws-cni), or take podgate out of this \
                     network's conflist",
                );
            }
            InterfaceError::Netns(NetnsError::NotANamespace(_) | NetnsError::Enter { .. })
            | InterfaceError::OwnNetns(_) => Code::Netns,
            InterfaceError::HostEnd { .. } => Code::HostEnd,
            InterfaceError::Link(LinkError::Missing(_)) => Code::InterfaceMissing,
            InterfaceError::Link(LinkError::Netlink { .. }) | InterfaceError::Netlink(_) => {
                Code::Netlink
            }
        };
        Self::from_error(code, &error)
    }
}

/// Looks up interface `ifname` of the namespace at `path`, and its other end in the namespace of this thread.
pub(crate) fn look_up(path: &Path, ifname: &str) -> Result<PodInterface, InterfaceError> {
    let (home, pod) = (Netns::current()?, Netns::open(path)?);
    if home.id() == pod.id() {
        return Err(InterfaceError::OwnNetns(path.display().to_string()));
    }
    let mut at_home = Socket::open()?;
    let mut in_pod = pod.enter(Socket::open)??;

    let pod_end = in_pod.link_by_name(ifname)?;
    if pod_end.kind != Kind::Veth {
        return Err(InterfaceError::Kind {
            name: ifname.to_owned(),
            kind: pod_end.kind,
        });
    }
    let host_end = host_end(&pod_end, &home, &pod, &mut at_home, &mut in_pod)?;
    let on_interface = in_pod.addresses_of(pod_end.ifindex)?;
    let broadcasts = on_interface
        .iter()
        .filter_map(|on_it| broadcast(on_it.address, on_it.prefix))
        .collect();
    let mut addresses: BTreeSet<IpAddr> = on_interface
        .into_iter()
        .map(|on_it| on_it.address)
        .collect();
    if !addresses.iter().any(is_link_local) {
        addresses.extend(pod_end.mac.map(link_local));
    }
    Ok(PodInterface {
        netns: pod.id(),
        pod_ifindex: pod_end.ifindex,
        host_ifindex: host_end.ifindex,
        mac: pod_end.mac,
        addresses,
        broadcasts,
    })
}

/// The node's end of `pod_end`, when both ends point at each other, in each other's namespaces.
fn host_end(
    pod_end: &Link,
    home: &Netns,
    pod: &Netns,
    at_home: &mut Socket,
    in_pod: &mut Socket,
) -> Result<Link, InterfaceError> {
    let wrong = |why: String| InterfaceError::HostEnd {
        name: pod_end.name.clone(),
        why,
    };
    let Some(ifindex) = pod_end.link else {
        return Err(wrong("the kernel names none".into()));
    };
    // The kernel gives out a namespace's number when it first has to say it, which the look-up just made it do.
    if pod_end.link_netnsid.is_none() || in_pod.nsid_of(home.as_fd())? != pod_end.link_netnsid {
        return Err(wrong("it is not in the node's network namespace".into()));
    }
    let host_end = at_home.link_by_index(ifindex)?;
    if host_end.kind != Kind::Veth {
        return Err(wrong(format!(
            "{} is of kind {}, not veth",
            host_end.name, host_end.kind
        )));
    }
    if host_end.link != Some(pod_end.ifindex)
        || host_end.link_netnsid.is_none()
        || at_home.nsid_of(pod.as_fd())? != host_end.link_netnsid
    {
        return Err(wrong(format!(
            "{} does not point back at it",
            host_end.name
        )));
    }
    Ok(host_end)
}

/// The address of everybody in an IPv4 network; networks of one or two addresses have none (RFC 3021).
fn broadcast(address: IpAddr, prefix: u8) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) if prefix <= 30 => {
            let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            Some(Ipv4Addr::from(u32::from(address) | hosts))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// Whether it is in fe80::/10.
fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The link-local address that the kernel makes of a hardware address (RFC 4291, appendix A).
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> IpAddr {
    Ipv6Addr::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_namespace_is_refused() {
        let error = look_up(Path::new("/proc/thread-self/ns/net"), "lo").unwrap_err();
        assert_eq!(PluginError::from(error).code, Code::Netns);
    }

    #[test]
    fn a_path_to_nothing_and_a_path_to_a_file_are_told_apart() {
        let code = |path| PluginError::from(look_up(Path::new(path), "eth0").unwrap_err()).code;
        assert_eq!(code("/nonexistent/netns"), Code::Environment);
        assert_eq!(code("/dev/null"), Code::Netns);
    }

    #[test]
    fn a_network_has_a_broadcast_address_unless_it_is_too_small() {
        let broadcast = |prefix| broadcast([10, 96, 1, 2].into(), prefix);
        assert_eq!(broadcast(24), Some([10, 96, 1, 255].into()));
        assert_eq!(broadcast(16), Some([10, 96, 255, 255].into()));
        assert_eq!(broadcast(0), Some([255; 4].into()));
        assert_eq!(broadcast(31), None);
        assert_eq!(broadcast(32), None);
    }

    #[test]
    fn a_link_local_address_is_made_of_the_hardware_address() {
        let made = link_local([0x02, 0x42, 0xac, 0x11, 0x00, 0x02]);
        assert_eq!(made.to_string(), "fe80::42:acff:fe11:2");
        assert!(is_link_local(&made));
    }
}
