// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The API server, asked by this process: who asks it a thousand times cannot wait for as many starts of `kubectl`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch,
    PatchParams, PostParams, TypeMeta,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use podgate_demo::netns::enter;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::Cluster;

/// As whom fields are applied.
const MANAGER: &str = "podgate-tests";

/// How long an object may take to be gone, or to become what is waited for, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked at meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// A client of the API server that may do everything.
pub struct Administrator {
    runtime: Runtime,
    client: Client,
}

/// What is the same for all objects of a kind.
struct Kind {
    resource: ApiResource,
    has_namespaces: bool,
}

impl Kind {
    fn of(kind: &str) -> Result<Self> {
        let (group, version, plural) = match kind {
            "Namespace" => ("", "v1", "namespaces"),
            "Pod" => ("", "v1", "pods"),
            "Service" => ("", "v1", "services"),
            "ServiceAccount" => ("", "v1", "serviceaccounts"),
            "EndpointSlice" => ("discovery.k8s.io", "v1", "endpointslices"),
            "NetworkPolicy" => ("networking.k8s.io", "v1", "networkpolicies"),
            "PolicyEndpoint" => ("networking.k8s.aws", "v1alpha1", "policyendpoints"),
            other => bail!("objects of kind {other} are not known here: add it"),
        };
        let kind_of = GroupVersionKind::gvk(group, version, kind);
        Ok(Self {
            resource: ApiResource::from_gvk_with_plural(&kind_of, plural),
            has_namespaces: kind != "Namespace",
        })
    }
}

/// Which object.
struct Named {
    api: Api<DynamicObject>,
    kind: String,
    name: String,
}

impl Administrator {
    pub(super) fn of(cluster: &Cluster) -> Result<Self> {
        let network = cluster.network_of("control-plane")?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(move || {
                // A thread in the wrong namespace finds no API server, and says so.
                enter(&network).ok();
            })
            .enable_all()
            .build()?;
        let file = cluster.dir().join("control-plane/admin.kubeconfig");
        let config =
            Kubeconfig::read_from(&file).with_context(|| format!("read {}", file.display()))?;
        let connect = async move {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(config, &options).await?;
            anyhow::Ok(Client::try_from(config)?)
        };
        let client = runtime.block_on(runtime.spawn(connect))??;
        Ok(Self { runtime, client })
    }

    /// Makes the API server say what these objects say, one after the other.
    ///
    /// # Errors
    /// What it says when it refuses one.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        let params = PatchParams::apply(MANAGER).force();
        for object in objects {
            let Named { api, kind, name } = self.named(object)?;
            let (params, patch) = (params.clone(), Patch::Apply(object.clone()));
            let applied = self.wait(async move { api.patch(&name, &params, &patch).await });
            applied.with_context(|| format!("apply {kind} {}", object["metadata"]))?;
        }
        Ok(())
    }

    /// The same with the `status` of objects.
    ///
    /// # Errors
    /// What it says when it refuses one.
    pub fn apply_status(&self, objects: &[Value]) -> Result<()> {
        let params = PatchParams::apply(MANAGER).force();
        for object in objects {
            let Named { api, kind, name } = self.named(object)?;
            let (params, patch) = (params.clone(), Patch::Apply(object.clone()));
            let applied = self.wait(async move { api.patch_status(&name, &params, &patch).await });
            applied
                .with_context(|| format!("apply the status of {kind} {}", object["metadata"]))?;
        }
        Ok(())
    }

    /// Makes an object, which may have a `generateName`.
    ///
    /// # Errors
    /// What it says when it refuses.
    pub fn create(&self, object: &Value) -> Result<()> {
        let (api, kind) = self.api_of(object)?;
        let new: DynamicObject = serde_json::from_value(object.clone())?;
        let created = self.wait(async move { api.create(&PostParams::default(), &new).await });
        created.with_context(|| format!("create {kind} {}", object["metadata"]))?;
        Ok(())
    }

    /// Replaces an object as it was read.
    ///
    /// # Errors
    /// What it says when it refuses, which it does when the object has changed meanwhile.
    pub fn replace(&self, object: &Value) -> Result<()> {
        let Named { api, kind, name } = self.named(object)?;
        let new: DynamicObject = serde_json::from_value(object.clone())?;
        let replaced =
            self.wait(async move { api.replace(&name, &PostParams::default(), &new).await });
        replaced.with_context(|| format!("replace {kind} {}", object["metadata"]))?;
        Ok(())
    }

    /// Takes objects away, and waits until they are gone. One that is not there is gone.
    ///
    /// # Errors
    /// What it says when it refuses, or that it takes too long.
    pub fn delete(&self, objects: &[Value]) -> Result<()> {
        let mut left = Vec::new();
        for object in objects {
            let Named { api, kind, name } = self.named(object)?;
            let deleted = self.wait({
                let name = name.clone();
                let params = DeleteParams::default();
                async move { api.delete(&name, &params).await.map(drop) }
            });
            match deleted {
                Ok(()) => left.push(object),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error).with_context(|| format!("delete {kind} {name}")),
            }
        }
        for object in left {
            self.wait_until(object, "be gone", |now| now.is_none())?;
        }
        Ok(())
    }

    /// Waits until the object of this kind and name is as `condition` wants it; `None` stands for one that is not there.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn wait_until(
        &self,
        object: &Value,
        what: &str,
        condition: impl Fn(Option<&Value>) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let Named { api, kind, name } = self.named(object)?;
            let found = self.wait(async move { api.get_opt(&name).await });
            let found = found.with_context(|| format!("get {kind} {}", object["metadata"]))?;
            let found = found.map(serde_json::to_value).transpose()?;
            if condition(found.as_ref()) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{kind} {} should {what}, and does not within {LIMIT:?}",
                object["metadata"]
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// All objects of a kind.
    ///
    /// # Errors
    /// What it says when it refuses.
    pub fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let resource = Kind::of(kind)?.resource;
        let api = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
        let listed = self.wait(async move { api.list(&ListParams::default()).await });
        let listed = listed.with_context(|| format!("list objects of kind {kind}"))?;
        let items = listed.items.into_iter().map(|mut object| {
            // In a list only those of definitions say what they are.
            object.types = Some(TypeMeta {
                api_version: resource.api_version.clone(),
                kind: resource.kind.clone(),
            });
            Ok(serde_json::to_value(object)?)
        });
        items.collect()
    }

    fn named(&self, object: &Value) -> Result<Named> {
        let (api, kind) = self.api_of(object)?;
        let name = object["metadata"]["name"].as_str().map(str::to_owned);
        let name = name.ok_or_else(|| anyhow!("an object without a name: {object}"))?;
        Ok(Named { api, kind, name })
    }

    fn api_of(&self, object: &Value) -> Result<(Api<DynamicObject>, String)> {
        let name = object["kind"].as_str().unwrap_or_default();
        let kind = Kind::of(name)?;
        let client = self.client.clone();
        let api = match (
            kind.has_namespaces,
            object["metadata"]["namespace"].as_str(),
        ) {
            (true, Some(namespace)) => Api::namespaced_with(client, namespace, &kind.resource),
            (true, None) => bail!("an object without its namespace: {object}"),
            (false, _) => Api::all_with(client, &kind.resource),
        };
        Ok((api, name.to_owned()))
    }

    /// Asks, and waits for the answer.
    fn wait<T: Send + 'static>(
        &self,
        asked: impl Future<Output = kube::Result<T>> + Send + 'static,
    ) -> kube::Result<T> {
        let answer = self.runtime.spawn(asked);
        self.runtime
            .block_on(answer)
            .expect("a question does not panic")
    }
}
