// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who fills the API server and changes what is there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, from_value, json};
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, JoinSet};

use super::world::{PodSpec, World};

/// Requests on their way at once.
const AT_ONCE: usize = 24;
/// How many beats a pod of the churn lives.
const LIVES: u32 = 100;

/// The administrator. What it sends leaves from a network namespace other than the node's, so that the node's interface
/// counts the enforcer's bytes only.
pub(crate) struct Administrator {
    runtime: Runtime,
    client: Client,
}

impl Administrator {
    /// By `kubeconfig`, from the network namespace of the file `netns`.
    pub(crate) fn new(kubeconfig: &Path, netns: PathBuf) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(move || {
                // A thread in the wrong namespace finds no API server, and says so.
                podgate_demo::netns::enter(&netns).ok();
            })
            .enable_all()
            .build()?;
        let file = Kubeconfig::read_from(kubeconfig)
            .with_context(|| format!("read the kubeconfig {}", kubeconfig.display()))?;
        let make = async move {
            let config =
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        };
        let client = runtime.block_on(runtime.spawn(make))??;
        Ok(Self { runtime, client })
    }

    /// Does something, and waits until the API server has answered.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.runtime.block_on(self.runtime.spawn(work))?
    }

    /// Does something with each of many, some at a time, and waits until the API server has answered to all.
    fn with_each<T, W>(
        &self,
        all: impl Iterator<Item = T> + Send + 'static,
        work: impl Fn(Client, T) -> W + Send + Sync + 'static,
    ) -> Result<()>
    where
        T: Send + 'static,
        W: Future<Output = Result<()>> + Send + 'static,
    {
        let client = self.client.clone();
        self.wait(async move {
            stream::iter(all.map(Ok))
                .try_for_each_concurrent(AT_ONCE, |one| work(client.clone(), one))
                .await
        })
    }

    /// Makes all namespaces and policies.
    pub(crate) fn fill(&self, world: World) -> Result<()> {
        self.with_each(0..world.namespaces, move |client, number| {
            namespace(client, world, number)
        })
    }

    /// Makes pods, each with its status.
    pub(crate) fn create_pods(
        &self,
        pods: impl Iterator<Item = PodSpec> + Send + 'static,
    ) -> Result<()> {
        self.with_each(pods, running)
    }

    /// Makes a pod that has no status yet; tells its UID.
    pub(crate) fn create_pod(&self, pod: PodSpec) -> Result<String> {
        self.wait(create(self.client.clone(), pod))
    }

    /// Says of a pod that it runs.
    pub(crate) fn say_running(&self, pod: PodSpec) -> Result<()> {
        self.wait(say_running(self.client.clone(), pod))
    }

    /// Takes pods away, at once.
    pub(crate) fn delete_pods(
        &self,
        pods: impl Iterator<Item = PodSpec> + Send + 'static,
    ) -> Result<()> {
        self.with_each(pods, delete)
    }

    /// Changes the ingress rules of a policy; tells when the API server answered.
    pub(crate) fn edit_policy(&self, namespace: u32, ingress: Value) -> Change {
        let policies: Api<NetworkPolicy> =
            Api::namespaced(self.client.clone(), &World::namespace(namespace));
        self.change(async move {
            let patch = Patch::Merge(json!({"spec": {"ingress": ingress}}));
            policies
                .patch(World::EDITED, &PatchParams::default(), &patch)
                .await?;
            Ok(())
        })
    }

    /// Gives a pod another `app`.
    pub(crate) fn label_pod(&self, pod: &PodSpec, app: &str) -> Change {
        let patch = json!({"metadata": {"labels": {"app": app}}});
        let pods = pods(self.client.clone(), pod);
        let name = pod.name.clone();
        self.change(async move {
            pods.patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                .await?;
            Ok(())
        })
    }

    /// Says of a pod what no policy reads.
    pub(crate) fn touch_pod(&self, pod: &PodSpec, reason: &str) -> Change {
        let patch = json!({"status": {"reason": reason}});
        let pods = pods(self.client.clone(), pod);
        let name = pod.name.clone();
        self.change(async move {
            pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
                .await?;
            Ok(())
        })
    }

    /// A pod elsewhere comes.
    pub(crate) fn begin_pod(&self, pod: PodSpec) -> Change {
        self.change(running(self.client.clone(), pod))
    }

    /// A pod elsewhere goes.
    pub(crate) fn end_pod(&self, pod: PodSpec) -> Change {
        self.change(delete(self.client.clone(), pod))
    }

    fn change(&self, work: impl Future<Output = Result<()>> + Send + 'static) -> Change {
        let begun = Instant::now();
        let answer = self.runtime.spawn(async move {
            work.await?;
            Ok(Instant::now())
        });
        Change { begun, answer }
    }

    /// When the API server had carried the change out; at the latest.
    pub(crate) fn answered(&self, change: Change) -> Result<Instant> {
        self.runtime.block_on(change.answer)?
    }

    /// Lets pods come, one each `beat`, and each of them go [`LIVES`] beats later.
    pub(crate) fn churn(
        &self,
        beats: u32,
        beat: Duration,
        pod: impl Fn(u32) -> PodSpec + Send + 'static,
    ) -> Result<()> {
        let client = self.client.clone();
        self.wait(async move {
            let mut clock = tokio::time::interval(beat);
            let mut lives = JoinSet::new();
            for number in 0..beats {
                let begins = clock.tick().await;
                let (client, pod) = (client.clone(), pod(number));
                lives.spawn(async move {
                    running(client.clone(), pod.clone()).await?;
                    tokio::time::sleep_until(begins + beat * LIVES).await;
                    delete(client, pod).await
                });
            }
            while let Some(ended) = lives.join_next().await {
                ended??;
            }
            Ok(())
        })
    }
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) begun: Instant,
    answer: JoinHandle<Result<Instant>>,
}

fn pods(client: Client, pod: &PodSpec) -> Api<Pod> {
    Api::namespaced(client, &pod.namespace)
}

async fn namespace(client: Client, world: World, number: u32) -> Result<()> {
    let params = PostParams::default();
    let name = World::namespace(number);
    let object = json!({"metadata": {"name": name, "labels": World::namespace_labels(number)}});
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&params, &from_value(object)?).await?;
    // Nobody else makes it here, and without it there are no pods.
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &name);
    let account = json!({"metadata": {"name": "default"}});
    accounts.create(&params, &from_value(account)?).await?;
    let policies: Api<NetworkPolicy> = Api::namespaced(client, &name);
    for (name, spec) in world.policies(number) {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        policies.create(&params, &from_value(object)?).await?;
    }
    Ok(())
}

async fn create(client: Client, pod: PodSpec) -> Result<String> {
    let object = from_value(pod.object())?;
    let made = pods(client, &pod)
        .create(&PostParams::default(), &object)
        .await?;
    made.metadata.uid.context("a pod without UID")
}

async fn say_running(client: Client, pod: PodSpec) -> Result<()> {
    let patch = Patch::Merge(pod.status());
    pods(client, &pod)
        .patch_status(&pod.name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

async fn running(client: Client, pod: PodSpec) -> Result<()> {
    create(client.clone(), pod.clone()).await?;
    say_running(client, pod).await
}

async fn delete(client: Client, pod: PodSpec) -> Result<()> {
    let at_once = DeleteParams::default().grace_period(0);
    pods(client, &pod).delete(&pod.name, &at_once).await?;
    Ok(())
}
