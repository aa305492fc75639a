//! Attachments come and go: ADD, DEL and CHECK as the datapath sees them.
//!
//! ```text
//! lock ─► table set ─► slot, birth ─► file ─► record ─► peers ─► filters ─► read back
//! ```
//! No packet ever meets a filter without a record, and an empty record drops. What fails is undone in reverse.

use std::{io, net::IpAddr, os::fd::AsFd};

use podgate_abi::{Address, Class, Direction, PeerWord};

use crate::{
    Failed, Paths, Sizes,
    filter::{self, Obstacle, Put, Qdisc, ReadError},
    lock::Lock,
    netlink::{Ifindex, Kind, LinkError, NetlinkError, Socket},
    object::LoadError,
    record::{self, Baseline, Hook, Identity, PodName, Record},
    slots,
    tables::TableSet,
};

/// What ADD wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which attachment.
    pub identity: Identity,
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
    /// The pod's addresses on the interface.
    pub addresses: Vec<IpAddr>,
    /// What holds until its policy is in force.
    pub baseline: Baseline,
    /// Where the programs hang.
    pub hook: Hook,
    /// Whether the pod may send from any address.
    pub routes: bool,
}

/// Why an attachment could not be made. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The table set could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A file, a pin or a table.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The host end could not be looked up.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The host end is no veth.
    #[error("interface {name} is {kind}; podgate polices veth pairs only")]
    NotVeth {
        /// Its name.
        name: String,
        /// What it is.
        kind: Kind,
    },
    /// Netlink.
    #[error("{doing} interface {ifindex}")]
    Netlink {
        /// What was being done.
        doing: &'static str,
        /// To which interface.
        ifindex: Ifindex,
        /// Why it did not work.
        #[source]
        source: NetlinkError,
    },
    /// The interface could not be read back.
    #[error("read back interface {ifindex}")]
    ReadBack {
        /// Which one.
        ifindex: Ifindex,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// Another qdisc has the place.
    #[error(
        "interface {ifindex} has qdisc {kind} in the place of clsact, as the bandwidth plugin makes it; \
         put podgate before that plugin in the chain, or leave that plugin out"
    )]
    QdiscTaken {
        /// Which interface.
        ifindex: Ifindex,
        /// The qdisc's kind.
        kind: String,
    },
    /// Others decide before our filters.
    #[error(
        "others decide on the packets of interface {ifindex} before podgate does: {}; \
         take them away, or have them come after priority {}",
        list(by),
        filter::PRIORITY
    )]
    Shadowed {
        /// Which interface.
        ifindex: Ifindex,
        /// Who.
        by: Vec<Obstacle>,
    },
    /// The older attachment of the same identity could not be removed.
    #[error("replace an older attachment")]
    Replace(#[source] RemoveError),
    /// Attaching by TCX is not there.
    #[error("attaching by tcx is not supported; set \"attach\" to \"clsact\"")]
    Tcx,
}

fn list(obstacles: &[Obstacle]) -> String {
    let words: Vec<String> = obstacles.iter().map(Obstacle::to_string).collect();
    words.join(", ")
}

/// Whether the kernel asks our programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It does, and before all others.
    InForce,
    /// Others come first and can end the matter.
    Shadowed {
        /// They.
        by: Vec<Obstacle>,
    },
    /// A filter is missing, or names another slot.
    Gone {
        /// The first direction that has none.
        direction: Direction,
    },
}

/// Attaches. ADD repeated for the same identity replaces what was there.
///
/// # Errors
/// Says what stands in the way; what was begun has been undone.
pub fn add(paths: &Paths, request: Request) -> Result<Record, AddError> {
    if request.hook == Hook::Tcx {
        return Err(AddError::Tcx);
    }
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
        addresses: request.addresses,
        baseline: request.baseline,
        hook: request.hook,
        routes: request.routes,
    };
    let result = attach(paths, &lock, &set, &mut socket, &record);
    if result.is_err() {
        // What cannot be undone is swept by the enforcer; the cause is what matters.
        let _ = undo(paths, &set, &mut socket, &record);
        let _ = old
            .iter()
            .all(|old| remove_filters(&mut socket, old).is_empty());
    }
    if let Some(old) = old {
        let _ = clear_everywhere(paths, old.slot);
    }
    result.map(|()| record)
}

