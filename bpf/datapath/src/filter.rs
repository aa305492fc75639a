// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Our two filters on the host end of a veth, and who stands before them.
//!
//! They hang at [`PRIORITY`] with [`HANDLE`], match every protocol, and carry the slot as class ID. Priority 1 is
//! left to others: the `bandwidth` plugin and the node agent of AWS use it, and a `bpf` filter at a priority that
//! another kind has taken is refused. Whatever comes before ours can end the matter, so it is read back and named.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enums of netlink are open and long: what nobody asked for is skipped"
)]

use std::{
    fmt,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use nix::errno::Errno;
use podgate_abi::Direction;

use crate::{
    Failed,
    netlink::{Ifindex, NetlinkError, Socket},
    record::Slot,
    sys,
};

/// The priority of our filters: the lower, the earlier.
pub const PRIORITY: u16 = 2;

/// The handle of our filters: "podg".
pub const HANDLE: u32 = 0x706f_6467;

/// `ETH_P_ALL`, in network order, as `tcm_info` has it.
const EVERY_PROTOCOL: u32 = (libc::ETH_P_ALL as u16).to_be() as u32;

/// The handle of a `clsact` or `ingress` qdisc.
const QDISC: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};

/// The hook of a direction: what goes to the pod leaves the host by the host end.
fn parent(direction: Direction) -> TcHandle {
    TcHandle {
        major: 0xffff,
        minor: match direction {
            Direction::Ingress => TcHandle::MIN_EGRESS,
            Direction::Egress => TcHandle::MIN_INGRESS,
        },
    }
}

/// What hangs at the place for `clsact`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Qdisc {
    /// Nothing.
    None,
    /// What we need.
    Clsact,
    /// Another one, such as `ingress`.
    Other(String),
}

/// How errors call the qdisc of an interface from which something removes `clsact` as often as it is put there.
pub(crate) const KEEPS_GOING: &str = "(none: something removes clsact again)";

/// A filter on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Where it hangs.
    pub direction: Direction,
    /// Its priority.
    pub priority: u16,
    /// Its handle.
    pub handle: u32,
    /// Its kind: `bpf`, `matchall`.
    pub kind: String,
    /// Its class ID, if it is a `bpf` filter with one.
    pub class_id: Option<u32>,
    /// The program that it runs, if it is a `bpf` filter.
    pub program: Option<u32>,
}

impl Filter {
    /// Whether it hangs where ours hang.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.priority == PRIORITY && self.handle == HANDLE && self.kind == "bpf"
    }

    /// The slot that it names, if it is ours.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        self.class_id.filter(|_| self.is_ours()).map(Slot)
    }
}

/// Something that decides before our filter does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// The qdisc is not `clsact`: what we hang there does not run where it should.
    Qdisc(String),
    /// Another filter.
    Filter(Filter),
    /// A TCX program, by the kernel's number of it.
    Tcx {
        /// Where it hangs.
        direction: Direction,
        /// Its number: `bpftool prog show id N`.
        program: u32,
    },
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |direction: &Direction| match direction {
            Direction::Ingress => "egress",
            Direction::Egress => "ingress",
        };
        match self {
            Self::Qdisc(kind) => write!(f, "qdisc {kind} in the place of clsact"),
            Self::Filter(filter) => write!(
                f,
                "{} filter pref {} handle {:#x} at {}",
                filter.kind,
                filter.priority,
                filter.handle,
                side(&filter.direction)
            ),
            Self::Tcx { direction, program } => {
                write!(f, "TCX program {program} at {}", side(direction))
            }
        }
    }
}

fn message(ifindex: Ifindex) -> TcMessage {
    TcMessage::with_index(ifindex.0.cast_signed())
}

fn at(direction: Direction, ifindex: Ifindex) -> TcMessage {
    let mut message = message(ifindex);
    message.header.parent = parent(direction);
    message.header.handle = HANDLE.into();
    message.header.info = u32::from(PRIORITY) << 16 | EVERY_PROTOCOL;
    message.attributes.push(TcAttribute::Kind("bpf".into()));
    message
}

