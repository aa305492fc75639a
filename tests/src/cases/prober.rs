// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Real connections, many at once: sockets in the namespaces of pods, nodes and the machine outside, and one thread that
//! waits on all of them.

mod kept;
mod trial;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use podgate_policy::connection::Verdict;
use podgate_policy::model::Protocol;

use super::expect::What;
use super::ground::{Client, Ground, Server};
use super::judge::Seen;
use kept::Kept;

pub use trial::{Place, Target, Trial};

/// How long what must come may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long nothing must happen, once all has come that must, until what has not come is taken for denied: what came was
/// sent later, over the same interfaces.
const QUIET: Duration = Duration::from_millis(60);

/// When a datagram that should have been answered is sent again.
const AGAIN: Duration = Duration::from_millis(500);

/// The same, where it is waited for what is not in force yet.
const SOON: Duration = Duration::from_millis(10);

/// All sockets.
#[derive(Default)]
pub struct Prober {
    grounds: BTreeMap<Place, Ground>,
    servers: BTreeMap<(Place, Protocol, SocketAddr), Server>,
    kept: BTreeMap<Trial, Kept>,
    /// Server's ends of connections that are being tried.
    accepted: Vec<TcpStream>,
    next_echo: u16,
}

impl Prober {
    /// Knows the namespace of a place from now on; one that it knew there before is gone, with its sockets.
    pub fn settle(&mut self, place: Place, ground: Ground) {
        self.forget(&place);
        self.grounds.insert(place, ground);
    }

    /// A place is gone, with its sockets.
    pub fn forget(&mut self, place: &Place) {
        self.grounds.remove(place);
        self.stop_serving(place);
    }

    /// Closes the sockets of all who answer at a place.
    pub fn stop_serving(&mut self, place: &Place) {
        self.servers.retain(|(at, _, _), _| at != place);
    }

    /// Forgets all connections that were kept.
    pub fn forget_kept(&mut self) {
        self.kept.clear();
    }

    /// Tries all connections at once. What is expected to be denied is sent first.
    ///
    /// # Errors
    /// When a socket cannot be made.
    pub fn verdicts(&mut self, trials: &[(Trial, Verdict)]) -> Result<Vec<Seen<Verdict>>> {
        self.try_all(trials, AGAIN, PATIENCE)
    }

    /// Waits until all of these datagrams are answered; whether they were within the limit.
    ///
    /// # Errors
    /// When a socket cannot be made.
    pub fn answered(&mut self, trials: &[Trial], limit: Duration) -> Result<bool> {
        let expected: Vec<_> = trials.iter().map(|t| (t.clone(), Verdict::Allow)).collect();
        let seen = self.try_all(&expected, SOON, limit)?;
        Ok(seen.iter().all(|seen| *seen == Seen::Said(Verdict::Allow)))
    }

    fn try_all(
        &mut self,
        trials: &[(Trial, Verdict)],
        again: Duration,
        patience: Duration,
    ) -> Result<Vec<Seen<Verdict>>> {
        let destinations = trials.iter().map(|(trial, _)| trial);
        self.serve(destinations)?;
        let mut seen: Vec<Seen<Verdict>> = vec![Seen::NotTried; trials.len()];
        let mut waiting: BTreeMap<usize, Client> = BTreeMap::new();
        for wanted in [Verdict::Deny, Verdict::Allow] {
            let of_wanted = trials.iter().enumerate();
            let of_wanted = of_wanted.filter(|(_, (_, expected))| *expected == wanted);
            let mut by_place: BTreeMap<&Place, Vec<(usize, &Trial, u16)>> = BTreeMap::new();
            for (i, (trial, _)) in of_wanted {
                self.next_echo = self.next_echo.wrapping_add(1);
                let of_place = by_place.entry(&trial.from).or_default();
                of_place.push((i, trial, self.next_echo));
            }
            for (place, of_place) in by_place {
                let begun = self.grounds[place].run(|| {
                    let begin = |(i, trial, number): &(usize, &Trial, u16)| {
                        (*i, Client::begin(trial.what, trial.address, *number))
                    };
                    of_place.iter().map(begin).collect::<Vec<_>>()
                });
                for (i, client) in begun {
                    match client {
                        Ok(Some(client)) => drop(waiting.insert(i, client)),
                        Ok(None) => {}
                        Err(error) => seen[i] = Seen::Strange(error.to_string()),
                    }
                }
            }
        }
        self.wait_for(waiting, &mut seen, |i| trials[i].1, again, patience)?;
        self.accepted.clear();
        Ok(seen)
    }

