// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::{Address, Direction, PolicyWord, Word};

/// Key of `flows`, `embryonic` and `crowd`: oriented by the hook, so that both directions are one look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct FlowKey {
    /// The peer's address.
    pub peer: Address,
    /// The peer's port; the identifier of an ICMP echo that the peer began; else 0.
    pub peer_port: u16,
    /// The pod's port; the identifier of an ICMP echo that the pod began; else 0.
    pub pod_port: u16,
    /// The attachment.
    pub slot: u16,
    /// The IP protocol.
    pub protocol: u8,
    /// Zero.
    pub padding: u8,
}

impl FlowKey {
    #[inline(always)]
    const fn tag(&self) -> u64 {
        let ports = (self.peer_port as u32) << 16 | self.pod_port as u32;
        let ends = (self.slot as u32) << 8 | self.protocol as u32;
        let mut hash = self.peer.mix() ^ ports.wrapping_mul(0x9e37_79b1);
        hash = hash.rotate_left(11) ^ ends.wrapping_mul(0x85eb_ca77);
        (hash ^ (hash >> 16)) as u64 & FlowWord::TAG
    }
}

/// Who began a flow, and so which policy judges it.
///
/// A number and no enum: see [`crate::Column`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Initiator(u8);

impl Initiator {
    /// The pod: judged from the pod.
    pub const POD: Self = Self(0);
    /// The peer: judged to the pod.
    pub const PEER: Self = Self(1);
    /// Picked up from the pod in mid-stream, its SYN not seen: the pod may be the server. Judged again, both
    /// directions must allow it.
    pub const MIDSTREAM: Self = Self(2);
    /// The node itself, to the pod: never judged, and only packets that come from the node belong to it.
    pub const NODE: Self = Self(3);

    /// Whether packets of `direction` are the initiator's.
    #[inline(always)]
    pub const fn sends(self, direction: Direction) -> bool {
        (self.0 & 1 == 1) == matches!(direction, Direction::Ingress)
    }
}

/// How far a flow has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct FlowState(u8);

impl FlowState {
    /// TCP: the initiator's SYN was seen.
    pub const SYN: Self = Self(0);
    /// TCP: the responder's SYN-ACK was seen; the third step is not.
    pub const SYN_ACK: Self = Self(1);
    /// Not TCP, or TCP in mid-stream: seen in one direction only.
    pub const HALF: Self = Self(2);
    /// Seen in both directions.
    pub const ESTABLISHED: Self = Self(3);
    /// TCP: an RST was seen, or a FIN of both ends, or a SYN in an established flow.
    ///
    /// The receiver may have ignored any of these (wrong checksum or sequence number), and nothing here tells. So the
    /// flow stays valid for as long as an established one; user space takes it away when its pod needs the room.
    pub const CLOSING: Self = Self(4);
    /// TCP: the pod sent a FIN; the peer may go on for as long as it likes.
    pub const POD_CLOSED: Self = Self(5);
    /// TCP: the peer sent a FIN.
    pub const PEER_CLOSED: Self = Self(6);

    /// Whether it was seen in both directions, whatever came after.
    #[inline(always)]
    pub const fn is_answered(self) -> bool {
        self.0 >= Self::ESTABLISHED.0
    }

    /// Whether an end of it was seen.
    #[inline(always)]
    pub const fn is_ending(self) -> bool {
        self.0 > Self::ESTABLISHED.0
    }

    /// Seconds without a packet after which the flow is none. TCP: 86,400 s established, as kube-proxy sets
    /// `nf_conntrack_tcp_timeout_established`; the others as Linux conntrack has them.
    #[inline(always)]
    pub const fn timeout(self, protocol: u8) -> u32 {
        if self.is_answered() {
            if protocol == crate::packet::TCP {
                86_400
            } else {
                180
            }
        } else if self.0 == Self::SYN.0 {
            120
        } else {
            60
        }
    }

    /// Seconds without a packet after which user space may take the flow away before it times out, if its pod needs the
    /// room: as Linux conntrack has it for a connection that has ended, and an hour for one that is half closed. None
    /// while no end was seen.
    pub const fn linger(self) -> Option<u32> {
        match self {
            Self::CLOSING => Some(120),
            Self::POD_CLOSED | Self::PEER_CLOSED => Some(3600),
            _ => None,
        }
    }

