// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A pod as the demo keeps it: a network namespace, an attachment made by the CNI chain, and the process in it.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use podgate_demo::cni::{self, Chain, Sandbox};
use podgate_demo::netns::NetNs;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};

use crate::scenario::{Family, Star};
use crate::star::{Order, Outcome, Said};

/// How long the process in a pod may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A pod, from its ADD to its DEL.
pub(crate) struct Pod {
    pub(crate) star: Star,
    pub(crate) addresses: BTreeMap<Family, IpAddr>,
    /// How long the chain took for ADD.
    pub(crate) add_took: Duration,
    sandbox: Sandbox,
    result: Option<Box<RawValue>>,
    process: Option<(Child, Prober)>,
    // Last, so that a drop takes the process away first.
    _netns: NetNs,
}

impl Pod {
    /// A namespace under `directory`, without an interface yet.
    pub(crate) fn create(star: Star, directory: &Path) -> Result<Self> {
        let netns = NetNs::create(directory.join(star.name()))?;
        let container_id = format!("{}-{}", star.name(), std::process::id());
        let sandbox =
            Sandbox::new(container_id, netns.path(), "eth0").of_pod(star.namespace(), star.name());
        Ok(Self {
            star,
            addresses: BTreeMap::new(),
            add_took: Duration::ZERO,
            sandbox,
            result: None,
            process: None,
            _netns: netns,
        })
    }

    /// Runs ADD. The pod must be handed to [`Pod::take_down`] afterwards, whatever comes of it.
    pub(crate) fn attach(&mut self, chain: &Chain) -> Result<()> {
        let start = Instant::now();
        let result = tokio::task::block_in_place(|| chain.add(&self.sandbox))
            .with_context(|| format!("set up pod {}", self.star.name()))?;
        self.add_took = start.elapsed();
        let addresses = cni::addresses(&result)?;
        self.addresses = addresses
            .into_iter()
            .map(|ip| (Family::of(ip), ip))
            .collect();
        self.result = Some(result);
        Ok(())
    }

    /// Starts the process in the pod and waits until it listens.
    pub(crate) async fn start_process(&mut self) -> Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("star")
            .arg("--name")
            .arg(self.star.name())
            .arg("--netns")
            .arg(self._netns.path());
        for ip in self.addresses.values() {
            command
                .arg("--listen")
                .arg(SocketAddr::new(*ip, self.star.port()).to_string());
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the process of a pod")?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("start the process of a pod: it has no pipes");
        };
        let mut said = BufReader::new(stdout).lines();
        let first = tokio::time::timeout(START_LIMIT, said.next_line()).await;
        let Ok(Ok(Some(_ready))) = first else {
            bail!(
                "the server of pod {} does not listen, see above",
                self.star.name()
            );
        };
        self.process = Some((child, Prober::new(stdin, said)));
        Ok(())
    }

    /// What makes connections from this pod, while its process runs.
    pub(crate) fn prober(&self) -> Option<Prober> {
        self.process.as_ref().map(|(_, prober)| prober.clone())
    }

    /// Ends the process and runs DEL.
    pub(crate) async fn take_down(mut self, chain: &Chain) -> Result<()> {
        if let Some((mut child, _)) = self.process.take() {
            child.kill().await.context("end the process of a pod")?;
        }
        tokio::task::block_in_place(|| chain.del(&self.sandbox, self.result.as_deref()))
            .with_context(|| format!("take down pod {}", self.star.name()))
    }
}

/// Orders probes from the process of one pod; clones share it.
#[derive(Clone)]
pub(crate) struct Prober {
    orders: mpsc::UnboundedSender<String>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Outcome>>>>,
    next: Arc<AtomicU64>,
}

impl Prober {
    fn new(mut stdin: ChildStdin, mut said: Lines<BufReader<ChildStdout>>) -> Self {
        let (orders, mut due) = mpsc::unbounded_channel::<String>();
        let waiting = Arc::new(Mutex::new(HashMap::<u64, oneshot::Sender<Outcome>>::new()));
        tokio::spawn(async move {
            while let Some(line) = due.recv().await {
                if stdin.write_all(line.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        let answered = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Ok(Some(line)) = said.next_line().await {
                if let Ok(Said::Probed { id, outcome }) = serde_json::from_str(&line)
                    && let Some(asker) = lock(&answered).remove(&id)
                {
                    // An asker that has gone does not want the answer.
                    asker.send(outcome).ok();
                }
            }
            // The process has gone: its askers learn it by their senders being dropped.
            lock(&answered).clear();
        });
        Self {
            orders,
            waiting,
            next: Arc::default(),
        }
    }

    /// Connects to the server `name` at `server` and waits at most `timeout` for its answer.
    pub(crate) async fn probe(&self, server: SocketAddr, name: &str, timeout: Duration) -> Outcome {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (asker, answer) = oneshot::channel();
        lock(&self.waiting).insert(id, asker);
        let order = Order {
            id,
            server,
            name: name.to_owned(),
            timeout,
        };
        let sent = serde_json::to_string(&order)
            .is_ok_and(|order| self.orders.send(format!("{order}\n")).is_ok());
        let gone = || Outcome::Failed("the process of the pod has gone".into());
        if !sent {
            return gone();
        }
        // The pod keeps the time; a pod that does not answer at all has gone.
        match tokio::time::timeout(timeout + START_LIMIT, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => gone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
