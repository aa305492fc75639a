// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The hand-off: one request to the enforcer, one reply, within a bound.

use std::{
    fs, io,
    io::{Read, Write},
    os::{
        fd::AsRawFd,
        unix::{fs::MetadataExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket,
        sockopt::PeerCredentials,
    },
    unistd::Uid,
};
use podgate_handoff::{FrameError, Reply, Request, VERSION, encode, read_frame};

/// How long to wait before the socket is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// Whether an enforcer that is not there is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Try again until the bound: it may be starting.
    WaitForIt,
    /// Try once.
    Once,
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandoffError {
    /// The socket, or its directory, is missing, refuses, or its queue is full.
    #[error("connect to the enforcer at {} (is podgate-enforcer running?)", path.display())]
    Down {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection ended, or the bound was reached, before the reply was complete.
    #[error("no complete reply from the enforcer at {}", path.display())]
    NoReply {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else than the enforcer could answer there.
    #[error("the enforcer's socket {} cannot be trusted: {why}", path.display())]
    Untrusted {
        /// The socket.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The reply is no reply.
    #[error("read the enforcer's reply")]
    Garbled(#[source] FrameError),
    /// The enforcer speaks another version of the protocol.
    #[error(
        "the enforcer does not speak version {VERSION} of the hand-off; install plugin and enforcer of one release"
    )]
    Version,
    /// The request could not be made.
    #[error("make the request to the enforcer")]
    Request(#[source] FrameError),
}

impl HandoffError {
    /// Whether the enforcer may be there in a moment: it is down, starting, or was just restarted.
    fn may_pass(&self) -> bool {
        match self {
            Self::Down { .. } | Self::NoReply { .. } => true,
            Self::Untrusted { .. } | Self::Garbled(_) | Self::Version | Self::Request(_) => false,
        }
    }
}

/// The enforcer's socket, and whose it must be.
#[derive(Debug)]
pub(crate) struct Enforcer<'a> {
    /// Its path.
    pub(crate) socket: &'a Path,
    /// The user that must own its directory and answer on it.
    pub(crate) owner: Uid,
}

impl Enforcer<'_> {
    /// The enforcer at this socket, which must be root's.
    pub(crate) fn of_root(socket: &Path) -> Enforcer<'_> {
        Enforcer {
            socket,
            owner: Uid::from_raw(0),
        }
    }

    /// Sends `request` and returns the reply, within `budget`.
    pub(crate) fn ask(
        &self,
        request: &Request,
        budget: Duration,
        patience: Patience,
    ) -> Result<Reply, HandoffError> {
        let deadline = Instant::now() + budget;
        let frame = encode(request).map_err(HandoffError::Request)?;
        loop {
            let error = match self.try_once(&frame, deadline) {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let out_of_time = Instant::now() + PAUSE >= deadline;
            if out_of_time || patience == Patience::Once || !error.may_pass() {
                return Err(error);
            }
            thread::sleep(PAUSE);
        }
    }

    fn try_once(&self, frame: &[u8], deadline: Instant) -> Result<Reply, HandoffError> {
        self.check_directory()?;
        let stream = self.connect()?;
        self.check_peer(&stream)?;
        let mut stream = Bounded { stream, deadline };
        let no_reply = |source| HandoffError::NoReply {
            path: self.socket.to_owned(),
            source,
        };
        stream.write_all(frame).map_err(no_reply)?;
        let envelope =
            read_frame::<serde_json::Value>(&mut stream).map_err(|error| match error {
                FrameError::Io(source) => no_reply(source),
                FrameError::TooLong(_) | FrameError::Decode(_) => HandoffError::Garbled(error),
            })?;
        // The version is looked at first: a reply of another one may have another form.
        if envelope.version != VERSION {
            return Err(HandoffError::Version);
        }
        match serde_json::from_value(envelope.body) {
            Ok(Reply::UnknownVersion) => Err(HandoffError::Version),
            Ok(reply) => Ok(reply),
            Err(error) => Err(HandoffError::Garbled(error.into())),
        }
    }

    /// Whoever can write to the directory could put a socket of his own there, and say that a policy is in force.
    fn check_directory(&self) -> Result<(), HandoffError> {
        let directory = self.socket.parent().unwrap_or(Path::new("/"));
        let metadata = fs::metadata(directory).map_err(|source| self.down(source))?;
        if metadata.uid() != self.owner.as_raw() {
            Err(self.untrusted(format!(
                "{} belongs to user {}",
                directory.display(),
                metadata.uid()
            )))
        } else if metadata.mode() & 0o022 != 0 {
            Err(self.untrusted(format!("others may write to {}", directory.display())))
        } else {
            Ok(())
        }
    }

    fn connect(&self) -> Result<UnixStream, HandoffError> {
        let down = |errno: Errno| self.down(errno.into());
        let address =
            UnixAddr::new(self.socket).map_err(|errno| self.untrusted(errno.desc().to_owned()))?;
        // Not blocking, because a connect to an enforcer whose queue is full would wait without a bound.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(down)?;
        connect(fd.as_raw_fd(), &address).map_err(down)?;
        let stream = UnixStream::from(fd);
        stream
            .set_nonblocking(false)
            .map_err(|source| self.down(source))?;
        Ok(stream)
    }

    fn check_peer(&self, stream: &UnixStream) -> Result<(), HandoffError> {
        let peer = getsockopt(stream, PeerCredentials).map_err(|errno| self.down(errno.into()))?;
        if peer.uid() == self.owner.as_raw() {
            Ok(())
        } else {
            Err(self.untrusted(format!("user {} answers on it", peer.uid())))
        }
    }

    fn down(&self, source: io::Error) -> HandoffError {
        HandoffError::Down {
            path: self.socket.to_owned(),
            source,
        }
    }

    fn untrusted(&self, why: String) -> HandoffError {
        HandoffError::Untrusted {
            path: self.socket.to_owned(),
            why,
        }
    }
}

/// A stream that ends at a deadline, however slowly the other end goes.
struct Bounded {
    stream: UnixStream,
    deadline: Instant,
}

impl Bounded {
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

/// A socket's time-out is an `EAGAIN`, which says nothing to a reader of logs.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        io::ErrorKind::TimedOut.into()
    } else {
        error
    }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer).map_err(timed_out)
    }
}

impl Write for Bounded {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buffer).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
