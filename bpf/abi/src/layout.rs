// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Keys and values of the tables, and the words in them.
//!
//! The kernel uses a replaced hash element again at once, while a program may still hold a pointer to it. So
//! whatever decides is either in an array slot that nobody changes while something names it, or one aligned
//! 64-bit word, read once, with a tag of its key.

use podgate_core::{Baseline, Direction};

use crate::{Address, Broadcasts, HardwareWord, LinkWord, Word};

/// Version of the layouts of a table set, and the first part of the names of its pins.
pub const ABI: u32 = 7;

/// Version of the layouts of the tables that a set hands on to the next: flows, fragments, quotas.
pub const SHARED_ABI: u32 = 5;

/// Entries that `taken` may have. It takes memory for those that it has.
pub const MAX_TAKEN: u32 = 1 << 20;

/// Entries that `ways` may have. It takes memory for those that it has.
pub const MAX_WAYS: u32 = 1 << 20;

/// Elements of `limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Limit {
    /// Entries of `flows` that one attachment may have, if there is room beyond the guarantees.
    Flows = 0,
    /// Entries of `embryonic` that it may have; of those that others begin, half as many. What is more goes to
    /// `crowd`.
    Embryonic = 1,
    /// Entries of `flows` that one attachment may have whatever the others have.
    Guarantee = 2,
    /// Entries of `flows` that all attachments together may have beyond their guarantees.
    Common = 3,
}

impl Limit {
    /// How many there are.
    pub const COUNT: u32 = 4;
}

/// What `from_pod` writes into `skb->priority` of what it passes, and the guard behind it looks for: "pod". The crossing of
/// a veth zeroes the field, so a pod cannot bring it. The lowest four bits, by which queueing disciplines sort, are 0, as in a packet whose
/// priority nobody set.
pub const PASSED_PRIORITY: u32 = 0x706f_6400;

/// The same, of what passes to the other ports of the pod's bridge only: the guard drops it where the bridge hands it to the node.
pub const ON_LINK_PRIORITY: u32 = 0x706f_6500;

/// Words of an [`Attachment`] before its addresses.
pub const ATTACHMENT_HEAD: usize = 8;

/// How many addresses of its own an attachment can have, link-local ones included.
pub const MAX_ADDRESSES: usize = 6;

/// A compiled policy of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RulesetId(pub u32);

impl RulesetId {
    /// Denies everything.
    pub const DENY_ALL: Self = Self(0);
    /// Allows everything, save what is dropped whoever is policed.
    pub const ALLOW_ALL: Self = Self(1);
    /// The lowest number for a compiled policy.
    pub const FIRST: Self = Self(2);
    /// The highest number: 14 bits of a [`RowKey`], of which the last is none.
    pub const MAX: Self = Self((1 << 14) - 2);

    /// The ruleset that says the same as `baseline`.
    #[must_use]
    pub const fn of(baseline: Baseline) -> Self {
        match baseline {
            Baseline::Allow => Self::ALLOW_ALL,
            Baseline::Deny => Self::DENY_ALL,
        }
    }
}

/// What the policies can tell apart in a peer; also a broad class, which draws from the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u32);

impl Class {
    /// Nothing is known of the peer: the ruleset's own row holds.
    pub const NONE: Self = Self(0);
    /// The highest number: 18 bits of a [`RowKey`].
    pub const MAX: Self = Self((1 << 18) - 1);
}

/// What an attachment's word of one direction says.
///
/// Bits 63..32 the generation, 31..0 the ruleset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyWord(pub u64);

impl PolicyWord {
    /// `ruleset` as of `generation`.
    #[inline(always)]
    pub const fn new(ruleset: RulesetId, generation: u32) -> Self {
        Self((generation as u64) << 32 | ruleset.0 as u64)
    }

    /// The ruleset that decides new flows.
    #[inline(always)]
    pub const fn ruleset(self) -> RulesetId {
        RulesetId(self.0 as u32)
    }

