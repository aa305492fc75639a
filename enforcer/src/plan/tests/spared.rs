// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Established flows to Services, when what stands behind them changes: what merely went away does not deny them.

use std::net::IpAddr;
use std::sync::Arc;

use podgate_policy::compile::compile_subject;
use podgate_policy::connection::{Baseline, Subject};
use podgate_policy::model::{
    Endpoint, EndpointSlice, EndpointState, ListName, Members, NamedPort, Namespace, Namespaces,
    NetworkPolicy, ObjectName, Operator, Peer, Pod, PodReference, Port, Protocol, Requirement,
    Rule, Selector, Service, ServicePort, World,
};

use super::bench::AMPLE;
use crate::plan::change::MOST_SPARED;
use crate::plan::{Planner, Rulesets, Write};

const CLUSTER: &str = "10.96.0.1";
const EXTERNAL: &str = "203.0.113.1";
const GOOD: &str = "10.0.0.1";

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("x", name)
}

fn list() -> ListName {
    ListName("l".into())
}

/// Pod `good` is allowed by its label, the external address of Service `s` by a list. `good` is the Service's endpoint.
fn world() -> World {
    let mut world = World::default();
    let namespace = Namespace::new("x", Default::default());
    world.namespaces.insert("x".into(), namespace);
    let service = Service {
        cluster_addresses: vec![address(CLUSTER)],
        external_addresses: vec![address(EXTERNAL)],
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            number: 80,
            node_port: None,
        }],
        ..Service::default()
    };
    world.services.insert(name("s"), Arc::new(service));
    let lists = [list()].into();
    world.listed.insert(address(EXTERNAL), Arc::new(lists));
    let selector = Selector::Requirements(vec![Requirement {
        key: "app".into(),
        operator: Operator::In(vec!["good".into()]),
    }]);
    let good = Peer::Pods {
        namespaces: Namespaces::Own,
        pods: selector,
    };
    let policy = NetworkPolicy {
        members: Members::from(Selector::everything()),
        isolates_ingress: false,
        isolates_egress: true,
        ingress: Vec::new(),
        egress: vec![
            Rule {
                peers: vec![good],
                ports: Vec::new(),
            },
            Rule {
                peers: vec![Peer::Listed(list())],
                ports: vec![Port::Range {
                    protocol: Protocol::Tcp,
                    first: 80,
                    last: 80,
                }],
            },
        ],
    };
    world.policies.insert(name("p"), Arc::new(policy));
    add_pod(&mut world, "good", GOOD);
    endpoints(&mut world, &[(GOOD, "good")]);
    world
}

fn add_pod(world: &mut World, app: &str, at: &str) {
    let pod = Pod {
        labels: [("app".to_owned(), app.to_owned())].into(),
        addresses: vec![address(at)],
        ..Pod::default()
    };
    let of_address = ObjectName::new("x", at);
    let called = if app == "good" && at == GOOD {
        name("good")
    } else {
        of_address
    };
    world.pods.insert(called, Arc::new(pod));
}

/// The Service has these endpoints, each an address and the pod that it says it is.
fn endpoints(world: &mut World, endpoints: &[(&str, &str)]) {
    let endpoint = |(at, pod): &(&str, &str)| Endpoint {
        address: address(at),
        state: EndpointState::Ready,
        pod: Some(PodReference {
            name: name(pod),
            uid: None,
        }),
        node: None,
    };
    let slice = EndpointSlice {
        service: Some("s".into()),
        ports: vec![NamedPort {
            name: String::new(),
            protocol: Protocol::Tcp,
            number: 80,
        }],
        endpoints: endpoints.iter().map(endpoint).collect(),
        is_closed: false,
    };
    world.endpoint_slices.insert(name("s-1"), Arc::new(slice));
}

/// A planner that has put a world in force for one isolated pod.
struct Node {
    planner: Planner,
}

impl Node {
    fn of(world: &World) -> Self {
        let mut planner = Planner::new(AMPLE);
        let plan = planner.facts_change(world).expect("room");
        planner.commit(plan);
        let subject = Subject::new(name("judged"), &Pod::default(), Baseline::Allow);
        let rulesets = Rulesets::unit(
            podgate_abi::Slot(1),
            Arc::new(compile_subject(world, &subject)),
        );
        let plan = planner.policy_change(&rulesets).expect("room");
        planner.commit(plan);
        Self { planner }
    }

