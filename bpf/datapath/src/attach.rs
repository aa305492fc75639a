// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Attachments come and go: ADD, DEL and CHECK as the datapath sees them.
//!
//! ```text
//! lock ─► table set ─► slot, birth ─► mark ─► file ─► record ─► peers ─► filters ─► read back
//! ```
//! No packet ever meets a filter without a record, and an empty record drops. What fails is undone in reverse.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
};

use podgate_abi::{Address, Class, Direction, PeerWord};

use crate::{
    Failed, Paths, Sizes,
    filter::{self, Put, Qdisc},
    guard::{self, Family},
    isolated::{self, Isolation},
    lock::Lock,
    mark,
    netlink::{Ifindex, Kind, Socket},
    owed::{self, Owed},
    record::{self, AttachmentId, Baseline, PodName, Record},
    slots,
    tables::TableSet,
};

mod error;
mod filter_status;
mod remove;
mod replace;

pub use error::{AddError, CheckError, RemoveError};
pub use filter_status::{FilterStatus, check, filter_status, follow_master};
use filter_status::{standing_of, would_be_heard};
pub use remove::remove;
pub(crate) use remove::{clear_everywhere, remove_filters, remove_under};

/// What ADD wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which attachment.
    pub identity: AttachmentId,
    /// The name of the CNI network.
    pub network: String,
    /// Whose interface it is, if the runtime said it.
    pub pod: Option<PodName>,
    /// The pod's network namespace: its inode.
    pub netns_inode: u64,
    /// The pod's end, in the pod's namespace.
    pub pod_ifindex: Ifindex,
    /// The host end, in the node's namespace.
    pub host_ifindex: Ifindex,
    /// The hardware address of the pod's end.
    pub pod_mac: Option<[u8; 6]>,
    /// The pod's addresses on the interface.
    pub addresses: Vec<IpAddr>,
    /// The directed broadcast addresses of its IPv4 networks.
    pub broadcasts: Vec<Ipv4Addr>,
    /// What holds in a direction in which nothing isolates the pod.
    pub baseline: Baseline,
}

/// Attaches. ADD repeated for the same identity replaces what was there.
///
/// # Errors
/// Says what stands in the way; what was begun has been undone. What an ADD would have replaced stands on.
pub fn add(paths: &Paths, request: Request) -> Result<Record, AddError> {
    check_names(&request.identity)?;
    let lock = Lock::take(paths)?;
    let mut socket = open_socket(request.host_ifindex)?;
    let link = socket.link_by_index(request.host_ifindex)?;
    if link.kind != Kind::Veth {
        return Err(AddError::NotVeth {
            name: link.name,
            kind: link.kind,
        });
    }
    let set = match TableSet::open_current(paths)? {
        Some(set) => set,
        None => load(paths, &lock, &mut socket)?,
    };
    // Replaced in place, if it is on the same interface: no packet passes between the old and the new filters.
    let old = record::read(paths, &request.identity)
        .ok()
        .flatten()
        .filter(|old| old.host_ifindex == request.host_ifindex);
    // Before anything is touched: what is forgotten of an address does not come back when the ADD fails.
    would_be_heard(&mut socket, request.host_ifindex)?;
    if old.is_none() {
        remove_under(paths, &request.identity, &lock).map_err(AddError::Replace)?;
    }
    let slot = slots::allocate(paths, &set, &mut socket)?;
    let record = Record {
        slot,
        birth: set.draw_generation()?,
        identity: request.identity,
        network: request.network,
        pod: request.pod,
        netns_inode: request.netns_inode,
        pod_ifindex: request.pod_ifindex,
        host_ifindex: request.host_ifindex,
        host_mac: link.mac,
        pod_mac: request.pod_mac,
        addresses: request.addresses,
        broadcasts: request.broadcasts,
        baseline: request.baseline,
    };
    // What cannot be undone is swept by the enforcer; the cause is what matters.
    match (
        attach(
            paths,
            &lock,
            &set,
            &mut socket,
            (&record, link.master),
            old.as_ref(),
        ),
        &old,
    ) {
        (Ok(()), None) => Ok(record),
        (Ok(()), Some(old)) => {
            let _ = clear_everywhere(paths, old.slot);
            Ok(record)
        }
        (Err(error), None) => {
            let _ = undo(paths, &set, &mut socket, &record);
            Err(error)
        }
        (Err(error), Some(old)) => {
            replace::stand_on(paths, &set, &mut socket, old, &record);
            Err(error)
        }
    }
}

