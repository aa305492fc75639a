// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One HTTP POST over a connection of its own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// How long an answer may take: a browser's start on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Posts JSON to the server on this port of 127.0.0.1; the status and the body of its answer.
///
/// # Errors
/// When it does not answer within a minute, or what it answers is not HTTP.
pub(super) fn post(port: u16, path: &str, body: &str) -> Result<(u16, String)> {
    let exchange = || -> Result<(u16, String)> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        read_answer(&mut stream)
    };
    exchange().with_context(|| format!("post to {path} of 127.0.0.1:{port}"))
}

/// Reads as much as the head announces; not every server closes the connection when asked to.
fn read_answer(stream: &mut impl Read) -> Result<(u16, String)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = stream.read(&mut buffer)?;
        bytes.extend_from_slice(&buffer[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            anyhow::ensure!(read > 0, "the answer ends within its head");
            continue;
        };
        let (head, body) = (&bytes[..end], &bytes[end + 4..]);
        let head = std::str::from_utf8(head).context("read the head")?;
        let length = content_length(head)?;
        if body.len() >= length {
            let status = head.split(' ').nth(1).context("read the status")?;
            let body = String::from_utf8(body[..length].to_vec()).context("read the body")?;
            return Ok((status.parse().context("read the status")?, body));
        }
        anyhow::ensure!(read > 0, "the answer ends within its body");
    }
}

fn content_length(head: &str) -> Result<usize> {
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map(|(_, value)| value.trim())
        .context("the answer has no content-length")?;
    length.parse().context("read the content-length")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let take = self.0.len().min(1);
            buffer[..take].copy_from_slice(&self.0[..take]);
            self.0 = &self.0[take..];
            Ok(take)
        }
    }

    #[test]
    fn an_answer_in_pieces_is_read_to_its_end_and_no_further() {
        let mut answer = Trickle(b"HTTP/1.1 404 Not Found\r\ncontent-LENGTH: 3\r\n\r\nnonext");
        assert_eq!(read_answer(&mut answer).unwrap(), (404, "non".to_owned()));
    }

    #[test]
    fn an_answer_that_is_cut_off_is_an_error() {
        for cut in [
            &b"HTTP/1.1 200 OK\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nno",
        ] {
            read_answer(&mut Trickle(cut)).unwrap_err();
        }
    }
}
