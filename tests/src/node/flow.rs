// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Traffic that runs beside a test, and is counted: what is always allowed must come back, what is always denied
//! must not arrive.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Pod;

/// How long an answer may take: longer than a busy machine pauses. A datagram that was dropped never comes; TCP sends
/// again, so that it shows what stays shut, not what was shut for a moment.
const ANSWER: Duration = Duration::from_millis(2500);

/// How often a server looks whether it is to end.
const TICK: Duration = Duration::from_millis(50);

/// A pause that leaves the processor to others.
const PAUSE: Duration = Duration::from_micros(500);

/// What was seen so far.
#[derive(Debug, Default)]
struct Tally {
    sent: AtomicU64,
    wrong: AtomicU64,
}

/// What one thread of traffic does again and again.
type Part = Box<dyn FnMut(&Tally) + Send>;

/// Traffic between two pods that goes on until it is asked for its result.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    tally: Arc<Tally>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said why.
            thread.join().ok();
        }
    }
}

impl Traffic {
    fn run(parts: [Part; 2]) -> Self {
        let (stop, tally) = (Arc::<AtomicBool>::default(), Arc::<Tally>::default());
        let threads = parts
            .into_iter()
            .map(|mut part| {
                let (stop, tally) = (Arc::clone(&stop), Arc::clone(&tally));
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        part(&tally);
                    }
                })
            })
            .collect();
        Self {
            stop,
            tally,
            threads,
        }
    }

    /// Datagrams and their echoes, over one socket and over a new one each time. One without an echo is wrong.
    pub fn udp_echoes(from: &Pod, to: &Pod, at: IpAddr) -> Self {
        let server = bind(to, at);
        let target = server.local_addr().expect("an address");
        server.set_read_timeout(Some(TICK)).expect("a limit");
        let lasting = bind(from, from_family(from, at));
        let source = lasting.local_addr().expect("an address").ip();
        let namespace = from.netns.path().to_owned();
        let mut number = 0_u32;
        Self::run([
            Box::new(move |_| echo(&server)),
            Box::new(move |tally| {
                number += 1;
                let fresh;
                let socket = if number.is_multiple_of(2) {
                    &lasting
                } else {
                    fresh = in_file(&namespace, || {
                        UdpSocket::bind(SocketAddr::new(source, 0)).expect("bind")
                    });
                    &fresh
                };
                socket.set_read_timeout(Some(ANSWER)).expect("a limit");
                tally.sent.fetch_add(1, Ordering::Relaxed);
                let came = socket.send_to(&number.to_be_bytes(), target).is_ok()
                    && returns(socket, number);
                if !came {
                    tally.wrong.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(PAUSE);
            }),
        ])
    }

    /// TCP: one connection on which bytes come and go, and new ones. A byte that does not come back, or a
    /// connection that does not open, is wrong.
    pub fn tcp_echoes(from: &Pod, to: &Pod, at: IpAddr) -> Self {
        let listener = to
            .netns
            .run(|| TcpListener::bind(SocketAddr::new(at, 0)).expect("bind"))
            .expect("enter a pod");
        let target = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("non-blocking");
        let lasting = from
            .netns
            .run(|| TcpStream::connect(target).expect("connect"))
            .expect("enter a pod");
        lasting.set_read_timeout(Some(ANSWER)).expect("a limit");
        lasting.set_nodelay(true).expect("no delay");
        let namespace = from.netns.path().to_owned();
        let mut connections = Vec::new();
        let mut lasting = lasting;
        let mut number = 0_u32;
        Self::run([
            Box::new(move |_| {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).expect("non-blocking");
                    stream.set_nodelay(true).expect("no delay");
                    connections.push(stream);
                }
                let mut byte = [0];
                connections.retain_mut(|stream: &mut TcpStream| match stream.read(&mut byte) {
                    Ok(0) => false,
                    Ok(_) => stream.write_all(&byte).is_ok(),
                    Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
                });
                thread::sleep(PAUSE);
            }),
            Box::new(move |tally| {
                number += 1;
                tally.sent.fetch_add(1, Ordering::Relaxed);
                let came = if number.is_multiple_of(8) {
                    in_file(&namespace, || {
                        TcpStream::connect_timeout(&target, ANSWER).is_ok()
                    })
                } else {
                    let mut byte = [0];
                    lasting.write_all(&[number as u8]).is_ok()
                        && lasting.read_exact(&mut byte).is_ok()
                        && byte == [number as u8]
                };
                if !came {
                    tally.wrong.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(PAUSE);
            }),
        ])
    }

    /// Datagrams over one socket and over a new one each time. One that arrives is wrong.
    pub fn denied(from: &Pod, to: &Pod, at: IpAddr) -> Self {
        let server = bind(to, at);
        let target = server.local_addr().expect("an address");
        server.set_read_timeout(Some(TICK)).expect("a limit");
        let lasting = bind(from, from_family(from, at));
        let source = lasting.local_addr().expect("an address").ip();
        let namespace = from.netns.path().to_owned();
        let mut number = 0_u32;
        Self::run([
            Box::new(move |tally| {
                if server.recv_from(&mut [0; 8]).is_ok() {
                    tally.wrong.fetch_add(1, Ordering::Relaxed);
                }
            }),
            Box::new(move |tally| {
                number += 1;
                tally.sent.fetch_add(1, Ordering::Relaxed);
                let sent = if number.is_multiple_of(2) {
                    lasting.send_to(&number.to_be_bytes(), target)
                } else {
                    let fresh = in_file(&namespace, || {
                        UdpSocket::bind(SocketAddr::new(source, 0)).expect("bind")
                    });
                    fresh.send_to(&number.to_be_bytes(), target)
                };
                sent.expect("send");
                thread::sleep(PAUSE);
            }),
        ])
    }

    /// How many packets or bytes were sent so far.
    pub fn sent(&self) -> u64 {
        self.tally.sent.load(Ordering::Relaxed)
    }

    /// How many went wrong so far.
    pub fn wrong(&self) -> u64 {
        self.tally.wrong.load(Ordering::Relaxed)
    }
}

fn from_family(pod: &Pod, like: IpAddr) -> IpAddr {
    let same = |address: &&IpAddr| address.is_ipv4() == like.is_ipv4();
    *pod.addresses
        .iter()
        .find(same)
        .expect("an address of the family")
}

fn bind(pod: &Pod, at: IpAddr) -> UdpSocket {
    pod.netns
        .run(|| UdpSocket::bind(SocketAddr::new(at, 0)).expect("bind"))
        .expect("enter a pod")
}

/// Runs `work` in the namespace of a file, on a thread of its own.
fn in_file<T: Send>(path: &std::path::Path, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let entered = scope.spawn(|| {
            podgate_demo::netns::enter(path).expect("enter a namespace");
            work()
        });
        entered.join().expect("the work does not panic")
    })
}

fn echo(server: &UdpSocket) {
    let mut buffer = [0; 8];
    if let Ok((length, from)) = server.recv_from(&mut buffer) {
        // An answer that cannot be sent is one that does not come.
        server.send_to(&buffer[..length], from).ok();
    }
}

fn returns(socket: &UdpSocket, number: u32) -> bool {
    let mut buffer = [0; 8];
    while let Ok(length) = socket.recv(&mut buffer) {
        if buffer[..length] == number.to_be_bytes() {
            return true;
        }
    }
    false
}