fn check_names(identity: &AttachmentId) -> Result<(), Failed> {
    let fine = |name: &str| !name.is_empty() && !name.contains(['/', '\0']);
    if fine(&identity.container_id) && fine(&identity.ifname) && !identity.ifname.contains(':') {
        return Ok(());
    }
    let why =
        "container ID and interface name must not be empty or hold a slash, nor the latter a colon";
    Err(Failed::new(
        "name attachment",
        format_args!("{identity:?}"),
        io::Error::new(io::ErrorKind::InvalidInput, why),
    ))
}

fn open_socket(ifindex: Ifindex) -> Result<Socket, AddError> {
    Socket::open().map_err(|source| AddError::Netlink {
        doing: "ask for",
        ifindex,
        source,
    })
}

/// The directions in which the pod waits closed for its policy. In doubt that is both; the plugin says so.
fn isolated_until_in_force(paths: &Paths, record: &Record) -> Isolation {
    let pod = record.pod.as_ref();
    pod.map_or_else(Isolation::default, |pod| {
        isolated::look_up(paths, &pod.namespace).unwrap_or(Isolation::BOTH)
    })
}

/// The first ADD on a node: a table set that knows this node's addresses, and becomes current.
fn load(paths: &Paths, lock: &Lock, socket: &mut Socket) -> Result<TableSet, AddError> {
    let set = TableSet::create(paths, lock, &Sizes::read(paths)?)?;
    let addresses = socket.addresses().map_err(|source| AddError::Netlink {
        doing: "list addresses, beginning with those of",
        ifindex: Ifindex(1),
        source,
    })?;
    for address in addresses {
        set.put_peer(address.address, node_word(address.address))?;
    }
    Ok(set.name_current(lock)?)
}

/// The word of an address of this node of which nothing else is known.
#[must_use]
pub fn node_word(address: IpAddr) -> PeerWord {
    PeerWord::new(Address::from(address), Class::NONE, Class::NONE, true)
}

fn put_node(set: &TableSet, address: IpAddr, lock: &Lock) -> Result<(), Failed> {
    match set.read_peer(address)? {
        Some(word) if word.is_node() => Ok(()),
        Some(_) | None => set.put_peer(address, node_word(address), lock),
    }
}

