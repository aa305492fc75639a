// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::ptr::from_ref;

use super::*;
use crate::compile::facts::Facts;
use crate::compile::ports::{PortSet, Row};
use crate::compile::predicate::{Predicate, Questions};
use crate::compile::ruleset::Ports as AllowedPorts;
use crate::compile::ruleset::{Judge, Ruleset, Tunnels};
use crate::compile::signature::Signature;
use crate::connection::Direction;
use crate::model::{
    Endpoint, EndpointSlice, EndpointState, NamedPort, Service, ServicePort, World,
};

const PORTS: u16 = 100;
const ENDPOINTS: u16 = 1_000;

fn name() -> ObjectName {
    ObjectName::new("ns", "service")
}

fn external(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    [203, 0, high, low].into()
}

fn endpoint(number: u16) -> Endpoint {
    let [high, low] = number.to_be_bytes();
    Endpoint {
        address: [198, 51, high, low].into(),
        state: EndpointState::Ready,
        pod: None,
        node: None,
    }
}

/// A world of one Service with so many external addresses.
fn world(protocol: Protocol, addresses: u16) -> World {
    let service = Service {
        cluster_addresses: vec![[10, 96, 0, 1].into()],
        external_addresses: (0..addresses).map(external).collect(),
        ports: (0..PORTS)
            .map(|number| ServicePort {
                name: format!("p{number}"),
                protocol,
                number: 1_000 + number,
                node_port: None,
            })
            .collect(),
        ..Service::default()
    };
    let slice = EndpointSlice {
        service: Some(name().name),
        ports: (0..PORTS)
            .map(|number| NamedPort {
                name: format!("p{number}"),
                protocol,
                number: 4_789,
            })
            .collect(),
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
        is_closed: false,
    };
    let mut world = World::default();
    world.services.insert(name(), Arc::new(service));
    world.endpoint_slices.insert(name(), Arc::new(slice));
    // Half of the endpoints are nodes, where the tunnels end.
    for number in 0..ENDPOINTS / 2 {
        world.cluster_nodes.insert(endpoint(number).address);
    }
    world
}

/// Asks for every external address apart, so that no two have one signature.
fn questions(addresses: u16) -> Questions {
    let block = |number| Predicate::Block {
        cidr: external(number).into(),
        except: Vec::new().into(),
    };
    Questions {
        predicates: (0..addresses).map(block).map(Arc::new).collect(),
        translations: true,
        ..Questions::default()
    }
}

/// What is translated to something else.
fn translated(facts: &Facts) -> impl Iterator<Item = &Arc<Signature>> {
    let all = facts.addresses.values();
    all.filter(|signature| signature.translation().is_some())
}

/// How many elements the facts have of what a Service says, each allocation counted once.
fn stored(facts: &Facts) -> usize {
    let mut stored: BTreeMap<usize, usize> = BTreeMap::new();
    for said in facts.redirects.said.values() {
        for ports in said.ports.values() {
            stored.insert(Arc::as_ptr(ports).addr(), ports.len());
            for RedirectedPort { counting, .. } in ports.iter() {
                let all = counting.known.len() + counting.doubtful.len();
                stored.insert(Arc::as_ptr(counting).addr(), all);
            }
        }
        for lead in said.candidates.iter() {
            stored.insert(Arc::as_ptr(&lead.addresses).addr(), lead.addresses.len());
            for ways in [&lead.targets, &lead.chosen] {
                stored.insert(Arc::as_ptr(ways).addr(), ways.len());
            }
        }
    }
    for signature in facts.addresses.values() {
        if let Some(translation) = signature.translation() {
            let ports = translation.ports();
            stored.insert(ports.as_ptr().addr(), ports.len());
            for port in ports {
                let endpoints = port.endpoints_stored();
                stored.extend(endpoints.map(|it| (from_ref(it).addr(), it.len())));
            }
        }
    }
    stored.values().sum()
}

#[test]
fn what_a_service_says_is_stored_once_for_all_of_its_addresses() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let stored = |addresses| {
            let facts = Facts::of(&world(protocol, addresses), &questions(addresses));
            assert_eq!(translated(&facts).count(), 1 + usize::from(addresses));
            stored(&facts)
        };
        let [one, many] = [1, 200].map(stored);
        let addresses = match protocol {
            Protocol::Udp => 199,
            Protocol::Tcp | Protocol::Sctp => 0,
        };
        assert_eq!(many, one + addresses, "{protocol:?}");
    }
}

#[test]
fn ways_of_a_service_are_all_found() {
    let facts = Facts::of(&world(Protocol::Udp, 200), &Questions::default());
    assert_eq!(facts.ways.len(), 201 * usize::from(PORTS));
}

/// Addresses that come one after the other, and endpoints that answer what others do.
#[test]
fn addresses_alike_share_after_changes() {
    let questions = questions(20);
    let mut world = world(Protocol::Tcp, 0);
    let mut facts = Facts::of(&world, &questions);
    for number in (0..20).rev() {
        let service = Arc::make_mut(world.services.get_mut(&name()).unwrap());
        service.balancer_addresses.push(external(number));
        facts = facts.under(&world, &questions).0;
    }
    let ports = |facts: &Facts| -> BTreeSet<usize> {
        let translations = translated(facts).filter_map(|it| it.translation());
        translations.map(|it| it.ports().as_ptr().addr()).collect()
    };
    // The cluster's address, and all others.
    let before = ports(&facts);
    assert!(before.len() <= 2, "{before:?}");
    let slice = Arc::make_mut(world.endpoint_slices.get_mut(&name()).unwrap());
    slice.endpoints.push(endpoint(ENDPOINTS));
    facts = facts.under(&world, &questions).0;
    assert_eq!(ports(&facts), before);
}

#[test]
fn endpoints_are_judged_once_for_all_addresses() {
    let questions = questions(200);
    let facts = Facts::of(&world(Protocol::Tcp, 200), &questions);
    let tcp = Row {
        tcp: PortSet::range(1_000, 1_050),
        ..Row::none()
    };
    let ports = Arc::new(AllowedPorts::of(tcp, BTreeSet::new()));
    let allowed = questions.predicates.iter().cloned();
    let allowed = allowed.map(|predicate| (predicate, Arc::clone(&ports)));
    let ruleset = Ruleset::isolated(
        Direction::Egress,
        AllowedPorts::default(),
        allowed.collect(),
        &Tunnels::default(),
    );
    let mut judge = Judge::of(&ruleset);
    for signature in translated(&facts) {
        assert_eq!(judge.row(signature), ruleset.row(signature));
    }
    assert_eq!(judge.judged(), 1);
}