fn check_names(identity: &Identity) -> Result<(), Failed> {
    let fine = |name: &str| !name.is_empty() && !name.contains(['/', '\0']);
    if fine(&identity.container_id) && fine(&identity.ifname) {
        return Ok(());
    }
    let why = "container ID and interface name must not be empty or hold a slash";
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

/// The first ADD on a node: a table set that knows this node's addresses, and becomes current.
fn load(paths: &Paths, lock: &Lock, socket: &mut Socket) -> Result<TableSet, AddError> {
    let set = TableSet::create(paths, lock, &Sizes::read(paths)?)?;
    let addresses = socket.addresses().map_err(|source| AddError::Netlink {
        doing: "list addresses, beginning with those of",
        ifindex: Ifindex(1),
        source,
    })?;
    for address in addresses {
        put_node(&set, address.address, lock)?;
    }
    set.name_current(lock)?;
    Ok(set)
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
    record: &Record,
) -> Result<(), AddError> {
    let ifindex = record.host_ifindex;
    let netlink = |doing| {
        move |source| AddError::Netlink {
            doing,
            ifindex,
            source,
        }
    };
    record::write(paths, record)?;
    set.write_attachment(record)?;
    let own = socket
        .addresses_of(ifindex)
        .map_err(netlink("list addresses of"))?;
    for address in own {
        put_node(set, address.address, lock)?;
    }
    forget_addresses(paths, set, record, lock)?;
    match filter::ensure_clsact(socket, ifindex).map_err(netlink("add qdisc clsact to"))? {
        Qdisc::Clsact => {}
        Qdisc::None => {
            return Err(AddError::QdiscTaken {
                ifindex,
                kind: "that comes and goes".into(),
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
        Standing::InForce => Ok(()),
        Standing::Shadowed { by } => Err(AddError::Shadowed { ifindex, by }),
        Standing::Gone { direction } => {
            let why = format!("the filter of {direction:?} went away at once");
            Err(Failed::new("attach to interface", ifindex, io::Error::other(why)).into())
        }
    }
}

/// Deletes what every pinned set knows of the addresses. If it knew anything, they were another pod's: the flows of
/// all attachments are judged again.
fn forget_addresses(
    paths: &Paths,
    current: &TableSet,
    record: &Record,
    lock: &Lock,
) -> Result<(), Failed> {
    let mut known_in = Vec::new();
    for name in TableSet::list_sets(paths)? {
        // The layout of another version's tables is not known; whoever made it sweeps it.
        if name.abi != podgate_abi::ABI {
            continue;
        }
        let other = (name != current.name()).then(|| TableSet::at(paths, name));
        let set = other.as_ref().unwrap_or(current);
        let mut known = false;
        for address in &record.addresses {
            known |= set.remove_peer(*address, lock)?;
        }
        if known {
            known_in.push(name);
        }
    }
    if known_in.is_empty() {
        return Ok(());
    }
    TableSet::grace()?;
    for name in known_in {
        TableSet::at(paths, name).renew_generations()?;
    }
    Ok(())
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

/// One step of a removal that did not work.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// A file, a pin or a table.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// Netlink.
    #[error("remove the filters of interface {ifindex}")]
    Netlink {
        /// Which interface.
        ifindex: Ifindex,
        /// Why.
        #[source]
        source: NetlinkError,
    },
}

/// Removes the filters that carry the record's slot from the record's interface, if they are there.
fn remove_filters(socket: &mut Socket, record: &Record) -> Vec<RemoveError> {
    let ifindex = record.host_ifindex;
    let mut errors = Vec::new();
    for direction in Direction::BOTH {
        // The interface's number may be another one's by now: the slot tells.
        let removed = match filter::ours(socket, ifindex, direction) {
            Ok(Some(found)) if found.slot() == Some(record.slot) => {
                filter::remove(socket, ifindex, direction)
            }
            Ok(Some(_) | None) => Ok(()),
            Err(error) => Err(error),
        };
        errors.extend(
            removed
                .err()
                .map(|source| RemoveError::Netlink { ifindex, source }),
        );
    }
    errors
}

/// Detaches. What is not there is no error; what fails does not stop the rest. The file goes last, and only if all
/// else is gone, so that the sweep finds what is left.
///
/// # Errors
/// The first step that did not work.
pub fn remove(paths: &Paths, identity: &Identity) -> Result<(), RemoveError> {
    check_names(identity)?;
    if !paths.attachment(identity).exists() {
        return Ok(());
    }
    let lock = Lock::take(paths)?;
    remove_under(paths, identity, &lock)
}

/// Empties a slot in every table set of this version's layout.
pub(crate) fn clear_everywhere(paths: &Paths, slot: record::Slot) -> Vec<Failed> {
    match TableSet::list_sets(paths) {
        Ok(sets) => sets
            .into_iter()
            .filter(|name| name.abi == podgate_abi::ABI)
            .filter_map(|name| TableSet::at(paths, name).clear_attachment(slot).err())
            .collect(),
        Err(error) => vec![error],
    }
}

pub(crate) fn remove_under(
    paths: &Paths,
    identity: &Identity,
    _lock: &Lock,
) -> Result<(), RemoveError> {
    let record = match record::read(paths, identity) {
        Ok(Some(record)) => record,
        Ok(None) => return Ok(()),
        // Nobody can say what it was. Its filters, if there are any, keep dropping or judging by their record until
        // the sweep finds that no file names them.
        Err(_) => return record::delete(paths, identity).map_err(Into::into),
    };
    let mut errors = Vec::new();
    match Socket::open() {
        Ok(mut socket) => errors.extend(remove_filters(&mut socket, &record)),
        Err(source) => errors.push(RemoveError::Netlink {
            ifindex: record.host_ifindex,
            source,
        }),
    }
    errors.extend(
        clear_everywhere(paths, record.slot)
            .into_iter()
            .map(Into::into),
    );
    if errors.is_empty() {
        record::delete(paths, identity)?;
    }
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// Why an attachment is not as ADD left it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is none.
    #[error("there is no attachment {0}")]
    Missing(Identity),
    /// A file, a pin or a table.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The interface could not be read, or others decide before our filters.
    #[error(transparent)]
    Interface(#[from] AddError),
    /// A filter is missing, or is another attachment's.
    #[error("interface {ifindex} has no filter of this attachment for {direction:?}")]
    Gone {
        /// Which interface.
        ifindex: Ifindex,
        /// Which direction.
        direction: Direction,
    },
    /// The table has no record, or another one.
    #[error("slot {} of the current table set has another birth than the attachment's file", .0.0)]
    NoRecord(record::Slot),
}

/// Whether an attachment is as ADD left it.
///
/// # Errors
/// Says what is not.
pub fn check(paths: &Paths, identity: &Identity) -> Result<Record, CheckError> {
    let _lock = Lock::take(paths)?;
    let record =
        record::read(paths, identity)?.ok_or_else(|| CheckError::Missing(identity.clone()))?;
    let ifindex = record.host_ifindex;
    if let Some(set) = TableSet::open_current(paths)? {
        let attachment = set.read_attachment(record.slot)?;
        if attachment.origin().birth() != record.birth.0 {
            return Err(CheckError::NoRecord(record.slot));
        }
    }
    match standing(&record)? {
        Standing::InForce => Ok(record),
        Standing::Shadowed { by } => Err(AddError::Shadowed { ifindex, by }.into()),
        Standing::Gone { direction } => Err(CheckError::Gone { ifindex, direction }),
    }
}

/// Whether the kernel asks our programs about an attachment's packets.
///
/// # Errors
/// When the interface cannot be read.
pub fn standing(record: &Record) -> Result<Standing, AddError> {
    let ifindex = record.host_ifindex;
    let mut socket = open_socket(ifindex)?;
    let qdisc = filter::qdisc(&mut socket, ifindex).map_err(|source| AddError::Netlink {
        doing: "ask for the qdisc of",
        ifindex,
        source,
    })?;
    standing_of(&mut socket, record, qdisc)
}

fn standing_of(socket: &mut Socket, record: &Record, qdisc: Qdisc) -> Result<Standing, AddError> {
    let ifindex = record.host_ifindex;
    let found = filter::situation(socket, ifindex, qdisc)
        .map_err(|source| AddError::ReadBack { ifindex, source })?;
    for direction in Direction::BOTH {
        let ours = &found.ours[direction as usize];
        if ours.as_ref().and_then(filter::Filter::slot) != Some(record.slot) {
            return Ok(Standing::Gone { direction });
        }
    }
    if found.obstacles.is_empty() {
        return Ok(Standing::InForce);
    }
    Ok(Standing::Shadowed {
        by: found.obstacles,
    })
}