/// The qdisc at the place for `clsact`.
///
/// By a dump of all interfaces: the kernel answers a question for one by a notification to every listener, and an
/// enforcer that listens would wake itself.
pub(crate) fn qdisc(socket: &mut Socket, ifindex: Ifindex) -> Result<Qdisc, NetlinkError> {
    let question = RouteNetlinkMessage::GetQueueDiscipline(message(ifindex));
    let answer = socket.request(question, NLM_F_DUMP)?;
    let kind = answer.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewQueueDiscipline(found)
            if found.header.index == ifindex.0.cast_signed()
                && found.header.parent == TcHandle::CLSACT =>
        {
            kind(&found)
        }
        _ => None,
    });
    Ok(match kind.as_deref() {
        None => Qdisc::None,
        Some("clsact") => Qdisc::Clsact,
        Some(other) => Qdisc::Other(other.to_owned()),
    })
}

fn kind(message: &TcMessage) -> Option<String> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.clone()),
            _ => None,
        })
}

/// Puts `clsact` there if nothing is there, and tells what is there then.
pub(crate) fn ensure_clsact(socket: &mut Socket, ifindex: Ifindex) -> Result<Qdisc, NetlinkError> {
    let mut request = message(ifindex);
    request.header.parent = TcHandle::CLSACT;
    request.header.handle = QDISC;
    request.attributes.push(TcAttribute::Kind("clsact".into()));
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    match socket.request(RouteNetlinkMessage::NewQueueDiscipline(request), flags) {
        Ok(_) => Ok(Qdisc::Clsact),
        // Somebody else's, and not necessarily a clsact.
        Err(error) if error.errno() == Some(Errno::EEXIST) => qdisc(socket, ifindex),
        Err(error) => Err(error),
    }
}

/// The filters of one direction, in the order in which they run. An interface without a qdisc has none.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn filters(
    socket: &mut Socket,
    ifindex: Ifindex,
    direction: Direction,
) -> Result<Vec<Filter>, NetlinkError> {
    let mut question = message(ifindex);
    question.header.parent = parent(direction);
    let answer = match socket.request(RouteNetlinkMessage::GetTrafficFilter(question), NLM_F_DUMP) {
        Err(error)
            if matches!(
                error.errno(),
                Some(Errno::ENOENT | Errno::EINVAL | Errno::ENODEV)
            ) =>
        {
            return Ok(Vec::new());
        }
        answer => answer?,
    };
    Ok(answer
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewTrafficFilter(message) => from_message(direction, &message),
            _ => None,
        })
        .collect())
}