    /// Whether the pod's established flows are judged again when the facts become these.
    fn renews(&mut self, world: &World) -> bool {
        let plan = self.planner.facts_change(world).expect("room");
        self.planner.commit(plan);
        let mut renews = false;
        while self.planner.waits_for_grace() {
            self.planner.grace_begins();
            let plan = self.planner.after_grace().expect("room");
            let mut writes = plan.writes().iter();
            renews |= writes.any(|write| matches!(write, Write::Renew { .. }));
            self.planner.commit(plan);
        }
        renews
    }
}

/// An address that is denied itself is not spared because its endpoints go.
#[test]
fn a_denied_address_is_not_spared_because_its_endpoints_go() {
    let mut world = world();
    let mut node = Node::of(&world);
    // Both in one transaction.
    world.services.remove(&name("s"));
    world.listed.remove(&address(EXTERNAL));
    assert!(node.renews(&world));
}

#[test]
fn an_address_denied_after_its_endpoints_went_is_not_spared() {
    let mut world = world();
    let mut node = Node::of(&world);
    endpoints(&mut world, &[]);
    assert!(!node.renews(&world), "what went away is not denied");
    world.listed.remove(&address(EXTERNAL));
    assert!(node.renews(&world));
}

/// Whoever writes EndpointSlices can name any address with a pod that never comes.
#[test]
fn attack_05_an_endpoint_in_doubt_is_no_way_on_for_old_flows() {
    for is_empty_between in [false, true] {
        let mut world = world();
        let mut node = Node::of(&world);
        if is_empty_between {
            endpoints(&mut world, &[]);
            assert!(!node.renews(&world), "what went away is not denied");
        }
        endpoints(&mut world, &[("10.0.0.9", "never")]);
        assert!(node.renews(&world), "{is_empty_between}");
    }
}

#[test]
fn an_endpoint_that_is_known_cuts_only_if_it_is_denied() {
    for (app, expected) in [("good", false), ("bad", true)] {
        let mut world = world();
        add_pod(&mut world, app, "10.0.0.9");
        let mut node = Node::of(&world);
        endpoints(&mut world, &[(GOOD, "good"), ("10.0.0.9", "10.0.0.9")]);
        assert_eq!(node.renews(&world), expected, "{app}");
    }
}

/// An endpoint that is known to be denied cuts flows, whatever else is in doubt.
#[test]
fn a_denied_endpoint_cuts_flows_whatever_else_is_in_doubt() {
    let mut world = world();
    let mut node = Node::of(&world);
    add_pod(&mut world, "bad", "10.0.0.8");
    assert!(!node.renews(&world));
    endpoints(
        &mut world,
        &[
            (GOOD, "good"),
            ("10.0.0.8", "10.0.0.8"),
            ("10.0.0.9", "never"),
        ],
    );
    assert!(node.renews(&world));
}

/// An address that is no Service's any more is judged by itself and forgotten.
#[test]
fn an_address_of_no_service_any_more_is_judged_and_forgotten() {
    for went_before in [false, true] {
        let mut world = world();
        let mut node = Node::of(&world);
        if went_before {
            endpoints(&mut world, &[]);
            assert!(!node.renews(&world), "what went away is not denied");
        }
        world.services.remove(&name("s"));
        assert!(node.renews(&world), "{went_before}");
        assert!(node.planner.installed.grandfathered.is_empty());
    }
}

/// What is remembered of an address is bounded, and its flows are judged again beyond that.
#[test]
fn what_is_remembered_of_an_address_is_bounded() {
    let ports = 1..=u16::try_from(2 * MOST_SPARED).expect("few");
    let mut world = world();
    let service = world.services.get_mut(&name("s")).expect("it is");
    let service = Arc::make_mut(service);
    let port = service.ports[0].clone();
    let numbered = |number: u16| (format!("p{number}"), number);
    service.ports = ports
        .clone()
        .map(numbered)
        .map(|(name, number)| ServicePort {
            name,
            number,
            ..port.clone()
        })
        .collect();
    let of_slice = |number| NamedPort {
        name: numbered(number).0,
        protocol: Protocol::Tcp,
        number: 80,
    };
    let set = |world: &mut World, from: u16| {
        endpoints(world, &[(GOOD, "good")]);
        let slice = world.endpoint_slices.get_mut(&name("s-1")).expect("it is");
        Arc::make_mut(slice).ports = ports.clone().skip(from.into()).map(of_slice).collect();
    };
    set(&mut world, 0);
    let mut node = Node::of(&world);
    let mut renewed = 0;
    // The endpoints of one port after the other go away.
    for gone in ports.clone() {
        set(&mut world, gone);
        renewed += u32::from(node.renews(&world));
        let mut remembered = node.planner.installed.grandfathered.values();
        assert!(remembered.all(|said| said.len() <= MOST_SPARED));
    }
    assert_ne!(renewed, 0);
}
