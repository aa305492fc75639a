// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One request, all of its answers.

use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR,
    NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

/// Netlink messages begin at multiples of this many bytes.
const ALIGNMENT: usize = 4;
/// Length of `struct nlmsghdr`.
const HEADER_LENGTH: usize = 16;
/// `NLMSGERR_ATTR_MSG`: the kernel's own words for what it refuses.
const ERROR_TEXT: u16 = 1;
/// How often a dump is asked again when the table changed under it.
const DUMP_ATTEMPTS: usize = 16;

/// Why the kernel could not be asked, or what it answered.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be made, or could not send or receive.
    #[error("{op} a route netlink socket")]
    Socket {
        /// What was being done with the socket.
        op: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the request.
    #[error("kernel: {errno}{}", text.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Kernel {
        /// The error number, positive.
        errno: Errno,
        /// The kernel's explanation, where it has one.
        text: Option<String>,
    },
    /// The answer is not what netlink messages look like.
    #[error("decode a netlink answer: {0}")]
    Decode(String),
    /// The table changed during every attempt to read it.
    #[error("dump a kernel table: it changed during each of {DUMP_ATTEMPTS} dumps")]
    Unsteady,
}

impl NetlinkError {
    /// The kernel's error number, if the kernel answered with one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            Self::Socket { .. } | Self::Decode(_) | Self::Unsteady => None,
        }
    }
}

impl From<DecodeError> for NetlinkError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error.to_string())
    }
}

/// A route netlink socket of the network namespace in which it was opened.
pub struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
}

/// What a datagram said about the end of an answer.
enum Progress {
    /// More is to come.
    More,
    /// The answer is complete.
    Complete {
        /// Whether the table changed while it was being read.
        interrupted: bool,
    },
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace, with strict checking of requests, so that an old
    /// kernel refuses a filter that it does not know instead of answering with everything.
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |op| move |source| NetlinkError::Socket { op, source };
        let mut inner = netlink_sys::Socket::new(NETLINK_ROUTE).map_err(failed("open"))?;
        inner.bind_auto().map_err(failed("bind"))?;
        // Connected to the kernel, the socket takes no message from another process.
        inner
            .connect(&SocketAddr::new(0, 0))
            .map_err(failed("connect"))?;
        inner
            .set_netlink_get_strict_chk(true)
            .map_err(failed("set strict checking on"))?;
        inner
            .set_ext_ack(true)
            .map_err(failed("set extended errors on"))?;
        inner
            .set_cap_ack(true)
            .map_err(failed("set short errors on"))?;
        Ok(Self { inner, sequence: 0 })
    }

    /// Sends `message` with `flags` (`NLM_F_REQUEST`, and `NLM_F_ACK` where there is no dump, are added) and returns
    /// every message of the answer, until its end. A dump during which the table changed is asked again.
    ///
    /// # Errors
    /// A refusal of the kernel is [`NetlinkError::Kernel`].
    pub fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        // The kernel's rule: the lowest two bits of the type are 2 for a question, of which either bit makes a dump.
        let dump = message.message_type() & 3 == 2 && flags & NLM_F_DUMP != 0;
        let flags = NLM_F_REQUEST | flags | if dump { 0 } else { NLM_F_ACK };
        let mut request = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(message),
        );
        request.header.flags = flags;
        request.finalize();
        for _ in 0..DUMP_ATTEMPTS {
            self.sequence = self.sequence.wrapping_add(1);
            request.header.sequence_number = self.sequence;
            let mut bytes = vec![0; request.buffer_len()];
            request.serialize(&mut bytes);
            self.send(&bytes)?;
            let (answer, interrupted) = self.receive_all()?;
            if !interrupted {
                return Ok(answer);
            }
        }
        Err(NetlinkError::Unsteady)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        uninterrupted(|| self.inner.send(bytes, 0)).map_err(|source| NetlinkError::Socket {
            op: "send to",
            source,
        })?;
        Ok(())
    }

    /// Reads datagrams until the answer ends. On an error the rest of the answer is skipped by its sequence number.
    fn receive_all(&self) -> Result<(Vec<RouteNetlinkMessage>, bool), NetlinkError> {
        let mut answer = Vec::new();
        let mut interrupted = false;
        loop {
            let (datagram, _) =
                uninterrupted(|| self.inner.recv_from_full()).map_err(|source| {
                    NetlinkError::Socket {
                        op: "receive from",
                        source,
                    }
                })?;
            match read_datagram(&datagram, self.sequence, &mut answer, &mut interrupted)? {
                Progress::More => {}
                Progress::Complete { interrupted } => return Ok((answer, interrupted)),
            }
        }
    }
}

fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Takes the messages of one datagram that answer request `sequence`.
fn read_datagram(
    mut rest: &[u8],
    sequence: u32,
    answer: &mut Vec<RouteNetlinkMessage>,
    interrupted: &mut bool,
) -> Result<Progress, NetlinkError> {
    while !rest.is_empty() {
        let length = NetlinkBuffer::new_checked(rest)?.length() as usize;
        let (bytes, after) = (
            &rest[..length],
            &rest[length.next_multiple_of(ALIGNMENT).min(rest.len())..],
        );
        rest = after;
        if NetlinkBuffer::new(bytes).sequence_number() != sequence {
            continue;
        }
        let (header, payload) =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)?.into_parts();
        *interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
        match payload {
            NetlinkPayload::InnerMessage(message) => answer.push(message),
            NetlinkPayload::Done(done) if done.code == 0 => {
                return Ok(Progress::Complete {
                    interrupted: *interrupted,
                });
            }
            NetlinkPayload::Done(done) => {
                return Err(refusal(done.code, header.flags, &done.extended_ack));
            }
            NetlinkPayload::Error(error) if error.code.is_none() => {
                return Ok(Progress::Complete {
                    interrupted: *interrupted,
                });
            }
            NetlinkPayload::Error(error) => {
                let attributes = after_echoed_request(&error.header, header.flags);
                return Err(refusal(error.raw_code(), header.flags, attributes));
            }
            NetlinkPayload::Overrun(_) => {
                return Err(NetlinkError::Decode("messages were lost".into()));
            }
            // `Noop`, and what later versions of the crate may add.
            _ => {}
        }
    }
    Ok(Progress::More)
}

/// The attributes behind the request that an error message repeats: its header only where the kernel cut it short.
fn after_echoed_request(payload: &[u8], flags: u16) -> &[u8] {
    let echoed = match payload.first_chunk::<4>() {
        Some(length) if flags & NLM_F_CAPPED == 0 => u32::from_ne_bytes(*length) as usize,
        Some(_) | None => HEADER_LENGTH,
    };
    payload
        .get(echoed.next_multiple_of(ALIGNMENT)..)
        .unwrap_or_default()
}

fn refusal(code: i32, flags: u16, attributes: &[u8]) -> NetlinkError {
    let text = (flags & NLM_F_ACK_TLVS != 0)
        .then(|| {
            NlasIterator::new(attributes)
                .flatten()
                .find(|attribute| attribute.kind() == ERROR_TEXT)
        })
        .flatten()
        .map(|attribute| {
            String::from_utf8_lossy(attribute.value())
                .trim_end_matches('\0')
                .to_owned()
        });
    NetlinkError::Kernel {
        errno: Errno::from_raw(code.wrapping_abs()),
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::{link::LinkMessage, tc::TcMessage};

    #[test]
    fn a_dump_of_links_ends_and_holds_the_loopback() {
        let mut socket = Socket::open().unwrap();
        let answer = socket
            .request(
                RouteNetlinkMessage::GetLink(LinkMessage::default()),
                NLM_F_DUMP,
            )
            .unwrap();
        assert!(answer.iter().any(|message| matches!(message, RouteNetlinkMessage::NewLink(link) if link.header.index == 1)));
    }

    /// A refusal carries the error number, and the socket is good for the next request.
    #[test]
    fn a_refusal_carries_its_errno_and_the_socket_stays_usable() {
        let mut socket = Socket::open().unwrap();
        let mut nowhere = LinkMessage::default();
        nowhere.header.index = i32::MAX as u32;
        let error = socket
            .request(RouteNetlinkMessage::GetLink(nowhere), 0)
            .unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENODEV), "{error}");
        let mut loopback = LinkMessage::default();
        loopback.header.index = 1;
        assert_eq!(
            socket
                .request(RouteNetlinkMessage::GetLink(loopback), 0)
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let mut socket = Socket::open().unwrap();
        let mut message = LinkMessage::default();
        message.header.index = 1;
        message.header.link_layer_type = netlink_packet_route::link::LinkLayerType::Loopback;
        let error = socket
            .request(RouteNetlinkMessage::GetLink(message), 0)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "kernel: EINVAL: Invalid argument (Invalid values in header for get link request)"
        );
    }

    #[test]
    fn a_refused_dump_is_an_error_too() {
        let mut socket = Socket::open().unwrap();
        let mut nowhere = netlink_packet_route::address::AddressMessage::default();
        nowhere.header.index = i32::MAX as u32;
        nowhere.header.family = netlink_packet_route::AddressFamily::Inet;
        let error = socket
            .request(RouteNetlinkMessage::GetAddress(nowhere), NLM_F_DUMP)
            .unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENODEV), "{error}");
    }

    #[test]
    fn an_answer_without_messages_is_empty() {
        let mut socket = Socket::open().unwrap();
        let mut message = TcMessage::default();
        message.header.index = 1;
        let filters = socket
            .request(RouteNetlinkMessage::GetTrafficFilter(message), NLM_F_DUMP)
            .unwrap();
        assert_eq!(filters, []);
    }

    #[test]
    fn messages_of_another_request_are_skipped() {
        let mut done = NetlinkMessage::<RouteNetlinkMessage>::new(
            NetlinkHeader::default(),
            NetlinkPayload::Done(Default::default()),
        );
        done.header.sequence_number = 7;
        done.finalize();
        let mut bytes = vec![0; done.buffer_len()];
        done.serialize(&mut bytes);
        let end = |sequence| {
            let progress = read_datagram(&bytes, sequence, &mut Vec::new(), &mut false).unwrap();
            matches!(progress, Progress::Complete { interrupted: false })
        };
        assert!(end(7));
        assert!(!end(8));
    }

    #[test]
    fn half_a_message_is_an_error() {
        let error = read_datagram(&[40, 0, 0, 0, 1, 2], 1, &mut Vec::new(), &mut false);
        assert!(matches!(error, Err(NetlinkError::Decode(_))));
    }
}