fn attach(
    paths: &Paths,
    lock: &Lock,
    set: &TableSet,
    socket: &mut Socket,
    (record, master): (&Record, Option<Ifindex>),
    old: Option<&Record>,
) -> Result<(), AddError> {
    let ifindex = record.host_ifindex;
    let netlink = |doing| {
        move |source| AddError::Netlink {
            doing,
            ifindex,
            source,
        }
    };
    let guarded = guard::ensure().map_err(|(family, source)| AddError::Guard {
        family: family.name(),
        source,
    })?;
    // First: what the file says is found by it, whatever becomes of this ADD.
    socket
        .set_group(ifindex, mark::group(record.slot))
        .map_err(netlink("mark"))?;
    record::write(paths, record)?;
    set.write_waiting_attachment(record, isolated_until_in_force(paths, record))?;
    let keeps_on_link = guarded.contains(&Family::Bridge);
    filter_status::store_master(socket, set, record, (master, keeps_on_link))?;
    let own = socket
        .addresses_of(ifindex)
        .map_err(netlink("list addresses of"))?;
    for address in own {
        put_node(set, address.address, lock)?;
    }
    forget_addresses(paths, set, record, old, lock)?;
    match filter::ensure_clsact(socket, ifindex).map_err(netlink("add qdisc clsact to"))? {
        Qdisc::Clsact => {}
        Qdisc::None => {
            return Err(AddError::QdiscTaken {
                ifindex,
                kind: filter::KEEPS_GOING.into(),
            });
        }
        Qdisc::Other(kind) => return Err(AddError::QdiscTaken { ifindex, kind }),
    }
    for direction in Direction::BOTH {
        // One of another life, or of the attachment that this one replaces.
        let how = match filter::ours(socket, ifindex, direction).map_err(netlink("ask for"))? {
            Some(_) => Put::Replace,
            None => Put::New,
        };
        let program = set.program(direction)?;
        filter::put(
            socket,
            ifindex,
            direction,
            record.slot,
            program.as_fd(),
            how,
        )
        .map_err(netlink("add a filter to"))?;
    }
    match standing_of(socket, record, Qdisc::Clsact)? {
        FilterStatus::InForce => Ok(()),
        FilterStatus::Shadowed { by } => Err(AddError::Shadowed { ifindex, by }),
        FilterStatus::Gone { direction } => {
            let why = format!("the filter of {} went away at once", error::hook(direction));
            Err(Failed::new("attach to interface", ifindex, io::Error::other(why)).into())
        }
    }
}

/// Deletes what every pinned set knows of the addresses that the attachment did not have before. If it knew anything,
/// they were another pod's: the flows of all attachments are judged again. So they are if somebody else deleted
/// one of them, and has not come to that.
fn forget_addresses(
    paths: &Paths,
    current: &TableSet,
    record: &Record,
    old: Option<&Record>,
    lock: &Lock,
) -> Result<(), Failed> {
    let is_new = |address: &&IpAddr| old.is_none_or(|old| !old.addresses.contains(address));
    let (mut sets, mut known) = (Vec::new(), false);
    for name in TableSet::list_sets(paths)? {
        // The layout of another version's tables is not known; whoever made it sweeps it.
        if name.abi != podgate_abi::ABI {
            continue;
        }
        let other = (name != current.name()).then(|| TableSet::at(paths, name));
        let set = other.as_ref().unwrap_or(current);
        take_addresses(set, record)?;
        for address in record.addresses.iter().filter(is_new) {
            known |= set.remove_peer(*address, Owed::ByPlugin, lock)?;
        }
        sets.push(name);
    }
    if !known && !owed::is_any(paths, &record.addresses, lock) {
        return Ok(());
    }
    TableSet::grace()?;
    for name in sets {
        TableSet::at(paths, name).renew_generations()?;
    }
    for owed in Owed::ALL {
        owed::paid(paths, owed, lock)?;
    }
    Ok(())
}

/// No other attachment may have these addresses from now on, whether or not an enforcer runs. One that does frees them when
/// nothing has them any more; else the next table set begins without them.
fn take_addresses(set: &TableSet, record: &Record) -> Result<(), Failed> {
    let is_noted = record.addresses.iter().all(|address| {
        let length = if address.is_ipv4() { 32 } else { 128 };
        set.put_taken(*address, length).is_ok()
    });
    // While the table lacks some, nothing foreign passes anywhere.
    if is_noted { Ok(()) } else { set.end_foreign() }
}

fn undo(
    paths: &Paths,
    set: &TableSet,
    socket: &mut Socket,
    record: &Record,
) -> Result<(), Vec<RemoveError>> {
    let mut errors = remove_filters(socket, record);
    errors.extend(set.clear_attachment(record.slot).err().map(Into::into));
    if errors.is_empty() {
        errors.extend(
            record::delete(paths, &record.identity)
                .err()
                .map(Into::into),
        );
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}
