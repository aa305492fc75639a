//! Whether an interface is still an attachment's. Numbers of interfaces are used again at once, at both ends, and so
//! are those of namespaces (tried), so the hardware address and the slot in the filters are compared as well.
//!
//! Another slot alone is no stranger: an ADD that was repeated, and killed, left the filters of the one before.

use std::{fs, os::fd::AsFd, path::PathBuf};

use podgate_abi::Direction;

use crate::{
    filter,
    netlink::{Ifindex, Kind, Link, NetlinkError, Netns, Socket},
    record::{Record, Slot},
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
    let carries_slot = carried(socket, link.ifindex)?.contains(&record.slot);
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

/// The slots that our filters on an interface name.
pub(crate) fn carried(socket: &mut Socket, ifindex: Ifindex) -> Result<Vec<Slot>, NetlinkError> {
    let mut carried = Vec::new();
    for direction in Direction::BOTH {
        let ours = filter::ours(socket, ifindex, direction)?;
        // Without a class ID it is in slot 0, which nobody has.
        carried.extend(ours.map(|filter| filter.slot().unwrap_or(Slot(0))));
    }
    Ok(carried)
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
