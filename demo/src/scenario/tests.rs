// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the demo expects, against the guide and against the oracle on the demo's own manifests.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use podgate_enforcer::manifests::Manifests;
use podgate_policy::connection::{Baseline, Connection, Direction, Subject, Transport, Verdict};
use podgate_policy::evaluate;
use podgate_policy::model::{ObjectName, Protocol, World};

use super::*;

/// Rows and columns: client, frontend, backend, management-ui.
fn matrix(applied: &[Policy]) -> String {
    let applied = applied.iter().copied().collect();
    let rows = Star::ALL.map(|from| {
        let cell = |to| {
            if from == to {
                '.'
            } else {
                mark(works(Edge { from, to }, &applied))
            }
        };
        Star::ALL.map(cell).into_iter().collect::<String>()
    });
    rows.join(" ")
}

fn mark(works: bool) -> char {
    if works { 'y' } else { 'n' }
}

#[test]
fn the_five_steps_expect_what_the_guide_shows() {
    let steps: Vec<_> = (0..=4)
        .map(|applied| matrix(&Policy::ALL[..applied]))
        .collect();
    assert_eq!(
        steps,
        [
            ".yyy y.yy yy.y yyy.",
            ".nny n.ny nn.y nnn.",
            ".nny n.ny nn.y yyy.",
            ".nny n.yy nn.y yyy.",
            ".yny n.yy nn.y yyy.",
        ]
    );
}

#[test]
fn a_policy_that_allows_isolates_what_it_selects_too() {
    assert_eq!(matrix(&[Policy::Backend]), ".yny y.yy yy.y yyn.");
}

/// The world of the demo's manifests while `applied` holds, with the addresses that the chain would give.
fn world(applied: &BTreeSet<Policy>) -> World {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    let files = [directory.join("cluster.yaml")].into_iter().chain(
        applied
            .iter()
            .map(|policy| directory.join(format!("policies/{}.yaml", policy.id()))),
    );
    let mut manifests = Manifests::default();
    for file in files {
        manifests.apply_file(&file, &std::fs::read(&file).unwrap());
    }
    let snapshot = manifests.snapshot();
    assert_eq!(snapshot.errors, []);
    let pods = snapshot.objects.pods.into_iter().map(|(name, identified)| {
        let star = Star::ALL
            .into_iter()
            .find(|star| star.name() == name.name)
            .unwrap();
        let mut pod = identified.pod.as_ref().clone();
        pod.addresses = vec![address(star)];
        (name, Arc::new(pod))
    });
    World {
        namespaces: snapshot.objects.namespaces,
        pods: pods.collect(),
        policies: snapshot.objects.policies,
        ..World::default()
    }
}

fn address(star: Star) -> IpAddr {
    Ipv4Addr::new(10, 97, 0, 2 + star as u8).into()
}

/// Whether the oracle lets connections of `edge` to TCP `port` leave the one pod and enter the other.
fn oracle_allows(world: &World, edge: Edge, port: u16) -> bool {
    let ends = [
        (edge.from, Direction::Egress, edge.to),
        (edge.to, Direction::Ingress, edge.from),
    ];
    ends.into_iter().all(|(star, direction, peer)| {
        let name = ObjectName::new(star.namespace(), star.name());
        let subject = Subject::new(name.clone(), &world.pods[&name], Baseline::Allow);
        let connection = Connection {
            direction,
            peer: address(peer),
            transport: Transport::Port(Protocol::Tcp, port),
        };
        evaluate(world, &subject, &connection) == Verdict::Allow
    })
}

/// The oracle expects the same of the manifests, whichever of them are applied.
#[test]
fn the_oracle_agrees_whatever_policies_are_applied() {
    for mask in 0..1_u32 << Policy::ALL.len() {
        let applied = (0..)
            .zip(Policy::ALL)
            .filter(|(bit, _)| mask & 1 << bit != 0);
        let applied: BTreeSet<_> = applied.map(|(_, policy)| policy).collect();
        let world = world(&applied);
        for edge in Edge::all() {
            let allows = oracle_allows(&world, edge, edge.to.port());
            assert_eq!(works(edge, &applied), allows, "{edge:?} under {applied:?}");
        }
    }
}

#[test]
fn other_ports_of_the_frontend_and_the_backend_stay_closed() {
    let world = world(&Policy::ALL.into());
    for (from, to) in [
        (Star::Client, Star::Frontend),
        (Star::Frontend, Star::Backend),
    ] {
        let edge = Edge { from, to };
        assert!(oracle_allows(&world, edge, to.port()));
        assert!(!oracle_allows(&world, edge, to.port() + 1));
    }
}
