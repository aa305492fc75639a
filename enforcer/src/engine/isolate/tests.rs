// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::sync::mpsc::{Receiver, Sender, channel};

use podgate_abi::RulesetId;
use podgate_datapath::Sizes;
use podgate_handoff::Request;
use podgate_policy::model::{Namespace, NetworkPolicy, ObjectName, Pod, ServiceOptions};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{oneshot, watch};

use super::*;
use crate::cluster::ForeignSetting;
use crate::condition::Condition;
use crate::engine::dataplane::model::{Faults, Model, Plugin};
use crate::engine::inbox::Inbox;
use crate::engine::{EngineConfig, Event, Handoff};
use crate::fixture;
use crate::guard::Guard;
use crate::node::Addresses;
use crate::source::{Change, News, Objects, SourceStatus, Update};

const PODS: [&str; 3] = ["web-0", "web-1", "web-2"];

/// A node without attachments, of whose source everything is known: a namespace and its pods.
struct Scene {
    node: Model,
    engine: Engine<Model>,
    asked: UnboundedReceiver<Question>,
    send: Sender<Event>,
    events: Receiver<Event>,
}

fn objects(policies: Option<Arc<NetworkPolicy>>) -> Objects {
    let pods = PODS.map(|name| fixture::pod("shop", name, Pod::default()));
    let policies = policies.map(|policy| (ObjectName::new("shop", "deny"), policy));
    Objects {
        namespaces: [("shop".to_owned(), Namespace::default())]
            .into_iter()
            .collect(),
        pods: pods.into_iter().collect(),
        policies: policies.into_iter().collect(),
        ..Objects::default()
    }
}

fn pod(number: usize) -> PodName {
    PodName {
        namespace: "shop".into(),
        name: PODS[number].into(),
        uid: None,
    }
}

fn of_policy(policy: Option<Arc<NetworkPolicy>>) -> Event {
    let name = ObjectName::new("shop", "deny");
    Event::Source(News::Update(Update {
        changes: vec![Change::Policy(name, policy)],
        wrong: SourceStatus::default(),
    }))
}

impl Scene {
    fn new(policy: Option<Arc<NetworkPolicy>>) -> Self {
        let node = Model::new(Duration::ZERO);
        let (questions, asked) = unbounded_channel();
        let config = EngineConfig {
            node: node.clone(),
            sizes: Sizes::default(),
            node_name: "here".into(),
            services: ServiceOptions::default(),
            foreign: ForeignSetting::default(),
            guard: Guard::default(),
            node_addresses: Addresses::default(),
            questions: Some(questions),
        };
        let condition = watch::channel(Condition::Starting(Vec::new())).0;
        let wrong = SourceStatus::default();
        let engine = Engine::start(config, objects(policy), wrong, condition).unwrap();
        let (send, events) = channel();
        Self {
            node,
            engine,
            asked,
            send,
            events,
        }
    }

    /// The plugin runs, and hands the attachment over with the next turn.
    fn add(&self, number: usize) -> oneshot::Receiver<Reply> {
        let slot = u32::try_from(number).unwrap();
        let record = Record {
            pod: Some(pod(number)),
            ..fixture::record(slot)
        };
        let request = Request::Add(record.identity.clone());
        self.node.run_later(0, Plugin::Add(Box::new(record)));
        self.node.run_plugin();
        let (reply, answered) = oneshot::channel();
        let handoff = Event::Handoff(Handoff { request, reply });
        self.send.send(handoff).unwrap();
        answered
    }

    fn turn(&mut self, happened: impl IntoIterator<Item = Event>) {
        for event in happened {
            self.send.send(event).unwrap();
        }
        let inbox = Inbox::gather(&self.events, Duration::ZERO);
        self.engine.take(inbox);
    }

    fn is_asked(&mut self) -> bool {
        self.asked.try_recv() == Ok(Question::Isolation(pod(0)))
    }
}

/// What a source answers and what it says next may come to the engine together. Nothing else may be said for long, so the
/// ADD is asked for again then.
#[test]
fn an_add_in_doubt_is_asked_for_again_after_news() {
    let mut scene = Scene::new(None);
    let doubt = Event::Source(News::Doubt(Some("the API server is away".into())));
    let mut answered = scene.add(0);
    let isolated = Answer::Isolation(Isolation {
        ingress: true,
        egress: false,
    });
    let answer = |answer| Event::Source(News::Answer(pod(0), answer));
    scene.turn([doubt]);
    assert!(scene.is_asked());
    scene.turn([answer(isolated), of_policy(Some(fixture::deny()))]);
    assert!(scene.is_asked());
    assert!(answered.try_recv().is_err());
    scene.turn([answer(Answer::Current)]);
    assert_eq!(answered.try_recv(), Ok(Reply::InForce));
}

/// The news came before the answer, which was found before the news. Nothing else may be said for long.
#[test]
fn an_add_in_doubt_is_asked_for_again_without_news() {
    let mut scene = Scene::new(None);
    let doubt = Event::Source(News::Doubt(Some("the API server is away".into())));
    let mut answered = scene.add(0);
    let answer = |answer| Event::Source(News::Answer(pod(0), answer));
    scene.turn([doubt]);
    assert!(scene.is_asked());
    scene.turn([of_policy(Some(fixture::deny()))]);
    scene.turn([answer(Answer::Isolation(Isolation::default()))]);
    assert!(!scene.is_asked(), "the API server is asked in a loop");
    assert!(scene.engine.pause() <= AGAIN);
    scene.node.wait(AGAIN);
    scene.turn([]);
    assert!(scene.is_asked());
    scene.turn([answer(Answer::Current)]);
    assert_eq!(answered.try_recv(), Ok(Reply::InForce));
}

/// A policy is deleted, the write of what follows fails anywhere, and the policy is made again before that is mended.
#[test]
fn what_a_plan_opened_before_it_failed_is_denied_again() {
    for after in 0.. {
        let mut scene = Scene::new(Some(fixture::deny()));
        for number in 0..PODS.len() {
            scene.add(number);
        }
        scene.turn([]);
        scene.node.fail(Faults { after, number: 1 });
        scene.turn([of_policy(None)]);
        if scene.node.has_faults() {
            assert!(after > 10, "nothing failed in the middle");
            return;
        }
        scene.turn([of_policy(Some(fixture::deny()))]);
        for record in scene.node.attachments() {
            let tables = scene.node.tables_of(record.slot).unwrap();
            let word = tables.borrow().word(record.slot, Direction::Ingress);
            assert_eq!(word.ruleset(), RulesetId::DENY_ALL, "{after}: {record:?}");
        }
    }
}