    /// The generation that flows of this direction must carry to pass unjudged.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Value of `attachments`, by slot.
///
/// All but `words`, `link` and what the programs write is written before a filter names the slot, and not changed
/// while one does.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Attachment {
    /// A [`PolicyWord`] for each [`Direction`]. Stored and loaded whole.
    pub words: [Word; 2],
    /// A [`Birth`].
    pub origin: Word,
    /// A [`HardwareWord`].
    pub hardware: Word,
    /// A [`Broadcasts`].
    pub broadcasts: Word,
    /// A [`LinkWord`]; the enforcer stores it again when the host end gets another master, or the attachment another mode.
    pub link: Word,
    /// When what the pod has told its link will be paid for, in jiffies. Only the programs write it.
    pub told: Word,
    /// When the pod last asked for an address by DHCP, in jiffies (bits 55..0), and how many answers it has had since (63..56).
    /// Only the programs write it.
    pub asked: Word,
    /// Its own addresses; the unused places are `::`.
    pub addresses: [Address; MAX_ADDRESSES],
}

/// What an attachment is from birth on: bits 31..0 the generation at birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Birth(pub u64);

impl Birth {
    /// There is no attachment: everything is dropped.
    pub const NONE: Self = Self(0);

    /// Born at generation `birth`, which is not 0.
    #[inline(always)]
    pub const fn new(birth: u32) -> Self {
        Self(birth as u64)
    }

    /// The generation at birth; older flows are another attachment's.
    #[inline(always)]
    pub const fn birth(self) -> u32 {
        self.0 as u32
    }
}

impl Attachment {
    /// Whether an IPv6 address has the first 64 bits of one of the pod's: networks of hosts have prefixes of that length (RFC 4291
    /// section 2.5.4). How long the prefix was that ADD gave is not known here.
    #[inline(always)]
    pub fn is_near(&self, address: Address) -> bool {
        let [network, _] = address.halves();
        let is_in = |own: &Address| own.halves()[0] == network;
        let [a, b, c, d, e, f] = &self.addresses;
        network != 0 && (is_in(a) || is_in(b) || is_in(c) || is_in(d) || is_in(e) || is_in(f))
    }

    /// Where it comes from.
    #[inline(always)]
    pub fn origin(&self) -> Birth {
        Birth(self.origin.load())
    }

    /// The word of `direction`.
    #[inline(always)]
    pub fn word(&self, direction: Direction) -> PolicyWord {
        PolicyWord(self.words[direction as usize].load())
    }

    /// The hardware address of the pod's end.
    #[inline(always)]
    pub fn hardware(&self) -> HardwareWord {
        HardwareWord(self.hardware.load())
    }

    /// Where its host end stands.
    #[inline(always)]
    pub fn link(&self) -> LinkWord {
        LinkWord(self.link.load())
    }

    /// Whether a packet for `destination` may be for it: one of its own addresses, or a group that it may be in.
    #[inline(always)]
    pub fn is_addressed_by(&self, destination: Address) -> bool {
        destination.is_multicast_or_broadcast()
            || Broadcasts(self.broadcasts.load()).holds(destination)
            || self.owns(destination)
    }

    /// Whether `address` is one of its own. `::` never is.
    #[inline(always)]
    pub fn owns(&self, address: Address) -> bool {
        let [a, b, c, d, e, f] = &self.addresses;
        !address.is_unspecified()
            && (*a == address
                || *b == address
                || *c == address
                || *d == address
                || *e == address
                || *f == address)
    }
}

/// Value of `peers`: bits 63..46 class, 45..28 broad class, 27..24 flags, 23..0 tag of the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerWord(pub u64);

impl PeerWord {
    /// The address is not known. (An address without class whose tag is 0 has the same word: its prefixes say
    /// of it what it says itself.)
    pub const ABSENT: Self = Self(0);
    /// Not a word of any address: its flags are never all set.
    pub const TORN: Self = Self(u64::MAX);
    const NODE: u64 = 1 << 24;
    const OTHER_NODE: u64 = 1 << 25;
    const TAG: u64 = (1 << 24) - 1;

    /// The word of `address`.
    pub const fn new(address: Address, class: Class, broad: Class, is_node: bool) -> Self {
        let node = if is_node { Self::NODE } else { 0 };
        Self((class.0 as u64) << 46 | (broad.0 as u64) << 28 | node | Self::tag(address))
    }

    /// The same word, of an address of another node.
    #[must_use]
    pub const fn of_another_node(self) -> Self {
        Self(self.0 | Self::OTHER_NODE)
    }

    /// An address of another node.
    #[inline(always)]
    pub const fn is_other_node(self) -> bool {
        self.0 & Self::OTHER_NODE != 0
    }

