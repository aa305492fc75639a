// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The questions of the engine that are being asked of the API server, and how their answers meet the watch.
//!
//! An answer never revives a pod that the watch has seen go, nor overrides what the watch has said since the question:
//! then it is asked again. Otherwise it is the newest that is known, as it was asked for after all that was said.

use std::collections::HashMap;
use std::time::Duration;

use kube::Client;
use podgate_datapath::record::PodName;
use podgate_policy::model::ObjectName;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::PodChanges;
use super::ask::{self, Found, Whom};
use super::kinds::Pods;
use crate::api::{Failure, Seen, Store, Ticket};
use crate::cluster;
use crate::source::{Answer, Question};

/// What was asked, and what the API server answers.
#[derive(Debug)]
pub(crate) enum Asked {
    /// For a pod, until when.
    Pod(Ticket, Instant, Result<Option<Box<Seen<Pods>>>, Failure>),
    /// For its isolation.
    Isolation(Result<Option<Found>, Failure>),
    /// A question again that was refused, to see whether it still is.
    Again(Option<Failure>),
}

/// How long until a question that was refused is asked again: nobody else may ask for hours, and somebody has to see that
/// the permission is there.
const AGAIN: Duration = Duration::from_secs(30);

/// A question that the API server refused, and nobody has had an answer to since.
#[derive(Debug)]
struct Refusal {
    question: Question,
    why: Failure,
    /// When it is asked again; none while that is under way.
    again: Option<Instant>,
}

/// How a request ended, and which it was.
type Ended = Result<(Id, Asked), JoinError>;

/// The questions that have no answer yet.
pub(crate) struct Asking {
    whom: Whom,
    open: HashMap<Id, Question>,
    requests: JoinSet<Asked>,
    refusal: Option<Refusal>,
    /// What the last answer about isolation came from.
    found: Option<Found>,
}

