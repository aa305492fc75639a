//! The questions of the engine that are being asked of the API server, and how their answers meet the watch.
//!
//! An answer never revives a pod that the watch has seen go, nor overrides what the watch has said since the question:
//! then it is asked again. Otherwise it is the newest that is known, as it was asked for after all that was said.

use std::collections::HashMap;

use kube::Client;
use podgate_datapath::record::PodName;
use podgate_policy::model::ObjectName;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::PodChanges;
use super::ask::{self, Whom};
use super::kinds::Pods;
use crate::api::{Failure, Seen, Store, Ticket};
use crate::cluster;
use crate::source::{Answer, Isolation, Question};

/// What was asked, and what the API server answers.
#[derive(Debug)]
pub(crate) enum Asked {
    /// For a pod, until when.
    Pod(Ticket, Instant, Result<Option<Box<Seen<Pods>>>, Failure>),
    /// For its isolation.
    Isolation(Result<Option<Isolation>, Failure>),
}

/// How a request ended, and which it was.
type Ended = Result<(Id, Asked), JoinError>;

/// The questions that have no answer yet.
pub(crate) struct Asking {
    whom: Whom,
    open: HashMap<Id, Question>,
    requests: JoinSet<Asked>,
    /// Whether the last answer was a refusal, and the log has it.
    refused: bool,
}

impl Asking {
    /// None yet. With a `node`, there are no pods but its own for the source.
    pub(crate) fn new(client: Client, node: Option<String>) -> Self {
        Self {
            whom: Whom { client, node },
            open: HashMap::new(),
            requests: JoinSet::new(),
            refused: false,
        }
    }

    /// Takes a question. What is known already is answered at once.
    pub(crate) fn ask(
        &mut self,
        question: Question,
        pods: &mut Store<Pods>,
    ) -> Option<(PodName, Answer)> {
        if self.open.values().any(|open| *open == question) {
            return None;
        }
        let deadline = Instant::now() + ask::PATIENCE;
        match question {
            Question::Pod(pod) if is_known(&pod, pods) => return Some((pod, Answer::Known)),
            Question::Pod(pod) => self.request(pod, deadline, pods),
            Question::Isolation(pod) => {
                let whom = self.whom.clone();
                let of = pod.clone();
                let request = async move {
                    let answer = ask::isolation(&whom, &of, deadline).await;
                    Asked::Isolation(answer)
                };
                self.spawn(Question::Isolation(pod), request);
            }
        }
        None
    }

    /// The next answer of the API server; never, while nothing is asked.
    pub(crate) async fn next(&mut self) -> Option<Ended> {
        self.requests.join_next_with_id().await
    }

    /// Makes an answer of what the API server says, and changes of what it says of the pod.
    pub(crate) fn answered(
        &mut self,
        ended: Ended,
        pods: &mut Store<Pods>,
    ) -> (PodChanges, Option<(PodName, Answer)>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some(question) = self.open.remove(&id) else {
            return (Vec::new(), None);
        };
        let (Question::Pod(pod) | Question::Isolation(pod)) = question;
        let (changes, answer) = match ended {
            Err(error) => {
                tracing::error!(%error, "a question to the API server ended badly");
                (Vec::new(), Answer::Failed(ended_badly(&pod)))
            }
            Ok((_, Asked::Isolation(answer))) => {
                self.note_refusal(answer.as_ref().err());
                let answer = match answer {
                    Ok(Some(isolation)) => Answer::Isolation(isolation),
                    Ok(None) => Answer::NoSuchPod,
                    Err(failure) => unanswered(&pod, &failure),
                };
                (Vec::new(), answer)
            }
            Ok((_, Asked::Pod(ticket, deadline, answer))) => {
                self.note_refusal(answer.as_ref().err());
                let (found, error) = match answer {
                    Ok(found) => (found, None),
                    Err(failure) => (None, Some(failure)),
                };
                let exists = found.is_some();
                let merged = pods.answered(ticket, found.map(|seen| *seen));
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
                (merged.unwrap_or_default(), answer)
            }
        };
        tracing::debug!(
            namespace = pod.namespace,
            pod = pod.name,
            ?answer,
            "asked the API server for a pod"
        );
        (changes, Some((pod, answer)))
    }

    /// The runtime is told of each failure; somebody must do something about a refusal, so the log has the first one.
    fn note_refusal(&mut self, failure: Option<&Failure>) {
        let refusal = failure.filter(|failure| match failure {
            Failure::Refused(_) | Failure::NoSuchKind(_) => true,
            Failure::Unreachable(_) => false,
        });
        if let Some(failure) = refusal
            && !self.refused
        {
            tracing::warn!(%failure, "the API server refuses questions for the pods of ADDs; see the RBAC rules");
        }
        self.refused = refusal.is_some();
    }

    fn request(&mut self, pod: PodName, deadline: Instant, pods: &mut Store<Pods>) {
        let ticket = pods.ask(ask::name(&pod));
        let whom = self.whom.clone();
        let of = pod.clone();
        let request = async move {
            let answer = ask::pod(&whom, &of, deadline).await;
            Asked::Pod(ticket, deadline, answer.map(|found| found.map(Box::new)))
        };
        self.spawn(Question::Pod(pod), request);
    }

    fn spawn(&mut self, question: Question, request: impl Future<Output = Asked> + Send + 'static) {
        let id = self.requests.spawn(request).id();
        self.open.insert(id, question);
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

fn ended_badly(pod: &PodName) -> String {
    format!(
        "the question to the API server for the pod {}/{} ended badly, which is a fault of podgate: the log has it",
        pod.namespace, pod.name
    )
}

fn overtaken() -> Failure {
    Failure::Unreachable("the watch overtook every answer".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody answers it.
    fn asking() -> Asking {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        Asking::new(Client::try_from(config).unwrap(), None)
    }

    fn web() -> PodName {
        PodName {
            namespace: "ns".to_owned(),
            name: "web".to_owned(),
            uid: None,
        }
    }

    #[tokio::test]
    async fn a_refusal_is_an_answer_that_says_why() {
        let mut asking = asking();
        asking.spawn(Question::Isolation(web()), async {
            let refusal = Failure::Refused("pods \"web\" is forbidden (status 403)".to_owned());
            Asked::Isolation(Err(refusal))
        });
        let ended = asking.next().await.unwrap();
        let (_, answer) = asking.answered(ended, &mut Store::default());
        let Some((_, Answer::Failed(why))) = answer else {
            panic!("{answer:?}")
        };
        assert!(why.contains("forbidden"), "{why}");
        assert!(asking.refused);
    }

    #[tokio::test]
    async fn a_question_that_ends_badly_has_failed_and_may_be_asked_again() {
        let mut asking = asking();
        let mut pods = Store::default();
        let pod = web();
        asking.spawn(Question::Isolation(pod.clone()), async {
            panic!("a fault")
        });
        let ended = asking.next().await.unwrap();
        let (changes, answer) = asking.answered(ended, &mut pods);
        assert!(changes.is_empty());
        let (of, answer) = answer.unwrap();
        assert_eq!(of, pod);
        assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
        assert!(asking.open.is_empty());
    }
}
