// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The protocol between the plugin and the enforcer, over a Unix socket: one request and one reply a connection.
//!
//! ```text
//! plugin ── Request ──► enforcer        frame: 4 bytes length (big endian), then JSON, at most 64 KiB
//!        ◄── Reply ────
//! ```
//!
//! The plugin has written the attachment's file, record and filters before it sends `Add`
//! (see `podgate_datapath`): the request only says where to look, so a lost one is found again by the enforcer.

use std::io::{self, Read, Write};

pub use podgate_core::AttachmentId;
use serde::{Deserialize, Serialize};

/// Version of this protocol. An enforcer answers a request of another version with [`Reply::UnknownVersion`].
pub const VERSION: u32 = 1;

/// The longest frame that either end accepts, in bytes, length prefix excluded.
pub const MAX_FRAME: usize = 64 * 1024;

/// A request with the version of the protocol that it speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// The protocol version of the sender.
    pub version: u32,
    /// What it says.
    pub body: T,
}

/// What the plugin asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// This attachment has been made; answer when its policy is in force.
    Add(#[serde(with = "AttachmentIdJson")] AttachmentId),
    /// This attachment is going away.
    Del(#[serde(with = "AttachmentIdJson")] AttachmentId),
    /// Whether an ADD could be served now (CNI STATUS).
    Status,
}

/// An attachment's identity in a request.
#[derive(Serialize, Deserialize)]
#[serde(remote = "AttachmentId")]
struct AttachmentIdJson {
    container_id: String,
    ifname: String,
}

/// What the enforcer answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The attachment is judged by its compiled policy, and its addresses have their class.
    InForce,
    /// The source is synced and knows no such pod: the baseline holds until it does.
    Unknown,
    /// The request was carried out (DEL), or the enforcer is ready (STATUS).
    Done,
    /// The policy could not be put in force; the baseline, or what was in force, holds. Says why.
    Failed(String),
    /// The request was of a protocol version that this enforcer does not speak.
    UnknownVersion,
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket failed, or closed in the middle of a frame.
    #[error("transfer a handoff frame")]
    Io(#[from] io::Error),
    /// The frame is longer than [`MAX_FRAME`].
    #[error("a handoff frame of {0} bytes is longer than the {MAX_FRAME} allowed")]
    TooLong(usize),
    /// The frame is not the JSON that was expected.
    #[error("decode a handoff frame")]
    Decode(#[from] serde_json::Error),
}

/// Encodes `body` as one frame, length prefix included.
pub fn encode<T: Serialize>(body: T) -> Result<Vec<u8>, FrameError> {
    let json = serde_json::to_vec(&Envelope {
        version: VERSION,
        body,
    })?;
    if json.len() > MAX_FRAME {
        return Err(FrameError::TooLong(json.len()));
    }
    let mut frame = Vec::with_capacity(4 + json.len());
    frame.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&json);
    Ok(frame)
}

/// The body length that a frame's prefix announces, if it is allowed.
pub fn body_length(prefix: [u8; 4]) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(prefix) as usize;
    if length > MAX_FRAME {
        Err(FrameError::TooLong(length))
    } else {
        Ok(length)
    }
}

/// Decodes the body of a frame.
pub fn decode<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<Envelope<T>, FrameError> {
    Ok(serde_json::from_slice(body)?)
}

/// Writes one frame to a blocking stream.
pub fn write_frame<T: Serialize>(stream: &mut impl Write, body: T) -> Result<(), FrameError> {
    Ok(stream.write_all(&encode(body)?)?)
}

/// Reads one frame from a blocking stream.
pub fn read_frame<T: for<'de> Deserialize<'de>>(
    stream: &mut impl Read,
) -> Result<Envelope<T>, FrameError> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let mut body = vec![0; body_length(prefix)?];
    stream.read_exact(&mut body)?;
    decode(&body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_the_same_json_as_ever() {
        let id = AttachmentId {
            container_id: "c".into(),
            ifname: "eth0".into(),
        };
        for (request, verb) in [(Request::Add(id.clone()), "add"), (Request::Del(id), "del")] {
            let frame = encode(request.clone()).unwrap();
            let json = format!(
                r#"{{"version":1,"body":{{"{verb}":{{"container_id":"c","ifname":"eth0"}}}}}}"#
            );
            assert_eq!(&frame[4..], json.as_bytes());
            assert_eq!(decode::<Request>(json.as_bytes()).unwrap().body, request);
        }
    }
}