    /// Waits until all that must come has come, and then until nothing happens any more.
    fn wait_for(
        &mut self,
        mut waiting: BTreeMap<usize, Client>,
        seen: &mut [Seen<Verdict>],
        expected: impl Fn(usize) -> Verdict,
        interval: Duration,
        patience: Duration,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut again = Instant::now() + interval;
        loop {
            let must_come = waiting.keys().any(|i| expected(*i) == Verdict::Allow);
            let now = Instant::now();
            if now >= deadline {
                break;
            }
            let limit = if must_come {
                again.min(deadline).saturating_duration_since(now)
            } else {
                QUIET
            };
            let something = self.wait(waiting.values(), limit)?;
            self.answer();
            waiting.retain(|i, client| match client.is_answered() {
                Ok(false) => true,
                Ok(true) => {
                    seen[*i] = Seen::Said(Verdict::Allow);
                    close(client);
                    false
                }
                Err(error) => {
                    seen[*i] = Seen::Strange(error.to_string());
                    false
                }
            });
            if !something && !must_come {
                break;
            }
            if Instant::now() >= again {
                again = Instant::now() + interval;
                for (_, client) in waiting
                    .iter()
                    .filter(|(i, _)| expected(**i) == Verdict::Allow)
                {
                    // What comes instead of an answer is seen when it is looked for.
                    client.ask().ok();
                }
            }
        }
        for i in waiting.into_keys() {
            seen[i] = Seen::Said(Verdict::Deny);
        }
        Ok(())
    }

    /// Waits until a client or a server has something to do; whether one had.
    fn wait<'a>(&self, clients: impl Iterator<Item = &'a Client>, limit: Duration) -> Result<bool> {
        let mut polled: Vec<PollFd> = Vec::new();
        for client in clients {
            polled.push(match client {
                Client::Tcp(stream) => PollFd::new(stream.as_fd(), PollFlags::POLLOUT),
                Client::Udp(socket) | Client::Echo(socket, _) => readable(socket.as_fd()),
            });
        }
        for server in self.servers.values() {
            polled.push(match server {
                Server::Tcp(listener) => readable(listener.as_fd()),
                Server::Udp(socket) => readable(socket.as_fd()),
            });
        }
        Ok(wait_on(&mut polled, limit)?)
    }

    /// Lets servers do what they have to do.
    fn answer(&mut self) {
        let mut buffer = [0; 2048];
        for server in self.servers.values() {
            match server {
                Server::Tcp(listener) => {
                    while let Ok((stream, _)) = listener.accept() {
                        reset_at_close(&stream);
                        self.accepted.push(stream);
                    }
                }
                Server::Udp(socket) => loop {
                    match socket.recv_from(&mut buffer) {
                        // An answer that cannot be sent is missed where it is waited for.
                        Ok((length, from)) => drop(socket.send_to(&buffer[..length], from)),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        // An ICMP error about an answer to someone who has closed.
                        Err(_) => {}
                    }
                },
            }
        }
    }

    /// Opens a server for everything that is tried, where there is none yet.
    fn serve<'a>(&mut self, trials: impl Iterator<Item = &'a Trial>) -> Result<()> {
        let mut missing: BTreeMap<Place, Vec<(Protocol, SocketAddr)>> = BTreeMap::new();
        for trial in trials {
            let What::Port(protocol, port) = trial.what else {
                continue;
            };
            let ends = match &trial.to {
                Target::Place(place) => {
                    vec![(place.clone(), SocketAddr::new(trial.address, port))]
                }
                Target::Translated(ends) => ends.clone(),
            };
            for (place, at) in ends {
                let key = (place, protocol, at);
                if protocol != Protocol::Sctp && !self.servers.contains_key(&key) {
                    missing.entry(key.0).or_default().push((protocol, at));
                }
            }
        }
        for (place, mut ports) in missing {
            ports.sort_unstable();
            ports.dedup();
            let servers = self.grounds[&place].run(|| {
                let open = |(protocol, at): &(Protocol, SocketAddr)| Server::at(*protocol, *at);
                ports.iter().map(open).collect::<Vec<_>>()
            });
            for ((protocol, at), server) in ports.into_iter().zip(servers) {
                let server = server.with_context(|| format!("serve {at} of {place:?}"))?;
                if let Some(server) = server {
                    self.servers.insert((place.clone(), protocol, at), server);
                }
            }
        }
        Ok(())
    }
}

fn readable(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(fd, PollFlags::POLLIN)
}

/// Waits until one of these is as it is waited for; whether one is.
fn wait_on(polled: &mut [PollFd<'_>], limit: Duration) -> io::Result<bool> {
    let milliseconds = u16::try_from(limit.as_millis() + 1).unwrap_or(u16::MAX);
    Ok(poll(polled, PollTimeout::from(milliseconds))? > 0)
}

fn close(client: &Client) {
    if let Client::Tcp(stream) = client {
        reset_at_close(stream);
    }
}

/// Thousands of connections a minute are not to wait for their last packets.
fn reset_at_close(stream: &TcpStream) {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // Without it the connection only lingers.
    setsockopt(stream, sockopt::Linger, &linger).ok();
}
