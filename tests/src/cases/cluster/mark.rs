// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is written last, and says when all of it is in force: *the mark*. A pod, its namespace and a policy get the number
//! of the turn, in this order behind all else, and only together they let a datagram through, to a pod on each node.
//! Every watch brings its objects in the order in which they were written.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podgate_policy::model::{ObjectName, Protocol};
use serde_json::json;

use super::write::node_of;
use super::{InCluster, Source};
use crate::cases::case::{Kind, Node};
use crate::cases::expect::{Family, What};
use crate::cases::prober::{Place, Target, Trial};
use crate::cases::state::{PodState, State};
use crate::cases::world;

/// How long a policy may take to be in force, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The namespace of the mark. The stand-in for a controller goes by namespace, and comes to this one last.
pub(super) const MARKS: &str = "zz-marks";
/// Who sends the datagram.
const ASKER: &str = "asker";
/// Who answers, on each node.
const ANSWERERS: [&str; 2] = ["on-node1", "on-node2"];
/// The port of turn 0.
const FIRST_PORT: u16 = 20_000;

impl InCluster<'_> {
    /// The state, and the mark as it stands until the next turn.
    pub(super) fn marked(&self, state: &State) -> State {
        let mut state = with_marks(state);
        let asker = ObjectName::new(MARKS, ASKER);
        if let Some(known) = self.state.pods.get(&asker) {
            state.pods.insert(asker, known.clone());
        }
        if let Some(labels) = self.state.namespaces.get(MARKS) {
            state.namespaces.insert(MARKS.into(), labels.clone());
        }
        let turn = ObjectName::new(MARKS, "turn");
        if let Some(policy) = self.policies.get(&turn) {
            state.policies.insert(turn, policy.clone());
        }
        state
    }

    /// Writes the mark, and waits until it is seen on both nodes.
    pub(super) fn mark(&mut self) -> Result<()> {
        self.turn += 1;
        let turn = self.turn.to_string();
        let port = FIRST_PORT + self.turn;
        let labels = BTreeMap::from([("turn".to_owned(), turn.clone())]);
        let asker = ObjectName::new(MARKS, ASKER);
        let pod = self
            .state
            .pods
            .get_mut(&asker)
            .context("the asker is there")?;
        pod.labels.clone_from(&labels);
        self.state.namespaces.insert(MARKS.into(), labels.clone());
        let turn_of = json!({"matchLabels": {"turn": turn}});
        let policy = json!({
            "podSelector": {"matchExpressions": [{"key": "pod", "operator": "In", "values": ANSWERERS}]},
            "ingress": [{
                "from": [{"namespaceSelector": turn_of, "podSelector": turn_of}],
                "ports": [{"protocol": "UDP", "port": port}],
            }],
        });
        let policy_name = ObjectName::new(MARKS, "turn");
        let pod = &self.state.pods[&asker];
        let objects = [
            world::namespace(MARKS, &labels),
            world::pod(&asker, pod, node_of(pod)),
            world::policy(&policy_name, &policy),
        ];
        self.api.apply(&objects)?;
        self.state
            .policies
            .insert(policy_name.clone(), policy.clone());
        self.policies.insert(policy_name, policy);
        self.reconcile()?;
        let family = match self.source {
            Source::NetworkPolicies => Family::V4,
            Source::PolicyEndpoints(family) => family,
        };
        let asks = ANSWERERS.map(|answerer| {
            let to = ObjectName::new(MARKS, answerer);
            Trial {
                from: Place::Pod(asker.clone()),
                address: self.places.pods[&to].1.of(family),
                to: Target::Place(Place::Pod(to)),
                what: What::Port(Protocol::Udp, port),
            }
        });
        let is_in_force = self.prober.answered(&asks, PATIENCE)?;
        ensure!(
            is_in_force,
            "what was written is not in force after {PATIENCE:?}"
        );
        for answerer in ANSWERERS {
            self.prober
                .stop_serving(&Place::Pod(ObjectName::new(MARKS, answerer)));
        }
        Ok(())
    }
}

/// The state with the pods of the mark.
pub(super) fn with_marks(state: &State) -> State {
    let mut state = state.clone();
    state.namespaces.insert(MARKS.into(), BTreeMap::new());
    for (name, node) in [
        (ASKER, Node::One),
        (ANSWERERS[0], Node::One),
        (ANSWERERS[1], Node::Two),
    ] {
        let pod = PodState {
            labels: [("pod".to_owned(), name.to_owned())].into(),
            node,
            kind: Kind::Runs,
        };
        state.pods.insert(ObjectName::new(MARKS, name), pod);
    }
    state
}