fn from_message(direction: Direction, message: &TcMessage) -> Option<Filter> {
    let mut filter = Filter {
        direction,
        priority: (message.header.info >> 16) as u16,
        handle: message.header.handle.into(),
        kind: kind(message)?,
        class_id: None,
        program: None,
    };
    for attribute in &message.attributes {
        match attribute {
            // Other chains run only when a filter of this one sends packets there.
            TcAttribute::Chain(chain) if *chain != 0 => return None,
            TcAttribute::Options(options) => {
                for option in options {
                    match option {
                        TcOption::Bpf(TcFilterBpfOption::ClassId(id)) => {
                            filter.class_id = Some((*id).into());
                        }
                        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program = Some(*id),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    // The kernel also tells of each priority, which is no filter: it has no handle.
    (filter.handle != 0).then_some(filter)
}

/// Whether a filter may be made, or must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// There is none: it is made.
    New,
    /// There is one: its program is replaced, atomically. Never makes one.
    Replace,
}

/// Hangs a program up, with the slot as class ID.
pub(crate) fn put(
    socket: &mut Socket,
    ifindex: Ifindex,
    direction: Direction,
    slot: Slot,
    program: BorrowedFd<'_>,
    how: Put,
) -> Result<(), NetlinkError> {
    let mut request = at(direction, ifindex);
    let options = [
        TcFilterBpfOption::ClassId(slot.0.into()),
        TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned()),
        TcFilterBpfOption::ProgName(format!("podgate_{}", direction.program())),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    request.attributes.push(TcAttribute::Options(
        options.into_iter().map(TcOption::Bpf).collect(),
    ));
    let flags = match how {
        Put::New => NLM_F_CREATE | NLM_F_EXCL,
        Put::Replace => NLM_F_REPLACE,
    };
    socket.request(RouteNetlinkMessage::NewTrafficFilter(request), flags)?;
    Ok(())
}

/// Takes our filter of a direction away; that there is none is no error.
pub(crate) fn remove(
    socket: &mut Socket,
    ifindex: Ifindex,
    direction: Direction,
) -> Result<(), NetlinkError> {
    let request = RouteNetlinkMessage::DelTrafficFilter(at(direction, ifindex));
    match socket.request(request, 0) {
        Err(error)
            if matches!(
                error.errno(),
                Some(Errno::ENOENT | Errno::ENODEV | Errno::EINVAL)
            ) =>
        {
            Ok(())
        }
        result => result.map(drop),
    }
}

/// Takes `clsact` away where nothing hangs on it. Whoever comes to hang something up in between finds none, and fails.
pub(crate) fn remove_unused_clsact(
    socket: &mut Socket,
    ifindex: Ifindex,
) -> Result<(), NetlinkError> {
    if qdisc(socket, ifindex)? != Qdisc::Clsact {
        return Ok(());
    }
    for direction in Direction::BOTH {
        if !filters(socket, ifindex, direction)?.is_empty() {
            return Ok(());
        }
    }
    let mut request = message(ifindex);
    request.header.parent = TcHandle::CLSACT;
    request.header.handle = QDISC;
    match socket.request(RouteNetlinkMessage::DelQueueDiscipline(request), 0) {
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => Ok(()),
        result => result.map(drop),
    }
}

/// Our filter of a direction, if there is one.
pub(crate) fn ours(
    socket: &mut Socket,
    ifindex: Ifindex,
    direction: Direction,
) -> Result<Option<Filter>, NetlinkError> {
    let filters = filters(socket, ifindex, direction)?;
    Ok(filters.into_iter().find(Filter::is_ours))
}

/// What the kernel says of one interface: what stands before our filters, and our filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InterfaceState {
    pub(crate) conflicts: Vec<Conflict>,
    pub(crate) ours: [Option<Filter>; 2],
}

/// Reads the interface back, whose qdisc is known.
pub(crate) fn situation(
    socket: &mut Socket,
    ifindex: Ifindex,
    qdisc: Qdisc,
) -> Result<InterfaceState, ReadError> {
    let mut found = InterfaceState {
        conflicts: Vec::new(),
        ours: [None, None],
    };
    if let Qdisc::Other(kind) = qdisc {
        found.conflicts.push(Conflict::Qdisc(kind));
    }
    for direction in Direction::BOTH {
        let hook = match direction {
            Direction::Ingress => sys::TCX_EGRESS,
            Direction::Egress => sys::TCX_INGRESS,
        };
        let programs = sys::tcx_programs(ifindex.0, hook)
            .map_err(|e| Failed::new("list TCX programs of interface", ifindex, e))?;
        found.conflicts.extend(
            programs
                .into_iter()
                .map(|program| Conflict::Tcx { direction, program }),
        );
        for filter in filters(socket, ifindex, direction)? {
            if filter.is_ours() {
                found.ours[direction as usize] = Some(filter);
                break;
            }
            found.conflicts.push(Conflict::Filter(filter));
        }
    }
    Ok(found)
}

/// Why an interface could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// By netlink.
    #[error("ask for qdisc and filters")]
    Netlink(#[from] NetlinkError),
    /// By `bpf()`.
    #[error(transparent)]
    Failed(#[from] Failed),
}

/// Every `bpf` filter on every interface.
pub(crate) fn all_bpf(socket: &mut Socket) -> Result<Vec<(Ifindex, Filter)>, NetlinkError> {
    let mut found = Vec::new();
    for link in socket.links()? {
        for direction in Direction::BOTH {
            let filters = filters(socket, link.ifindex, direction)?;
            found.extend(
                filters
                    .into_iter()
                    .filter(|filter| filter.kind == "bpf")
                    .map(|filter| (link.ifindex, filter)),
            );
        }
    }
    Ok(found)
}
