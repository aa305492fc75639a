//! The questions of the engine that are being asked of the API server, and how their answers meet the watch.
//!
//! An answer never revives a pod that the watch has seen go, nor overrides what the watch has said since the question:
//! then it is asked again. Otherwise it is the newest that is known, as it was asked for after all that was said.

use kube::Client;
use podgate_datapath::record::PodName;
use podgate_policy::model::ObjectName;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::ask;
use super::kinds::Pods;
use crate::api::{Changed, Failure, Kind, Seen, Store};
use crate::cluster;
use crate::source::{Answer, Isolation, Question};

/// What was asked, and what the API server answers.
#[derive(Debug)]
pub(crate) enum Asked {
    /// For a pod, until when.
    Pod(PodName, Instant, Result<Option<Box<Seen<Pods>>>, Failure>),
    /// For its isolation.
    Isolation(PodName, Result<Option<Isolation>, Failure>),
}

/// The questions that have no answer yet.
pub(crate) struct Asking {
    client: Client,
    open: Vec<Question>,
    requests: JoinSet<Asked>,
}

type PodChanges = Vec<Changed<<Pods as Kind>::Value>>;

impl Asking {
    /// None yet.
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            open: Vec::new(),
            requests: JoinSet::new(),
        }
    }

    /// Takes a question. What is known already is answered at once.
    pub(crate) fn ask(
        &mut self,
        question: Question,
        pods: &mut Store<Pods>,
    ) -> Option<(PodName, Answer)> {
        if self.open.contains(&question) {
            return None;
        }
        let deadline = Instant::now() + ask::PATIENCE;
        match question.clone() {
            Question::Pod(pod) if is_known(&pod, pods) => return Some((pod, Answer::Known)),
            Question::Pod(pod) => self.request(pod, deadline, pods),
            Question::Isolation(pod) => {
                let client = self.client.clone();
                self.requests.spawn(async move {
                    let answer = ask::isolation(&client, &pod, deadline).await;
                    Asked::Isolation(pod, answer)
                });
            }
        }
        self.open.push(question);
        None
    }

    /// The next answer of the API server; never, while nothing is asked.
    pub(crate) async fn next(&mut self) -> Option<Result<Asked, JoinError>> {
        self.requests.join_next().await
    }

    /// Makes an answer of what the API server says, and changes of what it says of the pod.
    pub(crate) fn answered(
        &mut self,
        asked: Result<Asked, JoinError>,
        pods: &mut Store<Pods>,
    ) -> (PodChanges, Option<(PodName, Answer)>) {
        let asked = match asked {
            Ok(asked) => asked,
            Err(error) => {
                tracing::error!(%error, "a question to the API server ended badly");
                return (Vec::new(), None);
            }
        };
        let (question, pod, changes, answer) = match asked {
            Asked::Isolation(pod, answer) => {
                let answer = match answer {
                    Ok(Some(isolation)) => Answer::Isolation(isolation),
                    Ok(None) => Answer::NoSuchPod,
                    Err(failure) => unanswered(&pod, &failure),
                };
                (Question::Isolation(pod.clone()), pod, Vec::new(), answer)
            }
            Asked::Pod(pod, deadline, answer) => {
                let (found, error) = match answer {
                    Ok(found) => (found, None),
                    Err(failure) => (None, Some(failure)),
                };
                let exists = found.is_some();
                let merged = pods.answered(&ask::name(&pod), found.map(|seen| *seen));
                let answer = match (&merged, error) {
                    (_, _) if is_known(&pod, pods) => Answer::Known,
                    (_, Some(failure)) => unanswered(&pod, &failure),
                    (None, None) if Instant::now() < deadline => {
                        self.request(pod, deadline, pods);
                        return (Vec::new(), None);
                    }
                    (None, None) if exists => unanswered(&pod, &overtaken()),
                    (Some(_) | None, None) => Answer::NoSuchPod,
                };
                let changes = merged.unwrap_or_default();
                (Question::Pod(pod.clone()), pod, changes, answer)
            }
        };
        self.open.retain(|open| *open != question);
        tracing::debug!(
            namespace = pod.namespace,
            pod = pod.name,
            ?answer,
            "asked the API server for a pod"
        );
        (changes, Some((pod, answer)))
    }

    fn request(&mut self, pod: PodName, deadline: Instant, pods: &mut Store<Pods>) {
        pods.ask(ask::name(&pod));
        let client = self.client.clone();
        self.requests.spawn(async move {
            let answer = ask::pod(&client, &pod, deadline).await;
            Asked::Pod(pod, deadline, answer.map(|found| found.map(Box::new)))
        });
    }
}

fn is_known(pod: &PodName, pods: &Store<Pods>) -> bool {
    let name: ObjectName = ask::name(pod);
    let known = pods.get(&name);
    known.is_some_and(|known| cluster::is(pod, &name, &known.value))
}

fn unanswered(pod: &PodName, failure: &Failure) -> Answer {
    Answer::Failed(format!(
        "the pod {}/{} is not known yet, and the API server cannot be asked for it: {failure}",
        pod.namespace, pod.name
    ))
}

fn overtaken() -> Failure {
    Failure::Unreachable("the watch overtook every answer".into())
}