    /// How far an answered TCP flow has come after a segment with these flags. `is_answer`: the responder's.
    #[inline(always)]
    pub(crate) fn after(self, flags: u8, direction: Direction, is_answer: bool) -> Self {
        use crate::packet::tcp::{ACK, FIN, PSH, RST, SYN};
        let is_pods = matches!(direction, Direction::Egress);
        let [own, other] = if is_pods {
            [Self::POD_CLOSED, Self::PEER_CLOSED]
        } else {
            [Self::PEER_CLOSED, Self::POD_CLOSED]
        };
        if flags & RST != 0 || (flags & FIN != 0 && self == other) {
            Self::CLOSING
        } else if flags & FIN != 0 && self == Self::ESTABLISHED {
            own
        } else if self == Self::CLOSING
            // What the pod sends is its own, and who has data to send has not been reset. A mere acknowledgment
            // ends every connection.
            && flags & FIN == 0
            && ((is_pods && flags & PSH != 0) || (is_answer && flags & (SYN | ACK) == SYN | ACK))
        {
            Self::ESTABLISHED
        } else {
            self
        }
    }
}

/// The generations of an attachment, from its birth to the latest in force.
///
/// Generations wrap around: they are compared by how far they lie behind the latest, never with the birth alone. On a
/// busy node 2^31 of them are drawn in some weeks, and an attachment may live longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    birth: u32,
    latest: u32,
}

impl Life {
    /// That of an attachment with these words. One of them may have the generation of its birth for ever.
    #[inline(always)]
    pub const fn new(birth: u32, one: PolicyWord, other: PolicyWord) -> Self {
        let (one, other) = (one.generation(), other.generation());
        let is_one = one.wrapping_sub(birth) >= other.wrapping_sub(birth);
        Self {
            birth,
            latest: if is_one { one } else { other },
        }
    }

    /// The generation that changes whenever that of either direction does.
    #[inline(always)]
    pub const fn latest(self) -> u32 {
        self.latest
    }
}

/// The word of a flow: bits 63..32 generation, 31..30 initiator, 29..27 state, 26..0 tag of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct FlowWord(pub u64);

impl FlowWord {
    /// There is no such flow. (An unjudged flow has no generation 0, so no flow has this word.)
    pub const NONE: Self = Self(0);
    const TAG: u64 = (1 << 27) - 1;

    /// The word of the flow `key`.
    #[inline(always)]
    pub const fn new(
        key: &FlowKey,
        generation: u32,
        initiator: Initiator,
        state: FlowState,
    ) -> Self {
        let origin = (initiator.0 as u64) << 30 | (state.0 as u64) << 27;
        Self((generation as u64) << 32 | origin | key.tag())
    }

    /// Whether the word was written for `key`.
    #[inline(always)]
    pub const fn belongs_to(self, key: &FlowKey) -> bool {
        self.0 & Self::TAG == key.tag()
    }

    /// The generation that judged it last.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether it was judged for an attachment that was there before the one of this life.
    #[inline(always)]
    pub const fn is_older_than(self, life: Life) -> bool {
        let behind = life.latest.wrapping_sub(self.generation());
        // It is ahead of a packet whose attachment was renewed since it read the words.
        let is_ahead = (behind as i32) < 0;
        !is_ahead && behind > life.latest.wrapping_sub(life.birth)
    }

    /// Who began it.
    #[inline(always)]
    pub const fn initiator(self) -> Initiator {
        Initiator((self.0 >> 30) as u8 & 3)
    }

    /// How far it has come.
    #[inline(always)]
    pub const fn state(self) -> FlowState {
        FlowState((self.0 >> 27) as u8 & 7)
    }
}

/// Value of `flows`, `embryonic` and `crowd`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct FlowValue {
    /// A [`FlowWord`]. Replaced with the whole element, never written in place.
    pub word: Word,
    /// When its last packet passed, in jiffies. Written in place: it decides nothing but a time-out.
    pub seen: Word,
}