impl Asking {
    /// None yet. With a `node`, there are no pods but its own for the source.
    pub(crate) fn new(client: Client, node: Option<String>) -> Self {
        Self {
            whom: Whom { client, node },
            open: HashMap::new(),
            requests: JoinSet::new(),
            refusal: None,
            found: None,
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
        loop {
            let again = self.refusal.as_ref().and_then(|refusal| refusal.again);
            tokio::select! {
                Some(ended) = self.requests.join_next_with_id() => return Some(ended),
                () = super::until(again), if again.is_some() => self.ask_again(),
                else => return None,
            }
        }
    }

    /// What the answer that was just given about isolation came from.
    pub(crate) fn take_found(&mut self) -> Option<Found> {
        self.found.take()
    }

    /// What somebody has to do something about.
    pub(crate) fn error(&self) -> Option<String> {
        let refusal = self.refusal.as_ref()?;
        let what = match &refusal.question {
            Question::Pod(_) => "get the pod of an ADD",
            Question::Isolation(_) => "get the pod of an ADD and the policies of its namespace",
        };
        Some(format!("{what}: {}", refusal.why))
    }

    /// Lets the time pass after which a refused question is asked again.
    #[cfg(test)]
    pub(super) fn hurry(&mut self) {
        if let Some(refusal) = &mut self.refusal {
            refusal.again = Some(Instant::now());
        }
    }

    /// Asks the refused question again, for nobody.
    fn ask_again(&mut self) {
        let Some(refusal) = &mut self.refusal else {
            return;
        };
        refusal.again = None;
        let (whom, question) = (self.whom.clone(), refusal.question.clone());
        let deadline = Instant::now() + ask::PATIENCE;
        self.requests.spawn(async move {
            Asked::Again(match question {
                Question::Pod(pod) => ask::pod(&whom, &pod, deadline).await.err(),
                Question::Isolation(pod) => ask::isolation(&whom, &pod, deadline).await.err(),
            })
        });
    }

    /// Makes an answer of what the API server says, and changes of what it says of the pod.
    pub(crate) fn answered(
        &mut self,
        ended: Ended,
        pods: &mut Store<Pods>,
    ) -> (PodChanges, Option<(PodName, Answer)>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some(question) = self.open.remove(&id) else {
            self.asked_again(ended);
            return (Vec::new(), None);
        };
        let (Question::Pod(pod) | Question::Isolation(pod)) = question.clone();
        let (changes, answer) = match ended {
            Err(error) => {
                tracing::error!(%error, "a request to the API server panicked");
                (Vec::new(), Answer::Failed(ended_badly(&pod)))
            }
            // Nobody waits for it.
            Ok((_, Asked::Again(_))) => return (Vec::new(), None),
            Ok((_, Asked::Isolation(answer))) => {
                self.note(question, answer.as_ref().err());
                let answer = match answer {
                    Ok(Some(found)) => {
                        let isolation = found.isolation;
                        self.found = Some(found);
                        Answer::Isolation(isolation)
                    }
                    Ok(None) => Answer::NoSuchPod,
                    Err(failure) => unanswered(&pod, &failure),
                };
                (Vec::new(), answer)
            }
            Ok((_, Asked::Pod(ticket, deadline, answer))) => {
                self.note(question, answer.as_ref().err());
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

    /// Takes note of whether a question was refused. The runtime is told of each failure; somebody must do something
    /// about a refusal, so the log has the first one, and [`Self::error`] the last.
    fn note(&mut self, question: Question, failure: Option<&Failure>) {
        metrics::counter!("podgate_questions_total", "answer" => outcome(failure)).increment(1);
        match failure {
            Some(why @ (Failure::Refused(_) | Failure::NoSuchKind(_))) => {
                if self.refusal.is_none() {
                    tracing::warn!(failure = %why, "the API server refuses requests for the pods of ADDs; check the RBAC rules and --node-name");
                }
                self.refusal = Some(Refusal {
                    question,
                    why: why.clone(),
                    again: Some(Instant::now() + AGAIN),
                });
            }
            // That passes, and says nothing of permissions.
            Some(Failure::Unreachable(_)) => {}
            None => {
                self.refusal
                    .take_if(|refusal| answers(&question, &refusal.question));
            }
        }
    }

    /// Takes note of the answer to [`Self::ask_again`].
    fn asked_again(&mut self, ended: Ended) {
        let Some(refusal) = self.refusal.take() else {
            return;
        };
        let failure = match ended {
            Ok((_, Asked::Again(failure))) => failure,
            Ok((_, Asked::Pod(..) | Asked::Isolation(_))) => None,
            Err(error) => {
                tracing::error!(%error, "a request to the API server panicked");
                Some(refusal.why.clone())
            }
        };
        let Some(failure) = failure else {
            tracing::info!("the API server answers questions for the pods of ADDs again");
            return;
        };
        let why = match failure {
            why @ (Failure::Refused(_) | Failure::NoSuchKind(_)) => why,
            Failure::Unreachable(_) => refusal.why,
        };
        self.refusal = Some(Refusal {
            why,
            again: Some(Instant::now() + AGAIN),
            ..refusal
        });
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

/// Whether an answer to `question` needed all permissions that `refused` does.
fn answers(question: &Question, refused: &Question) -> bool {
    match (question, refused) {
        (Question::Isolation(_), _) | (Question::Pod(_), Question::Pod(_)) => true,
        (Question::Pod(_), Question::Isolation(_)) => false,
    }
}

/// How a question ended, in metrics.
fn outcome(failure: Option<&Failure>) -> &'static str {
    match failure {
        None => "answered",
        Some(Failure::Refused(_) | Failure::NoSuchKind(_)) => "refused",
        Some(Failure::Unreachable(_)) => "unreachable",
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
        "the question to the API server for the pod {}/{} panicked, which is a bug in podgate: see the log",
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
        assert!(asking.error().unwrap().contains("forbidden"));
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
