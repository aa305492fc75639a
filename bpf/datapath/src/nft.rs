// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `NETLINK_NETFILTER`, as far as tables of nftables need it: attributes, atomic batches, dumps.

use std::{io, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NlasIterator,
};
use netlink_sys::{SocketAddr, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt::ReceiveTimeout},
        time::{TimeVal, TimeValLike},
    },
};

/// Messages of `linux/netfilter/nf_tables.h`.
pub(crate) mod kind {
    pub(crate) const NEW_TABLE: u8 = 0;
    pub(crate) const DELETE_TABLE: u8 = 2;
    pub(crate) const NEW_CHAIN: u8 = 3;
    pub(crate) const GET_CHAIN: u8 = 4;
    pub(crate) const NEW_RULE: u8 = 6;
    pub(crate) const GET_RULE: u8 = 7;
    pub(crate) const GET_GENERATION: u8 = 16;
}

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `ENOTSUPP` of `linux/errno.h`, which user space was not meant to see.
const ENOTSUPP: i32 = 524;
/// The kernel answers at once, unless it loads a module first.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a dump is asked again when the ruleset changed under it.
const DUMP_ATTEMPTS: usize = 16;

/// Why the kernel's nftables could not be asked, or what it answered.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The socket could not be made, or could not send or receive.
    #[error("{op} a netfilter netlink socket")]
    Socket {
        /// What was being done with the socket.
        op: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the request.
    #[error("kernel: {}", io::Error::from_raw_os_error(*.0))]
    Kernel(i32),
    /// The ruleset changed during every attempt to read it.
    #[error("read the nftables ruleset: it changed during each of {DUMP_ATTEMPTS} dumps")]
    Unsteady,
}

impl NftError {
    fn number(&self) -> Option<i32> {
        match self {
            Self::Socket { source, .. } => source.raw_os_error(),
            Self::Kernel(number) => Some(*number),
            Self::Unsteady => None,
        }
    }

    /// Whether it says that the kernel was built without what was asked for, or may not load the module.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        let known = [
            Errno::EPROTONOSUPPORT as i32,
            Errno::EAFNOSUPPORT as i32,
            Errno::EOPNOTSUPP as i32,
            Errno::ENOENT as i32,
            ENOTSUPP,
        ];
        self.number().is_some_and(|number| known.contains(&number))
    }

    /// Whether it says that there is no such object.
    pub(crate) fn is_missing(&self) -> bool {
        self.number() == Some(Errno::ENOENT as i32)
    }
}

/// Attributes, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// As they are sent.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// With an attribute more.
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// A number, in the byte order of the network.
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn nested(self, kind: u16, value: &Self) -> Self {
        self.bytes(kind | NESTED, &value.0)
    }
}

/// The value of the first attribute of this kind.
pub(crate) fn find(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut all = NlasIterator::new(attributes).flatten();
    all.find(|it| it.kind() == kind)
        .map(|it| it.value().to_vec())
}

/// The values of all attributes.
pub(crate) fn all(attributes: &[u8]) -> Vec<Vec<u8>> {
    let all = NlasIterator::new(attributes).flatten();
    all.map(|it| it.value().to_vec()).collect()
}

/// A text without the zero at its end.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value)
        .trim_end_matches('\0')
        .to_owned()
}