    /// An address of any node of the cluster.
    #[inline(always)]
    pub const fn is_any_node(self) -> bool {
        self.0 & (Self::NODE | Self::OTHER_NODE) != 0
    }

    #[inline(always)]
    const fn tag(address: Address) -> u64 {
        address.mix() as u64 & Self::TAG
    }

    /// Whether the word was written for `address`.
    #[inline(always)]
    pub const fn belongs_to(self, address: Address) -> bool {
        self.0 & Self::TAG == Self::tag(address)
    }

    /// The class.
    #[inline(always)]
    pub const fn class(self) -> Class {
        Class((self.0 >> 46) as u32)
    }

    /// The broad class.
    #[inline(always)]
    pub const fn broad(self) -> Class {
        Class((self.0 >> 28) as u32 & Class::MAX.0)
    }

    /// An address of this node.
    #[inline(always)]
    pub const fn is_node(self) -> bool {
        self.0 & Self::NODE != 0
    }
}

/// Key of `prefixes`, as the kernel's LPM trie wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct PrefixKey {
    /// Length in bits, of the 128; that of an IPv4 block is 96 more than it says.
    pub length: u32,
    /// The prefix.
    pub address: Address,
}

/// Key of `ways`, an LPM trie: an address and a UDP port that the node translates, whole or not at all. It is a trie and no
/// hash table because mostly there is none, and an empty trie takes neither memory nor time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct WayKey {
    /// Length in bits: [`Self::WHOLE`], or 0 in the entry of all.
    pub length: u32,
    /// The address; the unspecified one of a family: every address that a node has in it.
    pub address: Address,
    /// The port.
    pub port: u32,
}

impl WayKey {
    /// The bits of an address and a port.
    pub const WHOLE: u32 = 160;

    /// One that is in the table instead of more than there is room for.
    pub const ALL: Self = Self {
        length: 0,
        address: Address::UNSPECIFIED,
        port: 0,
    };

    /// An address and a port.
    #[inline(always)]
    pub const fn new(address: Address, port: u16) -> Self {
        Self {
            length: Self::WHOLE,
            address,
            port: port as u32,
        }
    }
}

/// Value of `ways`: which pods an address and port is closed to that leads into a tunnel at a node; the greater is the stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct WayWord(pub u64);

impl WayWord {
    /// It leads into none.
    pub const NONE: Self = Self(0);
    /// Of a NodePort: at other nodes only, as there each is.
    pub const ELSEWHERE: Self = Self(1);
    /// Closed to open pods; rulesets have their own rows for what it leads to.
    pub const TO_OPEN: Self = Self(2);
    /// Closed to all pods.
    pub const TO_ALL: Self = Self(3);
    /// In no table: closed to all pods if the node takes for its own what is sent there.
    pub const TO_ALL_IF_HERE: Self = Self(4);
}

/// Value of `prefixes`: the broad class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixWord(pub u64);

impl PrefixWord {
    /// The broad class of what lies under the prefix.
    #[inline(always)]
    pub const fn broad(self) -> Class {
        Class(self.0 as u32 & Class::MAX.0)
    }
}

/// Key of `rows`: bits 31..18 the ruleset, 17..0 the class or broad class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct RowKey(pub u32);

impl RowKey {
    /// What `ruleset` says of `class`.
    #[inline(always)]
    pub const fn new(ruleset: RulesetId, class: Class) -> Self {
        Self(ruleset.0 << 18 | class.0)
    }
}

/// The number of a set of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSetId(pub u16);

impl PortSetId {
    /// No port.
    pub const NONE: Self = Self(0);
    /// Every port.
    pub const ALL: Self = Self(1);
    /// The UDP ports of tunnels, which lead past the checks of source and peer.
    pub const TUNNEL_PORTS: Self = Self(2);
    /// The IP protocols that are tunnels, as bits of their numbers.
    pub const TUNNEL_PROTOCOLS: Self = Self(3);
    /// The lowest number for a compiled policy.
    pub const FIRST: Self = Self(4);
}

/// One ruleset's answer for one class, complete in itself: a port set for each of TCP, UDP, SCTP and the rest.
///
/// Value of `rows` and, with tags of zero, of `rulesets`. Each word: bits 63..32 the key as tag, and two port
/// sets: bits 31..16 and 15..0 are TCP and UDP in the first, SCTP and the rest in the second. The rest is a set
/// of IP protocol numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct RowWords(pub [u64; 2]);

