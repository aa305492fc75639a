// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a pod hears of the pods that talk to it: `modules/own/talker` says what they say.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::Pod;

/// How often a listener looks whether it is to end.
const LOOK: Duration = Duration::from_millis(200);

/// Enough for all that comes while the reader waits for the processor.
const BUFFER: usize = 16 * 1024 * 1024;

/// Something that was heard, and by which family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Whose name it was said under.
    pub talker: String,
    /// Whether it came by IPv4.
    pub is_ipv4: bool,
    /// When.
    pub at: Instant,
    /// What it was.
    pub said: Said,
}

/// What can be heard of a talker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// The datagram of this number, from 1.
    Datagram(u32),
    /// A connection, for which the talker had to send so many segments again.
    Open(u32),
    /// The connection was used to its end, and closed.
    Bye,
    /// The connection ended otherwise.
    Lost,
}

/// Listens at one port of a pod, TCP and UDP of both families, until it is dropped.
#[derive(Debug)]
pub struct Listener {
    heard: Receiver<Heard>,
    ended: Arc<AtomicBool>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Listener {
    /// Listens in the pod's network namespace.
    pub fn listen(pod: &Pod<'_>, port: u16) -> Self {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let (datagrams, connections) = pod
            .run(|| Ok::<_, io::Error>((UdpSocket::bind(any)?, TcpListener::bind(any)?)))
            .expect("listen in the pod");
        setsockopt(&datagrams, RcvBufForce, &BUFFER).expect("a large buffer");
        datagrams.set_read_timeout(Some(LOOK)).expect("a limit");
        let (out, heard) = mpsc::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let ear = Self {
            heard,
            ended: ended.clone(),
        };
        let (out_too, ended_too) = (out.clone(), ended.clone());
        thread::spawn(move || hear_datagrams(&datagrams, &out_too, &ended_too));
        // Ends with the first connection after its end, or with the process: there is no more to it than a thread.
        thread::spawn(move || {
            for connection in connections.incoming().flatten() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let out = out.clone();
                thread::spawn(move || hear_connection(&connection, &out));
            }
        });
        ear
    }

    /// What was heard since it was asked last, and no more than that.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.try_iter().collect()
    }
}

fn hear_datagrams(socket: &UdpSocket, out: &Sender<Heard>, ended: &AtomicBool) {
    let mut buffer = [0; 256];
    while !ended.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let text = String::from_utf8_lossy(&buffer[..length]);
        if let Some((talker, number)) = text.split_once(' ')
            && let Ok(number) = number.parse()
        {
            tell(out, talker, from.ip(), Said::Datagram(number));
        }
    }
}

/// Sends every line back, until the talker says goodbye or is not heard any more.
fn hear_connection(connection: &TcpStream, out: &Sender<Heard>) {
    let Ok(from) = connection.peer_addr() else {
        return;
    };
    // Longer than the talker's own patience.
    connection
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a limit");
    let mut talker = String::new();
    for line in BufReader::new(connection).lines() {
        let Ok(line) = line else { break };
        let mut words = line.split(' ');
        let (name, word) = (words.next().unwrap_or_default(), words.next());
        name.clone_into(&mut talker);
        match word {
            Some("open") => {
                let again = words.next().and_then(|count| count.parse().ok());
                tell(out, name, from.ip(), Said::Open(again.unwrap_or(u32::MAX)));
            }
            Some("bye") => tell(out, name, from.ip(), Said::Bye),
            _ => {}
        }
        // Whether the talker hears it is for the talker to say.
        writeln!(&mut &*connection, "{line}").ok();
        if word == Some("bye") {
            return;
        }
    }
    tell(out, &talker, from.ip(), Said::Lost);
}

fn tell(out: &Sender<Heard>, talker: &str, from: IpAddr, said: Said) {
    let is_ipv4 = from.to_canonical().is_ipv4();
    let heard = Heard {
        talker: talker.to_owned(),
        is_ipv4,
        at: Instant::now(),
        said,
    };
    // Nobody may be listening any more.
    out.send(heard).ok();
}
