// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The Unix socket of the hand-off: one request and one reply a connection, root only.
//!
//! ```text
//! plugin ══► socket ── Request + oneshot ──► mailbox of the engine
//!        ◄══        ◄── Reply ──────────────
//! ```

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use podgate_handoff::{Envelope, FrameError, Reply, Request, VERSION, body_length, decode, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::engine::Handoff;
use crate::gone::EngineGone;

/// The socket's name in the run directory.
pub const NAME: &str = "cni.sock";

/// How many connections are served at a time; more wait in the socket's queue.
const CONNECTIONS: usize = 256;

/// How long a connection may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until its request is complete.
    pub request: Duration,
    /// From then until its answer is sent.
    pub reply: Duration,
    /// Until it is looked again whether the socket still has its name.
    pub look: Duration,
}

impl Default for Limits {
    /// A second for the request, which is one small frame; half a minute for the answer, longer than any plugin waits;
    /// a second without its name, half of what a plugin waits.
    fn default() -> Self {
        Self {
            request: Duration::from_secs(1),
            reply: Duration::from_secs(30),
            look: Duration::from_secs(1),
        }
    }
}

/// The socket, bound and named.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    run_dir: PathBuf,
    /// Device and inode of what had the name when it was given.
    named: (u64, u64),
    /// The only user that is served.
    uid: u32,
    limits: Limits,
}

impl Socket {
    /// Binds the socket in `run_dir`, which becomes root's alone (of `uid`, in tests). It has its name only when it
    /// accepts connections, and takes the name from a socket that an earlier enforcer left.
    pub fn bind(run_dir: &Path, uid: u32, limits: Limits) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(run_dir)
            .and_then(|()| fs::set_permissions(run_dir, Permissions::from_mode(0o700)))
            .with_context(|| format!("make the run directory {}", run_dir.display()))?;
        let unfinished: PathBuf = run_dir.join(format!(".{NAME}.{}", std::process::id()));
        let bind = || -> io::Result<(UnixListener, (u64, u64))> {
            match fs::remove_file(&unfinished) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let listener = UnixListener::bind(&unfinished)?;
            fs::set_permissions(&unfinished, Permissions::from_mode(0o600))?;
            let named = identity(&unfinished)?;
            fs::rename(&unfinished, run_dir.join(NAME))?;
            Ok((listener, named))
        };
        let (listener, named) =
            bind().with_context(|| format!("bind the socket {NAME} in {}", run_dir.display()))?;
        Ok(Self {
            listener,
            run_dir: run_dir.to_owned(),
            named,
            uid,
            limits,
        })
    }

    /// Takes its name again, if somebody removed it or gave it to something else.
    fn keep_name(&mut self) {
        if identity(&self.run_dir.join(NAME)).is_ok_and(|found| found == self.named) {
            return;
        }
        tracing::warn!("the socket's path was removed; it is bound again");
        match Self::bind(&self.run_dir, self.uid, self.limits) {
            Ok(bound) => *self = bound,
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "the socket has no name, and it is tried again"
            ),
        }
    }

    /// Serves until it is dropped, or `hand_over` says that nobody takes requests any more.
    pub async fn serve(
        mut self,
        hand_over: impl Fn(Handoff) -> Result<(), EngineGone> + Clone + Send + 'static,
    ) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let stream = match timeout(self.limits.look, self.listener.accept()).await {
                Ok(Ok((stream, _))) => stream,
                Err(_) => {
                    self.keep_name();
                    continue;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "a plugin's connection could not be accepted");
                    // Out of descriptors, most likely: those in use must end first.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (hand_over, limits, uid) = (hand_over.clone(), self.limits, self.uid);
            tokio::spawn(async move {
                if let Err(error) = converse(stream, uid, limits, hand_over).await {
                    tracing::warn!(error = format!("{error:#}"), "a plugin's connection failed");
                }
                drop(place);
            });
        }
    }
}

/// What tells one entry of a file system from another.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

async fn converse(
    mut stream: UnixStream,
    uid: u32,
    limits: Limits,
    hand_over: impl Fn(Handoff) -> Result<(), EngineGone>,
) -> Result<()> {
    let peer = stream.peer_cred().context("ask who is at the other end")?;
    if peer.uid() != uid {
        bail!("user {} is not served, only user {uid}", peer.uid());
    }
    let envelope = timeout(limits.request, read(&mut stream))
        .await
        .context("wait for the request")??;
    let reply = match understand(envelope) {
        Ok(request) => {
            let began = Instant::now();
            let kind = match &request {
                Request::Add(_) => "add",
                Request::Del(_) => "del",
                Request::Status => "status",
            };
            let (reply, answer) = oneshot::channel();
            hand_over(Handoff { request, reply })?;
            let reply = match timeout(limits.reply, answer).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(_)) => Reply::Failed("the enforcer is stopping".into()),
                Err(_) => Reply::Failed("the enforcer was too busy to answer in time".into()),
            };
            metrics::histogram!("podgate_handoff_seconds", "request" => kind, "reply" => name(&reply))
                .record(began.elapsed());
            reply
        }
        Err(reply) => reply,
    };
    let frame = encode(reply)?;
    timeout(limits.request, stream.write_all(&frame))
        .await
        .context("wait until the reply is taken")?
        .context("send the reply")
}

/// A reply's name in metrics.
fn name(reply: &Reply) -> &'static str {
    match reply {
        Reply::InForce => "in_force",
        Reply::Unknown => "unknown",
        Reply::Done => "done",
        Reply::Failed(_) => "failed",
        Reply::UnknownVersion => "unknown_version",
    }
}

async fn read(stream: &mut UnixStream) -> Result<Envelope<serde_json::Value>, FrameError> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await?;
    let mut body = vec![0; body_length(prefix)?];
    stream.read_exact(&mut body).await?;
    decode(&body)
}

/// The request, or what is answered to something else. The version comes first: another one may have another form.
fn understand(envelope: Envelope<serde_json::Value>) -> Result<Request, Reply> {
    if envelope.version != VERSION {
        return Err(Reply::UnknownVersion);
    }
    serde_json::from_value(envelope.body).map_err(|error| {
        Reply::Failed(format!("the request is none of version {VERSION}: {error}"))
    })
}

#[cfg(test)]
mod tests;