impl FlowValue {
    /// `word`, seen at `now`.
    pub const fn new(word: FlowWord, now: u64) -> Self {
        Self {
            word: Word::new(word.0),
            seen: Word::new(now),
        }
    }

    /// Its word.
    #[inline(always)]
    pub fn word(&self) -> FlowWord {
        FlowWord(self.word.load())
    }
}

/// How much an attachment has of the tables of flows. Value of `quotas`, by slot.
///
/// The programs count what they enter and delete, user space what it deletes. Both ask the kernel whether it was they
/// who did it, so no count strays; should one all the same, the next look at the table mends it.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Quota {
    /// Entries in `flows`.
    pub flows: Word,
    /// Entries in `embryonic`.
    pub embryonic: Word,
}

impl Quota {
    /// Whether a count is below `limit`. One that strayed below zero is.
    #[inline(always)]
    pub(crate) fn is_below(count: &Word, limit: u64) -> bool {
        (count.load() as i64) < limit as i64
    }
}

/// Where a flow stands. A number and no enum: see [`crate::Column`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub(crate) struct Place(u8);

impl Place {
    /// In no table.
    pub(crate) const NOWHERE: Self = Self(0);
    /// In [`crate::FlowTable::Flows`].
    pub(crate) const FLOWS: Self = Self(1);
    /// In [`crate::FlowTable::Embryonic`].
    pub(crate) const EMBRYONIC: Self = Self(2);
    /// In [`crate::FlowTable::Crowd`].
    pub(crate) const CROWD: Self = Self(3);
}

/// Key of `fragments`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct FragmentKey {
    /// The peer's address.
    pub peer: Address,
    /// The pod's address, as the packet says it.
    pub pod: Address,
    /// The identification field; 16 bits in IPv4.
    pub identification: u32,
    /// The attachment.
    pub slot: u16,
    /// The [`Direction`] as a number.
    pub direction: u8,
    /// IPv4: the protocol (RFC 791: part of what names a datagram). IPv6: 0 (RFC 8200: it is not).
    pub protocol: u8,
}

/// Value of `fragments`: bits 63..32 when, in jiffies; 31..1 tag of the key and of the policy that judged; 0 whether the
/// first one was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct FragmentValue(pub u64);

/// Seconds for which fragments follow their first: `net.ipv4.ipfrag_time`.
const FRAGMENT_TIMEOUT: u32 = 30;

impl FragmentValue {
    /// What the first fragment of `key` was judged under `policy`, which names the generations of both directions.
    #[inline(always)]
    pub const fn new(key: &FragmentKey, policy: u32, passed: bool, now: u64) -> Self {
        Self((now as u32 as u64) << 32 | Self::tag(key, policy) | passed as u64)
    }

    #[inline(always)]
    const fn tag(key: &FragmentKey, policy: u32) -> u64 {
        let ends = (key.slot as u32) << 16 | (key.direction as u32) << 8 | key.protocol as u32;
        let hash = key.peer.mix()
            ^ key.pod.mix().rotate_left(7)
            ^ key.identification.wrapping_mul(0x9e37_79b1)
            ^ policy.wrapping_mul(0xc2b2_ae35);
        ((hash ^ ends.wrapping_mul(0x85eb_ca77)) as u64) & 0xffff_fffe
    }

    /// Whether the first fragment of `key` was passed, under this `policy`, and lately enough. `second` is a second in
    /// jiffies.
    #[inline(always)]
    pub const fn passed(self, key: &FragmentKey, policy: u32, now: u64, second: u32) -> bool {
        let age = (now as u32).wrapping_sub((self.0 >> 32) as u32);
        self.0 & 0xffff_fffe == Self::tag(key, policy)
            && self.0 & 1 == 1
            && age <= FRAGMENT_TIMEOUT * second
    }
}

const _: () = {
    assert!(size_of::<FlowKey>() == 24);
    assert!(size_of::<FlowValue>() == 16);
    assert!(size_of::<Quota>() == 16);
    assert!(size_of::<FragmentKey>() == 40);
};
