// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::sync::mpsc::channel;

use podgate_datapath::Sizes;
use podgate_datapath::record::AttachmentId;
use podgate_handoff::{Reply, Request};
use podgate_policy::model::{Namespace, ObjectName, Pod, ServiceOptions};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::{oneshot, watch};

use super::*;
use crate::cluster::ForeignSetting;
use crate::condition::Condition;
use crate::convert::pod::IdentifiedPod;
use crate::engine::dataplane::model::{Model, Plugin};
use crate::engine::inbox::Inbox;
use crate::engine::{EngineConfig, Event, Handoff};
use crate::fixture;
use crate::guard::Guard;
use crate::node::Addresses;
use crate::source::{Change, News, Objects, SourceStatus, Update};

const POD: &str = "web";

fn objects() -> Objects {
    let name = ObjectName::new("shop", POD);
    let pod = IdentifiedPod {
        name: name.clone(),
        config_hash: None,
        node: None,
        pod: Arc::new(Pod::default()),
    };
    Objects {
        namespaces: [("shop".to_owned(), Namespace::default())]
            .into_iter()
            .collect(),
        pods: [(name, Arc::new(pod))].into_iter().collect(),
        ..Objects::default()
    }
}

/// What a source answers and what it says next may come to the engine together. Nothing else may be said for long, so the
/// ADD is asked for again then.
#[test]
fn an_add_in_doubt_is_asked_for_again_after_news() {
    let node = Model::new(Duration::ZERO);
    let (questions, mut asked) = unbounded_channel();
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
    let mut engine = Engine::start(config, objects(), wrong, condition).unwrap();
    let pod = PodName {
        namespace: "shop".into(),
        name: POD.into(),
        uid: None,
    };
    let record = Record {
        pod: Some(pod.clone()),
        ..fixture::record(0)
    };
    let identity: AttachmentId = record.identity.clone();
    node.run_later(0, Plugin::Add(Box::new(record)));
    node.run_plugin();
    let (reply, mut answered) = oneshot::channel();
    let (send, events) = channel();
    let add = Handoff {
        request: Request::Add(identity),
        reply,
    };
    let mut turn = |happened: Vec<Event>| {
        for event in happened {
            send.send(event).unwrap();
        }
        engine.take(Inbox::gather(&events, Duration::ZERO));
    };
    let news = |name: &str, policy| {
        let name = ObjectName::new("shop", name);
        Event::Source(News::Update(Update {
            changes: vec![Change::Policy(name, Some(policy))],
            wrong: SourceStatus::default(),
        }))
    };
    let answer = |answer| Event::Source(News::Answer(pod.clone(), answer));
    let isolated = Answer::Isolation(Isolation {
        ingress: true,
        egress: false,
    });
    turn(vec![
        Event::Source(News::Doubt(Some("the API server is away".into()))),
        Event::Handoff(add),
    ]);
    assert_eq!(asked.try_recv(), Ok(Question::Isolation(pod.clone())));
    turn(vec![answer(isolated), news("deny", fixture::deny())]);
    assert_eq!(asked.try_recv(), Ok(Question::Isolation(pod.clone())));
    assert!(answered.try_recv().is_err());
    turn(vec![answer(Answer::Current)]);
    assert_eq!(answered.try_recv(), Ok(Reply::InForce));
}
