// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Direct questions to the API server, about the pod of an ADD that the watch has not brought yet.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::future::try_join;
use kube::Client;
use kube::api::{Api, ListParams};
use podgate_datapath::record::PodName;
use podgate_policy::connection::{Baseline, Subject};
use podgate_policy::isolation::{self, Isolation};
use podgate_policy::model::{NetworkPolicy, ObjectName};
use tokio::time::{Instant, sleep, timeout_at};

use super::kinds::{Pods, Policies};
use crate::api::{Failure, Seen, stream};
use crate::cluster;
use crate::convert::pod::IdentifiedPod;
use crate::stored;

/// How long an answer is tried for: a little less than a plugin waits without its `waitMs`.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);
/// How long until an API server that did not answer is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// Who is asked, and of which pods.
#[derive(Clone)]
pub(super) struct Whom {
    /// The API server.
    pub(super) client: Client,
    /// The only node whose pods there are for the source, if there is one.
    pub(super) node: Option<String>,
}

/// The pod as the API server has it now; none if there is no such pod, or another one of its name.
pub(super) async fn pod(
    whom: &Whom,
    pod: &PodName,
    deadline: Instant,
) -> Result<Option<Seen<Pods>>, Failure> {
    let api = Api::<Seen<Pods>>::namespaced(whom.client.clone(), &pod.namespace);
    let is_it = |seen: &Seen<Pods>| cluster::is(pod, &name(pod), &seen.value);
    let found = match &whom.node {
        None => until(deadline, || api.get_opt(&pod.name)).await?,
        // The server says of which node a pod is, even of one that cannot be read here.
        Some(node) => {
            let by_name = format!("metadata.name={}", pod.name);
            let of_node = format!("{by_name},spec.nodeName={node}");
            let of_node = ListParams::default().fields(&of_node);
            let found = until(deadline, || api.list(&of_node)).await?;
            let found = found.items.into_iter().next();
            if found.is_none() && pod.uid.is_some() {
                let anywhere = ListParams::default().fields(&by_name);
                let anywhere = until(deadline, || api.list(&anywhere)).await?;
                if anywhere.items.iter().any(is_it) {
                    return Err(misnamed(pod, node));
                }
            }
            found
        }
    };
    Ok(found.filter(|seen| is_it(seen) && !seen.value.pod.finished))
}

/// A pod with the UID that is added here is on no other node: this one has another name.
fn misnamed(pod: &PodName, node: &str) -> Failure {
    Failure::Refused(format!(
        "the API server has the pod {}/{} on another node than {node:?}, which is no name of this one: give --node-name (MY_NODE_NAME) the node's name",
        pod.namespace, pod.name
    ))
}

/// A pod and the policies of its namespace as the API server has them now.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The pod's name.
    pub(crate) name: ObjectName,
    /// The pod.
    pub(crate) pod: Arc<IdentifiedPod>,
    /// Every policy of its namespace, by which it is told from others: all of them whole may be more than there is room for.
    policies: BTreeMap<ObjectName, Fingerprint>,
    /// In which directions they isolate it.
    pub(crate) isolation: Isolation,
}

/// What tells the content of a policy from any other, as nobody knows how it is worked out in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint(u64);

impl Fingerprint {
    fn of(policy: &NetworkPolicy) -> Self {
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(HASHER.hash_one(policy))
    }
}

impl Found {
    /// Whether these are all policies of its namespace.
    pub(crate) fn has<'a>(
        &self,
        known: impl Iterator<Item = (&'a ObjectName, &'a Arc<NetworkPolicy>)>,
    ) -> bool {
        let known = known.map(|(name, policy)| (name, Fingerprint::of(policy)));
        known.eq(self.policies.iter().map(|(name, found)| (name, *found)))
    }
}

/// In which directions the policies of its namespace isolate a pod; none if there is no such pod.
pub(super) async fn isolation(
    whom: &Whom,
    of: &PodName,
    deadline: Instant,
) -> Result<Option<Found>, Failure> {
    let policies = policies(&whom.client, &of.namespace, deadline);
    let (found, policies) = try_join(pod(whom, of, deadline), policies).await?;
    let Some(found) = found else {
        return Ok(None);
    };
    // Isolation does not ask for the baseline.
    let subject = Subject::new(name(of), &found.value.pod, Baseline::Deny);
    let isolating = policies.iter().map(|found| found.closed.as_ref());
    Ok(Some(Found {
        isolation: isolation::of_subject(isolating, &subject),
        name: name(of),
        pod: found.value,
        policies: policies
            .into_iter()
            .map(|it| (it.name, it.fingerprint))
            .collect(),
    }))
}

/// What is kept of a policy that was found.
struct FoundPolicy {
    name: ObjectName,
    fingerprint: Fingerprint,
    /// Whom it isolates.
    closed: Arc<NetworkPolicy>,
}

/// Every policy of a namespace: more than a page has are as many that matter, so nothing limits the list.
async fn policies(
    client: &Client,
    namespace: &str,
    deadline: Instant,
) -> Result<Vec<FoundPolicy>, Failure> {
    until(deadline, || list(client, namespace)).await
}

async fn list(client: &Client, namespace: &str) -> kube::Result<Vec<FoundPolicy>> {
    let everything = ListParams::default();
    let mut page = stream::list::<Policies>(client, Some(namespace), &everything).await?;
    let mut found = Vec::new();
    while let Ok(seen) = page.next::<Policies>().await? {
        found.push(FoundPolicy {
            name: seen.name(),
            fingerprint: Fingerprint::of(&seen.value),
            closed: stored::closed_policy(&seen.value),
        });
    }
    Ok(found)
}

/// Asks until there is an answer, or the deadline has come.
async fn until<T, F>(deadline: Instant, ask: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let mut last = Failure::Unreachable(format!("no answer within {} ms", PATIENCE.as_millis()));
    loop {
        match timeout_at(deadline, ask()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => last = Failure::of(&error),
            Err(_) => return Err(last),
        }
        let busy = matches!(last, Failure::Unreachable(_));
        if !busy || Instant::now() + PAUSE >= deadline {
            return Err(last);
        }
        sleep(PAUSE).await;
    }
}

/// The pod's name without its UID.
pub(super) fn name(pod: &PodName) -> ObjectName {
    ObjectName::new(&pod.namespace, &pod.name)
}
