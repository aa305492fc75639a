// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use podgate_policy::compile::facts::Facts;
use podgate_policy::compile::{compile_subject, compiled_verdict};
use podgate_policy::connection::{Baseline, Connection, Direction, Subject, Transport, Verdict};
use podgate_policy::evaluate;
use podgate_policy::model::{
    NamedPort, NetworkPolicy, ObjectName, Pod, PodUid, Port, Protocol, Rule, Selector, World,
};
use serde_json::{Value, json};

use super::slice::{self, Slice};
use super::state::{Heard, OwnerPolicy, State};
use crate::convert::pod::IdentifiedPod;
use crate::source::{Change, Objects};

mod controller;
mod members;
mod same_verdicts;
mod settling;
mod source;
mod tolerance;

const MS: Duration = Duration::from_millis(1);

/// A state machine, what it was told, a clock that stands still, and what the engine knows of it.
struct Desk {
    state: State,
    now: Instant,
    objects: Objects,
    /// When the last update had been half carried out: facts come before policy.
    between: Objects,
    warnings: Vec<String>,
}

impl Desk {
    fn new() -> Self {
        Self {
            state: State::default(),
            now: Instant::now(),
            objects: Objects::default(),
            between: Objects::default(),
            warnings: Vec::new(),
        }
    }

    fn hear(&mut self, heard: Heard) {
        self.state.take(heard, self.now);
        self.tell();
    }

    /// Lets time pass, stopping whenever something is due.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.state.due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.tell();
        }
        self.now = end;
    }

    fn tell(&mut self) {
        let changes = self.state.update(self.now);
        if !changes.is_empty() {
            self.between = self.objects.clone();
            let facts = changes.iter().filter(|c| !matches!(c, Change::Policy(..)));
            facts.for_each(|fact| self.between.apply(fact.clone()));
        }
        for change in changes {
            self.objects.apply(change);
        }
        let overdue = self.state.overdue();
        self.warnings = overdue.map(|it| it.text).collect();
    }

    fn slice(&mut self, object: &str, spec: Value, owner: Option<OwnerReference>) {
        let slice = Arc::new(slice_of("ns", object, spec, owner));
        self.hear(Heard::Slice(ObjectName::new("ns", object), Some(slice)));
    }

    fn no_slice(&mut self, object: &str) {
        self.hear(Heard::Slice(ObjectName::new("ns", object), None));
    }

    fn policy(&mut self, name: &str, policy: Option<OwnerPolicy>) {
        self.hear(Heard::Policy(ObjectName::new("ns", name), policy));
    }

    fn pod(&mut self, name: &str, pod: Option<IdentifiedPod>) {
        let pod = pod.map(Arc::new);
        self.hear(Heard::Pod(ObjectName::new("ns", name), pod));
    }

    /// The verdict for a pod of `ns` that the source knows, on which oracle and compiler must agree.
    fn judge(&self, pod: &str, direction: Direction, peer: &str, port: u16) -> Verdict {
        judge(&self.objects, pod, direction, peer, port)
    }

    /// Whether a pod is open in a direction to somebody whom no policy of these tests allows.
    fn is_isolated(&self, pod: &str, direction: Direction) -> bool {
        self.judge(pod, direction, "203.0.113.9", 9) == Verdict::Deny
    }
}

fn judge(objects: &Objects, pod: &str, direction: Direction, peer: &str, port: u16) -> Verdict {
    let name = ObjectName::new("ns", pod);
    let pod = &objects.pods[&name];
    let world = world_of(objects);
    let subject = Subject::new(name, &pod.pod, Baseline::Allow);
    let connection = Connection {
        direction,
        peer: peer.parse().unwrap(),
        transport: Transport::Port(Protocol::Tcp, port),
    };
    verdict(&world, &subject, &connection)
}

fn world_of(objects: &Objects) -> World {
    World {
        policies: objects.policies.clone(),
        listed: objects.listed.clone(),
        ..World::default()
    }
}

fn verdict(world: &World, subject: &Subject, connection: &Connection) -> Verdict {
    let rulesets = compile_subject(world, subject);
    let facts = Facts::of(world, &rulesets.questions());
    let verdict = evaluate(world, subject, connection);
    let compiled = compiled_verdict(&rulesets, &facts, connection);
    assert_eq!(compiled, verdict, "compiler (left), oracle (right)");
    verdict
}

fn slice_of(namespace: &str, object: &str, spec: Value, owner: Option<OwnerReference>) -> Slice {
    let converted = slice::convert(&metadata(namespace, object, owner), &spec);
    assert_eq!(converted.errors, [], "{spec}");
    converted.value.slice
}

fn metadata(namespace: &str, object: &str, owner: Option<OwnerReference>) -> ObjectMeta {
    ObjectMeta {
        name: Some(object.into()),
        namespace: Some(namespace.into()),
        owner_references: owner.map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// The controller's reference to the NetworkPolicy called `name`.
fn owned_by(name: &str, uid: &str) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: "networking.k8s.io/v1".into(),
        kind: "NetworkPolicy".into(),
        name: name.into(),
        uid: uid.into(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    })
}

/// A NetworkPolicy for `app=web`, isolating these directions.
fn policy(uid: &str, isolates_ingress: bool, isolates_egress: bool) -> OwnerPolicy {
    OwnerPolicy {
        uid: uid.into(),
        deleting: false,
        policy: Arc::new(NetworkPolicy {
            members: app("web").into(),
            isolates_ingress,
            isolates_egress,
            ingress: Vec::new(),
            egress: Vec::new(),
        }),
    }
}

fn app(value: &str) -> Selector {
    Selector::Requirements(vec![podgate_policy::model::Requirement {
        key: "app".into(),
        operator: podgate_policy::model::Operator::In(vec![value.into()]),
    }])
}

/// Pod `name`, app=`app`, with one address or none yet.
fn pod(name: &str, uid: &str, app: &str, address: Option<&str>) -> IdentifiedPod {
    IdentifiedPod {
        name: ObjectName::new("ns", name),
        config_hash: None,
        node: None,
        pod: Arc::new(Pod {
            uid: Some(PodUid(uid.into())),
            labels: [("app".to_owned(), app.to_owned())].into(),
            addresses: address.iter().map(|text| text.parse().unwrap()).collect(),
            ..Pod::default()
        }),
    }
}

fn listed(name: &str, address: &str) -> Value {
    json!({"hostIP": "192.0.2.1", "podIP": address, "name": name, "namespace": "ns"})
}

/// The spec of a slice of policy `p`, with the pods that it lists.
fn spec(isolation: &[&str], pods: &[Value], ingress: Value) -> Value {
    json!({
        "policyRef": {"name": "p", "namespace": "ns"},
        "podIsolation": isolation,
        "podSelectorEndpoints": pods,
        "ingress": ingress,
    })
}

fn from(address: &str, port: u16) -> Value {
    json!({"cidr": address, "ports": [{"protocol": "TCP", "port": port}]})
}

fn host() -> IpAddr {
    Ipv4Addr::new(192, 0, 2, 1).into()
}