/// The port sets of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowSets {
    /// TCP ports.
    pub tcp: PortSetId,
    /// UDP ports.
    pub udp: PortSetId,
    /// SCTP ports.
    pub sctp: PortSetId,
    /// Numbers of the other IP protocols.
    pub rest: PortSetId,
}

impl RowWords {
    /// The row of `key`, or of a ruleset's default, where the key is `RowKey(0)`.
    pub const fn new(key: RowKey, sets: RowSets) -> Self {
        let tag = (key.0 as u64) << 32;
        Self([
            tag | (sets.tcp.0 as u64) << 16 | sets.udp.0 as u64,
            tag | (sets.sctp.0 as u64) << 16 | sets.rest.0 as u64,
        ])
    }
}

/// Which port set of a row a protocol asks.
///
/// A number and no enum, worked out without branches: the kernel's verifier follows every branch to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column(u32);

impl Column {
    /// TCP.
    pub const TCP: Self = Self(0);
    /// UDP.
    pub const UDP: Self = Self(1);
    /// SCTP.
    pub const SCTP: Self = Self(2);
    /// Any other IP protocol; its number is the "port".
    pub const REST: Self = Self(3);

    /// The column of an IP protocol.
    #[inline(always)]
    pub const fn of(protocol: u8) -> Self {
        match protocol {
            crate::packet::TCP => Self::TCP,
            crate::packet::UDP => Self::UDP,
            crate::packet::SCTP => Self::SCTP,
            _ => Self::REST,
        }
    }

    /// Its number, for a call that takes numbers only.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The column with this number. Any is one of the four: what counts are the lowest two bits.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        Self(number & 3)
    }

    /// Which word of a row it stands in.
    #[inline(always)]
    pub const fn word(self) -> usize {
        (self.0 >> 1) as usize & 1
    }

    /// Its port set in that word.
    #[inline(always)]
    pub const fn set(self, word: u64) -> PortSetId {
        PortSetId((word >> (16 - 16 * (self.0 & 1))) as u16)
    }
}

/// Value of `portsets`: the chunk of each 4,096 ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct PortSetChunks(pub [u16; 16]);

/// Value of `chunks`: 4,096 ports as bits, lowest port in the lowest bit of the first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Chunk(pub [u64; 64]);

/// The chunk without any port.
pub const CHUNK_NONE: u16 = 0;
/// The chunk with every port.
pub const CHUNK_ALL: u16 = 1;
/// The chunk of [`PortSetId::TUNNEL_PROTOCOLS`].
pub const CHUNK_OF_PROTOCOLS: u16 = 2;
/// The first of 16 chunks of [`PortSetId::TUNNEL_PORTS`], of which the enforcer changes bits as the node's devices come and go.
pub const FIRST_CHUNK_OF_TUNNELS: u16 = 3;
/// The lowest chunk for a compiled policy; those below are for the tunnel sets.
pub const FIRST_CHUNK: u16 = FIRST_CHUNK_OF_TUNNELS + 16;

/// A verdict on the first packet of a flow, or on one judged again: what `events` carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Event {
    /// The pod's address, as the packet says it.
    pub pod: Address,
    /// The peer's address.
    pub peer: Address,
    /// When, in jiffies.
    pub when: u64,
    /// Source port, as in [`crate::Packet`].
    pub source_port: u16,
    /// Destination port, as in [`crate::Packet`].
    pub destination_port: u16,
    /// The attachment.
    pub slot: u16,
    /// The IP protocol.
    pub protocol: u8,
    /// The [`Direction`] as a number.
    pub direction: u8,
    /// The [`crate::Reason`] as a number.
    pub reason: u8,
    /// Zero.
    pub padding: [u8; 7],
}

const _: () = {
    assert!(size_of::<Event>() == 56);
    assert!(size_of::<Attachment>() == 8 * ATTACHMENT_HEAD + 16 * MAX_ADDRESSES);
    assert!(align_of::<Attachment>() == 8);
    assert!(size_of::<PrefixKey>() == 20);
    assert!(size_of::<WayKey>() == 24);
    assert!(size_of::<RowWords>() == 16);
    assert!(size_of::<PortSetChunks>() == 32);
    assert!(size_of::<Chunk>() == 512);
};
