// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Everything that runs on the node: set up in order, looked at, and taken down in the reverse order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use podgate_demo::cni::{Chain, Conflist};
use tokio::task::JoinSet;

use crate::enforcer::{Enforcer, Manifests};
use crate::pod::{Pod, Prober};
use crate::scenario::{Edge, Family, Policy, Star, works};
use crate::star::Outcome;

/// Where the pieces of the demo are.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Pieces {
    /// The directory of the demo's manifests and conflists.
    #[arg(long, value_name = "DIR", default_value = "demo")]
    pub(crate) demo_dir: PathBuf,
    /// The enforcer's binary.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/debug/podgate-enforcer"
    )]
    pub(crate) enforcer: PathBuf,
    /// Directories of CNI plugins, searched in this order.
    #[arg(long, value_name = "DIR", default_values = ["target/x86_64-unknown-linux-musl/plugin", "/usr/lib/cni"])]
    pub(crate) cni_path: Vec<PathBuf>,
}

/// What one look at all edges saw.
pub(crate) type Look = BTreeMap<(Family, Edge), Outcome>;

/// The running demo.
pub(crate) struct Stage {
    families: Vec<Family>,
    chain: Chain,
    enforcer: Option<Enforcer>,
    manifests: Manifests,
    pods: Vec<Pod>,
}

impl Stage {
    /// A stage on which nothing stands yet.
    pub(crate) fn new(pieces: &Pieces, families: Vec<Family>) -> Result<Self> {
        let conflist = if families.contains(&Family::V6) {
            "dual-stack"
        } else {
            "ipv4"
        };
        let conflist = pieces.demo_dir.join(format!("cni/{conflist}.conflist"));
        Ok(Self {
            families,
            chain: Chain::new(Conflist::read(conflist)?, &pieces.cni_path),
            enforcer: None,
            manifests: Manifests::create(
                "/run/manifests".into(),
                pieces.demo_dir.join("manifests"),
            )?,
            pods: Vec::new(),
        })
    }

    /// Starts the enforcer, then pod after pod, and says so.
    pub(crate) async fn set_up(&mut self, enforcer: &Path) -> Result<()> {
        let start = Instant::now();
        let log = PathBuf::from("/run/enforcer.log");
        self.enforcer = Some(Enforcer::start(enforcer, &self.manifests, log).await?);
        println!("enforcer ready after {} ms", start.elapsed().as_millis());
        for star in Star::ALL {
            self.pods.push(Pod::create(star, Path::new("/run/netns"))?);
            let Some(pod) = self.pods.last_mut() else {
                continue;
            };
            pod.attach(&self.chain)?;
            pod.start_process().await?;
            let addresses: Vec<_> = pod.addresses.values().map(ToString::to_string).collect();
            println!(
                "pod {:<27} {}, TCP {}, ADD took {} ms",
                format!("{}/{}", star.namespace(), star.name()),
                addresses.join(" and "),
                star.port(),
                pod.add_took.as_millis()
            );
        }
        Ok(())
    }

    /// The families that are probed.
    pub(crate) fn families(&self) -> &[Family] {
        &self.families
    }

    /// The files of the policies.
    pub(crate) fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// The addresses of `star`.
    pub(crate) fn addresses(&self, star: Star) -> BTreeMap<Family, std::net::IpAddr> {
        let pod = self.pods.iter().find(|pod| pod.star == star);
        pod.map(|pod| pod.addresses.clone()).unwrap_or_default()
    }

    /// Every connection that can be probed.
    pub(crate) fn probes(&self) -> Result<Vec<Probe>> {
        let mut probes = Vec::new();
        for edge in Edge::all() {
            for family in &self.families {
                let from = self.pods.iter().find(|pod| pod.star == edge.from);
                let prober = from
                    .and_then(Pod::prober)
                    .context("probe from a pod that runs")?;
                let addresses = self.addresses(edge.to);
                let Some(ip) = addresses.get(family) else {
                    bail!("pod {} has no {} address", edge.to.name(), family.name());
                };
                let server = SocketAddr::new(*ip, edge.to.port());
                probes.push(Probe {
                    family: *family,
                    edge,
                    prober,
                    server,
                });
            }
        }
        Ok(probes)
    }

    /// Probes every edge in every family, all at the same time.
    pub(crate) async fn look(&self, timeout: Duration) -> Result<Look> {
        let mut running = JoinSet::new();
        for probe in self.probes()? {
            running.spawn(async move { ((probe.family, probe.edge), probe.run(timeout).await) });
        }
        Ok(running.join_all().await.into_iter().collect())
    }

    /// Fails if the enforcer has ended.
    pub(crate) fn check_enforcer(&mut self) -> Result<()> {
        if let Some(enforcer) = &mut self.enforcer
            && let Some(status) = enforcer.ended()?
        {
            bail!("the enforcer ended: {status}");
        }
        Ok(())
    }

    /// The end of the enforcer's log.
    pub(crate) fn enforcer_log(&self) -> String {
        self.enforcer
            .as_ref()
            .map(Enforcer::last_log_lines)
            .unwrap_or_default()
    }

    /// Takes everything down, in the reverse order, going on when a step fails; returns all that failed.
    pub(crate) async fn take_down(self) -> Vec<anyhow::Error> {
        let mut failures = Vec::new();
        for pod in self.pods.into_iter().rev() {
            failures.extend(pod.take_down(&self.chain).await.err());
        }
        if let Some(enforcer) = self.enforcer {
            failures.extend(enforcer.stop().await.err());
        }
        failures
    }
}

/// One connection that can be tried again and again.
#[derive(Clone)]
pub(crate) struct Probe {
    pub(crate) family: Family,
    pub(crate) edge: Edge,
    prober: Prober,
    server: SocketAddr,
}

impl Probe {
    /// Tries it once.
    pub(crate) async fn run(&self, timeout: Duration) -> Outcome {
        self.prober
            .probe(self.server, self.edge.to.name(), timeout)
            .await
    }
}

/// Whether `outcome` is what `edge` must show while `applied` holds.
pub(crate) fn is_right(edge: Edge, outcome: &Outcome, applied: &BTreeSet<Policy>) -> bool {
    match outcome {
        Outcome::Reached => works(edge, applied),
        Outcome::Silent => !works(edge, applied),
        Outcome::Failed(_) => false,
    }
}
