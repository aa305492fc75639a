// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether an interface is still an attachment's.
//!
//! Only the host end is asked. What is known of the pod's end, its number, its name, its addresses and its namespace, is in
//! the hands of whoever has `CAP_NET_ADMIN` in the pod. The host end carries the slot in its filters and in its mark; the pod
//! reaches neither, and both die with the device, however soon its number is used again.

use podgate_abi::Direction;

use crate::{
    filter, mark,
    netlink::{Ifindex, Kind, Link, NetlinkError, Socket},
    record::{Record, Slot},
};

/// What tells a link from an attachment's, if anything does.
pub(crate) fn mismatch(
    socket: &mut Socket,
    link: &Link,
    record: &Record,
) -> Result<Option<&'static str>, NetlinkError> {
    if link.kind != Kind::Veth {
        return Ok(Some("it is no veth"));
    }
    // Either outlives the loss of the other. An ADD that is repeated marks first, and replaces the filters then.
    if mark::slot(link) == Some(record.slot)
        || attached_slots(socket, link.ifindex)?.contains(&record.slot)
    {
        return Ok(None);
    }
    // A repeated ADD that was killed left another slot's; or somebody on the node took both away.
    if record.host_mac.is_none() || record.host_mac != link.mac {
        return Ok(Some("it has another hardware address"));
    }
    Ok(None)
}

/// The slots that our filters on an interface name.
pub(crate) fn attached_slots(
    socket: &mut Socket,
    ifindex: Ifindex,
) -> Result<Vec<Slot>, NetlinkError> {
    let mut attached_slots = Vec::new();
    for direction in Direction::BOTH {
        let ours = filter::ours(socket, ifindex, direction)?;
        // Without a class ID it is in slot 0, which nobody has.
        attached_slots.extend(ours.map(|filter| filter.slot().unwrap_or(Slot(0))));
    }
    Ok(attached_slots)
}
