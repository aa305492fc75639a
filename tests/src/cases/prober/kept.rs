// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Connections that are opened and kept, and what becomes of them.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use podgate_policy::model::Protocol;

use super::{AGAIN, PATIENCE, Place, Prober, QUIET, Target, Trial, readable, wait_on};
use crate::cases::expect::What;
use crate::cases::ground::{Client, Server, received};
use crate::cases::judge::Seen;

/// A connection that is kept.
pub(super) enum Kept {
    Tcp {
        client: TcpStream,
        server: TcpStream,
    },
    Udp {
        client: UdpSocket,
        port: (Place, SocketAddr),
    },
}

impl Prober {
    /// Opens connections and keeps them.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn keep(&mut self, trials: &[Trial]) -> Result<()> {
        self.serve(trials.iter())?;
        for trial in trials {
            let kept = self
                .open_to_keep(trial)
                .with_context(|| format!("open {trial:?}, which is to be kept"))?;
            self.kept.insert(trial.clone(), kept);
        }
        let alive: Vec<_> = trials.iter().map(|trial| (trial.clone(), true)).collect();
        for ((trial, _), seen) in alive.iter().zip(self.alive(&alive)?) {
            anyhow::ensure!(
                seen == Seen::Said(true),
                "{trial:?} was opened, and {seen:?} when bytes were sent"
            );
        }
        Ok(())
    }

    fn open_to_keep(&self, trial: &Trial) -> Result<Kept> {
        let What::Port(protocol, port) = trial.what else {
            anyhow::bail!("echoes cannot be kept");
        };
        let Target::Place(place) = &trial.to else {
            anyhow::bail!("connections to Services are not kept");
        };
        let to = SocketAddr::new(trial.address, port);
        let ground = &self.grounds[&trial.from];
        let key = (place.clone(), protocol, to);
        match self.servers.get(&key) {
            Some(Server::Tcp(listener)) => {
                let client = ground.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
                let own = client.local_addr()?;
                let server = loop {
                    wait_on(&mut [readable(listener.as_fd())], PATIENCE)?;
                    let (stream, from) = listener.accept()?;
                    if from == own {
                        break stream;
                    }
                };
                for stream in [&client, &server] {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                }
                Ok(Kept::Tcp { client, server })
            }
            Some(Server::Udp(_)) => {
                let client = ground.run(|| Client::begin(trial.what, trial.address, 0))?;
                let Some(Client::Udp(client)) = client else {
                    anyhow::bail!("a UDP socket was wanted");
                };
                Ok(Kept::Udp {
                    client,
                    port: (place.clone(), to),
                })
            }
            None => anyhow::bail!("there are no sockets for it"),
        }
    }

    /// Whether bytes go both ways over connections that were kept; `true` is expected of those that live.
    ///
    /// # Errors
    /// When a connection was not kept.
    pub fn alive(&mut self, expected: &[(Trial, bool)]) -> Result<Vec<Seen<bool>>> {
        let mut passed: Vec<[bool; 2]> = vec![[false; 2]; expected.len()];
        // What was on its way when the connection was cut is not sent again.
        let mut clients: BTreeMap<(Place, SocketAddr, SocketAddr), usize> = BTreeMap::new();
        for (i, (trial, _)) in expected.iter().enumerate() {
            match self.kept.get(trial).context("a connection was not kept")? {
                Kept::Tcp { client, server } => {
                    send(client)?;
                    send(server)?;
                }
                Kept::Udp { client, port } => {
                    // Answers of before.
                    while received(client)?.is_some() {}
                    client.send(b"!")?;
                    let own = client.local_addr()?;
                    clients.insert((port.0.clone(), port.1, own), i);
                }
            }
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let must_come = expected
                .iter()
                .zip(&passed)
                .any(|((_, alive), passed)| *alive && *passed != [true; 2]);
            let limit = if must_come { AGAIN } else { QUIET };
            let something = self.wait_for_bytes(expected, limit)?;
            self.receive(expected, &clients, &mut passed)?;
            if (!something && !must_come) || Instant::now() >= deadline {
                break;
            }
        }
        Ok(passed
            .into_iter()
            .map(|passed| match passed {
                [true, true] => Seen::Said(true),
                [false, false] => Seen::Said(false),
                [there, back] => Seen::Strange(format!("bytes there: {there}, bytes back: {back}")),
            })
            .collect())
    }

    fn wait_for_bytes(&self, expected: &[(Trial, bool)], limit: Duration) -> Result<bool> {
        let mut polled = Vec::new();
        for (trial, _) in expected {
            match &self.kept[trial] {
                Kept::Tcp { client, server } => {
                    polled.extend([readable(client.as_fd()), readable(server.as_fd())]);
                }
                Kept::Udp { client, port } => {
                    polled.push(readable(client.as_fd()));
                    if let Some(Server::Udp(socket)) =
                        self.servers.get(&(port.0.clone(), Protocol::Udp, port.1))
                    {
                        polled.push(readable(socket.as_fd()));
                    }
                }
            }
        }
        Ok(wait_on(&mut polled, limit)?)
    }

    /// Takes what has come, and notes over which connection, and which way.
    fn receive(
        &self,
        expected: &[(Trial, bool)],
        clients: &BTreeMap<(Place, SocketAddr, SocketAddr), usize>,
        passed: &mut [[bool; 2]],
    ) -> Result<()> {
        for (i, (trial, _)) in expected.iter().enumerate() {
            match &self.kept[trial] {
                Kept::Tcp { client, server } => {
                    passed[i][0] |= has_received(server)?;
                    passed[i][1] |= has_received(client)?;
                }
                Kept::Udp { client, .. } => {
                    passed[i][1] |= received(client)?.is_some();
                }
            }
        }
        for ((place, protocol, at), server) in &self.servers {
            let (Protocol::Udp, Server::Udp(socket)) = (protocol, server) else {
                continue;
            };
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                if let Some(i) = clients.get(&(place.clone(), *at, from)) {
                    passed[*i][0] = true;
                    // Only an answer: what a server sends of its own accord begins another flow.
                    socket.send_to(b"!", from)?;
                }
            }
        }
        Ok(())
    }
}

fn send(mut stream: &TcpStream) -> io::Result<()> {
    io::Write::write_all(&mut stream, b"!")
}

/// Whether bytes have come; an end is none.
fn has_received(mut stream: &TcpStream) -> io::Result<bool> {
    let mut buffer = [0; 64];
    match io::Read::read(&mut stream, &mut buffer) {
        Ok(length) => Ok(length > 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}
