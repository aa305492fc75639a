// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong.

use podgate_abi::Direction;

use crate::{
    Failed, LoadError, NftError,
    filter::{self, Conflict, ReadError},
    netlink::{Ifindex, Kind, LinkError, NetlinkError},
    record::{self, AttachmentId},
};

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
         the two cannot share an interface: leave that plugin out of the chain"
    )]
    QdiscTaken {
        /// Which interface.
        ifindex: Ifindex,
        /// The qdisc's kind.
        kind: String,
    },
    /// Others decide before our filters.
    #[error(
        "filters or programs run before podgate's on interface {ifindex} and decide on its packets: {}; \
         remove them, or give them a priority above {}",
        list(by),
        filter::PRIORITY
    )]
    Shadowed {
        /// Which interface.
        ifindex: Ifindex,
        /// Who.
        by: Vec<Conflict>,
    },
    /// What drops packets that `from_pod` did not judge could not be put in place.
    #[error("put table {family} podgate of nftables in place")]
    Guard {
        /// The table's family.
        family: &'static str,
        /// Why.
        #[source]
        source: NftError,
    },
    /// The older attachment of the same identity could not be removed.
    #[error("replace an older attachment")]
    Replace(#[source] RemoveError),
}

fn list(conflicts: &[Conflict]) -> String {
    let words: Vec<String> = conflicts.iter().map(Conflict::to_string).collect();
    words.join(", ")
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

/// Why an attachment is not as ADD left it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is none.
    #[error("there is no attachment {0}")]
    Missing(AttachmentId),
    /// A file, a pin or a table.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The interface could not be read, or others decide before our filters.
    #[error(transparent)]
    Interface(#[from] AddError),
    /// A filter is missing, or is another attachment's.
    #[error("the filter {} of this attachment is missing on interface {ifindex}", hook(*direction))]
    Gone {
        /// Which interface.
        ifindex: Ifindex,
        /// Which direction.
        direction: Direction,
    },
    /// The table has no record, or another one.
    #[error("slot {} of the current table set belongs to another attachment than the file says: its birth differs", .0.0)]
    NoRecord(record::Slot),
}

/// The hook of the host end that takes a direction, as messages name it.
pub(super) const fn hook(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "to_pod",
        Direction::Egress => "from_pod",
    }
}
