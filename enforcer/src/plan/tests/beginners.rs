// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who began a flow. A datagram does not say it: a flow whose beginner may not send any more goes on for the other end, if
//! that one may begin it.

use imbl::OrdMap;
use podgate_policy::connection::{Baseline, Connection, Direction, Subject, Transport, Verdict};
use podgate_policy::evaluate;
use podgate_policy::model::{Protocol, World};

use crate::plan::host::frames::{CLIENT_PORT, Part};

/// Which ends of a connection may begin it: who opened it, and the other one.
pub(super) type Ways = [bool; 2];

/// Whether the oracle allows it.
fn allows(world: &World, subject: &Subject, connection: &Connection) -> bool {
    evaluate(world, subject, connection) == Verdict::Allow
}

/// Which ends may begin it under the policy and facts of `world`.
pub(super) fn ways(world: &World, subject: &Subject, connection: &Connection) -> Ways {
    let back = back(connection).is_some_and(|back| {
        allows(world, subject, &back) && !is_tunnel_to_node(world, subject, connection)
    });
    [allows(world, subject, connection), back]
}

/// What an answer of this connection opens, if nothing tells it from a question.
fn back(connection: &Connection) -> Option<Connection> {
    let transport = match connection.transport {
        Transport::Port(Protocol::Tcp | Protocol::Sctp, _) => return None,
        Transport::Port(Protocol::Udp, _) => Transport::Port(Protocol::Udp, CLIENT_PORT),
        other @ Transport::Other(_) => other,
    };
    let direction = match connection.direction {
        Direction::Ingress => Direction::Egress,
        Direction::Egress => Direction::Ingress,
    };
    Some(Connection {
        direction,
        transport,
        ..*connection
    })
}

/// Whether the pod would answer into a tunnel that ends at a node: that no policy allows.
fn is_tunnel_to_node(world: &World, subject: &Subject, connection: &Connection) -> bool {
    let unpoliced = World {
        policies: OrdMap::new(),
        ..world.clone()
    };
    let subject = Subject {
        baseline: Baseline::Allow,
        ..subject.clone()
    };
    !allows(&unpoliced, &subject, connection)
}

/// Which of a flow's ends may have begun it, as far as its packets tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beginners([bool; 2]);

impl Beginners {
    /// The one who opened it.
    pub(super) const OPENER: Self = Self([true, false]);

    /// Any that can.
    pub(super) fn any(connection: &Connection) -> Self {
        Self([true, back(connection).is_some()])
    }

    /// Whether one of those who may have begun it might do so before, and may not now.
    pub(super) fn lose(self, before: Ways, now: Ways) -> bool {
        [0, 1]
            .into_iter()
            .any(|end| self.0[end] && before[end] && !now[end])
    }

    /// Which may have, once a packet has passed or not; none if it had to fare otherwise. Each of the two directions may
    /// be judged by any of `policies`.
    pub(super) fn once(self, part: Part, passed: bool, policies: &[Ways]) -> Option<Self> {
        let sender = match part {
            Part::Opening | Part::Request => 0,
            Part::Answer | Part::Reply => 1,
        };
        let may = |end: usize, allowed: bool| policies.iter().any(|ways| ways[end] == allowed);
        let mut left = [false; 2];
        for end in [0, 1].into_iter().filter(|end| self.0[*end]) {
            let other = 1 - end;
            if passed {
                left[end] |= may(end, true);
                left[other] |= may(end, false) && sender == other && may(other, true);
            } else {
                left[end] |= may(end, false) && (sender == end || may(other, false));
            }
        }
        (left != [false; 2]).then_some(Self(left))
    }
}
