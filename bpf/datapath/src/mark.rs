// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The mark on a host end: a device group that carries the attachment's slot.
//!
//! A group belongs to the device: it follows it through renames and namespaces, dies with it, and nothing at the other end
//! of a veth can read or change it. So it tells a host end that lost its filters from another interface that got its
//! number, and [`crate::guard`] knows by it which packets `from_pod` must have judged.

use crate::{
    netlink::{Ifindex, Link, NetlinkError, Socket},
    record::{Record, Slot},
};

/// The upper half of the group of every host end: "pg". The lower half is the slot.
pub(crate) const GROUP: u32 = 0x7067_0000;

/// Which bits of a group say that it is one of ours.
pub(crate) const GROUP_MASK: u32 = 0xffff_0000;

/// The group of the host end that carries this slot.
#[must_use]
pub fn group(slot: Slot) -> u32 {
    GROUP | (slot.0 & !GROUP_MASK)
}

/// The slot that an interface's group names, if it is one of ours.
#[must_use]
pub fn slot(link: &Link) -> Option<Slot> {
    (link.group & GROUP_MASK == GROUP).then_some(Slot(link.group & !GROUP_MASK))
}

/// Marks the host end of an attachment, if it is not marked yet; whether it was not.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn put(socket: &mut Socket, link: &Link, record: &Record) -> Result<bool, NetlinkError> {
    let wanted = group(record.slot);
    if link.group == wanted {
        return Ok(false);
    }
    socket.set_group(link.ifindex, wanted)?;
    Ok(true)
}

/// Takes the mark off an interface if it names one of these slots.
pub(crate) fn remove(
    socket: &mut Socket,
    ifindex: Ifindex,
    slots: &[Slot],
) -> Result<(), NetlinkError> {
    match socket.link_by_index(ifindex) {
        Ok(link) if slot(&link).is_some_and(|slot| slots.contains(&slot)) => {
            socket.set_group(ifindex, 0)
        }
        // Another attachment's interface, or none at all.
        Ok(_) | Err(crate::netlink::LinkError::Missing(_)) => Ok(()),
        Err(crate::netlink::LinkError::Netlink { source, .. }) => Err(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Kind;

    #[test]
    fn a_group_names_its_slot_and_others_name_none() {
        let link = |group| Link {
            ifindex: Ifindex(7),
            name: "h".into(),
            kind: Kind::Veth,
            mac: None,
            link: None,
            link_netnsid: None,
            group,
            master: None,
            xdp: None,
            up: true,
        };
        for number in [1, 65_535] {
            assert_eq!(slot(&link(group(Slot(number)))), Some(Slot(number)));
        }
        for other in [0, 1, u32::MAX, GROUP >> 16] {
            assert_eq!(slot(&link(other)), None);
        }
    }
}
