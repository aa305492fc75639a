//! Whether an interface is still an attachment's. Numbers of interfaces are used again at once, at both ends, and so
//! are those of namespaces (tried), so the hardware address and the slot in the filters are compared as well.

use std::{fs, os::fd::AsFd, path::PathBuf};

use podgate_abi::Direction;

use crate::{
    filter,
    netlink::{Kind, Link, NetlinkError, Netns, Socket},
    record::Record,
};

/// Where the runtimes keep the namespaces of pods.
const NAMESPACES: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// What tells a link from an attachment's, if anything does. A namespace that cannot be found tells nothing.
pub(crate) fn stranger(
    socket: &mut Socket,
    link: &Link,
    record: &Record,
) -> Result<Option<&'static str>, NetlinkError> {
    if link.kind != Kind::Veth {
        return Ok(Some("it is no veth"));
    }
    if link.link != Some(record.pod_ifindex) {
        return Ok(Some("its other end has another number"));
    }
    let mut carries_slot = false;
    for direction in Direction::BOTH {
        if let Some(ours) = filter::ours(socket, link.ifindex, direction)? {
            if ours.slot() != Some(record.slot) {
                return Ok(Some("it has a filter with another slot"));
            }
            carries_slot = true;
        }
    }
    // A filter does not outlive its interface, and udev may have changed the hardware address after ADD.
    if carries_slot {
        return Ok(None);
    }
    if record.host_mac != link.mac {
        return Ok(Some("it has another hardware address"));
    }
    if in_its_namespace(socket, link, record)? == Some(false) {
        return Ok(Some("its other end is in another network namespace"));
    }
    Ok(None)
}

/// Whether the other end is in the attachment's namespace; none if that namespace is nowhere to be found.
pub(crate) fn in_its_namespace(
    socket: &mut Socket,
    link: &Link,
    record: &Record,
) -> Result<Option<bool>, NetlinkError> {
    let Some(netns) = find(record.netns_inode) else {
        return Ok(None);
    };
    let number = socket.nsid_of(netns.as_fd())?;
    Ok(Some(number == link.link_netnsid))
}

fn find(inode: u64) -> Option<Netns> {
    let kept = NAMESPACES
        .iter()
        .flat_map(fs::read_dir)
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let of_processes = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .map(|entry| entry.path().join("ns/net"));
    kept.chain(of_processes)
        .filter_map(|path: PathBuf| Netns::open(&path).ok())
        .find(|netns| netns.id().inode == inode)
}