fn message(
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    rest: &[u8],
) -> Vec<u8> {
    let length = u32::try_from(HEADER + FAMILY_HEADER + rest.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(rest);
    bytes
}

/// One message of an answer.
struct Answer {
    kind: u16,
    flags: u16,
    sequence: u32,
    /// Behind the header.
    body: Vec<u8>,
}

impl Answer {
    /// What the kernel made of a request, if this says so: 0 or an error number.
    fn error(&self) -> Option<i32> {
        let code = self.body.first_chunk::<4>();
        (self.kind == NLMSG_ERROR).then(|| code.map_or(0, |code| -i32::from_ne_bytes(*code)))
    }
}

fn answers(mut datagram: &[u8]) -> Vec<Answer> {
    let mut found = Vec::new();
    while let Some(header) = datagram.first_chunk::<HEADER>() {
        let short = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = word(0) as usize;
        let Some(body) = datagram.get(HEADER..length) else {
            break;
        };
        found.push(Answer {
            kind: short(4),
            flags: short(6),
            sequence: word(8),
            body: body.to_vec(),
        });
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    found
}

/// A socket of the network namespace in which it was opened.
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
}

impl Socket {
    pub(crate) fn open() -> Result<Self, NftError> {
        let failed = |op| move |source| NftError::Socket { op, source };
        let mut inner = netlink_sys::Socket::new(NETLINK_NETFILTER).map_err(failed("open"))?;
        inner.bind_auto().map_err(failed("bind"))?;
        inner
            .connect(&SocketAddr::new(0, 0))
            .map_err(failed("connect"))?;
        let limit = TimeVal::seconds(PATIENCE.as_secs().cast_signed());
        setsockopt(&inner, ReceiveTimeout, &limit)
            .map_err(|errno| failed("limit the patience of")(errno.into()))?;
        Ok(Self { inner, sequence: 0 })
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NftError> {
        let sent = self.inner.send(bytes, 0);
        sent.map(drop).map_err(|source| NftError::Socket {
            op: "send to",
            source,
        })
    }

    fn receive(&self) -> Result<Vec<Answer>, NftError> {
        let received = self.inner.recv_from_full();
        let (datagram, _) = received.map_err(|source| NftError::Socket {
            op: "receive from",
            source,
        })?;
        Ok(answers(&datagram))
    }

    /// Does all of this or nothing. A socket whose batch was refused is not to be used again.
    pub(crate) fn batch(mut self, family: u8, steps: &[(u8, Attributes)]) -> Result<(), NftError> {
        let mut bytes = message(BATCH_BEGIN, 0, self.next(), 0, SUBSYSTEM, &[]);
        for (kind, attributes) in steps {
            let flags = match *kind {
                kind::DELETE_TABLE => NLM_F_ACK,
                kind::NEW_RULE => NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND,
                _ => NLM_F_ACK | NLM_F_CREATE,
            };
            let kind = SUBSYSTEM << 8 | u16::from(*kind);
            bytes.extend(message(kind, flags, self.next(), family, 0, &attributes.0));
        }
        let last = self.sequence;
        bytes.extend(message(BATCH_END, 0, self.next(), 0, SUBSYSTEM, &[]));
        self.send(&bytes)?;
        loop {
            for answer in self.receive()? {
                match answer.error() {
                    Some(0) if answer.sequence == last => return Ok(()),
                    Some(0) | None => {}
                    Some(number) => return Err(NftError::Kernel(number)),
                }
            }
        }
    }

    /// Every message of the answer to a question, without its family header.
    pub(crate) fn ask(
        &mut self,
        kind: u8,
        dump: bool,
        family: u8,
        attributes: &Attributes,
    ) -> Result<Vec<Vec<u8>>, NftError> {
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.next();
            let flags = if dump { NLM_F_DUMP } else { NLM_F_ACK };
            let kind = SUBSYSTEM << 8 | u16::from(kind);
            self.send(&message(kind, flags, sequence, family, 0, &attributes.0))?;
            let (found, is_whole) = self.receive_all(sequence)?;
            if is_whole {
                return Ok(found);
            }
        }
        Err(NftError::Unsteady)
    }

    fn receive_all(&self, sequence: u32) -> Result<(Vec<Vec<u8>>, bool), NftError> {
        let (mut found, mut is_whole) = (Vec::new(), true);
        loop {
            for answer in self.receive()? {
                if answer.sequence != sequence {
                    continue;
                }
                is_whole &= answer.flags & NLM_F_DUMP_INTR == 0;
                match (answer.kind, answer.error()) {
                    (NLMSG_DONE, _) | (_, Some(0)) => return Ok((found, is_whole)),
                    (_, Some(number)) => return Err(NftError::Kernel(number)),
                    (_, None) => found.push(
                        answer
                            .body
                            .get(FAMILY_HEADER..)
                            .unwrap_or_default()
                            .to_vec(),
                    ),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_as_they_were_written() {
        let inner = Attributes::default().number(2, 7);
        let written = Attributes::default().text(1, "abc").nested(4, &inner);
        assert_eq!(find(&written.0, 1).map(|it| text(&it)), Some("abc".into()));
        let nested = find(&written.0, 4).unwrap();
        assert_eq!(find(&nested, 2), Some(7_u32.to_be_bytes().to_vec()));
        assert_eq!(find(&written.0, 3), None);
        assert_eq!(all(&written.0).len(), 2);
    }

    #[test]
    fn a_datagram_that_is_cut_anywhere_is_read_as_far_as_it_goes() {
        let one = message(3, 0, 1, 0, 0, &[1, 2, 3, 4]);
        let two = [one.clone(), one.clone()].concat();
        for length in 0..two.len() {
            let whole = length / one.len();
            assert_eq!(answers(&two[..length]).len(), whole, "{length}");
        }
    }

    #[test]
    fn what_a_kernel_lacks_is_told_from_what_went_wrong() {
        assert!(NftError::Kernel(ENOTSUPP).is_unsupported());
        assert!(NftError::Kernel(Errno::EAFNOSUPPORT as i32).is_unsupported());
        assert!(!NftError::Kernel(Errno::ENOMEM as i32).is_unsupported());
        assert!(!NftError::Unsteady.is_unsupported());
    }
}
